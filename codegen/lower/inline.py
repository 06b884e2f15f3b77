"""One launch out of several kernels: one calls the others, and has the arguments of all, each once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from tritonnotes.ir.core.types import int32

from ..support.names import Names
from .functions import with_named_program
from .tile_ir import CalledKernel, Kernel, Parameter

_BOTH_WAYS = {
    frozenset(["in", "out"]): "inout",
    frozenset(["in", "inout"]): "inout",
    frozenset(["out", "inout"]): "inout",
    frozenset(["partial in", "partial out"]): "partial out",
}


def with_replicated_sums(kernel: Kernel, replicated_sums: Iterable[Kernel]) -> Kernel:
    """The kernel, whose programs take sums for themselves first."""
    parameters, called = _together(kernel, replicated_sums)
    return replace(kernel, parameters=_sorted(parameters), replicated_sums=called)


def with_operands(kernel: Kernel, operands: Iterable[Kernel]) -> Kernel:
    """The kernel, which computes operands of its products itself, block by block."""
    parameters, called = _together(kernel, operands)
    return replace(kernel, parameters=_sorted(parameters), operands=called)


def with_last_block(kernel: Kernel, last_block: Iterable[Kernel]) -> Kernel:
    """The kernel, whose last program runs others; where they finalize no sums, its first."""
    parameters, called = _together(kernel, last_block)
    made = replace(kernel, last_block=called)
    if made.counts_arrivals:
        arrivals = Parameter("arrivals_ptr", "arrivals", None, int32)
        return replace(made, parameters=_sorted([*parameters, arrivals]))
    layout = replace(kernel.layout, traversal=with_named_program(kernel.layout.traversal))
    return replace(made, layout=layout, parameters=_sorted(parameters))


def together(kernels: Iterable[Kernel]) -> tuple[tuple[Parameter, ...], tuple[CalledKernel, ...]]:
    """The arguments of several kernels, each once, and these with the names that theirs have."""
    parameters, called = _merged({}, Names(), kernels)
    return _sorted(parameters), called


def _together(kernel: Kernel, others: Iterable[Kernel]) -> tuple[list[Parameter], tuple[CalledKernel, ...]]:
    """The arguments of a kernel and of others that it calls, each once, and the others with the names of theirs."""
    names = Names()
    names.taken |= {p.name for p in kernel.parameters} | {s.name for s in kernel.steps}
    return _merged({_key(p): p for p in kernel.parameters}, names, others)


def _merged(
    parameters: dict[Hashable, Parameter], names: Names, others: Iterable[Kernel]
) -> tuple[list[Parameter], tuple[CalledKernel, ...]]:
    made = []
    for other in others:
        for mine in other.parameters:
            have = parameters.get(_key(mine))
            if have is None:
                stem = mine.name.removesuffix("_ptr")
                name = names.claim(stem, f"{stem}_total") + mine.name[len(stem) :]
                parameters[_key(mine)] = replace(mine, name=name)
            elif have.role != mine.role:
                parameters[_key(mine)] = replace(have, role=_BOTH_WAYS[frozenset([have.role, mine.role])])
        made.append(CalledKernel(other, tuple(parameters[_key(p)].name for p in other.parameters)))
    return list(parameters.values()), tuple(made)


def _sorted(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    return tuple(sorted(parameters, key=Parameter.place))


def _key(parameter: Parameter) -> Hashable:
    """What two arguments of one launch have in common that are one: memory, partial sums, a size or a number. A number
    that one kernel reads in float64 from memory, and another one takes in float32, is two arguments."""
    kind = parameter.role if parameter.role in ("size", "scalar") else parameter.role.startswith("partial")
    return kind, parameter.value, parameter.size, parameter.is_pointer, parameter.of_rows
