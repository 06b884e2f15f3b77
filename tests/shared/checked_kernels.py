"""Kernels with functions that launch them, as their authors have them: right ones, and ones with a planted bug."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 64


@triton.jit
def softmax_kernel(x_ptr, y_ptr, stride, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    mask = col < cols
    x = tl.load(x_ptr + row * stride + col, mask=mask, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row * cols + col, e / tl.sum(e, axis=0), mask=mask)


def softmax(x):
    x = x.contiguous()
    y = torch.empty_like(x)
    softmax_kernel[(x.shape[0],)](x, y, x.stride(0), x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return y


def softmax_of_contiguous_rows(x):
    y = torch.empty(x.shape, dtype=x.dtype)
    softmax_kernel[(x.shape[0],)](x, y, x.shape[1], x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return y


def softmax_of_up_to_16(x):
    assert x.shape[1] <= 16, "rows of more than 16 are not covered"
    return softmax(x)


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    y = tl.load(y_ptr + i, mask=i < n)
    tl.store(out_ptr + i, x + y, mask=i < n)


tuned_add_kernel = triton.autotune([triton.Config({"BLOCK": BLOCK})], key=["n"])(add_kernel)


def add_in_place(x, y):
    assert x.is_contiguous() and y.is_contiguous()
    add_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, x, x.numel(), BLOCK=BLOCK)


def add_in_place_reference(x, y):
    x += y


def double_of_a_half(x):
    out = torch.empty_like(x)
    n = x.numel() // 2
    add_kernel[(triton.cdiv(max(n, 1), BLOCK),)](x, x, out, n, BLOCK=BLOCK)
    return out


def double_of_a_half_where_a_result_lay(x):
    result = double(x)
    del result  # the allocator hands out its memory next
    return double_of_a_half(x)


@triton.jit
def double_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * 2)


def double_without_mask(x):
    out = torch.empty_like(x)
    double_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, BLOCK=BLOCK)
    return out


def double(x):
    return x * 2


@triton.jit
def sum_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr, tl.load(out_ptr) + tl.sum(tl.load(x_ptr + i, mask=i < n, other=0.0), axis=0))


def sum_with_a_race(x):
    out = torch.zeros((), dtype=x.dtype)
    sum_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), BLOCK=BLOCK)
    return out


@triton.jit
def relu_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(out_ptr + i, tl.where(x > 0, x, 0.0), mask=i < n)


def relu_that_drops_nan(x):
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    relu_kernel[(triton.cdiv(x.numel(), BLOCK),)](x.contiguous(), out, x.numel(), BLOCK=BLOCK)
    return out


@triton.jit
def relu_in_place_kernel(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(x_ptr + i, tl.where(x <= 0, 0.0, x), mask=i < n)


def relu_in_place(x):
    y = x.contiguous()
    relu_in_place_kernel[(triton.cdiv(x.numel(), BLOCK),)](y, x.numel(), BLOCK=BLOCK)
    if y is not x:
        x.copy_(y)


def relu_in_place_reference(x):
    x.relu_()


def relu_in_place_returned(x):
    relu_in_place(x)
    return x


def relu_in_place_wrong(x):
    relu_in_place(x)
    x += 1e-3 * (x > 0)


@triton.jit
def mean_without_other_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(out_ptr, tl.sum(x, axis=0) / n)


def mean_without_other(x):
    out = torch.empty((), dtype=x.dtype)
    if x.numel():
        mean_without_other_kernel[(1,)](x.contiguous(), out, x.numel(), BLOCK=triton.next_power_of_2(x.numel()))
    return out


@triton.jit
def half_in_bfloat16_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, x - x * 0.5, mask=i < n)


def half_in_bfloat16(x):
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    half_in_bfloat16_kernel[(triton.cdiv(x.numel(), BLOCK),)](x.contiguous(), out, x.numel(), BLOCK=BLOCK)
    return out


@triton.jit
def row_copy_kernel(x_ptr, out_ptr, cols, BLOCK: tl.constexpr):
    at = tl.program_id(0) * cols + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=tl.arange(0, BLOCK) < cols, other=0.0)
    tl.store(out_ptr + at, x)


def row_copy_without_a_mask(x):
    out = torch.empty(x.shape, dtype=x.dtype)
    row_copy_kernel[(x.shape[0],)](x.contiguous(), out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return out


@triton.jit
def column_sum_kernel(x_ptr, out_ptr, cols, BLOCK: tl.constexpr):
    col = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + tl.program_id(0) * cols + col, mask=col < cols, other=0.0)
    tl.atomic_add(out_ptr + col, x, mask=col < cols)


def column_sum(x):
    out = torch.zeros(x.shape[1], dtype=x.dtype)
    column_sum_kernel[(x.shape[0],)](x.contiguous(), out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return out


@triton.jit
def positive_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(out_ptr + i, x, mask=(i < n) & (x > 0))


def relu_that_leaves_out_zeros(x):
    out = torch.empty_like(x)
    positive_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), BLOCK=BLOCK)
    return out


@triton.jit
def normalized_kernel(x_ptr, out_ptr, cols, WAY: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * cols + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < cols
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / cols
    apart = x - mean if WAY == "padded" else tl.where(mask, x - mean, 0.0)
    variance = tl.sum(apart * apart, axis=0) / cols
    if WAY == "of squares":
        variance = tl.sum(x * x, axis=0) / cols - mean * mean
    tl.store(out_ptr + at, apart / tl.sqrt(variance + 1e-5), mask=mask)


def normalized(x, way="right"):
    out = torch.empty(x.shape, dtype=x.dtype)
    block = triton.next_power_of_2(max(x.shape[1], 1))
    normalized_kernel[(x.shape[0],)](x.contiguous(), out, x.shape[1], WAY=way, BLOCK=block)
    return out


def normalized_by_squares(x):
    return normalized(x, "of squares")


def normalized_with_padding(x):
    return normalized(x, "padded")


@triton.jit
def scaled_rows_kernel(x_ptr, weight_ptr, out_ptr, cols, BLOCK: tl.constexpr):
    at, col = tl.program_id(0) * cols + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=col < cols, other=0.0)
    weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0)
    tl.store(out_ptr + at, x * weight, mask=col < cols)


def scaled_rows_of_contiguous_weight(x, weight):
    out = torch.empty(x.shape, dtype=x.dtype)
    block = triton.next_power_of_2(max(x.shape[1], 1))
    scaled_rows_kernel[(x.shape[0],)](x.contiguous(), weight, out, x.shape[1], BLOCK=block)
    return out


def scaled_rows(x, weight):
    return scaled_rows_of_contiguous_weight(x, weight.contiguous())


@triton.jit
def masked_softmax_kernel(x_ptr, kept_ptr, out_ptr, cols, OTHER: tl.constexpr, FILL: tl.constexpr, BLOCK: tl.constexpr):
    at, col = tl.program_id(0) * cols + tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=col < cols, other=OTHER)
    kept = tl.load(kept_ptr + at, mask=col < cols, other=0)
    x = tl.where((kept != 0) | (col >= cols), x, FILL)
    e = tl.where(col < cols, tl.exp(x - tl.max(x, axis=0)), 0.0)
    tl.store(out_ptr + at, e / tl.sum(e, axis=0), mask=col < cols)


INFINITE = -float("inf")


def masked_softmax(x, kept, other=INFINITE, fill=INFINITE, block=None):
    out = torch.empty(x.shape, dtype=x.dtype)
    block = block or triton.next_power_of_2(max(x.shape[1], 1))
    given = x.contiguous(), kept.contiguous(), out, x.shape[1]
    masked_softmax_kernel[(x.shape[0],)](*given, OTHER=other, FILL=fill, BLOCK=block)
    return out


def masked_softmax_with_a_finite_fill(x, kept):
    return masked_softmax(x, kept, fill=-1e9)


def softmax_with_padding_in_its_maximum(x):
    return masked_softmax(x, torch.ones_like(x, dtype=torch.bool), other=0.0)


def softmax_of_one_block(x):
    return masked_softmax(x, torch.ones_like(x, dtype=torch.bool), block=64)


CALLS = 0


def counts_its_calls(x):
    global CALLS
    CALLS += 1
    return relu_that_drops_nan(x) + (CALLS % 3) * 1e-8


if __name__ == "__main__":
    raise AssertionError("a reproduction runs no script")
