"""Faults planted in the lowering itself are noticed by the comparisons that the other tests make."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from native_comparing import differences

from tritonnotes.judge.tolerance import compare
from tritonnotes.native import launch
from tritonnotes.native.llvm.strips import ZERO, Lanes
from tritonnotes.native.lower.lowering import Lowering


def module(name: str) -> Any:
    return importlib.import_module(f"tritonnotes.native.{name}")


@triton.jit
def norm_kernel(x_ptr, w_ptr, out_ptr, small_ptr, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (col < cols)
    x = tl.load(x_ptr + row * cols + col, mask=mask, other=0.0)
    w = tl.load(w_ptr + col, mask=col < cols, other=0.0)
    total = tl.sum(x * x, axis=1, keep_dims=True)
    columns = tl.sum(x, axis=0, keep_dims=True)
    y = x * w / tl.sqrt(total / cols + 1e-5) + columns
    y = tl.dot(y, tl.trans(y), input_precision="ieee")
    at = row * ROWS + tl.arange(0, ROWS)[None, :]
    inside = (row < rows) & (tl.arange(0, ROWS)[None, :] < rows)
    tl.store(out_ptr + at, y, mask=inside)
    tl.store(small_ptr + at, y.to(tl.bfloat16), mask=inside)


def run() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(13, 37, generator=generator), torch.randn(37, generator=generator)
    out, small = torch.zeros(16, 16), torch.zeros(16, 16, dtype=torch.bfloat16)
    launch(norm_kernel, (1,), x, w, out, small, 13, 37, ROWS=16, COLS=64)
    return out, small


def without_mask(function: Callable[..., Any], keep_other: bool) -> Callable[..., Any]:
    def changed(low: Lowering, op: Any, xs: list[Lanes], strip: Any) -> Any:
        return function(low, op, xs[:1] if keep_other else xs[:2], strip)

    return changed


def plant_load_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module("lower.nests"), "load", without_mask(module("lower.memory").load, keep_other=True))


def plant_store_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module("lower.nests"), "store", without_mask(module("lower.memory").store, keep_other=False))


def plant_tail(patch: pytest.MonkeyPatch) -> None:
    values = module("lower.values")
    compare = values._AFFINE["arith.cmpi"]

    def shifted(low: Lowering, op: Any, xs: list[Lanes], strip: Any) -> Any:
        bound = Lanes("uniform", low.w.emit(f"sub i32 {xs[1].reg}, 1"), "i32")
        return compare(low, op, [xs[0], bound], strip) if xs[1].kind == "uniform" and xs[1].elem == "i32" else None

    patch.setitem(values._AFFINE, "arith.cmpi", shifted)


def plant_broadcast(patch: pytest.MonkeyPatch) -> None:
    values = module("lower.values")
    source_index = values.source_index

    def wrong(w: Any, op: Any, index: Any, width: int) -> Any:
        found = source_index(w, op, index, width)
        return tuple(ZERO for _ in found) if op.name == "tt.expand_dims" and len(found) == 1 else found

    patch.setattr(values, "source_index", wrong)


def plant_truncation(patch: pytest.MonkeyPatch) -> None:
    def cut(w: Any, elem: str, register: str, width: int) -> str:
        types = [module("llvm.writer").llvm_type(t, width) for t in ("f32", "i32", "i16")]
        bits = w.emit(f"bitcast {types[0]} {register} to {types[1]}")
        high = w.emit(f"lshr {types[1]} {bits}, {module('llvm.writer').splat('16', 'i32', width)}")
        return str(w.emit(f"trunc {types[1]} {high} to {types[2]}"))

    patch.setattr(module("llvm.elementwise"), "narrow", cut)


def plant_sum_identity(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(module("lower.combine")._FLOAT_IDENTITY, "arith.addf", 1.0)


def plant_short_product(patch: pytest.MonkeyPatch) -> None:
    dot = module("lower.dot")
    plan = dot._Plan
    patch.setattr(dot, "_Plan", lambda m, n, k, *rest: plan(m, n, k // 2, *rest))


@pytest.mark.parametrize(
    "plant",
    [plant_load_mask, plant_store_mask, plant_tail, plant_broadcast, plant_truncation, plant_sum_identity,
     plant_short_product],
    ids=lambda plant: plant.__name__.removeprefix("plant_"),
)  # fmt: skip
def test_a_fault_in_the_lowering_is_noticed(plant: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run()
    compiled = module("run.compiled")
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(module("run.arguments").face_of(norm_kernel), "specialized", {})
    monkeypatch.setattr(compiled, "kept_object", lambda key, build: build())
    plant(monkeypatch)
    out, small = run()
    assert differences(out, expected[0]) or not torch.equal(small, out.bfloat16())


def test_the_kernel_without_a_fault_is_right() -> None:
    out, small = run()
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(13, 37, generator=generator), torch.randn(37, generator=generator)

    def products(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = x * w / (x.square().sum(1, keepdim=True) / 37 + 1e-5).sqrt() + x.sum(0, keepdim=True)
        return y @ y.t()

    judged = compare(out[:13, :13], products(x, w), products(x.double(), w.double()))
    assert judged.ok, judged
    assert torch.equal(small, out.bfloat16())
