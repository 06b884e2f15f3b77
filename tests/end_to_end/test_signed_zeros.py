"""Zeros have the signs that they have in torch, in the strict interpreter and in machine code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tritonnotes as tn
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.types import as_dtype

DTYPES = ["float32", "float64", "float16", "bfloat16"]


def unary(dtype: str) -> Iterator[tuple[str, Callable[[tn.Graph, tuple[int, ...], Any], tn.Value]]]:
    """Every op that makes of one tensor another one, element by element or not."""
    like = as_dtype(dtype)
    for name, op in catalogue().items():
        graph = tn.Graph("sample")
        value = op.sample(graph, (4,), like)
        is_unary = len(graph.inputs) == 1 and not graph.parameters and value.dtype is graph.inputs[0].dtype is like
        if is_unary and value.shape == graph.inputs[0].shape == (4,):
            yield name, op.sample


BINARY: dict[str, Callable[[tn.Value, tn.Value], tn.Value]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "where": lambda a, b: tn.where(a == b, a, b),
    "minus of a product": lambda a, b: -(a * b),
    "minus in a sum": lambda a, b: a + -b,
    "times 0": lambda a, b: a * 0.0 + b * 1.0,
    "minus 0": lambda a, b: (a * -0.0) * (b - -0.0),
    "plus minus 0": lambda a, b: tn.where(a == 0, -0.0, b) + -0.0,
    "0 minus": lambda a, b: (0.0 - a) - (-0.0 - b),
}


class OneInput(tn.Graph):
    """A graph whose samples all have the same input."""

    def input(self, name: str, shape: object, dtype: object = "float32") -> tn.Value:
        return self.inputs[0] if self.inputs else super().input("x", shape, dtype)


def signs(t: torch.Tensor) -> list[str]:
    return [str(n) for n in t.tolist()]


@pytest.mark.parametrize("strict", [True, False], ids=["interpreter", "native"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ops_of_one_tensor_keep_the_sign_of_zero(dtype: str, strict: bool) -> None:
    samples = dict(unary(dtype))
    assert {"neg", "abs", "tanh", "sin", "expm1", "softshrink", "relu"} <= samples.keys()
    zeros = torch.tensor([0.0, -0.0, 0.0, -0.0], dtype=getattr(torch, dtype))
    g, fed = OneInput("zeros"), {"x": zeros}
    g.output(**{name: sample(g, (4,), as_dtype(dtype)) for name, sample in samples.items()})
    found, wanted = tn.compile(g, strict=strict)(**fed), tn.eager(g, fed)
    for name, t in wanted.items():
        assert signs(found[name][t == 0]) == signs(t[t == 0]), name


@pytest.mark.parametrize("strict", [True, False], ids=["interpreter", "native"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_of_zeros_has_torchs_signs(dtype: str, strict: bool) -> None:
    g = tn.Graph("zeros")
    a, b = g.input("a", (9,), dtype), g.input("b", (9,), dtype)
    g.output(**{name.replace(" ", "_"): made(a, b) for name, made in BINARY.items()})
    numbers = torch.tensor([0.0, -0.0, 1.0], dtype=getattr(torch, dtype))
    fed = {"a": numbers.repeat_interleave(3), "b": numbers.repeat(3)}
    found, wanted = tn.compile(g, strict=strict)(**fed), tn.eager(g, fed)
    assert {n: signs(t) for n, t in found.items()} == {n: signs(t) for n, t in wanted.items()}
