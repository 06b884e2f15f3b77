"""The tolerance policy: twice eager's error and two units in the last place, no more."""

from __future__ import annotations

import math

import pytest
import torch

from tritonnotes.ir.core.errors import VerificationError
from tritonnotes.judge.tolerance import compare, pooled, ulp

NAN, INF = math.nan, math.inf
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("magnitude", [1.0, 1.5, 3.0, 1024.0, 1e-2, 100.0])
def test_ulp_is_the_distance_to_the_next_number(dtype: torch.dtype, magnitude: float) -> None:
    at = torch.tensor(magnitude, dtype=dtype)
    above = torch.nextafter(at, torch.tensor(INF, dtype=dtype))
    assert ulp(dtype, at.item()) == above.double().item() - at.double().item()


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulp_at_zero_and_past_the_largest(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    assert ulp(dtype, 0.0) == info.tiny * info.eps
    assert ulp(dtype, INF) == ulp(dtype, info.max) < info.max


@pytest.mark.parametrize(("units", "ok"), [(0, True), (2, True), (3, False)])
def test_exact_eager_leaves_two_units_in_the_last_place(units: int, ok: bool) -> None:
    oracle = torch.linspace(1, 1.9, 50, dtype=torch.float64)
    eager = oracle.float()
    oracle = eager.double()
    result = eager.clone()
    result[7] += units * torch.finfo(torch.float32).eps
    found = compare(result, eager, oracle)
    assert found.ok is ok and found.eager_max_error == 0
    assert found.max_error == units * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (2.0, True), (2.5, False)])
def test_result_may_err_twice_as_much_as_eager(factor: float, ok: bool) -> None:
    oracle = torch.ones(100, dtype=torch.float64)
    error = torch.linspace(-1e-3, 1e-3, 100)
    found = compare((1 + factor * error).float(), (1 + error).float(), oracle)
    assert found.ok is ok
    assert found.max_error == pytest.approx(factor * 1e-3, rel=1e-3)
    assert found.rms_error == pytest.approx(factor * found.eager_rms_error, rel=1e-3)


def test_many_small_errors_fail_by_rms_where_the_maximum_would_pass() -> None:
    oracle = torch.ones(1000, dtype=torch.float64)
    eager = oracle.float()
    eager[0] += 1e-3
    found = compare(torch.full((1000,), 1.001), eager, oracle)
    assert found.max_error <= found.max_allowed and found.rms_error > found.rms_allowed and not found.ok


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_number_out_of_place_fails_and_says_so(value: float) -> None:
    right = torch.tensor([1.0, value, 3.0])
    assert compare(right, right, right.double()).ok
    for wrong in ([1.0, 2.0, 3.0], [value, value, 3.0], [1.0, -value if value == value else INF, 3.0]):
        found = compare(torch.tensor(wrong), right, right.double())
        assert not found.ok and not found.special and "NaN or inf misplaced" in str(found)


def test_special_numbers_do_not_hide_errors_beside_them() -> None:
    eager = torch.tensor([NAN, 1.0])
    assert not compare(torch.tensor([NAN, 1.1]), eager, eager.double()).ok


def test_result_that_overflows_with_its_dtype_is_right_and_so_is_one_that_eager_alone_loses() -> None:
    oracle = torch.tensor([1e5, 1.0], dtype=torch.float64)
    overflowed = torch.tensor([INF, 1.0], dtype=torch.float16)
    assert compare(overflowed, overflowed, oracle).ok
    oracle = torch.tensor([100.0, 1.0], dtype=torch.float64)
    assert compare(torch.tensor([100.0, 1.0], dtype=torch.float16), overflowed, oracle).ok
    assert not compare(overflowed, torch.tensor([100.0, 1.0], dtype=torch.float16), oracle).ok


@pytest.mark.parametrize("value", [INF, -INF])
def test_an_infinity_is_right_where_two_met_in_eager_and_nowhere_else(value: float) -> None:
    lost, overflowed = torch.tensor([NAN, 1.0]), torch.tensor([value, 1.0])
    assert compare(overflowed, lost, torch.tensor([-5.0, 1.0]).double()).ok
    assert not compare(overflowed, lost, torch.tensor([NAN, 1.0]).double()).ok
    assert not compare(overflowed, lost, torch.tensor([-value, 1.0]).double()).ok
    assert not compare(lost, overflowed, torch.tensor([-5.0, 1.0]).double()).ok


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_integers_and_bools_are_equal_or_wrong(dtype: torch.dtype) -> None:
    right = torch.tensor([0, 1, 1]).to(dtype)
    assert compare(right, right, right).ok
    found = compare(torch.tensor([1, 1, 1]).to(dtype), right, right)
    assert not found.ok and found.max_error == 1


def test_integers_far_apart_do_not_wrap_around() -> None:
    low, high = torch.tensor([-(2**63)]), torch.tensor([2**63 - 1])
    assert compare(low, high, high).max_error == float(2**64 - 1)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.bool])
def test_empty_tensors_agree(dtype: torch.dtype) -> None:
    empty = torch.empty(0, 3, dtype=dtype)
    found = compare(empty, empty, empty.double() if dtype.is_floating_point else empty)
    assert found.ok and found.max_error == found.rms_error == found.ulp == 0


def test_huge_errors_do_not_overflow_their_mean_square() -> None:
    oracle = torch.full((3,), 1e300, dtype=torch.float64)
    found = compare(torch.zeros(3).double(), oracle, oracle)
    assert found.rms_error == pytest.approx(1e300) and not found.ok


def test_line_says_how_far_from_whom() -> None:
    oracle = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    line = str(compare(oracle.float(), oracle.float(), oracle))
    assert line.startswith("ok") and "float32[1, 2]" in line and "eager 0.00e+00" in line and "ulp 2.38e-07" in line


def test_unlike_tensors_are_not_compared() -> None:
    with pytest.raises(VerificationError, match=r"result torch.float32\[2\], eager torch.float32\[3\]"):
        compare(torch.zeros(2), torch.zeros(3), torch.zeros(3).double())
    with pytest.raises(VerificationError, match="result and eager one dtype"):
        compare(torch.zeros(2).half(), torch.zeros(2), torch.zeros(2).double())


def test_draws_are_pooled_as_parts_of_one_tensor() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    noisy = [(exact + 1e-3 * torch.randn(5, 3, generator=generator)).float() for _ in range(2)]
    parts = [compare(noisy[0][i], noisy[1][i], exact[i]) for i in range(5)]
    whole = compare(noisy[0], noisy[1], exact)
    found = pooled(parts)
    assert found.shape == (5, 3) and found.special and found.ok is whole.ok
    for name in ("max_error", "eager_max_error", "rms_error", "eager_rms_error", "ulp"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name))
    misplaced = compare(torch.tensor([math.nan] * 3), noisy[1][0], exact[0])
    assert not pooled([*parts, misplaced]).ok
