"""The sanitizer: faults planted in kernels are noticed and named; kernels without one compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tritonnotes.native import NativeError, launch
from tritonnotes.native.schedule.analysis import Analysis


@triton.jit
def row_kernel(x_ptr, index_ptr, out_ptr, rows, cols, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    mask = col < cols
    load_mask = mask
    if FAULT == "load mask dropped":
        load_mask = col >= 0
    if FAULT == "tail off by one":
        load_mask = col <= cols
    start = row * cols
    if FAULT == "wrong row":
        start = (row + 1) * cols
    if FAULT == "negative offset":
        start = row * cols - 1
    x = tl.load(x_ptr + start + col, mask=load_mask)
    if FAULT != "other forgotten":
        x = tl.where(mask, x, 0.0)
    total = tl.sum(x)
    if FAULT == "scalar load":
        total += tl.load(x_ptr + rows * cols)
    index = tl.load(index_ptr + col, mask=mask, other=0)
    if FAULT == "gather":
        index = index + 1
    if FAULT == "masked index used":
        index = tl.load(index_ptr + col, mask=col < cols - 1)
    picked = tl.load(x_ptr + start + index, mask=mask, other=0.0)
    if FAULT == "read before written":
        picked += tl.load(out_ptr + start + col, mask=mask, other=0.0)
    store_mask = mask
    if FAULT == "store mask dropped":
        store_mask = col >= 0
    if FAULT == "scatter":
        tl.store(out_ptr + start + col * 2, picked + total, mask=mask)
    if FAULT == "scalar store":
        tl.store(out_ptr + rows * cols + row, total)
    if FAULT == "atomic":
        tl.atomic_add(out_ptr + rows * cols + col, picked, mask=mask)
    tl.store(out_ptr + start + col, picked + total, mask=store_mask)


FAULTS = {
    "load mask dropped": "load out of bounds", "tail off by one": "load out of bounds",
    "wrong row": "load out of bounds",
    "negative offset": "load out of bounds", "other forgotten": "store of a masked lane's poison",
    "scalar load": "load out of bounds", "gather": "load out of bounds", "masked index used": "load out of bounds",
    "read before written": "load of memory that nothing was stored to", "store mask dropped": "store out of bounds",
    "scatter": "store out of bounds", "scalar store": "store out of bounds", "atomic": "atomic rmw out of bounds",
}  # fmt: skip


def run(fault: str, rows: int = 5, cols: int = 37, **how: Any) -> torch.Tensor:
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))
    index = torch.arange(cols, dtype=torch.int32).flip(0)
    out = torch.empty(rows, cols)
    launch(row_kernel, (rows,), x, index, out, rows, cols, FAULT=fault, BLOCK=64, uninitialized=[out], **how)
    return out


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed_and_names_its_line(fault: str) -> None:
    where = r"row_kernel, program \(\d, 0, 0\) \(test_native_sanitizer.py, line \d+\)"
    with pytest.raises(NativeError, match=f"{where}: {FAULTS[fault]}"):
        run(fault, sanitize=True)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "load mask dropped",
            r"program \(4, 0, 0\) .*: load out of bounds at element offsets 185 to \d+ of x_ptr, which",
        ),
        ("tail off by one", r"program \(4, 0, 0\) .* at element offsets 185 to 185 of x_ptr, which has \[0, 185\)$"),
        ("negative offset", r"program \(0, 0, 0\) .* at element offsets -1 to -1 of x_ptr, which has \[0, 185\)$"),
        ("scalar load", r"program \(0, 0, 0\) .* at element offsets 185 to 185 of x_ptr, which has \[0, 185\)$"),
        ("scalar store", r"program \(0, 0, 0\) .*: store out of bounds at element offsets 185 to 185 of out_ptr"),
        ("masked index used", r"program \(0, 0, 0\) .* at element offsets \d{10} to \d{10} of x_ptr"),
    ],
)
def test_a_fault_names_its_program_and_the_offsets(fault: str, said: str) -> None:
    with pytest.raises(NativeError, match=said):
        run(fault, sanitize=True, threads=1)


@pytest.mark.parametrize("cols", [1, 16, 37, 64])
def test_a_kernel_without_a_fault_computes_the_same(cols: int) -> None:
    assert torch.equal(run("none", cols=cols, sanitize=True), run("none", cols=cols))


@triton.jit
def table_kernel(table_ptr, out_ptr, n, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    pointer = tl.load(table_ptr + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    x = tl.load(pointer + at + SHIFT, mask=at < n, other=0.0)
    tl.store(out_ptr + at, x, mask=at < n)


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_what_a_pointer_table_leads_to_is_checked(shift: int) -> None:
    tensor, out = torch.randn(40), torch.zeros(40)
    table = torch.tensor([tensor.data_ptr()], dtype=torch.int64)

    def go(tensors: list[torch.Tensor]) -> None:
        launch(table_kernel, (1,), table, out, 40, SHIFT=shift, BLOCK=64, sanitize=True, tensors=tensors)

    if shift:
        with pytest.raises(NativeError, match="load out of bounds"):
            go([tensor])
    else:
        go([tensor])
        assert torch.equal(out, tensor)
        with pytest.raises(NativeError, match="load out of bounds"):
            go([])


@triton.jit(noinline=True)
def apart(x):
    return x * 2.0


@triton.jit
def poison_kernel(x_ptr, out_ptr, n, WAY: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    if WAY == "negated":
        x = -x
    if WAY == "in a loop":
        carried = x
        for _ in range(n):
            carried = carried + tl.where(at < n, x, 0.0)
        x = carried
    if WAY == "in a helper":
        x = tl.where(at < n, x, 0.0) + apart(tl.load(x_ptr, mask=n < 0))
    if WAY == "summed":
        x = x * 0.0 + tl.sum(tl.where(at < n, x, 0.0))
    if WAY == "chosen away":
        x = tl.where(at < n, x, 0.0)
    tl.store(out_ptr + at, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["plain", "negated"])
def test_poison_of_every_float_is_noticed(way: str, dtype: torch.dtype) -> None:
    x, out = torch.randn(20).to(dtype), torch.zeros(32, dtype=dtype)
    with pytest.raises(NativeError, match="store of a masked lane's poison"):
        launch(poison_kernel, (1,), x, out, 20, WAY=way, BLOCK=32, sanitize=True)


@pytest.mark.parametrize("way", ["plain", "summed"])
def test_poison_names_the_load_that_leaves_it(way: str) -> None:
    first = poison_kernel.fn.__code__.co_firstlineno
    said = rf"poison; the load \(test_native_sanitizer.py, line {first + 3}\) has a mask and no other="
    with pytest.raises(NativeError, match=said):
        launch(poison_kernel, (1,), torch.randn(20), torch.zeros(32), 20, WAY=way, BLOCK=32, sanitize=True)


@pytest.mark.parametrize("way", ["in a loop", "in a helper", "summed"])
def test_poison_is_followed_wherever_it_goes(way: str) -> None:
    with pytest.raises(NativeError, match="store of a masked lane's poison"):
        launch(poison_kernel, (1,), torch.randn(20), torch.zeros(32), 20, WAY=way, BLOCK=32, sanitize=True)


@triton.jit
def masked_kernel(x_ptr, out_ptr, n, m, WAY: tl.constexpr, BLOCK: tl.constexpr):
    """Loads n elements without `other`, and stores what is made of them under another mask than that of the load."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    loaded = at < n
    x = tl.load(x_ptr + at, mask=loaded) * 2.0 + 1.0
    stored = at < m
    if WAY == "both":
        stored = loaded & stored
    if WAY == "either":
        stored = loaded | stored
    if WAY == "neither":
        stored = stored & (at >= n)
    if WAY == "another load":
        x = x + tl.load(x_ptr + at, mask=at < m)
        stored = loaded
    if WAY == "chosen":
        x = tl.where(at < m, x, 0.0)
        stored = loaded
    if WAY == "summed":
        x = x + tl.sum(x)
        stored = loaded
    if WAY == "turned":
        x = tl.sum(tl.where(at[:, None] + at[None, :] == BLOCK - 1, x[None, :], 0.0), 1)
        stored = loaded
    if WAY == "carried":
        for _ in range(m):
            x = x + tl.load(x_ptr + at, mask=at < m)
        stored = loaded
    tl.store(out_ptr + at, x, mask=stored)


POISONED = {
    "same": False, "both": False, "chosen": False, "either": True, "neither": True, "another load": True,
    "summed": True, "turned": True, "carried": True,
}  # fmt: skip
"""Whether a lane that is stored was masked off where it was loaded: 20 elements of 32 are loaded, 19 or 21 compared."""


@pytest.mark.parametrize("way", POISONED)
def test_poison_is_looked_for_unless_what_is_stored_was_surely_loaded(way: str) -> None:
    x, out = torch.randn(32, generator=torch.Generator().manual_seed(0)), torch.zeros(32)
    m = 19 if way in ("another load", "carried") else 21

    def go() -> None:
        launch(masked_kernel, (1,), x, out, 20, 20 if way == "same" else m, WAY=way, BLOCK=32, sanitize=True)

    if POISONED[way]:
        with pytest.raises(NativeError, match="store of a masked lane's poison"):
            go()
    else:
        go()


@triton.jit
def lane_kernel(x_ptr, out_ptr, first, last, STORES: tl.constexpr, BLOCK: tl.constexpr):
    """Touches the elements from `first` to `last` of a block."""
    at = tl.arange(0, BLOCK)
    mask = (at >= first) & (at <= last)
    if STORES:
        tl.store(out_ptr + at, 1.0, mask=mask)
    else:
        tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask, other=0.0))


@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("size", [1, 15, 16, 37, 48, 63])
def test_one_active_lane_outside_is_enough_wherever_it_lies(size: int, stores: bool) -> None:
    """Behind a tensor's end: in the first lane of a strip, in its last, in the middle, in a strip that is ragged."""
    x, out = torch.ones(64), torch.zeros(64)

    def go(first: int, last: int) -> None:
        given = (x, out[:size]) if stores else (x[:size], out)
        launch(lane_kernel, (1,), *given, first, last, STORES=stores, BLOCK=64, sanitize=True)

    go(0, size - 1)
    go(size, size - 1)  # no lane at all
    for lane in sorted({size, size + 7, -(-size // 16) * 16, 63} & {*range(size, 64)}):
        for first in (lane, 0):
            with pytest.raises(NativeError, match=f"{'store' if stores else 'load'} out of bounds"):
                go(first, lane)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_nan_of_the_user_is_no_poison(dtype: torch.dtype) -> None:
    x, out = torch.full((20,), float("nan"), dtype=dtype), torch.zeros(32, dtype=dtype)
    launch(poison_kernel, (1,), x, out, 20, WAY="chosen away", BLOCK=32, sanitize=True)
    assert out.isnan().sum() == 20


@triton.jit
def shadow_kernel(out_ptr, index_ptr, seen_ptr, stored, n, WAY: tl.constexpr, BLOCK: tl.constexpr):
    """Stores the first `stored` elements, and reads n, each in one way."""
    at = tl.arange(0, BLOCK)
    index = tl.load(index_ptr + at)
    if WAY == "one by one":
        for i in range(stored):
            tl.store(out_ptr + i, 1.0)
    elif WAY == "gathered":
        tl.store(out_ptr + index, 1.0, mask=index < stored)
    else:
        tl.store(out_ptr + at, 1.0, mask=at < stored)
    if WAY == "one by one":
        total = 0.0
        for i in range(n):
            total += tl.load(out_ptr + i)
    elif WAY == "gathered":
        total = tl.sum(tl.load(out_ptr + index, mask=index < n, other=0.0))
    else:
        total = tl.sum(tl.load(out_ptr + at, mask=at < n, other=0.0))
    tl.store(seen_ptr, total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("way", ["one by one", "gathered", "in a row"])
@pytest.mark.parametrize(("stored", "n"), [(32, 32), (21, 21), (21, 22), (15, 16), (0, 1)])
def test_memory_that_nothing_was_stored_to_is_not_read(way: str, stored: int, n: int, dtype: torch.dtype) -> None:
    out, seen = torch.empty(32, dtype=dtype), torch.zeros(1)
    index = torch.randperm(32, generator=torch.Generator().manual_seed(0)).int()

    def go() -> None:
        launch(shadow_kernel, (1,), out, index, seen, stored, n, WAY=way, BLOCK=32, sanitize=True, uninitialized=[out])

    if n > stored:
        with pytest.raises(NativeError, match="load of memory that nothing was stored to"):
            go()
    else:
        go()
        assert seen.item() == n


@triton.jit
def doubling_kernel(x_ptr, n, TIMES: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    for _ in tl.static_range(TIMES):
        x = x * x + x
    tl.store(x_ptr + at, x, mask=at < n)


def test_each_value_is_looked_at_once_however_often_others_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of the chain uses the one before three times, so there are 3³⁰ ways through it."""
    looked = []
    uses = Analysis.of
    monkeypatch.setattr(Analysis, "of", lambda analysis, value: looked.append(value) or uses(analysis, value))
    x = torch.full((10,), 0.0)
    launch(doubling_kernel, (1,), x, 10, TIMES=30, BLOCK=16, sanitize=True)
    assert not x.any() and len(looked) < 5_000


@triton.jit
def store_and_load_kernel(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    """Stores x, and copies y to z."""
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, (at * 0).to(x_ptr.dtype.element_ty), mask=at < n)
    tl.store(z_ptr + at, tl.load(y_ptr + at, mask=at < n, other=0), mask=at < n)


@pytest.mark.parametrize(
    ("stored", "loaded", "ends_well"),
    [((0, 8), (0, 8), True), ((0, 16), (4, 8), False), ((0, 8), (4, 12), False), ((4, 12), (4, 8), True)]
    + [((8, 16), (0, 8), False), ((0, 8), (8, 16), False)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.bfloat16])
def test_memory_that_several_arguments_reach_has_one_shadow(
    stored: tuple[int, int], loaded: tuple[int, int], ends_well: bool, dtype: torch.dtype
) -> None:
    """`uninitialized` names all of it, and the kernel is given parts."""
    memory, result = torch.zeros(16, dtype=dtype), torch.zeros(8, dtype=dtype)
    x, y = memory[slice(*stored)], memory[slice(*loaded)]

    def run() -> None:
        n = min(len(x), len(y))
        launch(store_and_load_kernel, (1,), x, y, result, n, BLOCK=8, sanitize=True, uninitialized=[memory])

    if ends_well:
        run()
    else:
        with pytest.raises(NativeError, match="load of memory that nothing was stored to"):
            run()


def test_a_tensor_of_which_a_part_is_uninitialized_has_no_shadow() -> None:
    memory = torch.zeros(16)
    x = torch.empty(8)
    launch(store_and_load_kernel, (1,), x, memory, x, 8, BLOCK=8, sanitize=True, uninitialized=[memory[:4]])
