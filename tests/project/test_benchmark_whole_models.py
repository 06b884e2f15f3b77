"""The benchmark of whole models runs to its end, refuses wrong losses, and shows what it wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import whole_models
from benchmarks.on_cpu.peers import COMPILED, EAGER
from benchmarks.peers import OURS
from benchmarks.timing import Call


def test_it_runs_to_its_end_and_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "whole.json"
    assert whole_models.main(["--tiny", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))["models"]["autoencoder"]
    assert found["launches"][OURS] > found["calls"] == 0 < found["bytes"][OURS]
    assert set(found["seconds"]) == {OURS, whole_models.BACKEND, EAGER}
    assert whole_models.main(["--report", str(file)]) == 0
    assert capsys.readouterr().out == shown and "| autoencoder |" in shown


def test_calls_of_torch_are_told_apart() -> None:
    found = whole_models.planned("graph convolution", 6), whole_models.planned("text CNN", 6)
    assert [f.calls for f in found][0] == 0 < found[1].calls < (found[1].launches[OURS] or 0)


def test_wrong_losses_are_refused() -> None:
    judge = whole_models.subject("autoencoder", 6).judge
    assert judge(EAGER, Call(lambda _: torch.tensor(0.5))) is not None


def test_the_written_table_is_that_of_the_results() -> None:
    """docs/benchmarks.md has the table of benchmarks/whole_models.json, and that has every model of the tests."""
    results = json.loads((ROOT / "benchmarks" / "whole_models.json").read_text(encoding="utf-8"))
    assert set(results["models"]) == set(whole_models.MODELS) and not results["refused"]
    assert all(COMPILED in model["launches"] for model in results["models"].values())
    rows = [line for line in whole_models.markdown(results) if line.startswith("|")]
    assert "\n".join(rows) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_unknown_models_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        whole_models.main(["LeeNet"])
    assert "no model 'LeeNet'; there are MLP," in capsys.readouterr().err
