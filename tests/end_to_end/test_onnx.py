"""Every op that ONNX has too, judged by ONNX's node tests: numpy implementations that nobody here wrote.

Each result of the compiled kernel and of `tn.eager` is within the test's own tolerance of what it expects, and holds
the policy of `tritonnotes/judge/tolerance.py` with ONNX's reference in float64 as the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx_cases import REPLICATED, ROWS, Case, OutOfScope, Row, cases, tensor
from tally import Tally
from torch import Tensor

import tritonnotes as tn
from tritonnotes.judge.tolerance import Comparison, compare

pytestmark = pytest.mark.interpreted

REDRAWS = 32


def judged(case: Case) -> list[str]:
    """What is wrong with our results for a case. Raises `OutOfScope` where it is none of ours."""
    graph = case.declared()
    model = tn.compile(graph)
    feeds = case.feeds(graph, case.inputs)
    on_device = {n: t.to(model.device) for n, t in feeds.items()}
    expected = tensor(case.expected[0])
    exact = case.exact(case.inputs)
    eager = tn.eager(graph, feeds)["y"]
    wrong = []
    for who, result in (("eager", eager), ("compiled", model(**on_device)["y"].cpu())):
        if result.shape != expected.shape or result.dtype != expected.dtype:
            wrong.append(f"{who}: {result.dtype}{list(result.shape)}, not {expected.dtype}{list(expected.shape)}")
            continue
        if not torch.allclose(result.double(), expected.double(), case.rtol, case.atol, equal_nan=True):
            wrong.append(f"{who}: beyond ONNX's own tolerance")
        found = compare(result, eager, exact)
        if who == "compiled" and not found.ok and not lucky(case, found):
            wrong.append(f"{who}: {found}")
    return wrong


def lucky(case: Case, found: Comparison) -> bool:
    """Whether eager rounded these few numbers luckily: its worst error on others of their kind allows ours."""
    if not found.special or found.dtype not in ("float32", "bfloat16", "float16"):
        return False
    graph = case.declared()
    others = [found]
    for seed in range(REDRAWS):
        inputs = redrawn(case, seed)
        eager = tn.eager(graph, case.feeds(graph, inputs))["y"]
        others.append(compare(eager, eager, case.exact(inputs)))
    worst = replace(
        found,
        eager_max_error=max(c.eager_max_error for c in others),
        eager_rms_error=max(c.eager_rms_error for c in others),
    )
    return worst.ok


def redrawn(case: Case, seed: int) -> list[np.ndarray]:
    """The case's inputs with every float a quarter larger or smaller at most."""
    random = np.random.default_rng(seed)

    def near(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return array
        return (array * random.uniform(0.75, 1.25, array.shape)).astype(array.dtype)

    return [near(array) for array in case.inputs]


@pytest.mark.parametrize("op_type", ROWS)
def test_node_tests_of_onnx_agree(op_type: str, record_property: Callable[[str, object], None]) -> None:
    tally = Tally("ONNX's node tests", op_type)
    wrong = []
    for case in cases(op_type):
        try:
            wrong += [f"{case.name}: {line}" for line in judged(case)]
        except OutOfScope as why:
            tally.leave_out(str(why))
        else:
            tally.ran += 1
    tally.record(record_property)
    assert not wrong, "\n".join(wrong)
    assert tally.ran, f"no test of {op_type} is ours: give the row a case of its own in OWN"


def test_a_wrong_formula_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for op_type, other in (("Gelu", lambda x, approximate="none": tn.silu(x)), ("Softmax", lambda x, axis=-1: x)):
        monkeypatch.setitem(ROWS, op_type, Row(other))
        assert all(judged(case) for case in cases(op_type))


@pytest.mark.parametrize("op_type", REPLICATED)
def test_a_case_of_our_own_is_none_of_onnxs(op_type: str) -> None:
    """Else the case of our own could go."""
    for case in cases(op_type)[:-1]:
        with pytest.raises(OutOfScope):
            case.declared()


def test_the_oracle_computes_in_float64() -> None:
    found = {op_type: cases(op_type)[0] for op_type in ROWS}
    exact: dict[str, Tensor] = {op_type: case.exact(case.inputs) for op_type, case in found.items()}
    assert {t.dtype for t in exact.values() if t.is_floating_point()} == {torch.float64}
