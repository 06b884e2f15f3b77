"""Kernels of Liger's wheel, unmodified, forward and backward on CPU tensors. Not run where it is not installed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tritonnotes.native import enabled

pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")


def op(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"liger_kernel.ops.{module}"), name).apply


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def assert_same(found: Tensor, expected: Tensor, leaves: Sequence[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    d = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad(expected, leaves, d)
    for a, b in zip(torch.autograd.grad(found, leaves, d.clone()), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_rms_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    # Asks which device there is, to know how many programs share the sums of its backward.
    monkeypatch.setattr(importlib.import_module("liger_kernel.ops.rms_norm"), "get_npu_core_count", lambda: 1)
    x, w = leaf(33, 130), leaf(130, seed=1)
    with enabled():
        found = op("rms_norm", "LigerRMSNormFunction")(x, w, 1e-6, 0.0, "llama", False)
        assert_same(found, F.rms_norm(x, (130,), w, 1e-6), (x, w))


def test_layer_norm() -> None:
    x, w, b = leaf(33, 130), leaf(130, seed=1), leaf(130, seed=2)
    with enabled():
        found = op("layer_norm", "LigerLayerNormFunction")(x, w, b, 1e-6)
        assert_same(found, F.layer_norm(x, (130,), w, b, 1e-6), (x, w, b))


def test_cross_entropy() -> None:
    x, target = leaf(33, 1000), torch.randint(0, 1000, (33,), generator=torch.Generator().manual_seed(3))
    target[3] = -100
    expected = F.cross_entropy(x, target, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(expected, x)
    again = x.detach().clone().requires_grad_()
    with enabled():
        found = op("cross_entropy", "LigerCrossEntropyFunction")(
            again, target, None, -100, 0.0, 0.1, "mean", None, False
        )
        torch.testing.assert_close(found[0], expected)
        torch.testing.assert_close(torch.autograd.grad(found[0], again)[0], gradient)


def test_swiglu() -> None:
    a, b = leaf(33, 130), leaf(33, 130, seed=1)
    with enabled():
        assert_same(op("swiglu", "LigerSiLUMulFunction")(a, b), F.silu(a) * b, (a, b))


def test_geglu() -> None:
    a, b = leaf(33, 130), leaf(33, 130, seed=1)
    with enabled():
        assert_same(op("geglu", "LigerGELUMulFunction")(a, b), F.gelu(a, approximate="tanh") * b, (a, b))


def test_softmax() -> None:
    x = leaf(5, 130)
    with enabled():
        assert_same(op("softmax", "LigerSoftmaxFunction")(x), torch.softmax(x, -1), (x,))
