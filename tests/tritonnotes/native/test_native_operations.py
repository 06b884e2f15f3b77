"""Every operation of Triton IR as machine code beside the strict interpreter, over the same memory."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from native_comparing import run_both

from tritonnotes.native import launch
from tritonnotes.native.lower.kernel import lower
from tritonnotes.native.lower.lowering import Options
from tritonnotes.native.run.compiled import kept_ir

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


def drawn(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(3).to(dtype)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    low = 0 if dtype == torch.uint8 else -100
    return torch.randint(low, 100, shape, generator=generator, dtype=torch.int64).to(dtype)


@triton.jit
def cast_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offset, mask=offset < n)
    tl.store(y_ptr + offset, x.to(y_ptr.dtype.element_ty), mask=offset < n)


@pytest.mark.parametrize("target", [*FLOATS, *INTEGERS, torch.bool])
@pytest.mark.parametrize("source", [*FLOATS, *INTEGERS, torch.bool])
def test_casts(source: torch.dtype, target: torch.dtype) -> None:
    x, y = drawn(source, 37), torch.zeros(37, dtype=target)
    if target == torch.uint8 and source.is_floating_point:
        x = x.abs()
    assert run_both(cast_kernel, (1,), (x, y, 37), {"BLOCK": 64}) == ""
    if source.is_floating_point and target.is_floating_point:
        assert torch.equal(y, x.to(target))


@pytest.mark.parametrize("target", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("source", [torch.float32, torch.float64])
def test_narrowing_rounds_to_nearest_even_once(source: torch.dtype, target: torch.dtype) -> None:
    bits = torch.randint(0, 2**16, (4096,), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    exact = bits.view(target).to(source)
    following = (bits + 1).view(target).to(source)
    halfway = (exact + following) / 2
    x = torch.cat(
        [exact, halfway, halfway * (1 + 2.0**-20), halfway * (1 - 2.0**-20), torch.tensor([1e30, -1e30, 1e-30])]
    )
    if source == torch.float64:
        x = torch.cat([x, halfway * (1 + 2.0**-45), halfway * (1 - 2.0**-45)])
    y = torch.zeros(len(x), dtype=target)
    block = triton.next_power_of_2(len(x))
    launch(cast_kernel, (1,), x, y, len(x), BLOCK=block)
    expected = torch.from_numpy(x.numpy().astype(np.float16)) if target == torch.float16 else rounded_to_bfloat16(x)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y[~y.isnan()], expected[~y.isnan()])


def rounded_to_bfloat16(x: torch.Tensor) -> torch.Tensor:
    """Ties to even, from float64 with a single rounding."""
    mantissa, exponent = torch.frexp(x.double())
    exact = torch.ldexp(torch.round(mantissa * 256), exponent - 8)
    tiny = x.double().abs() < 2.0**-126
    exact[tiny] = torch.round(x.double()[tiny] * 2.0**133) * 2.0**-133
    return exact.to(torch.float32).to(torch.bfloat16)


@triton.jit
def arithmetic_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    mask = offset < n
    x = tl.load(x_ptr + offset, mask=mask, other=1)
    y = tl.load(y_ptr + offset, mask=mask, other=1)
    tl.store(out_ptr + offset, x + y, mask=mask)
    tl.store(out_ptr + n + offset, x - y, mask=mask)
    tl.store(out_ptr + 2 * n + offset, x * y, mask=mask)
    tl.store(out_ptr + 3 * n + offset, tl.maximum(x, y), mask=mask)
    tl.store(out_ptr + 4 * n + offset, tl.minimum(x, y), mask=mask)
    tl.store(out_ptr + 5 * n + offset, tl.where(x < y, x, -y), mask=mask)
    tl.store(out_ptr + 6 * n + offset, tl.abs(x), mask=mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, *INTEGERS])
def test_arithmetic(dtype: torch.dtype) -> None:
    x, y, out = drawn(dtype, 41), drawn(dtype, 41, seed=1), torch.zeros(7 * 41, dtype=dtype)
    assert run_both(arithmetic_kernel, (1,), (x, y, out, 41), {"BLOCK": 64}) == ""


def test_bfloat16_arithmetic_rounds_after_each_operation() -> None:
    x, y = drawn(torch.bfloat16, 64), drawn(torch.bfloat16, 64, seed=1)
    out = torch.zeros(7 * 64, dtype=torch.bfloat16)
    launch(arithmetic_kernel, (1,), x, y, out, 64, BLOCK=64)
    expected = [x + y, x - y, x * y, torch.maximum(x, y), torch.minimum(x, y), torch.where(x < y, x, -y), x.abs()]
    assert torch.equal(out, torch.cat(expected))


@triton.jit
def integer_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    mask = offset < n
    x = tl.load(x_ptr + offset, mask=mask, other=1)
    y = tl.load(y_ptr + offset, mask=mask, other=0)
    divisor = tl.where(y == 0, 7, y)
    tl.store(out_ptr + offset, x // divisor, mask=mask)
    tl.store(out_ptr + n + offset, x % divisor, mask=mask)
    tl.store(out_ptr + 2 * n + offset, x & y, mask=mask)
    tl.store(out_ptr + 3 * n + offset, x | y, mask=mask)
    tl.store(out_ptr + 4 * n + offset, x ^ y, mask=mask)
    tl.store(out_ptr + 5 * n + offset, x << (y & 3), mask=mask)
    tl.store(out_ptr + 6 * n + offset, x >> (y & 3), mask=mask)
    tl.store(out_ptr + 7 * n + offset, ~x, mask=mask)


@pytest.mark.parametrize("dtype", INTEGERS[:4])  # the interpreter has no ~ of uint8
def test_integer_operations(dtype: torch.dtype) -> None:
    x, y, out = drawn(dtype, 41), drawn(dtype, 41, seed=1), torch.zeros(8 * 41, dtype=dtype)
    assert run_both(integer_kernel, (1,), (x, y, out, 41), {"BLOCK": 64}) == ""


@triton.jit
def divide_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    offset = tl.arange(0, BLOCK)
    mask = offset < n
    tl.store(out_ptr + offset, tl.load(x_ptr + offset, mask=mask) // tl.load(y_ptr + offset, mask=mask), mask=mask)


def test_masked_lanes_may_divide_by_zero() -> None:
    x = torch.tensor([6, -(2**31), 5], dtype=torch.int32)
    y = torch.tensor([2, -1, 0], dtype=torch.int32)
    out = torch.zeros(3, dtype=torch.int32)
    launch(divide_kernel, (1,), x, y, out, 3, BLOCK=16)
    assert out[0] == 3


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def mixed(a_value, a_weight, b_value, b_weight):
    return a_value * b_weight + b_value, a_weight * b_weight


@triton.jit
def reduce_kernel(x_ptr, out_ptr, index_ptr, ROWS: tl.constexpr, COLS: tl.constexpr, AXIS: tl.constexpr):
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + row * COLS + col)
    kept: tl.constexpr = COLS if AXIS == 0 else ROWS
    at = tl.arange(0, kept)
    tl.store(out_ptr + at, tl.sum(x, axis=AXIS))
    tl.store(out_ptr + kept + at, tl.max(x, axis=AXIS))
    tl.store(out_ptr + 2 * kept + at, tl.min(x, axis=AXIS))
    tl.store(out_ptr + 3 * kept + at, tl.reduce(x, AXIS, larger))
    tl.store(index_ptr + at, tl.argmax(x, axis=AXIS))
    tl.store(index_ptr + kept + at, tl.argmin(x, axis=AXIS))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 64), (64, 1), (2, 8), (16, 16), (8, 256), (256, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_reductions_along_both_axes(dtype: torch.dtype, rows: int, cols: int, axis: int) -> None:
    kept = cols if axis == 0 else rows
    x, out, index = (
        drawn(dtype, rows, cols),
        torch.zeros(4 * kept, dtype=dtype),
        torch.zeros(2 * kept, dtype=torch.int32),
    )
    sizes = {"ROWS": rows, "COLS": cols, "AXIS": axis}
    assert run_both(reduce_kernel, (1,), (x, out, index), sizes) == ""


@triton.jit
def scan_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr):
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + row * COLS + col)
    tl.store(out_ptr + row * COLS + col, tl.cumsum(x, axis=AXIS, reverse=REVERSE))
    value, weight = tl.associative_scan((x, x * 0 + 0.5), AXIS, mixed, reverse=REVERSE)
    tl.store(out_ptr + ROWS * COLS + row * COLS + col, value + weight)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_scans(axis: int, reverse: bool) -> None:
    x, out = drawn(torch.float32, 8, 32), torch.zeros(2, 8, 32)
    launch(scan_kernel, (1,), x, out, ROWS=8, COLS=32, AXIS=axis, REVERSE=reverse)
    turned = x.flip(axis) if reverse else x
    sums, value, weight = turned.cumsum(axis), turned.clone(), torch.full_like(x, 0.5)
    for i in range(1, x.shape[axis]):
        here, before = (i,) if axis == 0 else (slice(None), i), (i - 1,) if axis == 0 else (slice(None), i - 1)
        value[here] = value[before] * 0.5 + value[here]
        weight[here] = weight[before] * 0.5
    mixed_ = value + weight
    expected = torch.stack([sums.flip(axis), mixed_.flip(axis)] if reverse else [sums, mixed_])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@triton.jit
def views_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    pairs = tl.reshape(x, [BLOCK // 2, 2])
    even, odd = tl.split(pairs)
    tl.store(out_ptr + tl.arange(0, BLOCK // 2), even - odd)
    tl.store(out_ptr + BLOCK + tl.arange(0, 2 * BLOCK), tl.interleave(x, x * 2))
    tl.store(out_ptr + 3 * BLOCK + at, tl.sort(x))
    tl.store(out_ptr + 4 * BLOCK + at, tl.flip(x, 0))
    square = tl.reshape(x, [BLOCK // 8, 8])
    turned = tl.trans(square)
    tl.store(out_ptr + 5 * BLOCK + at, tl.reshape(turned, [BLOCK]))
    wide = tl.reshape(x, [2, BLOCK // 8, 4])
    tl.store(out_ptr + 6 * BLOCK + at, tl.reshape(tl.permute(wide, (2, 0, 1)), [BLOCK]))
    tl.store(out_ptr + 7 * BLOCK + at, tl.gather(x, (at * 7 + 3) % BLOCK, 0))


@pytest.mark.parametrize("block", [16, 32, 128])
def test_views_reorder_elements(block: int) -> None:
    x, out = drawn(torch.float32, block), torch.zeros(8 * block)
    assert run_both(views_kernel, (1,), (x, out), {"BLOCK": block}) == ""
    assert torch.equal(out[3 * block : 4 * block], x.sort().values)
    assert torch.equal(out[4 * block : 5 * block], x.flip(0))


@triton.jit
def cat_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + tl.arange(0, 2 * BLOCK), tl.cat(x, x + 100.0, can_reorder=True))


@pytest.mark.parametrize("block", [4, 64])
def test_concatenation(block: int) -> None:
    x, out = drawn(torch.float32, block), torch.zeros(2 * block)
    launch(cat_kernel, (1,), x, out, BLOCK=block)
    assert torch.equal(out, torch.cat([x, x + 100]))


@triton.jit
def histogram_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=-1)
    tl.store(out_ptr + tl.arange(0, BINS), tl.histogram(x, BINS, mask=at < n))


def test_histogram() -> None:
    x = torch.randint(0, 16, (100,), dtype=torch.int32)
    out = torch.zeros(16, dtype=torch.int32)
    launch(histogram_kernel, (1,), x, out, 100, BLOCK=128, BINS=16)
    assert torch.equal(out.long(), torch.bincount(x.long(), minlength=16))


@triton.jit
def random_kernel(out_ptr, int_ptr, seed, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.rand(seed, at), mask=at < n)
    tl.store(out_ptr + n + at, tl.randn(seed, at), mask=at < n)
    tl.store(int_ptr + at, tl.randint(seed, at), mask=at < n)


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 5])
def test_philox_draws_the_same_numbers(seed: int) -> None:
    out, ints = torch.zeros(2 * 150), torch.zeros(150, dtype=torch.int32)
    assert run_both(random_kernel, (3,), (out, ints, seed, 150), {"BLOCK": 64}) == ""


@triton.jit
def dot_kernel(
    a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TA: tl.constexpr, TB: tl.constexpr
):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.trans(tl.load(a_ptr + k[:, None] * M + m[None, :])) if TA else tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + n[None, :] * K + k[:, None]) if TB else tl.load(b_ptr + k[:, None] * N + n[None, :])
    out = tl.dot(a, b, input_precision="ieee")
    tl.store(c_ptr + m[:, None] * N + n[None, :], out.to(c_ptr.dtype.element_ty))


@pytest.mark.parametrize(("ta", "tb"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (64, 32, 16), (16, 64, 128), (128, 16, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products(dtype: torch.dtype, m: int, n: int, k: int, ta: bool, tb: bool) -> None:
    a, b, c = drawn(dtype, m, k), drawn(dtype, k, n, seed=1), torch.zeros(m, n)
    left, right = a.t().contiguous() if ta else a, b.t().contiguous() if tb else b
    launch(dot_kernel, (1,), left, right, c, M=m, N=n, K=k, TA=ta, TB=tb)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=1e-5, atol=2e-4)


def test_products_of_integers_and_of_float64() -> None:
    a, b, c = drawn(torch.int8, 16, 32), drawn(torch.int8, 32, 16, seed=1), torch.zeros(16, 16, dtype=torch.int32)
    launch(dot_kernel, (1,), a, b, c, M=16, N=16, K=32, TA=False, TB=False)
    assert torch.equal(c.long(), a.long() @ b.long())
    x, y, z = (
        drawn(torch.float64, 16, 32),
        drawn(torch.float64, 32, 16, seed=1),
        torch.zeros(16, 16, dtype=torch.float64),
    )
    launch(dot_kernel, (1,), x, y, z, M=16, N=16, K=32, TA=False, TB=False)
    torch.testing.assert_close(z, x @ y)


@triton.jit
def batched_kernel(a_ptr, b_ptr, c_ptr, B: tl.constexpr, M: tl.constexpr):
    i, m, n = tl.arange(0, B)[:, None, None], tl.arange(0, M)[None, :, None], tl.arange(0, M)[None, None, :]
    at = i * M * M + m * M + n
    tl.store(c_ptr + at, tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at), input_precision="ieee"))


def test_products_of_batches() -> None:
    a, b, c = drawn(torch.float32, 4, 16, 16), drawn(torch.float32, 4, 16, 16, seed=1), torch.zeros(4, 16, 16)
    launch(batched_kernel, (1,), a, b, c, B=4, M=16)
    torch.testing.assert_close(c, a @ b, rtol=1e-5, atol=1e-4)


@triton.jit
def atomic_kernel(counts_ptr, floats_ptr, old_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    mask = at < n
    tl.atomic_add(counts_ptr + at % 4, 1, mask=mask)
    tl.atomic_max(counts_ptr + 4 + at % 4, at, mask=mask)
    tl.atomic_min(counts_ptr + 8 + at % 4, -at, mask=mask)
    tl.atomic_or(counts_ptr + 12 + at % 4, at, mask=mask)
    tl.atomic_xor(counts_ptr + 16 + at % 4, at, mask=mask)
    tl.atomic_and(counts_ptr + 20 + at % 4, at, mask=mask)
    tl.atomic_xchg(counts_ptr + 24 + at, at, mask=mask)
    tl.atomic_add(floats_ptr + at % 4, at * 0.5, mask=mask)
    tl.atomic_max(floats_ptr + 4 + at % 4, at * 0.5 - 3.0, mask=mask)
    tl.store(old_ptr, tl.atomic_add(counts_ptr, 5))
    tl.store(old_ptr + 1, tl.atomic_cas(counts_ptr + 1, 11, 99))
    tl.store(old_ptr + 2, tl.atomic_cas(counts_ptr + 2, -1, 99))


def test_atomic_operations() -> None:
    counts, floats = torch.zeros(100, dtype=torch.int32), torch.zeros(8)
    assert run_both(atomic_kernel, (1,), (counts, floats, torch.zeros(3, dtype=torch.int32), 45), {"BLOCK": 64}) == ""


@triton.jit
def add_small_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr + at % 4, tl.load(x_ptr + at))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_atomic_addition_of_16_bit_floats(dtype: torch.dtype) -> None:
    x, out = torch.arange(16).to(dtype), torch.zeros(4, dtype=dtype)
    launch(add_small_kernel, (1,), x, out, BLOCK=16)
    assert torch.equal(out, x.view(4, 4).sum(0))


@triton.jit(noinline=True)
def apart(x, n):
    if n > 3:
        return x * 2.0, n + 1
    return x + 1.0, n


@triton.jit
def control_kernel(x_ptr, out_ptr, n, flag, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    if flag == 7:
        tl.store(out_ptr + at, -1.0)
        return
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    total, turns = x * 0.0, 0
    while turns < n:
        total += tl.load(x_ptr + turns)
        turns += 3
    if flag > 2:
        y = x * 2.0
        z = 1.0
    else:
        y = x - 1.0
        z = tl.sum(x)
    last, before = x, x * 0.0
    for i in range(flag):
        last, before = last + before, last
        if i % 2 == 1:
            last = last * 0.5
    scalar, number = apart(z, flag)
    tl.store(out_ptr + at, total + y + z + last + before + scalar + number, mask=at < n)


@pytest.mark.parametrize("flag", [0, 1, 3, 4, 7])
def test_control_flow(flag: int) -> None:
    x, out = drawn(torch.float32, 40), torch.zeros(64)
    assert run_both(control_kernel, (1,), (x, out, 40, flag), {"BLOCK": 64}) == ""


@triton.jit
def table_kernel(table_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(count):
        pointer = tl.load(table_ptr + i).to(tl.pointer_type(tl.float32))
        total += tl.load(pointer + at)
    tl.store(out_ptr + at, total)


def test_pointer_tables() -> None:
    tensors = [drawn(torch.float32, 64, seed=i) for i in range(5)]
    table = torch.tensor([t.data_ptr() for t in tensors], dtype=torch.int64)
    assert run_both(table_kernel, (1,), (table, torch.zeros(64), 5), {"BLOCK": 64}, tensors) == ""


@triton.jit
def truth_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0)
    tl.store(out_ptr + at, ~x, mask=at < n)
    tl.store(out_ptr + n + at, x & (at % 3 == 0), mask=at < n)
    tl.store(out_ptr + 2 * n + at, tl.sum(x.to(tl.int32)) > 5, mask=at < n)


def test_truth_values_in_memory() -> None:
    x, out = drawn(torch.bool, 50), torch.zeros(150, dtype=torch.bool)
    assert run_both(truth_kernel, (1,), (x, out, 50), {"BLOCK": 64}) == ""


@triton.jit
def shifted_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at) + 1.0)


def test_tensors_that_overlap_are_loaded_whole_before_they_are_stored() -> None:
    memory = torch.arange(65, dtype=torch.float32)
    launch(shifted_kernel, (1,), memory[:64], memory[1:], BLOCK=64)
    assert torch.equal(memory, torch.cat([torch.zeros(1), torch.arange(64) + 1.0]))


@triton.jit
def strided_kernel(x_ptr, out_ptr, rows, cols, row_stride, col_stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (col < cols)
    x = tl.load(x_ptr + row * row_stride + col * col_stride, mask=mask, other=-5.0)
    tl.store(out_ptr + row * COLS + col, x + tl.sum(x, axis=1)[:, None] + tl.max(x, axis=0)[None, :])


@pytest.mark.parametrize("turned", [False, True])
def test_strided_memory(turned: bool) -> None:
    x = drawn(torch.float32, 21, 30)
    x = x.t().contiguous().t() if turned else x
    out = torch.zeros(32, 32)
    args = (x, out, 21, 30, *x.stride())
    assert run_both(strided_kernel, (1,), args, {"ROWS": 32, "COLS": 32}) == ""


@triton.jit
def descriptor_kernel(x_ptr, out_ptr, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    source = tl.make_tensor_descriptor(x_ptr, [rows, cols], [cols, 1], [ROWS, COLS])
    target = tl.make_tensor_descriptor(out_ptr, [rows, cols], [cols, 1], [ROWS, COLS])
    row, col = tl.program_id(0) * ROWS, tl.program_id(1) * COLS
    target.store([row, col], source.load([row, col]) * 2.0)


def test_tensor_descriptors_made_in_the_kernel() -> None:
    x, out = drawn(torch.float32, 21, 36), torch.zeros(21, 36)
    launch(descriptor_kernel, (3, 3), x, out, 21, 36, ROWS=8, COLS=16)
    assert torch.equal(out, x * 2)


@triton.jit
def hints_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    tl.assume(n > 0)
    at = tl.max_contiguous(tl.multiple_of(tl.arange(0, BLOCK), 8), 8)
    tl.device_print("at", at)
    tl.device_assert(n > 0, "n: positive")
    x = tl.load(x_ptr + at, mask=at < n, other=0.0, eviction_policy="evict_last", cache_modifier=".cg", volatile=True)
    tl.debug_barrier()
    tl.store(out_ptr + at, tl.clamp(x, -1.0, 1.0), mask=at < n)
    tl.store(out_ptr + n + at, tl.fdiv(x, 3.0), mask=at < n)
    tl.store(out_ptr + 2 * n + at, tl.sqrt_rn(tl.abs(x)) + tl.div_rn(x, 7.0), mask=at < n)


def test_hints_and_prints_change_nothing() -> None:
    x, out = drawn(torch.float32, 41), torch.zeros(3 * 41)
    launch(hints_kernel, (1,), x, out, 41, BLOCK=64)
    expected = torch.cat([x.clamp(-1, 1), x / 3, x.abs().sqrt() + x / 7])
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


@triton.jit
def walking_kernel(x_ptr, y_ptr, out_ptr, n, COLS: tl.constexpr):
    """Pointers that a loop carries: stepped, exchanged, and stepped by what is loaded."""
    at = tl.arange(0, COLS)
    a, b, irregular = x_ptr + at, y_ptr + at, x_ptr + at
    offset = at
    total = tl.zeros([COLS], tl.float32)
    for i in range(n):
        total += tl.load(a) * (i + 1) + tl.load(b) + tl.load(irregular) + offset
        a, b = b, a
        irregular += (at + i) % 2
        offset += 3
    left = n
    walked = x_ptr + at
    while left > 0:
        total += tl.load(walked)
        walked += 1
        left -= 1
    tl.store(out_ptr + at, total)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_pointers_that_loops_carry(n: int) -> None:
    x, y, out = drawn(torch.float32, 64), drawn(torch.float32, 64, seed=1), torch.zeros(32)
    assert run_both(walking_kernel, (1,), (x, y, out, n), {"COLS": 32}) == ""


@triton.jit
def in_place_kernel(x_ptr, turns, BLOCK: tl.constexpr):
    """Each turn reads what the last one stored, through a pointer that the loop carries."""
    at = tl.arange(0, BLOCK)
    pointer = x_ptr
    for _ in range(turns):
        x = tl.load(pointer + at)
        shifted = tl.load(x_ptr + (at + 1) % BLOCK)
        tl.store(pointer + at, x + shifted)
        pointer += 0


def test_stores_come_before_the_loads_that_follow_them() -> None:
    x = drawn(torch.float32, 64)
    assert run_both(in_place_kernel, (1,), (x, 5), {"BLOCK": 64}) == ""


@triton.jit
def product_kernel(x_ptr, y_ptr, c_ptr, out_ptr, left_ptr, STORED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x, y, c = tl.load(x_ptr + at), tl.load(y_ptr + at), tl.load(c_ptr + at)
    once = x * y
    tl.store(out_ptr + at, once + c)
    if STORED:
        tl.store(left_ptr + at, once)
    else:
        twice = x * c
        tl.store(left_ptr + at, twice + (x * 0.0 - twice))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_and_a_sum_are_rounded_once_and_a_product_that_is_used_twice_is_one_number(
    dtype: torch.dtype,
) -> None:
    x, y, c = (drawn(dtype, 64, seed=i) for i in range(3))
    out, left = torch.zeros(2, 64, dtype=dtype), torch.zeros(2, 64, dtype=dtype)
    for stored in (False, True):
        launch(product_kernel, (1,), x, y, c, out[int(stored)], left[int(stored)], STORED=stored, BLOCK=64)
    assert torch.equal(out[0], out[1])
    assert torch.equal(left[0], torch.zeros(64, dtype=dtype))
    assert torch.equal(left[1], x * y)
    if dtype == torch.float32:
        assert torch.equal(out[0], (x.double() * y.double() + c.double()).float())


@triton.jit
def divided_kernel(
    x_ptr, y_ptr, rows, START: tl.constexpr, A: tl.constexpr, B: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Along the last axis, along the first one, and along both in one."""
    programs = tl.num_programs(0)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), programs):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None] + START
        col = tl.arange(0, COLS)[None, :]
        inside = row < rows
        one = tl.load(x_ptr + tl.abs((row // A) * S + row % B) + col * 64, mask=inside & (row >= 0), other=-1.0)
        two = tl.load(x_ptr + tl.abs(row) % 64 + (col + START) // A + (col * 2) % B + 64, mask=inside, other=-2.0)
        flat = tl.reshape(row * COLS + col, [ROWS * COLS])
        three = tl.load(x_ptr + tl.abs(flat // A % 8) * S + tl.abs(flat % B))
        out = y_ptr + (row - START) * COLS + col
        tl.store(out, one + 3.0 * two + 7.0 * tl.reshape(three, [ROWS, COLS]), mask=row - START < rows)


@pytest.mark.parametrize("start", [0, 8, -5, -64])
@pytest.mark.parametrize(("a", "b"), [(16, 16), (8, 48), (64, 24), (1024, 1024), (7, 160)])
def test_quotients_of_offsets(start: int, a: int, b: int) -> None:
    """Within a strip quotients are often one number, and remainders neighbours: but not where a strip begins between
    multiples of the divisor, nor below 0."""
    x = torch.arange(16384, dtype=torch.float32).cos()
    for rows, cols in ((32, 4), (16, 64), (8, 16)):
        y = torch.zeros(90, cols)
        sizes = {"START": start, "A": a, "B": b, "S": 48, "ROWS": rows, "COLS": cols}
        assert run_both(divided_kernel, (2,), (x, y, 90), sizes) == ""


@triton.jit
def nested_kernel(x_ptr, y_ptr, DEPTH: tl.constexpr):
    offset = tl.program_id(0) * 64 + tl.arange(0, 64)
    for _ in tl.static_range(DEPTH):
        offset = tl.minimum(offset + offset, offset)
    tl.store(y_ptr + offset, tl.load(x_ptr + offset // 16 + offset % 16))


def test_offsets_that_use_each_other_many_times_are_looked_at_once() -> None:
    """Looked at for each use, they would take 3 to the 24th looks."""
    x, y = drawn(torch.float32, 128), torch.zeros(128)
    assert run_both(nested_kernel, (2,), (x, y), {"DEPTH": 24}) == ""
    where = torch.arange(128)
    assert torch.equal(y, x[where // 16 + where % 16])


@triton.jit
def row_sum_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    tl.store(out_ptr + tl.arange(0, ROWS), tl.sum(tl.load(x_ptr + row * COLS + col), axis=1))


def test_what_a_sum_adds_up_stays_in_registers() -> None:
    """LLVM keeps memory of an array's type in registers, and never that of a type and a count."""
    types = {"x_ptr": "*fp32", "out_ptr": "*fp32"}
    ttir = kept_ir(row_sum_kernel, types, {"ROWS": 4, "COLS": 1024})
    text = lower(ttir, Options(True, True, False, False, ())).text
    assert "alloca [4 x <16 x float>]" in text and not re.search(r"alloca [^,]+, i\d+ ", text)
