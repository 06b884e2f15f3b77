"""Updates in a graph: a parameter's new value and its optimizer state, as the formulas of its rules give them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .. import primitives as P
from ..core.errors import DeclarationError
from ..core.evaluate import evaluate
from ..core.graph import TOP, Graph, Scope, Value
from ..core.local_names import capture_names
from ..core.optimizer import Optimizer, UpdateRule, in_group
from ..core.rewrite import optimize
from ..core.types import DType, Shape, Size, float32, float64, own_name

Hyperparameters = Mapping[str, Any]
"""By name: a host scalar, or a bool or 0 that is part of the formula."""

P_NAME, G_NAME, MASTER = "p", "g", "master"
"""What a parameter is called, its gradient, and a float32 copy of it."""

GRAD_SCALE, FOUND_INF, CLIP_COEFFICIENT = "grad_scale", "found_inf", "clip_coefficient"
"""Numbers that lie on the device: what gradients are multiplied by (torch.amp), whether one of them is not finite, and
what clipping multiplies them by."""


@dataclass(frozen=True)
class Kind:
    """The dtypes of one parameter's tensors: parameter, gradient, state in the order of `Optimizer.state`. With
    `has_master` a float32 copy of the parameter is what is updated, and the parameter is that copy, rounded."""

    parameter: DType
    gradient: DType
    state: tuple[DType, ...]
    has_master: bool = False

    @property
    def name(self) -> str:
        """An identifier: `bfloat16`, or `bfloat16_float32_state` where not all are alike."""
        return str(self).replace(", ", "_").replace(" ", "_")

    def __str__(self) -> str:
        parts = [str(self.parameter)]
        if self.gradient is not self.parameter:
            parts.append(f"{self.gradient} gradient")
        if {*self.state} - {self.parameter}:
            parts.append(f"{' and '.join(dict.fromkeys(map(str, self.state)))} state")
        return ", ".join([*parts, *(["float32 master"] if self.has_master else [])])


@dataclass(frozen=True)
class Extras:
    """What a launch does besides the rule. `unscales`: divide gradients by grad_scale, and leave them so. `skips`: do
    nothing where found_inf is not 0. `clips`: multiply gradients by a coefficient, as their norm asks. `zeroes`: leave
    0 in the gradients. `counts`: the steps are counted on the device, which works out the rule's numbers as well."""

    unscales: bool = False
    skips: bool = False
    clips: bool = False
    zeroes: bool = False
    counts: bool = False


def hyperparameters(
    graph: Graph, optimizer: Optimizer, known: Collection[str] = (), group: int = 0, given: Collection[str] = ()
) -> dict[str, Any]:
    """Host scalars `<rule>.<name>` for all that may change between steps but is not `known`, and the fixed ones as they
    are. Before them stands a word of ours where `given`, the user's names, hold such a name.

    The last part of a scalar's name is its key in `Optimizer.settings` or `.numbers`, with the number of its `group`,
    or it is `step`.
    """
    clip = {name: own_name(f"clip.{name}", given) for name in optimizer.clip if name not in known}
    made: dict[str, Any] = {name: graph.host_scalar(scalar) for name, scalar in clip.items()}
    for part in optimizer.parts:
        for name in part.rule.defaults:
            if name in made or name in known:  # the step, which all rules count alike
                continue
            is_fixed = name in part.hyperparameters and part.is_fixed(name)
            scalar = own_name(_scalar_name(part, name, group), given)
            made[name] = part.hyperparameters[name] if is_fixed else graph.host_scalar(scalar)
    return made


def _scalar_name(part: Optimizer, name: str, group: int) -> str:
    return f"{part.rule.name}.{name if name == 'step' else in_group(name, group)}"


def append_update(
    graph: Graph, optimizer: Optimizer, p: Value, g: Value, state: Mapping[str, Value], hyper: Hyperparameters
) -> dict[str, Value]:
    """Append one update: what a run leaves in `p` and `state`. Returns the next of the rule's numbers.

    A result takes the dtype of what it is left in. Raises `DeclarationError` for a formula that returns too little.
    """
    graph.scope = _scope(optimizer.rule, p)
    with capture_names(graph, len(graph.values)):
        gradient = _prepared(g, optimizer, hyper)
    new, results, numbers = p, dict[str, Value](), dict[str, Value]()
    for part in optimizer.parts:
        graph.scope = _scope(part.rule, p)
        given = [state.get(name) for name in part.rule.state]
        with capture_names(graph, len(graph.values)):
            found = part.rule.formula(new, gradient, *given, **{n: hyper[n] for n in part.rule.defaults})
        new, kept, following = _checked(part.rule, found, given)
        if new.hint is None and not new.is_leaf:
            new.hint = "updated"
        results |= kept
        numbers |= following
    graph.update(p, P.cast(new, p.dtype))
    for name, result in results.items():
        graph.update(state[name], P.cast(result, state[name].dtype))
    return numbers


def clip_norm(graph: Graph, gradients: Mapping[Value, Value], hyper: Hyperparameters) -> dict[Value, Value]:
    """`gradients` scaled down together to a norm of at most `max_norm`, as torch.nn.utils.clip_grad_norm_ does."""
    graph.scope = Scope("clip", "", phase="update")
    with capture_names(graph, len(graph.values)):
        return _scaled_to_norm(gradients, hyper["max_norm"])


def update_graph(optimizer: Optimizer, shape: Shape, dtype: DType) -> Graph:
    """One update alone: parameter `p`, input `g`, the state as slots under its own names."""
    graph = Graph("update", level="primitive")
    p = graph.parameter("p", shape, dtype=dtype)
    g = graph.input("g", shape, dtype)
    state = {name: graph.slot(name, shape, dtype, first) for name, first in optimizer.state.items()}
    hyper = hyperparameters(graph, optimizer)
    if "max_norm" in optimizer.clip:
        g = clip_norm(graph, {p: g}, hyper)[p]
    append_update(graph, optimizer, p, g, state, hyper)
    graph.scope = TOP
    return optimize(graph)


def kind_graph(optimizer: Optimizer, size: Size, kind: Kind, extras: Extras) -> Graph:
    """The update of one parameter among many, laid out as `size` numbers in a row. Its outputs are the rule's own
    numbers, as the step leaves them. Zeroing gradients and rounding a master to its parameter is left to the caller."""
    graph = Graph("update", level="primitive")
    trained = (
        graph.slot(MASTER, (size,), float32)
        if kind.has_master
        else graph.parameter(P_NAME, (size,), dtype=kind.parameter)
    )
    leaves_gradient = extras.unscales and not extras.zeroes
    g = graph.append("buffer" if leaves_gradient else "input", (), {}, (size,), kind.gradient, G_NAME)
    named = zip(optimizer.state.items(), kind.state, strict=True)
    state = {name: graph.slot(name, (size,), dtype, first) for (name, first), dtype in named}
    # The norm is taken of all gradients at once, before this: what comes of it is a number in memory.
    optimizer = replace(optimizer, clip={n: v for n, v in optimizer.clip.items() if n != "max_norm"})
    graph.scope = _scope(optimizer.rule, trained)
    gradient = g
    # Numbers that the device knows read like the host's: where they lie is the kernel's affair.
    if extras.unscales:
        gradient = g / graph.host_scalar(f"device.{GRAD_SCALE}")
        gradient.hint = "unscaled"
        if leaves_gradient:
            graph.update(g, P.cast(gradient, g.dtype))
    if extras.clips:
        gradient = gradient * graph.host_scalar(f"device.{CLIP_COEFFICIENT}")
        gradient.hint = "clipped"
    numbers = append_update(graph, optimizer, trained, gradient, state, hyperparameters(graph, optimizer))
    graph.outputs.update(numbers)
    graph.scope = TOP
    return optimize(graph)


@lru_cache(maxsize=64)
def number_graph(optimizer: Optimizer) -> tuple[Graph, dict[str, Value]]:
    """A graph of host numbers alone, and what the rule's numbers become in a step."""
    graph = Graph("numbers", level="primitive")
    p, g = graph.parameter("p", (), dtype=float64), graph.input("g", (), float64)
    state = {name: graph.slot(name, (), float64) for name in optimizer.state}
    return graph, append_update(graph, optimizer, p, g, state, hyperparameters(graph, optimizer))


def next_numbers(optimizer: Optimizer, given: Mapping[str, float]) -> dict[str, float]:
    """The numbers after a step, of all groups: `given` are the settings, the numbers before it and `step`, by name."""
    made: dict[str, float] = {}
    for group, variant in enumerate(optimizer.variants if optimizer.numbers else ()):
        graph, following = number_graph(variant)
        names = {v.name: v.name.rpartition(".")[2] for v in graph.leaves("scalar")}
        feeds = {full: given[in_group(n, group) if in_group(n, group) in given else n] for full, n in names.items()}
        found = evaluate(graph, feeds, wanted=following.values())
        made |= {in_group(name, group): float(found[value]) for name, value in following.items()}
    return made


def _scope(rule: UpdateRule, p: Value) -> Scope:
    return Scope(p.name, rule.name, rule.summary, phase="update")


def _prepared(g: Value, optimizer: Optimizer, hyper: Hyperparameters) -> Value:
    """The gradient that the rule sees. Clipping comes first: it is done to gradients as backward leaves them."""
    if "max_value" in optimizer.clip:
        bounded = P.minimum(P.maximum(g, -hyper["max_value"]), hyper["max_value"])
        g = bounded
    if optimizer.maximize:
        descent = -g
        g = descent
    return g


def _scaled_to_norm(gradients: Mapping[Value, Value], max_norm: Value) -> dict[Value, Value]:
    wide = [P.cast(g, "float32") if g.dtype.itemsize < 4 else g for g in gradients.values()]
    first, *others = [P.sum(g * g) for g in wide]
    norm = P.sqrt(sum(others, start=first))
    clip_coefficient = P.minimum(max_norm / (norm + 1e-6), 1)
    return {p: g * P.cast(clip_coefficient, g.dtype) for p, g in gradients.items()}


def _checked(
    rule: UpdateRule, found: Any, given: list[Value | None]
) -> tuple[Value, dict[str, Value], dict[str, Value]]:
    """A formula's results: the parameter, the state that is kept, the numbers."""
    wanted = 1 + len(rule.state) + len(rule.numbers)
    if not isinstance(found, tuple) or len(found) != wanted:
        count = len(found) if isinstance(found, tuple) else 1
        raise DeclarationError(
            f"update rule {rule.name}: returned {count} values for {wanted}; return the new parameter, then "
            f"the new {', '.join((*rule.state, *rule.numbers)) or 'state (none)'}, as a tuple"
        )
    new, kept = found[0], found[1 : 1 + len(rule.state)]
    for name, before, after in zip(rule.state, given, kept, strict=True):
        if (before is None) != (after is None):
            raise DeclarationError(
                f"update rule {rule.name}: returned {after!r} for {name}, which it was given as {before!r}"
            )
    states = {name: value for name, value in zip(rule.state, kept, strict=True) if value is not None}
    return new, states, dict(zip(rule.numbers, found[1 + len(rule.state) :], strict=True))
