"""The table of worst errors counts what it judged, in units that say what they are."""

from __future__ import annotations

import io
import json

import pytest
import torch
from compiled import Judged
from paths import ROOT
from report_ops import in_units, report, worst_of
from rich.console import Console
from torch import Tensor

from tritonnotes.ir.core.op import OPS
from tritonnotes.judge.tolerance import compare


def judged(result: float, eager: float, dtype: torch.dtype = torch.float32) -> Judged:
    def one(x: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([x], dtype=dtype)

    exact = one(1.0, torch.float64)
    return Judged("output y", one(result, dtype), exact, compare(one(result, dtype), one(eager, dtype), exact))


def test_units_are_eagers_error_and_at_least_half_a_unit_in_the_last_place() -> None:
    ulp = 2.0**-23
    assert in_units(judged(1 + 6 * ulp, 1 + 3 * ulp)) == 2
    assert in_units(judged(1 + 3 * ulp, 1.0)) == 6
    assert in_units(judged(1 + 3 * 2.0**-52, 1.0, torch.float64)) == 3


def printed(name: str) -> str:
    console = Console(width=180, record=True, file=io.StringIO())
    report([name], False, console)
    return console.export_text()


def test_a_report_counts_what_it_judged() -> None:
    text = printed("relu")
    assert "1 ops × 4 dtypes × 6 shapes: 24 cases, 48 results, 0 beyond the policy" in text
    assert [cell.strip() for cell in text.partition("│ relu")[2].split("│")[1:3]] == ["24", "48"]


def test_a_report_says_what_breaks_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPS["softsign"], "derive", lambda d_y, y, x: (1.001 * d_y / (1 + abs(x)),))
    assert " 0 beyond the policy" not in printed("softsign")


@pytest.mark.parametrize(("name", "dtype"), [("huber_loss", "float32"), ("mse_loss", "bfloat16"), ("silu", "float16")])
def test_the_errors_on_the_site_are_those_measured(name: str, dtype: str) -> None:
    # Eager's error is the unit, and eager PyTorch rounds most other ops differently on processors with other vectors.
    shown = json.loads((ROOT / "docs/hooks/op_errors.json").read_text(encoding="utf-8"))[name]
    assert worst_of(name, [dtype], False).by_dtype() == {dtype: shown[dtype]}, (
        "run tests/judges/report_ops.py --json, read the diff"
    )
