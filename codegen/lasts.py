"""One kernel out of a kernel that takes sums and those that its last program finishes: their arguments together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace

from tritonnotes.ir.types import int32

from .names import Names
from .plan import KernelPlan
from .tile import Kernel, Last, Parameter

_BOTH_WAYS = {frozenset(["in", "out"]): "inout", frozenset(["in", "inout"]): "inout"}
_BOTH_WAYS |= {frozenset(["out", "inout"]): "inout", frozenset(["partial in", "partial out"]): "partial out"}


def with_lasts(kernel: Kernel, lasts: Iterable[Kernel], plan: KernelPlan) -> Kernel:
    """The kernel of a launch that `plan` describes, whose last program carries out `lasts`."""
    names = Names()
    names.taken |= {p.name for p in kernel.parameters} | {s.name for s in kernel.steps}
    parameters = {_key(p): p for p in kernel.parameters}
    made = []
    for last in lasts:
        for mine in last.parameters:
            have = parameters.get(_key(mine))
            if have is None:
                stem = mine.name.removesuffix("_ptr")
                name = names.claim(stem, f"{stem}_total") + mine.name[len(stem) :]
                parameters[_key(mine)] = replace(mine, name=name)
            elif have.role != mine.role:
                parameters[_key(mine)] = replace(have, role=_BOTH_WAYS[frozenset([have.role, mine.role])])
        made.append(Last(last, tuple(parameters[_key(p)].name for p in last.parameters)))
    arrivals = Parameter("arrivals_ptr", "arrivals", None, int32)
    return replace(
        kernel,
        plan=plan,
        parameters=tuple(sorted((*parameters.values(), arrivals), key=Parameter.place)),
        lasts=tuple(made),
    )


def _key(parameter: Parameter) -> Hashable:
    """What two arguments of one launch have in common that are one: memory, partial sums, a size or a number."""
    kind = parameter.role if parameter.role in ("size", "scalar") else parameter.role.startswith("partial")
    return kind, parameter.value, parameter.size
