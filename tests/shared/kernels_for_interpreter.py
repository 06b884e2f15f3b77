"""Kernels for the tests of the interpreter and the compiler: correct ones, and ones with a planted bug."""

from __future__ import annotations

import triton
import triton.language as tl

EPSILON = tl.constexpr(1e-5)


@triton.jit
def square(x):
    return x * x


@triton.jit
def layer_norm(x_ptr, weight_ptr, y_ptr, mean_ptr, cols, eps, BLOCK: tl.constexpr, SCALE: tl.constexpr = True):
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, BLOCK)
    mask = col < cols
    x = tl.load(x_ptr + row * cols + col, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / cols
    centered = tl.where(mask, x - mean, 0.0)
    y = centered * tl.rsqrt(tl.sum(square(centered), axis=0) / cols + eps)
    if SCALE:
        y = y * tl.load(weight_ptr + col, mask=mask, other=0.0).to(tl.float32)
    tl.store(mean_ptr + row, mean)
    tl.store(y_ptr + row * cols + col, y.to(y_ptr.dtype.element_ty), mask=mask)


# One planted bug each


@triton.jit
def load_without_mask(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i), mask=i < n)


@triton.jit
def store_without_mask(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0.0))


@triton.jit
def atomic_past_the_end(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(x_ptr + i + 1, 1.0, mask=i < n)


@triton.jit
def negative_offset(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i - 1))


@triton.jit
def misaligned(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    bytes_ptr = x_ptr.to(tl.pointer_type(tl.int8)) + 2
    tl.store(y_ptr + i, tl.load(bytes_ptr.to(tl.pointer_type(tl.float32)) + i))


@triton.jit
def lanes_collide(y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i // 2, i.to(tl.float32))


@triton.jit
def sum_without_other(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + i, mask=i < n), axis=0))


@triton.jit
def sum_with_other(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + i, mask=i < n, other=0.0), axis=0))


@triton.jit
def gather_with_poisoned_index(index_ptr, x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    index = tl.load(index_ptr + i, mask=i < n)
    tl.store(y_ptr + i, tl.load(x_ptr + index), mask=i < n)


@triton.jit
def contiguous_copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n, other=0.0), mask=i < n)


@triton.jit
def all_write_the_same(y_ptr, BLOCK: tl.constexpr):
    tl.store(y_ptr + tl.arange(0, BLOCK), tl.zeros((BLOCK,), tl.float32))


@triton.jit
def read_the_neighbour(x_ptr, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    left = tl.load(x_ptr + (row - 1) * BLOCK + i, mask=(i < n) & (row > 0), other=0.0)
    tl.store(x_ptr + row * BLOCK + i, left + 1, mask=i < n)


@triton.jit
def read_the_right_neighbour(x_ptr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    right = tl.load(x_ptr + (row + 1) * BLOCK + i, mask=row + 1 + 0 * i < tl.num_programs(0), other=0.0)
    tl.store(x_ptr + row * BLOCK + i, right)


@triton.jit
def asserts(x_ptr):
    tl.device_assert(tl.load(x_ptr) > 0, "x must be positive")


@triton.jit
def bfloat16_arithmetic(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x + x)


@triton.jit
def bfloat16_sum(x_ptr, y_ptr, BLOCK: tl.constexpr):
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, BLOCK)), axis=0))


@triton.jit
def chained_comparison(y_ptr, n):
    if 0 < n < 3:
        tl.store(y_ptr, 1.0)


# Programs that wait for each other


@triton.jit
def last_arriver_sums(
    x_ptr, partial_ptr, counter_ptr, total_ptr, n, BLOCK: tl.constexpr, PARTS: tl.constexpr, SEM: tl.constexpr
):
    part = tl.program_id(0)
    i = part * BLOCK + tl.arange(0, BLOCK)
    tl.store(partial_ptr + part, tl.sum(tl.load(x_ptr + i, mask=i < n, other=0.0), axis=0))
    if tl.atomic_add(counter_ptr, 1, sem=SEM) == tl.num_programs(0) - 1:
        parts = tl.arange(0, PARTS)
        here = parts < tl.num_programs(0)
        tl.store(total_ptr, tl.sum(tl.load(partial_ptr + parts, mask=here, other=0.0), axis=0))
        tl.store(counter_ptr, 0)


@triton.jit
def last_program_sums_without_asking(x_ptr, partial_ptr, total_ptr, n, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    part = tl.program_id(0)
    i = part * BLOCK + tl.arange(0, BLOCK)
    tl.store(partial_ptr + part, tl.sum(tl.load(x_ptr + i, mask=i < n, other=0.0), axis=0))
    if part == tl.num_programs(0) - 1:
        parts = tl.arange(0, PARTS)
        here = parts < tl.num_programs(0)
        tl.store(total_ptr, tl.sum(tl.load(partial_ptr + parts, mask=here, other=0.0), axis=0))


@triton.jit
def counts_before_it_stores(partial_ptr, counter_ptr, total_ptr, PARTS: tl.constexpr):
    part = tl.program_id(0)
    arrived = tl.atomic_add(counter_ptr, 1)
    tl.store(partial_ptr + part, 1.0)
    if arrived == tl.num_programs(0) - 1:
        tl.store(total_ptr, tl.sum(tl.load(partial_ptr + tl.arange(0, PARTS)), axis=0))


@triton.jit
def shared_input_overwritten(x_ptr, counter_ptr, GROUP: tl.constexpr):
    """All programs read x; the last of the first GROUP overwrites it, ordered after those and no others."""
    value = tl.load(x_ptr)
    if tl.program_id(0) < GROUP:  # noqa: SIM102  (`and` would compute both sides)
        if tl.atomic_add(counter_ptr, 1) == GROUP - 1:
            tl.store(x_ptr, value + 1)


@triton.jit
def histogram(x_ptr, count_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(count_ptr + tl.load(x_ptr + i, mask=i < n, other=0), 1, mask=i < n)


@triton.jit
def read_what_others_add_to(count_ptr, y_ptr):
    tl.atomic_add(count_ptr, 1, sem="relaxed")
    tl.store(y_ptr + tl.program_id(0), tl.load(count_ptr))


# Meaning of single operations


@triton.jit
def cast_through_bfloat16(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.store(y_ptr + i, x.to(tl.bfloat16).to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def cast_to_zero(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i).to(tl.bfloat16, fp_downcast_rounding="rtz"))


@triton.jit
def nan_rules(x_ptr, y_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.maximum(x, 0.0))
    tl.store(y_ptr + BLOCK + i, tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL))
    tl.store(y_ptr + 2 * BLOCK + i, tl.minimum(x, 0.0))
    tl.store(y_ptr + 3 * BLOCK + i, tl.clamp(x, -1.0, 1.0))
    tl.store(y_ptr + 4 * BLOCK + i, tl.clamp(x, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def nan_reductions(x_ptr, y_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    tl.store(y_ptr, tl.max(x, axis=0))
    tl.store(y_ptr + 1, x.min(axis=0))
    tl.store(y_ptr + 2, tl.argmax(x, axis=0).to(tl.float32))
    tl.store(y_ptr + 3, tl.argmin(x, axis=0).to(tl.float32))


@triton.jit
def welford(mean_a, m2_a, count_a, mean_b, m2_b, count_b):
    count = count_a + count_b
    delta = mean_b - mean_a
    share = tl.where(count == 0.0, 0.0, count_b / count)
    return mean_a + delta * share, m2_a + m2_b + delta * delta * count_a * share, count


@triton.jit
def variance_by_combination(x_ptr, y_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :])
    mean, m2, count = tl.reduce((x, tl.zeros_like(x), tl.full(x.shape, 1.0, tl.float32)), 1, welford)
    tl.store(y_ptr + tl.arange(0, ROWS), m2 / count)


@triton.jit
def python_forms(y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for step in range(0, n, 2):
        acc += step.to(tl.float32)
    for step in tl.range(3):
        acc += step.to(tl.float32)
    for step in tl.static_range(2):
        acc += step
    inside = i > 1 and i < 4
    outside = not inside
    tl.store(y_ptr + i, tl.where(outside, acc, -1.0) + EPSILON)


@triton.jit
def arguments(y_ptr, number, real, flag, nothing, WORD: tl.constexpr, factor=2):
    if nothing is None and WORD == "word":
        tl.store(y_ptr, number.to(tl.float64))
        tl.store(y_ptr + 1, real.to(tl.float64))
        tl.store(y_ptr + 2, tl.where(flag, 1.0, 0.0).to(tl.float64))
        tl.store(y_ptr + 3, (1 - real).to(tl.float64))
        tl.store(y_ptr + 4, factor.to(tl.float64))


@triton.jit
def through_a_table(table_ptr, sizes_ptr, BLOCK: tl.constexpr):
    which = tl.program_id(0)
    target = tl.load(table_ptr + which).to(tl.pointer_type(tl.float32))
    i = tl.arange(0, BLOCK)
    mask = i < tl.load(sizes_ptr + which)
    tl.store(target + i, tl.load(target + i, mask=mask, other=0.0) + 1, mask=mask)


@triton.jit
def raises(x_ptr):
    tl.store(x_ptr, tl.load(x_ptr) + "text")


@triton.jit
def attention_weights(x_ptr, y_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(y_ptr + at, tl.dot(x, tl.trans(x), out_dtype=tl.float32))


@triton.jit
def too_many_registers(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.sort(tl.load(x_ptr + i)) + tl.sum(tl.load(x_ptr + i), axis=0))


@triton.jit
def dot(a_ptr, b_ptr, out_ptr, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    m, k, n = tl.arange(0, M)[:, None], tl.arange(0, K), tl.arange(0, N)[None, :]
    a = tl.load(a_ptr + m * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n)
    out = tl.dot(a, b, input_precision="ieee", out_dtype=out_ptr.dtype.element_ty)
    tl.store(out_ptr + m * N + n, out)
