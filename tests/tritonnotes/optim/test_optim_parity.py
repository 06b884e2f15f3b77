"""Drop-in optimizers beside torch's own: after the same steps, parameters and state are as far from float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_cases import CASES, DTYPES, assert_ok, case_name, judge

from tritonnotes.optim import tables

every_case = pytest.mark.parametrize("case", CASES, ids=case_name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def sometimes(step: int, i: int) -> bool:
    """As in torch's own suite: a step without one gradient, then two in which half of the model is frozen."""
    return not (step == 1 and i == 0) and not (step in (2, 3) and i >= 3)


@every_dtype
@every_case
def test_seven_steps_with_gradients_missing_and_layers_frozen(case: Any, dtype: torch.dtype) -> None:
    assert_ok(judge(case, dtype, 7, sometimes))


@pytest.mark.slow
@every_dtype
@every_case
def test_two_hundred_steps(case: Any, dtype: torch.dtype) -> None:
    assert_ok(judge(case, dtype, 200, shapes=((257,),)))


@every_case
def test_float64_is_torchs_to_the_last_digits(case: Any) -> None:
    for judged in judge(case, torch.float64, 7, sometimes):
        assert judged.ok, judged


def test_blocks_of_many_programs_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "NATIVE_BLOCKS", (64,))
    assert_ok(judge(("Adam", {"weight_decay": 0.1}), torch.float32, 7, sometimes))
