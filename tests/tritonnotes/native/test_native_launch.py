"""`tritonnotes.native.launch`: arguments, grids, errors."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tritonnotes.native import NativeError, UnsupportedError, launch


@triton.jit
def scaled_sum(x_ptr, y_ptr, out_ptr, n, scale, BLOCK: tl.constexpr):
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < n
    x = tl.load(x_ptr + offset, mask=mask)
    y = tl.load(y_ptr + offset, mask=mask)
    tl.store(out_ptr + offset, x * scale + y, mask=mask)


@triton.jit
def quietly_asm(x_ptr, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offset)
    y = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(x_ptr + offset, y)


def run(n: int, dtype: torch.dtype = torch.float32, **how: object) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(n).to(dtype), torch.randn(n).to(dtype)
    out = torch.full((n + 3,), 7.0, dtype=dtype)
    launch(scaled_sum, (triton.cdiv(n, 64),), x, y, out, n, 0.5, BLOCK=64, **how)
    assert (out[n:] == 7).all(), "a masked lane was stored"
    return out[:n], x * 0.5 + y


@pytest.mark.parametrize("n", [0, 1, 2, 7, 31, 33, 64, 200, 513, 769, 3000, 4097])
def test_every_size_is_covered_to_its_last_element(n: int) -> None:
    found, expected = run(n)
    assert torch.equal(found, expected)  # half of a number is exact, so one sum is rounded here and there


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    found, expected = run(200, dtype)
    assert found.dtype == dtype and torch.equal(found, expected)


def test_a_grid_may_be_a_function_of_the_arguments() -> None:
    x = torch.ones(130)
    launch(scaled_sum, lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),), x, x, x, 130, 2.0, BLOCK=64)
    assert (x == 3).all()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    one, _ = run(4097, threads=1)
    for threads in (2, 8):
        assert torch.equal(run(4097, threads=threads)[0], one)


def test_an_operation_that_is_not_covered_names_the_line_and_the_remedy() -> None:
    x = torch.zeros(16, dtype=torch.int32)
    with pytest.raises(
        UnsupportedError, match=r"quietly_asm \(test_native_launch.py, line 26\).*inline_asm.*strict"
    ) as caught:
        launch(quietly_asm, (1,), x, BLOCK=16)
    assert isinstance(caught.value, NativeError)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing arguments"),
        ((1, 2, 3, 4, 5, 6, 7), {}, "takes 6 arguments"),
        ((torch.ones(3),), {"x_ptr": 1}, "given twice"),
        ((torch.ones(3),) * 3, {"n": 3, "scale": 1.0, "BLOCK": 16, "colour": 1}, "no argument colour"),
        ((torch.ones(3), [1], torch.ones(3), 3, 1.0, 16), {}, "y_ptr is a list"),
        ((torch.ones(3, dtype=torch.complex64), torch.ones(3), torch.ones(3), 3, 1.0, 16), {}, "complex64"),
    ],
)
def test_wrong_arguments_are_refused_by_name(args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(NativeError, match=message):
        launch(scaled_sum, (1,), *args, **kwargs)


def test_a_grid_of_no_programs_runs_nothing_and_a_negative_one_is_refused() -> None:
    x = torch.ones(3)
    launch(scaled_sum, (0,), x, x, x, 3, 2.0, BLOCK=16)
    assert (x == 1).all()
    with pytest.raises(NativeError, match="none negative"):
        launch(scaled_sum, (-1,), x, x, x, 3, 2.0, BLOCK=16)


@triton.jit
def scalars_kernel(out_ptr, whole, number, truth, nothing):
    tl.store(out_ptr, number)
    if truth:
        tl.store(out_ptr + 1, 1.0)
    if nothing is None:
        tl.store(out_ptr + 2, 1.0)
    tl.store(out_ptr + 3, whole % 1000 + 0.0)


@pytest.mark.parametrize("whole", [1, 5, -5, 2**31 + 5, 2**63 + 5])
@pytest.mark.parametrize(("number", "expected"), [(0.1, 0.1), (1e300, float("inf")), (-1e300, float("-inf"))])
def test_numbers_arrive_as_a_gpu_would_have_them(whole: int, number: float, expected: float) -> None:
    out = torch.zeros(4)
    launch(scalars_kernel, (1,), out, whole, number, whole > 0, None)
    remainder = abs(whole) % 1000 * (1 if whole > 0 else -1)
    assert out.tolist() == torch.tensor([expected, float(whole > 0), 1.0, remainder]).tolist()
