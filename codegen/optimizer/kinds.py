"""One launch for all parameters: a group's update by one rule, lowered once for each kind of parameter in it.

Each program takes one block of one parameter. Which, it reads from a table of blocks; where the tensors of that
parameter lie, from a table of addresses. That costs a program three small loads, and lets parameters stay where their
owners put them: a flat arena would have to move them, and break every view of them, at the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.optimizer import Optimizer
from tritonnotes.ir.core.types import Dim, DType, float32, host
from tritonnotes.ir.optim.update import (
    CLIP_COEFFICIENT,
    FOUND_INF,
    G_NAME,
    GRAD_SCALE,
    MASTER,
    P_NAME,
    Extras,
    Kind,
    kind_graph,
)

from ..emit.host import key_of, setting_of
from ..lower.lower import tile_programs
from ..lower.tile_ir import Kernel
from ..pipeline import make_program
from ..support.tables import Table

PARAMETERS = Table(("size", "numbers", "aligned", "kind"))
"""The table of the tensors of parameters. `numbers` is the parameter's row in the table of numbers."""


PLAIN = Extras()
"""Nothing besides the rule."""


@dataclass(frozen=True, eq=False)
class LoweredKind:
    """The tile program of one kind. `numbers` are those that it takes from the table, by the names that it gives them,
    `scalars` those that lie on the device by themselves, `kept` the rule's own numbers as a step leaves them."""

    kind: Kind
    kernel: Kernel
    numbers: dict[str, Value]
    scalars: tuple[str, ...]
    kept: dict[str, Value]

    def dtype(self, tensor: str, state: Iterable[str]) -> DType:
        """The dtype of one of the parameter's tensors; `state` are the names of its state, in order."""
        known = {P_NAME: self.kind.parameter, G_NAME: self.kind.gradient, MASTER: float32}
        return {**known, **dict(zip(state, self.kind.state, strict=True))}[tensor]

    @property
    def bytes_moved(self) -> int:
        """Bytes that an element costs: each tensor read once, or written once, or both."""
        times = {"in": 1, "out": 1, "inout": 2}
        tensors = [p for p in self.kernel.parameters if p.value is not None and _is_tensor(p.value)]
        rounded = self.kind.parameter.itemsize if self.kind.has_master else 0
        return rounded + sum(times[p.role] * p.dtype.itemsize for p in tensors)


@dataclass(frozen=True, eq=False)
class MultiTensorUpdate:
    """All that a launch for a group needs.

    `tensors` are a parameter's tensors, in the order of their addresses in its row. `scalars` are tensors of one number
    that every launch takes besides. `columns` are those of the table of numbers, the last of them the rule's own
    numbers as the step leaves them; `settings` are what they are worked out from.
    """

    optimizer: Optimizer
    kinds: tuple[LoweredKind, ...]
    extras: Extras

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        has_master = any(k.kind.has_master for k in self.kinds)
        return (P_NAME, G_NAME, *([MASTER] if has_master else []), *self.optimizer.state)

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        extras = self.extras
        wanted = {GRAD_SCALE: extras.unscales, FOUND_INF: extras.skips, CLIP_COEFFICIENT: extras.clips}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    @cached_property
    def columns(self) -> dict[object, tuple[str, Value]]:
        """The columns of the table of numbers: name and host value, under a key that is the same in all kinds."""
        made: dict[object, tuple[str, Value]] = {}
        for lowered in self.kinds:
            for name, value in lowered.numbers.items():
                made.setdefault(key_of(value), (name, value))
        for name, value in self.kinds[0].kept.items():
            made[name] = (name, value)
        return made

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The numbers that a caller gives: hyperparameters, the step, the rule's own numbers."""
        needed = {setting_of(leaf) for _, value in self.columns.values() for leaf in _leaves(value)}
        return tuple(n for n in (*self.optimizer.settings, "step", *self.optimizer.numbers) if n in needed)

    @cached_property
    def name(self) -> str:
        """The kernel's name, after the rules."""
        return "_".join(["update", *(part.rule.name.removeprefix("custom.") for part in self.optimizer.parts)])

    def bytes_moved(self, lowered: LoweredKind) -> int:
        """Bytes of device memory that an element of a parameter of this kind costs."""
        return lowered.bytes_moved + (lowered.kind.gradient.itemsize if self.extras.zeroes else 0)


def make_multi_tensor_update(optimizer: Optimizer, kinds: Sequence[Kind], extras: Extras = PLAIN) -> MultiTensorUpdate:
    """The update of a group that has parameters of these kinds."""
    return MultiTensorUpdate(optimizer, tuple(_lowered(optimizer, kind, extras) for kind in kinds), extras)


def _lowered(optimizer: Optimizer, kind: Kind, extras: Extras) -> LoweredKind:
    graph = kind_graph(optimizer, Dim("size"), kind, extras)
    kept = dict(graph.outputs)
    graph.outputs.clear()  # numbers, which no kernel writes
    program = make_program(graph)
    if len(program.plan.launches) != 1 or program.plan.units.replicated:
        launches = ", ".join(k.name for k in program.plan.launches)
        raise PlanError(
            f"update rule {optimizer.rule.name}: its formula becomes several launches ({launches}); a rule that runs "
            "over many parameters in one launch may only be elementwise"
        )
    (kernel,) = (tile for made in program.kernels for tile in tile_programs(made))
    taken = {
        p.name.removesuffix("_ptr"): p.value for p in kernel.parameters if p.role == "scalar" and p.value is not None
    }
    scalars = tuple(setting_of(v) for v in taken.values() if is_on_device(v))
    return LoweredKind(kind, kernel, {n: v for n, v in taken.items() if not is_on_device(v)}, scalars, kept)


def is_on_device(number: Value) -> bool:
    """Whether a number lies on the device by itself, and not in the table."""
    return number.is_leaf and number.name.startswith("device.")


def _is_tensor(value: Value) -> bool:
    return value.dtype is not host and bool(value.shape)


def _leaves(value: Value) -> Iterator[Value]:
    if value.is_leaf and value.op.name != "constant":
        yield value
    for arg in value.inputs:
        yield from _leaves(arg)
