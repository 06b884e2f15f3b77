"""Launches that do the same share one kernel: equal layers of a network do, forward, backward and in their updates.

A person would write `linear_relu` once and launch it for each layer. So does the source: what is written is the first
kernel of those that are alike, by the name that they have in common, and each launch gives it tensors of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from tritonnotes.ir.core.graph import Graph

from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import CalledKernel, Kernel, Parameter, Shared, Step, verify_kernel
from ..support.names import DERIVED, LaunchNames, Names
from .form import NAMES, Form, form_of, form_of_group, stem_of
from .naming import common_name


def shared_kernels(
    kernels: Sequence[GeneratedKernel], graph: Graph, apart: Mapping[str, object] = MappingProxyType({})
) -> dict[str, GeneratedKernel]:
    """The kernel that is written for each launch, by the name of the launch: the same one for those that share
    it. Launches with different marks in `apart` share none."""
    names = LaunchNames(graph, {name for kernel in kernels for name in _functions(kernel)})
    written = {kernel.name: kernel for kernel in kernels}
    written |= _shared_tiles([k for k in kernels if isinstance(k, Kernel)], names, apart)
    groups = [k for k in kernels if isinstance(k, GroupedMatmulKernel)]
    members = [member.kernel for group in groups for member in group.members]
    written_members = _shared_tiles(members, names, {})
    return written | _shared_groups(groups, written_members, names, apart)


def _functions(kernel: GeneratedKernel) -> Iterable[str]:
    """The functions that a launch has in the source."""
    yield kernel.name
    match kernel:
        case ForeachKernel():
            yield from (block.name for block in kernel.blocks)
        case GroupedMatmulKernel():
            yield from (name for member in kernel.members for name in _functions(member.kernel))
        case Kernel():
            yield from (name for part in kernel.called for name in _functions(part.kernel))


def _shared_tiles(kernels: Sequence[Kernel], names: LaunchNames, apart: Mapping[str, object]) -> dict[str, Kernel]:
    """For each tile program the one that is written, by its name."""
    alike: dict[Hashable, list[tuple[Kernel, Form]]] = {}
    for kernel in kernels:
        form = form_of(kernel)
        alike.setdefault((form.key, apart.get(kernel.name)), []).append((kernel, form))
    made: dict[str, Kernel] = {}
    for group in alike.values():
        written = group[0][0] if len(group) == 1 else _common(group, names)
        made |= {kernel.name: written for kernel, _ in group}
    return made


def _shared_groups(
    groups: Sequence[GroupedMatmulKernel],
    members: Mapping[str, Kernel],
    names: LaunchNames,
    apart: Mapping[str, object],
) -> dict[str, GeneratedKernel]:
    """For each launch of several products the one that is written, whose members are the `members` that are written."""
    alike: dict[Hashable, list[GroupedMatmulKernel]] = {}
    for group in groups:
        made = replace(group, members=tuple(CalledKernel(members[m.kernel.name], m.arguments) for m in group.members))
        form = form_of_group(made, [form_of(m.kernel) for m in group.members])
        alike.setdefault((form, apart.get(group.name)), []).append(made)
    written: dict[str, GeneratedKernel] = {}
    for found in alike.values():
        first = found[0]
        if len(found) > 1:
            launches = tuple(k.name for k in found)
            launch = replace(first.launch, name=_claim(names, launches))
            first = replace(first, launch=launch, shared=Shared(launches, MappingProxyType({})))
        written |= {group.name: first for group in found}
    return written


def _common(group: Sequence[tuple[Kernel, Form]], names: LaunchNames) -> Kernel:
    """The kernel that stands for several of one form, by names that all of them have in common."""
    launches = tuple(kernel.name for kernel, _ in group)
    made = _renamed([kernel for kernel, _ in group], [form for _, form in group], _claim(names, launches), names)
    assert made.shared is not None
    made = replace(made, shared=replace(made.shared, launches=launches))
    verify_kernel(made)
    return made


def _renamed(kernels: Sequence[Kernel], forms: Sequence[Form], function: str, names: LaunchNames) -> Kernel:
    """The first of some kernels as `function`, and its variables by the names that those of all have in common."""
    kernel, called = kernels[0], kernels[0].called
    parts = [
        _renamed_part([k.called[place].kernel for k in kernels], [f.parts[place] for f in forms], names)
        for place in range(len(called))
    ]
    functions = {part.kernel.name: made.name for part, made in zip(called, parts, strict=True)}
    stems = _common_stems(forms, {function, *functions.values()})
    ops = {first: common_name([first, *rest]) for first, *rest in zip(*(form.ops for form in forms), strict=True)}

    def said(name: str) -> str:
        stem = stem_of(name)
        return stems.get(stem, stem) + name[len(stem) :]

    def attribute(name: str, value: Any) -> Any:
        return functions[value] if name == "function" else said(value) if name in NAMES else value

    def step(alike: tuple[Step, ...]) -> Step:
        old = alike[0]
        attrs = MappingProxyType({name: attribute(name, value) for name, value in old.attrs.items()})
        scope = old.scope and replace(old.scope, name=ops[old.scope.name])
        args = tuple(map(said, old.args))
        return replace(old, name=said(old.name), args=args, attrs=attrs, scope=scope, alike=alike)

    def parameter(alike: tuple[Parameter, ...]) -> Parameter:
        return replace(alike[0], name=said(alike[0].name), alike=alike)

    made = iter(CalledKernel(new, tuple(map(said, part.arguments))) for part, new in zip(called, parts, strict=True))
    return replace(
        kernel,
        plan=replace(kernel.plan, name=function),
        parameters=tuple(map(parameter, zip(*(k.parameters for k in kernels), strict=True))),
        steps=tuple(map(step, zip(*(k.steps for k in kernels), strict=True))),
        replicated_sums=tuple(islice(made, len(kernel.replicated_sums))),
        operands=tuple(islice(made, len(kernel.operands))),
        last_block=tuple(made),
        returned=tuple(map(said, kernel.returned)),
        shared=Shared((), ops),
    )


def _renamed_part(kernels: Sequence[Kernel], forms: Sequence[Form], names: LaunchNames) -> Kernel:
    """A function that a shared kernel calls. One that all of them call already is as it is."""
    called = [kernel.name for kernel in kernels]
    return kernels[0] if len(set(called)) == 1 else _renamed(kernels, forms, _claim(names, called), names)


def _claim(names: LaunchNames, functions: Sequence[str]) -> str:
    """A name for the function that takes the place of some, which leave theirs."""
    names.taken -= {name for function in functions for name in (function, f"run_{function}")}
    return names.claim(common_name(functions))


def _common_stems(forms: Sequence[Form], taken: Iterable[str]) -> dict[str, str]:
    """For the names of the first kernel those that all have in common, each once."""
    columns = list(zip(*(form.stems for form in forms), strict=True))
    alike = {column[0] for column in columns if len(set(column)) == 1}
    names = Names()
    names.taken |= {*taken, *alike, *(f"{name}{ending}" for name in alike for ending in DERIVED)}
    # What is no variable, such as a number or a store, has a name that is written nowhere.
    return {
        column[0]: names.claim(common_name(column))
        for column in columns
        if column[0] not in alike and column[0].isidentifier()
    }
