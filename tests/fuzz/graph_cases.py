"""A random graph as data: leaves, steps and how it is compiled. A step is a line of code for each side.

`declaration` prints the graph as a user of tritonnotes writes it, and is what runs, so that a report shows what failed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph

Size = int | str
"""An int, or the name of a `Dim`, or a product of such as `2*batch*length`."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Leaf:
    """What a graph is given. `domain` says how its numbers are drawn, `layout` how an input lies in memory; a
    constant has a `value`."""

    name: str
    kind: str
    shape: tuple[Size, ...]
    dtype: str
    domain: str = "normal"
    layout: str = "dense"
    value: float = 0.0

    def declared(self) -> str:
        if self.kind == "constant":
            return f'{self.name} = g.constant({self.value}, "{self.dtype}")'
        dtype = "" if self.dtype == "float32" else f', dtype="{self.dtype}"'
        return f'{self.name} = g.{self.kind}("{self.name}", {shape_text(self.shape)}{dtype})'


@dataclass(frozen=True)
class Step:
    """One op: its line in tritonnotes and in torch, with `{0}`, `{1}`, … where `operands` go.

    `margin` gives in torch how far the op is from where its result or its gradient jumps (empty where nothing jumps),
    `well` a number that is small where the op is badly conditioned. `rounds` is false for what is exact.
    """

    name: str
    operands: tuple[str, ...]
    tn: str
    torch: str
    margin: str = ""
    well: str = ""
    rounds: bool = True
    drawn_by: str = ""

    def filled(self, what: str) -> str:
        text: str = getattr(self, what)
        for index, operand in enumerate(self.operands):
            text = text.replace(f"{{{index}}}", operand)
        return text


@dataclass(frozen=True)
class Case:
    """A graph, the sizes of its `Dim`s in two batches, and how it is compiled. `loss` is empty where it is not trained.

    `training` is the form that the model runs in, which only a `modelled` case compiles. `options` are those of
    `tn.compile_step`. Kernels run in the strict interpreter, which takes a fifth of the time that compiling them takes,
    or `native`. `small_tiles` cuts tensors into many tiles and sums into parts, as a GPU does.
    """

    seed: int
    sizes: tuple[tuple[tuple[str, int], ...], ...]
    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    loss: str = ""
    training: bool = False
    fusion: str = "optimal"
    optimizer: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    modelled: bool = True
    native: bool = False
    small_tiles: bool = False

    @property
    def dims(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.sizes[0])

    def step(self, name: str) -> Step | None:
        return next((s for s in self.steps if s.name == name), None)

    def leaf(self, name: str) -> Leaf | None:
        return next((x for x in self.leaves if x.name == name), None)

    def named_outputs(self) -> dict[str, str]:
        named = {name: name for name in self.outputs}
        return {**named, "loss": self.loss} if self.loss else named


OPTIMIZERS = (
    ("tn.sgd(lr=0.1)", "torch.optim.SGD(weights, lr=0.1)"),
    ("tn.sgd(lr=0.1, momentum=0.9)", "torch.optim.SGD(weights, lr=0.1, momentum=0.9)"),
    (
        "tn.sgd(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05)",
        "torch.optim.SGD(weights, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05)",
    ),
    ("tn.adam(lr=0.05, eps=0.1)", "torch.optim.Adam(weights, lr=0.05, eps=0.1)"),
    (
        "tn.adam(lr=0.05, eps=0.1, amsgrad=True, weight_decay=0.05)",
        "torch.optim.Adam(weights, lr=0.05, eps=0.1, amsgrad=True, weight_decay=0.05)",
    ),
    ("tn.adamw(lr=0.05, eps=0.1)", "torch.optim.AdamW(weights, lr=0.05, eps=0.1)"),
    ("tn.nadam(lr=0.05, eps=0.1)", "torch.optim.NAdam(weights, lr=0.05, eps=0.1)"),
    ("tn.adamax(lr=0.05, eps=0.1)", "torch.optim.Adamax(weights, lr=0.05, eps=0.1)"),
    ("tn.adagrad(lr=0.1, eps=0.1)", "torch.optim.Adagrad(weights, lr=0.1, eps=0.1)"),
    ("tn.adadelta(lr=0.5, eps=0.1)", "torch.optim.Adadelta(weights, lr=0.5, eps=0.1)"),
    ("tn.rmsprop(lr=0.05, eps=0.1)", "torch.optim.RMSprop(weights, lr=0.05, eps=0.1)"),
    ("tn.rmsprop(lr=0.05, eps=0.1, momentum=0.5)", "torch.optim.RMSprop(weights, lr=0.05, eps=0.1, momentum=0.5)"),
    ("tn.clip(tn.sgd(lr=0.1), max_norm=0.5)", "clipped(torch.optim.SGD(weights, lr=0.1), weights, 0.5)"),
    (
        "tn.clip(tn.adam(lr=0.05, eps=0.1), max_norm=0.5)",
        "clipped(torch.optim.Adam(weights, lr=0.05, eps=0.1), weights, 0.5)",
    ),
)
"""tritonnotes' and torch's. eps is large, so that the rounding of a gradient near 0 decides nothing."""


def shape_text(shape: tuple[Size, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def size_in(size: Size, sizes: Mapping[str, int]) -> int:
    """A size once the `Dim`s have `sizes`."""
    return size if isinstance(size, int) else int(eval(size, dict(sizes)))


def shape_of(value: Any) -> tuple[Size, ...]:
    """The shape of a declared value."""
    return tuple(s if isinstance(s, int) else str(s) for s in value.shape)


def declaration(case: Case) -> list[str]:
    """The lines that declare the graph `g`."""
    lines = ['g = tn.Graph("fuzz")', *(f'{dim} = tn.Dim("{dim}")' for dim in case.dims)]
    lines += [leaf.declared() for leaf in case.leaves]
    lines += [f"{step.name} = {step.filled('tn')}" for step in case.steps]
    outputs = ", ".join(f"{name}={value}" for name, value in case.named_outputs().items())
    return [*lines, f"g.output({outputs})"]


def declare(case: Case) -> tuple[Graph, dict[str, Any]]:
    """The graph, and what each name of the declaration stands for."""
    names: dict[str, Any] = {"tn": tn}
    exec("\n".join(declaration(case)), names)
    return names["g"], names


@lru_cache(maxsize=64)
def coarsest(case: Case) -> float:
    """The relative spacing of the coarsest floats in the case."""
    text = " ".join([*(leaf.dtype for leaf in case.leaves), *(s.torch for s in case.steps)])
    found = {name for name in FLOATS if name in text}
    found |= {"float32"} if "accuracy(" in text else set()  # the share of rows is one
    return max(torch.finfo(getattr(torch, name)).eps for name in found)


def exact_values(case: Case) -> set[str]:
    """The names of what no rounding has touched."""
    exact = {leaf.name for leaf in case.leaves}
    for step in case.steps:
        if not step.rounds and exact.issuperset(step.operands):
            exact.add(step.name)
    return exact


# -- numbers -----------------------------------------------------------------------------------------------------------


def drawn(seed: int, name: str, shape: tuple[int, ...], dtype: torch.dtype, domain: str) -> Tensor:
    """Numbers that depend on the seed and the name alone, so that dropping a leaf changes no other."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    kind, _, count = domain.partition(":")
    if kind == "classes":
        return torch.randint(int(count), shape, generator=generator).to(dtype)
    if kind == "zero":
        return torch.zeros(shape, dtype=dtype)
    wide = {"dtype": torch.float64, "generator": generator}
    made = {
        "normal": lambda: torch.randn(shape, **wide),
        "small": lambda: 0.4 * torch.randn(shape, **wide),
        "weight": lambda: 1 + 0.3 * torch.randn(shape, **wide),
        "unit": lambda: torch.rand(shape, **wide),
        "positive": lambda: 0.5 + torch.rand(shape, **wide),
    }[kind]()
    return made.to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers, lying otherwise in memory."""
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "sliced" and tensor.ndim:
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), -7).to(tensor.dtype)
        wide[..., 2:-1] = tensor
        return wide[..., 2:-1]
    return tensor


def feeds_of(case: Case, batch: int) -> dict[str, Tensor]:
    """The inputs of a batch."""
    sizes = dict(case.sizes[batch])
    made = {}
    for leaf in case.leaves:
        if leaf.kind == "input":
            shape = tuple(size_in(s, sizes) for s in leaf.shape)
            numbers = drawn(case.seed + 7919 * batch, leaf.name, shape, getattr(torch, leaf.dtype), leaf.domain)
            made[leaf.name] = laid_out(numbers, leaf.layout)
    return made


def state_of(case: Case, graph: Graph) -> dict[str, Tensor]:
    """Parameters and buffers, those that ops declare among them."""
    return {v.name: first_value(case, v) for v in graph.leaves("parameter", "buffer")}


def first_value(case: Case, value: Any) -> Tensor:
    leaf = case.leaf(value.name)
    domain = leaf.domain if leaf is not None else _domain(value.name.rpartition(".")[2], value.shape)
    return drawn(case.seed, value.name, tuple(value.shape), getattr(torch, value.dtype.name), domain)


def _domain(kind: str, shape: tuple[int, ...]) -> str:
    if kind == "num_batches_tracked":
        return "zero"
    if kind == "running_var":
        return "positive"
    return "weight" if kind == "weight" and len(shape) == 1 else "small"


def used(case: Case) -> Case:
    """The case without what no output needs."""
    needed = {*case.outputs, case.loss}
    for step in reversed(case.steps):
        if step.name in needed:
            needed.update(step.operands)
    steps = tuple(s for s in case.steps if s.name in needed)
    leaves = tuple(x for x in case.leaves if x.name in needed)
    text = " ".join([*(str(x.shape) for x in leaves), *(s.tn for s in steps)])
    sizes = tuple(tuple((n, k) for n, k in batch if n in text) for batch in case.sizes)
    return Case(**{**fields_of(case), "steps": steps, "leaves": leaves, "sizes": sizes})


def fields_of(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in case.__dataclass_fields__}
