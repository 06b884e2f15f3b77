"""What machine code keeps in memory of its own, and what it reads again where it lies, never past what changes it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from native_comparing import run_both

from tritonnotes.native import launch
from tritonnotes.native.lower.kernel import lower
from tritonnotes.native.lower.lowering import Options
from tritonnotes.native.run.compiled import kept_ir

ROWS, COLS = 6, 64


def numbers(seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(seed))


@triton.jit
def centered_kernel(x_ptr, y_ptr, total_ptr, rows, ROWS: tl.constexpr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)[None, :]
    total = tl.full([1, COLS], 0.0, tl.float32)
    for tile in range(tl.cdiv(rows, ROWS)):
        row = tile * ROWS + tl.arange(0, ROWS)[:, None]
        in_rows = row < rows
        x = tl.load(x_ptr + row * COLS + col, mask=in_rows, other=0.0)
        y = x - tl.sum(x, axis=1, keep_dims=True) / COLS
        total += tl.sum(tl.where(in_rows, y, 0.0), axis=0, keep_dims=True)
        tl.store(y_ptr + row * COLS + col, y, mask=in_rows)
    tl.store(total_ptr + col, total)


def tiles_in_memory(kernel: Any, sizes: dict[str, int], **types: str) -> int:
    """Buffers as large as a row of COLS float32."""
    text = lower(kept_ir(kernel, types, sizes), Options(True, True, False, False, ())).text
    return len(re.findall(rf"alloca \[{4 * COLS} x i8\]", text))


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_sums_over_the_rows_of_a_tile_agree_however_many_it_has(rows: int) -> None:
    x, y, total = numbers(), torch.zeros(ROWS, COLS), torch.zeros(COLS)
    assert run_both(centered_kernel, (1,), (x, y, total, ROWS), {"ROWS": rows, "COLS": COLS}) == ""
    torch.testing.assert_close(total, (x - x.mean(1, keepdim=True)).sum(0))


def test_a_tile_of_one_row_keeps_its_running_sum_alone() -> None:
    """What was loaded is read again where it lies, and the sum over one row is that row."""
    types = {"x_ptr": "*fp32", "y_ptr": "*fp32", "total_ptr": "*fp32", "rows": "i32"}
    assert tiles_in_memory(centered_kernel, {"ROWS": 1, "COLS": COLS}, **types) == 1


@triton.jit
def largest_kernel(x_ptr, out_ptr, at_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + row * COLS + col)
    value, at = tl.max(x, axis=0, return_indices=True)
    tl.store(out_ptr + tl.arange(0, COLS), value)
    tl.store(at_ptr + tl.arange(0, COLS), at)


@pytest.mark.parametrize("rows", [1, 2])
def test_reductions_of_pairs_agree_over_one_row_and_two(rows: int) -> None:
    x, out, at = numbers(), torch.zeros(COLS), torch.full((COLS,), -1, dtype=torch.int32)
    assert run_both(largest_kernel, (1,), (x, out, at), {"ROWS": rows, "COLS": COLS}) == ""
    assert torch.equal(out, x[:rows].amax(0)) and torch.equal(at, x[:rows].argmax(0).int())


@triton.jit
def fused_kernel(x_ptr, w_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    x, w = tl.load(x_ptr + row * COLS + col), tl.load(w_ptr + row * COLS + col)
    start = tl.load(out_ptr + col)
    tl.store(out_ptr + col, start + tl.sum(x * w, axis=0, keep_dims=True))


def test_a_sum_over_one_row_rounds_its_product_as_one_over_many_does() -> None:
    """The product is rounded before it is added: it does not become part of an fma."""
    x, w, start = numbers(1), numbers(2), numbers(3)[0]
    out = start.clone()
    launch(fused_kernel, (1,), x, w, out, ROWS=1, COLS=COLS)
    assert torch.equal(out, start + x[0] * w[0]) and not torch.equal(
        out, torch.addcmul(start.double(), x[0].double(), w[0].double()).float()
    )


# What was loaded stays as it was


@triton.jit
def stored_between_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    x = tl.load(x_ptr + col)
    total = tl.sum(x)
    tl.store(y_ptr + col, x + total)
    tl.store(out_ptr + col, x * tl.sum(x * total))


@triton.jit
def added_between_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    x = tl.load(x_ptr + col)
    total = tl.sum(x)
    tl.atomic_add(y_ptr + col, x + total)
    tl.store(out_ptr + col, x * tl.sum(x * total))


@triton.jit
def stored_in_a_loop_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    x = tl.load(x_ptr + col)
    total = tl.sum(x)
    for turn in range(3):
        tl.store(y_ptr + (col + turn) % COLS, total)
    tl.store(out_ptr + col, x * tl.sum(x * total))


@triton.jit
def carried_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    x = tl.load(x_ptr + col)
    for _ in range(3):
        total = tl.sum(x)
        tl.store(y_ptr + col, x + total)
        following = tl.load(x_ptr + col)
        tl.store(out_ptr + col, x * total - tl.sum(following))
        x = following


@triton.jit
def short_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    x = tl.load(x_ptr + col)
    centered = x - tl.sum(x)
    total = tl.sum(centered * centered)
    tl.store(y_ptr + col, centered * total)
    tl.store(out_ptr + col, centered - tl.sum(centered * total))


@triton.jit
def overtaken_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    w = tl.load(x_ptr + col)
    x = w
    for _ in range(3):
        y = x + w
        x = w * tl.sum(y)
        tl.store(out_ptr + col, y - tl.sum(x))
    tl.store(y_ptr + col, x)


@triton.jit
def previous_difference_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    """What is carried on is read again, with its like, after a look at the one that was carried before."""
    col = tl.arange(0, COLS)
    w = tl.load(x_ptr + col)
    previous = tl.zeros((COLS,), tl.float32)
    total = tl.zeros((COLS,), tl.float32)
    for turn in range(1, 4):
        difference = tl.load(x_ptr + turn * 16 % COLS + col % 16) - w
        twice = difference * 2.0
        before = tl.sum(tl.exp(previous * tl.sum(twice) * 0.01))
        total += twice * before
        previous = difference
    tl.store(out_ptr + col, total)
    tl.store(y_ptr + col, previous)


@triton.jit
def previous_row_kernel(x_ptr, y_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, 16)
    previous = tl.zeros((16,), tl.float32)
    total = 0.0
    for turn in range(COLS // 16):
        loaded = tl.load(x_ptr + turn * 16 + col)
        twice = loaded * 2.0
        before = tl.sum(previous * tl.sum(twice))
        total += tl.sum(twice * before)
        previous = loaded
    tl.store(out_ptr, total)
    tl.store(y_ptr + col, previous)


IN_TURNS = [
    stored_between_kernel,
    added_between_kernel,
    stored_in_a_loop_kernel,
    carried_kernel,
    short_kernel,
    overtaken_kernel,
    previous_difference_kernel,
    previous_row_kernel,
]


@pytest.mark.parametrize("where", ["apart", "the same", "one further", "one before"])
@pytest.mark.parametrize("kernel", IN_TURNS, ids=lambda kernel: kernel.fn.__name__)
def test_what_was_loaded_is_what_was_there_then(kernel: Any, where: str) -> None:
    """A store through another argument may lie in the memory that was loaded from."""
    held, out = numbers().flatten()[: 3 * COLS].clone(), torch.zeros(COLS)
    x, start = held[COLS : 2 * COLS], {"apart": 0, "the same": COLS, "one further": COLS + 1, "one before": COLS - 1}
    y = held[start[where] : start[where] + COLS]
    assert run_both(kernel, (1,), (x, y, out), {"COLS": COLS}, tensors=[held]) == ""


@triton.jit
def in_place_kernel(x_ptr, out_ptr, COLS: tl.constexpr):
    col = tl.arange(0, COLS)
    x = tl.load(x_ptr + col)
    total = tl.sum(x)
    tl.store(x_ptr + col, x + total)
    tl.store(out_ptr + col, x * tl.sum(x * total))


def test_a_store_through_the_same_argument_does_not_change_what_was_loaded() -> None:
    x, out = numbers()[0].clone(), torch.zeros(COLS)
    before = x.clone()
    assert run_both(in_place_kernel, (1,), (x, out), {"COLS": COLS}) == ""
    torch.testing.assert_close(out, before * (before * before.sum()).sum())
