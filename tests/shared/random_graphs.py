"""Random graphs: 1 to 12 ops over everything that broadcasts, reduces and reshapes, well-conditioned on purpose.

Each choice goes through `pick`, so a seeded generator and hypothesis, which shrinks, draw from the same graphs. Numbers
stay moderate and what jumps (comparisons, floor, sign) looks at inputs alone: there a rounding error may not decide.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value

Pick = Callable[[Sequence[Any]], Any]
FLOATS = ("float32", "float32", "bfloat16", "float16", "float64")
SIZES = (1, 2, 3, 5, 7, 16, 33, 65)
MAX_ELEMENTS = 30_000


def seeded(seed: int) -> Pick:
    return random.Random(seed).choice


@dataclass
class _Pool:
    """What has been made so far. `exact` values are inputs: no rounding has touched them."""

    graph: Graph
    pick: Pick
    dtype: str
    values: list[Value] = field(default_factory=list)
    exact: list[Value] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def any(self) -> Value:
        return self.pick(self.values[-4:] if len(self.values) > 4 and self.pick((True, True, False)) else self.values)

    def exact_like(self, value: Value) -> Value | None:
        """An input that broadcasts with `value` without growing it."""
        fitting = [v for v in self.exact if _fits(v.shape, value.shape)]
        return self.pick(fitting) if fitting else None

    def partner(self, value: Value) -> Value | float:
        """A second operand: an earlier value that broadcasts, a new input that does, or a number."""
        fitting = [v for v in self.values if self._meets(v.shape, value.shape)]
        kind = self.pick(("value", "value", "input", "number"))
        if kind == "number":
            return self.pick((0.5, 2, -1.25, 3, 0.1))
        if kind == "value" and fitting:
            return self.pick(fitting)
        return self.leaf(_squeezed(value.shape, self.pick))

    def leaf(self, shape: tuple[Any, ...]) -> Value:
        static = all(isinstance(s, int) for s in shape)
        index = len(self.exact)
        if static and self.pick((True, False, False)):
            made = self.graph.parameter(f"p{index}", shape, "normal", self.dtype, mean=0.0, std=1.0)
        else:
            made = self.graph.input(f"in{index}", shape, self.dtype)
        self.exact.append(made)
        self.values.append(made)
        return made

    def _meets(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
        pairs = list(zip(reversed(a), reversed(b), strict=False))
        if any(x != y and x != 1 and y != 1 for x, y in pairs):
            return False
        count = 1
        longer = a if len(a) > len(b) else b
        for axis in range(1, len(longer) + 1):
            size = [s[-axis] for s in (a, b) if len(s) >= axis]
            count *= max(self.sizes.get(getattr(s, "name", ""), s if isinstance(s, int) else 1) for s in size)
        return count <= MAX_ELEMENTS


def _fits(shape: tuple[Any, ...], into: tuple[Any, ...]) -> bool:
    return len(shape) <= len(into) and all(x in (1, y) for x, y in zip(reversed(shape), reversed(into), strict=False))


def _squeezed(shape: tuple[Any, ...], pick: Pick) -> tuple[Any, ...]:
    """A shape that broadcasts to `shape`: some axes 1, some leading ones gone."""
    kept = shape[pick(range(len(shape))) if shape and pick((True, False)) else 0 :]
    return tuple(1 if pick((True, False, False)) else s for s in kept)


def random_graph(pick: Pick, most: int = 12) -> tuple[Graph, dict[str, int]]:
    """A graph, and a size for each of its `Dim`s."""
    graph = tn.Graph("random")
    pool = _Pool(graph, pick, pick(FLOATS))
    rank = pick((1, 2, 2, 2, 3, 3, 4))
    shape: list[Any] = []
    elements = 1
    for axis in range(rank):
        size = pick([s for s in SIZES if s * elements <= MAX_ELEMENTS])
        elements *= size
        if pick((True, False, False, False)) and size > 1:
            name = ("batch", "length", "height", "width")[axis]
            pool.sizes[name] = size
            shape.append(tn.Dim(name))
        else:
            shape.append(size)
    pool.leaf(tuple(shape))
    for _ in range(pick(range(1, most + 1))):
        made = pick(STEPS)(pool)
        if made is not None and not made.is_leaf:
            pool.values.append(made)
    computed = [v for v in pool.values if not v.is_leaf]
    if not computed:
        computed = [tn.mul(pool.values[0], 2)]
    outputs = {"result": computed[-1]}
    if len(computed) > 1 and pick((True, False)):
        outputs["beside"] = pick(computed[:-1])
    graph.output(**outputs)
    return graph, pool.sizes


def _smooth(pool: _Pool) -> Value:
    x = pool.any()
    return pool.pick(
        (
            lambda: tn.tanh(x),
            lambda: tn.sigmoid(x),
            lambda: tn.erf(x),
            lambda: tn.sin(x),
            lambda: tn.cos(x),
            lambda: -x,
            lambda: tn.exp(tn.tanh(x)),
            lambda: tn.expm1(tn.tanh(x)),
            lambda: tn.sqrt(x * x + 0.5),
            lambda: tn.rsqrt(x * x + 0.5),
            lambda: tn.log(x * x + 0.5),
            lambda: tn.log1p(x * x),
            lambda: (x * x + 1) ** 0.5,
            lambda: tn.tanh(x) ** 3,
            lambda: 1 - x,
            lambda: 2 / (x * x + 1),
        )
    )()


def _kinked(pool: _Pool) -> Value:
    x = pool.pick(pool.exact)
    return pool.pick((lambda: tn.relu(x), lambda: abs(x), lambda: tn.floor(x), lambda: tn.sign(x)))()


def _binary(pool: _Pool) -> Value:
    a = pool.any()
    b = pool.partner(a)
    if pool.pick((True, False)):
        a, b = b, a  # type: ignore[assignment]
    kind = pool.pick(("add", "sub", "mul", "div"))
    if kind == "div":
        return a / (abs(b) + 0.5) if not isinstance(b, Value) else a / (b * b + 0.5)
    return {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b}[kind]()


def _extremum(pool: _Pool) -> Value | None:
    a = pool.pick(pool.exact)
    b = pool.exact_like(a)
    return None if b is None else pool.pick((tn.maximum, tn.minimum))(a, b)


def _choice(pool: _Pool) -> Value | None:
    a = pool.any()
    decides = pool.exact_like(a)
    if decides is None:
        return None
    number = pool.pick((0.0, 0.5, -1.0))
    compare = pool.pick((
        lambda: decides > number, lambda: decides <= number, lambda: ~(decides < number),
        lambda: (decides > number) & (decides < 2.0), lambda: (decides > 1.0) | (decides != decides),
    ))  # fmt: skip
    return tn.where(compare(), a, pool.pick((0, 0.1, a * 2)))


def _axes(pool: _Pool, x: Value) -> list[int]:
    axes = [a for a in range(len(x.shape)) if pool.pick((True, False))]
    return axes or [pool.pick(range(len(x.shape)))]


def _reduction(pool: _Pool) -> Value | None:
    x = pool.any()
    if not x.shape:
        return None
    axes = _axes(pool, x)
    keep = pool.pick((True, True, False))
    if pool.pick((True, True, True, False)):
        return pool.pick((tn.mean, tn.mean, tn.sum))(x, axes, keep)
    x = pool.pick([v for v in pool.exact if v.shape] or [x])
    return pool.pick((tn.max, tn.min))(x, _axes(pool, x), keep)


def _centered(pool: _Pool) -> Value | None:
    """The shape of every norm: a statistic met by what it was made of."""
    x = pool.any()
    if not x.shape:
        return None
    axes = _axes(pool, x)
    centered = x - tn.mean(x, axes, keepdim=True)
    return centered * tn.rsqrt(tn.mean(centered * centered, axes, keepdim=True) + 0.5)


def _softmax(pool: _Pool) -> Value | None:
    x = pool.any()
    if not x.shape:
        return None
    axes = _axes(pool, x)
    bounded = 3 * tn.tanh(x)
    exponentials = tn.exp(bounded)
    return exponentials / tn.sum(exponentials, axes, keepdim=True)


def _reshape(pool: _Pool) -> Value | None:
    x = pool.any()
    known = [s for s in x.shape if isinstance(s, int)]
    if len(known) < len(x.shape):
        shape = list(x.shape)
        shape.insert(pool.pick(range(len(shape) + 1)), 1)
        return tn.reshape(x, shape)
    count = 1
    for size in known:
        count *= size
    divisors = [d for d in (1, 2, 3, 5, 7, 33) if count % d == 0]
    front = pool.pick(divisors)
    return tn.reshape(x, pool.pick(((count,), (front, count // front), (count // front, front), (1, count))))


def _transpose(pool: _Pool) -> Value | None:
    x = pool.any()
    axes = list(range(len(x.shape)))
    order = []
    while axes:
        order.append(axes.pop(pool.pick(range(len(axes)))))
    return tn.permute(x, order)


def _expand(pool: _Pool) -> Value | None:
    narrow = [v for v in pool.values if v.shape and 1 in v.shape]
    if not narrow:
        return None
    x = pool.pick(narrow)
    shape = tuple(pool.pick((2, 3, 1)) if s == 1 else s for s in x.shape)
    return tn.broadcast_to(x, shape) if pool._meets(shape, shape) else None


def _is_repeated(x: Value) -> bool:
    """Whether all numbers of a row are one: their deviation is 0, and rounding alone what a norm makes of it."""
    if x.op.name == "broadcast_to":
        return x.args[0].shape[-1:] != x.shape[-1:] or _is_repeated(x.args[0])  # type: ignore[union-attr]
    return x.op.kind == "elementwise" and all(a.shape[-1:] != x.shape[-1:] or _is_repeated(a) for a in x.inputs)


def _layer_norm(pool: _Pool) -> Value | None:
    x = pool.any()
    if not x.shape or not isinstance(x.shape[-1], int) or x.shape[-1] < 3 or _is_repeated(x):
        return None
    return tn.layer_norm(x, eps=0.1)


def _linear(pool: _Pool) -> Value | None:
    x = pool.any()
    if not x.shape or not isinstance(x.shape[-1], int):
        return None
    return tn.linear(x, pool.pick((1, 3, 8)), bias=pool.pick((True, False)))


def _cross_entropy(pool: _Pool) -> Value | None:
    x = pool.any()
    axis = 1 if len(x.shape) > 1 else 0
    if not x.shape or not isinstance(x.shape[axis], int):
        return None
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    target = pool.graph.input(f"target{len(pool.graph.values)}", rest, "int64")
    return tn.cross_entropy(x, target, reduction=pool.pick(("mean", "sum", "none")))


def _mse(pool: _Pool) -> Value | None:
    x = pool.any()
    return tn.mse_loss(x, pool.leaf(x.shape), reduction=pool.pick(("mean", "none")))


STEPS = (
    _smooth, _smooth, _smooth, _binary, _binary, _binary, _binary, _kinked, _extremum, _choice, _reduction, _reduction,
    _reduction, _centered, _softmax, _reshape, _transpose, _transpose, _expand, _layer_norm, _linear, _cross_entropy,
    _mse,
)  # fmt: skip
