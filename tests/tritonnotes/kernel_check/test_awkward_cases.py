"""Each awkward case has a planted bug that it alone finds, and a right kernel that holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import checked_kernels as kernels
import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.kernel_check.cases import larger, value_cases
from tritonnotes.kernel_check.result import OK


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def masked(x: Tensor, kept: Tensor) -> Tensor:
    return torch.softmax(x.masked_fill(~kept, float("-inf")), -1)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


KEPT = torch.ones(3, 20, dtype=torch.bool)

PLANTED: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...], str]] = {
    "a vector's stride taken for granted": (
        kernels.scaled_rows_of_contiguous_weight, torch.mul, (rows(3, 20), rows(20)),
        "argument 1 as every other element of a vector",
    ),
    "a finite fill": (
        kernels.masked_softmax_with_a_finite_fill, masked, (rows(3, 20), KEPT), "all False in argument 1"
    ),
    "padding in a maximum": (
        kernels.softmax_with_padding_in_its_maximum, softmax, (rows(3, 20),),
        "argument 0 with mean -1024 and standard deviation 64",
    ),
    "one block for all sizes": (kernels.softmax_of_one_block, softmax, (rows(3, 48),), "size 48 as 97"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_by_one_case(bug: str) -> None:
    kernel, reference, tensors, case = PLANTED[bug]
    certificate = tn.check(kernel, reference, *tensors)
    assert [case.name for case in certificate.failing] == [case], certificate


@pytest.mark.parametrize(
    ("kernel", "reference", "tensors"),
    [(kernels.scaled_rows, torch.mul, (rows(3, 20), rows(20))), (kernels.masked_softmax, masked, (rows(3, 20), KEPT))],
)
def test_right_kernels_hold(kernel: Any, reference: Any, tensors: tuple[Tensor, ...]) -> None:
    certificate = tn.check(kernel, reference, *tensors)
    assert certificate.ok, certificate
    assert {case.name for case in certificate.cases if case.verdict == OK} >= {"size 20 as 41", "size 3 as 33"}
    assert "sizes above 41 (20 given) and 33 (3 given) were not tried" in str(certificate)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_far_below_zero_vanish_in_every_dtype(dtype: torch.dtype) -> None:
    (made,) = [made for name, made in value_cases((rows(40, 60).to(dtype),)) if "with mean -1024" in name]
    assert made[0].dtype == dtype and not torch.exp(made[0]).any() and softmax(made[0]).isfinite().all()
    assert float(made[0].double().std()) == pytest.approx(64, rel=0.02)


def test_what_sizes_were_not_tried_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert larger((rows(3, 48), rows(3))) == {48: 97, 3: 33}
    x, out = rows(48), torch.empty(48)
    launched = tn.check(kernels.add_kernel, torch.add, x, x, out, 48, grid=(1,), constexprs={"BLOCK": 64})
    assert launched.untried.startswith("sizes other than those given were not tried") and launched.ok
    certificate = tn.check(kernels.softmax_of_up_to_16, softmax, rows(3, 16))
    assert "sizes above 16 and 33 (3 given) were not tried" in str(certificate)
    monkeypatch.setattr("tritonnotes.kernel_check.cases.MOST_ELEMENTS", 48 * 4)
    certificate = tn.check(kernels.softmax_of_one_block, softmax, rows(3, 48))
    assert certificate.untried == "sizes above 48 and 33 (3 given) were not tried" and certificate.ok
    assert certificate.to_dict()["untried"] == certificate.untried
