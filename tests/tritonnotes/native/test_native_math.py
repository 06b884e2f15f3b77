"""The mathematical functions of native code against float64: within an ulp or so, and right at every edge."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from tritonnotes.native import launch
from tritonnotes.native.llvm.engine import this_machine
from tritonnotes.native.run import compiled


@triton.jit
def function_kernel(x_ptr, y_ptr, n, NAME: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    if NAME == "exp":
        y = tl.exp(x)
    elif NAME == "exp2":
        y = tl.exp2(x)
    elif NAME == "log":
        y = tl.log(x)
    elif NAME == "log2":
        y = tl.log2(x)
    elif NAME == "erf":
        y = tl.erf(x)
    elif NAME == "sin":
        y = tl.sin(x)
    elif NAME == "cos":
        y = tl.cos(x)
    elif NAME == "sqrt":
        y = tl.sqrt(x)
    elif NAME == "rsqrt":
        y = tl.rsqrt(x)
    elif NAME == "tanh":
        y = libdevice.tanh(x)
    elif NAME == "expm1":
        y = libdevice.expm1(x)
    elif NAME == "floor":
        y = tl.floor(x)
    tl.store(y_ptr + at, y, mask=at < n)


EDGES = torch.tensor(
    [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 1e-40, 3.4e38, -3.4e38, 1.0, -1.0, 88.72, 88.73]
    + [-87.4, -103.9, -104.5, 127.99, 128.0, -149.0, -150.5, 0.9277, 0.9278, 4.0, 5.0, 0.625, 0.5, -0.5, 1.5]
)  # fmt: skip
RANGES = {
    "exp": (-104, 89), "exp2": (-150, 128), "log": (0, 10), "log2": (0, 10), "erf": (-5, 5), "sin": (-100, 100),
    "cos": (-100, 100), "sqrt": (0, 100), "rsqrt": (0, 10), "tanh": (-10, 10), "expm1": (-20, 20), "floor": (-9, 9),
}  # fmt: skip
ULPS = {"rsqrt": 1.5, "tanh": 1.5, "sqrt": 0.5, "floor": 0.0}


def drawn(name: str, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    low, high = RANGES[name]
    even = torch.rand(60_000, generator=generator) * (high - low) + low
    small, near = torch.randn(20_000, generator=generator) * 1e-2, 1 + torch.randn(20_000, generator=generator) * 1e-3
    any_size = torch.exp(torch.randn(20_000, generator=generator) * 20)
    return torch.cat([even, small, near, any_size, EDGES]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RANGES)
def test_functions_are_accurate(name: str, dtype: torch.dtype) -> None:
    x = drawn(name, dtype)
    y = torch.empty_like(x)
    launch(function_kernel, (triton.cdiv(len(x), 4096),), x, y, len(x), NAME=name, BLOCK=4096)
    exact = getattr(torch, name)(x.double())
    expected = exact.to(dtype)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    finite = expected.isfinite()
    smallest = float(np.finfo(np.float32 if dtype == torch.float32 else np.float64).smallest_subnormal)
    ulp = torch.from_numpy(np.spacing(np.abs(expected[finite].numpy())).astype(np.float64)).clamp_min(smallest)
    error = ((y[finite].double() - exact[finite]).abs() / ulp).max().item()
    assert error <= (ULPS.get(name, 1.1) if dtype == torch.float32 else 2.0), error


def test_scalars_and_tiles_give_the_same_bits() -> None:
    x = drawn("exp", torch.float32)[:64].contiguous()
    for name in ("exp", "log", "erf", "tanh"):
        whole, single = torch.empty_like(x), torch.empty_like(x)
        launch(function_kernel, (1,), x, whole, 64, NAME=name, BLOCK=64)
        launch(function_kernel, (64,), x, single, 64, NAME=name, BLOCK=1)
        assert torch.equal(whole.view(torch.int32), single.view(torch.int32)), name


@triton.jit
def classes_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    kind = libdevice.isnan(x).to(tl.int32) + 2 * libdevice.isinf(x).to(tl.int32)
    tl.store(y_ptr + at, kind, mask=at < n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_of_floats(dtype: torch.dtype) -> None:
    x, y = EDGES.to(dtype), torch.zeros(len(EDGES), dtype=torch.int32)
    launch(classes_kernel, (1,), x, y, len(x), BLOCK=32)
    assert torch.equal(y, x.isnan().int() + 2 * x.isinf().int())


@pytest.mark.skipif(not this_machine().has_wide_registers, reason="the processor has no registers of 512 bits")
@pytest.mark.parametrize("name", ["exp", "exp2", "tanh", "erf"])
def test_the_instruction_that_scales_gives_the_bits_of_two_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32 numbers of all sizes, one in 5,003, and the edges: denormal results, infinities and NaN among them."""
    bits = np.arange(0, 2**32, 5003, dtype=np.uint64).astype(np.uint32)
    x = torch.cat([torch.from_numpy(bits.view(np.float32)), EDGES])
    found = []
    for machine in (this_machine(), replace(this_machine(), features="")):
        monkeypatch.setattr(compiled, "this_machine", lambda machine=machine: machine)
        y = torch.empty_like(x)
        kernel = triton.jit(function_kernel.fn)  # of its own, so that no code made before is taken
        launch(kernel, (triton.cdiv(len(x), 4096),), x, y, len(x), NAME=name, BLOCK=4096)
        found.append(y)
    scaled, multiplied = found
    assert torch.equal(scaled.isnan(), x.isnan())
    assert torch.equal(multiplied.isnan(), x.isnan())
    there = ~x.isnan()
    assert torch.equal(scaled[there].view(torch.int32), multiplied[there].view(torch.int32))
