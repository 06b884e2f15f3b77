"""`random_case(seed)`: one graph, drawn step by step; what comes out ill-conditioned is drawn again.

Each step is declared in tritonnotes and computed in torch's float64 as it is drawn. What tritonnotes refuses to declare
is left out, and counted in `refusals`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import case_ops as ops
import torch
from case_ops import Held, Line
from graph_cases import OPTIMIZERS, Case, Leaf, Size, Step, coarsest, first_value, shape_of, size_in, used
from plain_torch import accuracy, batch_norm, gap, margin_of, trains
from torch import Tensor
from torch.nn import functional as F

import tritonnotes as tn

SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33)
MOST_ELEMENTS = 4000
DIM_NAMES = ("batch", "length", "height", "width")
MOST_STEPS = 10
LARGEST = 1e3
NATIVE = 0.04
"""The share of cases that are compiled to machine code, at five times the cost of the interpreter."""
WELL = 0.02

refusals: Counter[str] = Counter()
"""What tritonnotes would not declare, by its error."""


class Maker:
    """A case under way: the pool that ops draw from."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.dtypes = self.pick((
            ("float32",), ("float32",), ("float32",), ("float32",), ("bfloat16",), ("float16",), ("float64",),
            ("float32", "bfloat16"), ("float32", "float16"), ("float32", "float64"),
        ))  # fmt: skip
        self.sizes: dict[str, int] = {}
        self.leaves: list[Leaf] = []
        self.steps: list[Step] = []
        self.held: list[Held] = []
        self.graph = tn.Graph("drawn")
        self.declared: dict[str, Any] = {"tn": tn, "g": self.graph}
        self.state: dict[str, Tensor] = {}
        self.exact: dict[str, Any] = {
            "torch": torch, "F": F, "gap": gap, "batch_norm": batch_norm, "accuracy": accuracy, "T": self.state,
            "to": lambda x, dtype: x.to(dtype).double(), "training": True,
        }  # fmt: skip
        self.counter = 0

    # -- what ops ask for --

    def pick(self, options: Sequence[Any]) -> Any:
        return self.random.choice(options)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def any(self, fits: Callable[[Held], bool] = lambda v: v.is_float) -> Held | None:
        fitting = [v for v in self.held if fits(v)]
        if not fitting:
            return None
        late = fitting[-3:]
        return self.pick(late if self.chance(0.6) else fitting)

    def jumpable(self, fits: Callable[[Held], bool] = lambda v: v.is_float) -> Held | None:
        """What may jump: of 16-bit numbers, what rounding has not touched."""
        fine = coarsest(self._so_far()) < 1e-4
        return self.any(lambda v: v.is_float and fits(v) and (fine or v.exact))

    def like(self, x: Held, exact: bool = False) -> Held:
        """A value that broadcasts with `x`: one that is held, or a new leaf."""
        fitting = [
            v for v in self.held if v.is_float and (v.exact or not exact) and self._meet(v.shape, x.shape, not exact)
        ]
        if fitting and self.chance(0.6):
            return self.pick(fitting)
        kept = x.shape[self.pick(range(x.rank)) if x.shape and self.chance(0.4) else 0 :]
        shape = tuple(1 if self.chance(0.3 if isinstance(s, int) else 0.6) else s for s in kept)
        if not shape and self.chance(0.3):
            return self.constant()
        return self.leaf(shape)

    def constant(self) -> Held:
        dtype = self.pick(self.dtypes)
        value = self.pick((0.5, 2.0, -1.25, 0.1)) if dtype == "float64" else self.pick((0.5, 2.0, -1.25))
        return self._add_leaf(Leaf(f"c{self._next()}", "constant", (), dtype, value=value))

    def leaf(
        self,
        shape: tuple[Size, ...],
        domain: str = "normal",
        dtype: str | None = None,
        kind: str | None = None,
    ) -> Held:
        dtype = dtype or self.pick(self.dtypes)
        static = all(isinstance(s, int) for s in shape)
        fitting = [
            x for x in self.leaves
            if (x.shape, x.domain, x.dtype) == (shape, domain, dtype) and kind in (x.kind, None)
        ]  # fmt: skip
        if fitting and self.chance(0.5):
            name = self.pick(fitting).name
            return next(v for v in self.held if v.name == name)
        if kind is None:
            kind = "parameter" if static and self.chance(0.5) else "input"
        layout = self.pick(("dense", "dense", "dense", "transposed", "sliced")) if kind == "input" else "dense"
        stem = "y" if domain.startswith("classes") else "x" if kind == "input" else "w"
        return self._add_leaf(Leaf(f"{stem}{self._next()}", kind, shape, dtype, domain, layout))

    def count(self, shape: Sequence[Size]) -> int:
        count = 1
        for size in shape:
            count *= size_in(size, self.sizes)
        return count

    # -- making --

    def add(self, line: Line | None, drawn_by: str = "") -> Held | None:
        """The line as the next step; None where it cannot be declared, or is ill-conditioned."""
        if line is None:
            return None
        name = f"{line.stem}{self._next()}"
        texts = {w: getattr(line, w).replace("{name}", name) for w in ("tn", "torch", "margin", "well")}
        step = Step(name, line.operands, **texts, rounds=line.rounds, drawn_by=drawn_by)
        value = self._exactly(step)
        if value is None:
            return None
        self.steps.append(step)
        self.exact[name] = value
        declared = self.declared[name]
        is_exact = not step.rounds and all(self._held(n).exact for n in step.operands)
        return self._hold(name, declared, is_exact, value)

    def _exactly(self, step: Step) -> Tensor | None:
        known = len(self.graph.values)
        try:
            self.declared[step.name] = eval(step.filled("tn"), self.declared)
        except tn.TritonNotesError as error:
            refusals[f"{step.tn}: {error}"[:160]] += 1
            return None
        for value in self.graph.values[known:]:
            if value.op.name in ("parameter", "buffer"):
                first = first_value(self._so_far(), value)
                self.state[value.name] = first.double() if first.is_floating_point() else first
        try:
            if step.well:
                found = eval(step.filled("well"), self.exact)
                if found.numel() == 0 or not float(found.min()) > WELL:
                    return None
            if step.margin and not all(self._held(n).exact for n in step.operands):
                operands = [self.exact[n] for n in step.operands]
                scale = max([1.0, *(float(x.abs().max()) for x in operands if x.is_floating_point() and x.numel())])
                found = eval(step.filled("margin"), self.exact)
                if found.numel() and float(found.min()) < 2 * scale * margin_of(self._so_far()):
                    return None
            made: Tensor = eval(step.filled("torch"), self.exact)
        except (RuntimeError, ValueError, IndexError):
            return None  # torch does not take it: too few numbers, a size of 0
        if made.dtype in (torch.float16, torch.bfloat16, torch.float32):
            made = made.double()
        if made.numel() > MOST_ELEMENTS:
            return None
        return made if not made.numel() or float(made.double().abs().max()) < self._largest() else None

    def _largest(self) -> float:
        return 100.0 if coarsest(self._so_far()) > 1e-4 else LARGEST

    def _add_leaf(self, leaf: Leaf) -> Held:
        self.leaves.append(leaf)
        exec(leaf.declared(), self.declared)
        case = self._so_far()
        if leaf.kind == "constant":
            value = torch.tensor(leaf.value, dtype=torch.float64)
        else:
            declared = self.declared[leaf.name]
            shape = tuple(self.count([s]) for s in leaf.shape)
            value = first_value(case, _Sized(declared, shape))
        self.exact[leaf.name] = value.double() if value.is_floating_point() else value
        self.state[leaf.name] = self.exact[leaf.name]
        return self._hold(leaf.name, self.declared[leaf.name], True, value)

    def _hold(self, name: str, declared: Any, exact: bool, value: Tensor) -> Held:
        shape = shape_of(declared)
        held = Held(name, shape, declared.dtype.name, exact, value.numel())
        self.held.append(held)
        return held

    def _held(self, name: str) -> Held:
        return next(v for v in self.held if v.name == name)

    def _next(self) -> int:
        self.counter += 1
        return self.counter

    def _so_far(self) -> Case:
        return Case(self.seed, (tuple(self.sizes.items()),), tuple(self.leaves), tuple(self.steps), ())

    def _meet(self, a: tuple[Size, ...], b: tuple[Size, ...], may_grow: bool) -> bool:
        pairs = list(zip(reversed(a), reversed(b), strict=False))
        if any(x != y and x != 1 and y != 1 for x, y in pairs):
            return False
        if not may_grow:
            return len(a) <= len(b) and all(x in (1, y) for x, y in pairs)
        longer = a if len(a) > len(b) else b
        sizes = [max(self.count([s[-i]]) for s in (a, b) if len(s) >= i) for i in range(1, len(longer) + 1)]
        return self.count(sizes) <= MOST_ELEMENTS

    def first_shape(self) -> tuple[Size, ...]:
        rank = self.pick((1, 2, 2, 2, 3, 3, 4))
        shape: list[Size] = []
        elements = 1
        for axis in range(rank):
            size = self.pick([s for s in SIZES if s * elements <= MOST_ELEMENTS // 4])
            elements *= size
            if self.chance(0.35) and size > 1:
                self.sizes[DIM_NAMES[axis]] = size
                self.graph_dim(DIM_NAMES[axis])
                shape.append(DIM_NAMES[axis])
            else:
                shape.append(size)
        return tuple(shape)

    def graph_dim(self, name: str) -> None:
        self.declared[name] = tn.Dim(name)
        self.exact[name] = self.sizes[name]


class _Sized:
    """A leaf with sizes in place of its `Dim`s."""

    def __init__(self, value: Any, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = value.name, value.dtype, shape


def random_case(seed: int) -> Case:
    """A graph of 1 to 10 steps and a loss, and how it is compiled and trained."""
    maker = Maker(seed)
    maker.leaf(maker.first_shape())
    draws = [draw for draw, weight in ops.MENU for _ in range(weight)]
    wanted = maker.pick(range(1, MOST_STEPS + 1))
    for _ in range(3 * wanted):
        if len(maker.steps) >= wanted:
            break
        draw = maker.pick(draws)
        maker.add(draw(maker), draw.__name__)
    if not maker.steps:
        maker.add(Line((maker.leaves[0].name,), "{0} * 2", "{0} * 2"))
    loss = _loss(maker) if maker.chance(0.75) else ""
    made = [s.name for s in maker.steps]
    read = {name for step in maker.steps for name in step.operands}
    last = [name for name in made if name not in read and name != loss and maker.chance(0.7)]
    outputs = tuple(dict.fromkeys(last + [maker.pick(made) for _ in range(maker.pick((0, 0, 1, 2)))]))
    case = Case(
        seed,
        (tuple(maker.sizes.items()), _second_sizes(maker)),
        tuple(maker.leaves),
        tuple(maker.steps),
        outputs or (() if loss else (made[-1],)),
        loss,
        training=maker.chance(0.5),
        fusion=maker.pick(("optimal", "optimal", "greedy", "off", "off")),
        optimizer=maker.pick(range(len(OPTIMIZERS))),
        options=_options(maker) if loss else (),
        modelled=not loss or maker.chance(0.4),
        native=maker.chance(NATIVE),
        small_tiles=maker.chance(0.4),
    )
    if "float64" in maker.dtypes and "NAdam" in OPTIMIZERS[case.optimizer][1]:
        case = replace(case, optimizer=0)  # torch's own keeps the product of its rates in float32
    if case.fusion == "off":  # there is no plan to change
        case = replace(case, options=tuple(o for o in case.options if o[0] != "memory_budget"))
    if case.loss and not trains(case, maker.state):
        case = replace(case, loss="", outputs=case.outputs or (made[-1],), modelled=True)
    return used(case)


def _second_sizes(maker: Maker) -> tuple[tuple[str, int], ...]:
    """A ragged last batch, sometimes."""
    if maker.chance(0.5):
        return tuple(maker.sizes.items())
    return tuple((name, maker.pick([s for s in SIZES if 1 < s <= size])) for name, size in maker.sizes.items())


def _options(maker: Maker) -> tuple[tuple[str, Any], ...]:
    options = []
    if maker.chance(0.1):
        options.append(("accumulate", 2))
    if maker.chance(0.05):
        options.append(("memory_budget", maker.pick((1, 1000))))
    return tuple(options)


def _loss(maker: Maker) -> str:
    """A scalar that some parameter reaches; empty where none does."""
    before = len(maker.steps)
    for attempt in range(5):
        if attempt % 2 and (x := maker.any()):
            weight = maker.leaf(tuple(1 if isinstance(s, str) else s for s in x.shape), kind="parameter")
            maker.add(Line((x.name, weight.name), "{0} * {1}", "{0} * {1}"))
        kind = maker.pick(("mean", "sum", "cross_entropy", "regression"))
        if kind == "cross_entropy":
            made = maker.add(ops.cross_entropy(maker, "mean"))
        elif kind == "regression":
            made = maker.add(ops.regression(maker, "mean"))
        else:
            x = maker.any()
            scale = "0.1 * tn.sum({0} * {0})" if kind == "sum" else "tn.mean({0} * {0})"
            made = x and maker.add(Line((x.name,), scale, scale.replace("tn.", "torch."), stem="loss"))
        if made and not made.shape and _reaches_parameter(maker, made.name):
            if kind == "cross_entropy" and maker.chance(0.6):
                maker.add(_accuracy(maker.steps[-1]), "accuracy")
            return made.name
    del maker.steps[before:]
    return ""


def _accuracy(loss: Step) -> Line:
    """The metric beside a cross entropy."""
    return Line(loss.operands, "tn.accuracy({0}, {1})", "accuracy({0}, {1})", "gap({0}, [1])", rounds=False)


def _reaches_parameter(maker: Maker, name: str) -> bool:
    value = maker.declared[name]
    seen, stack = set(), [value]
    while stack:
        v = stack.pop()
        if v in seen or not v.dtype.is_float:
            continue
        seen.add(v)
        if v.op.name == "parameter":
            return True
        stack += v.inputs
    return False
