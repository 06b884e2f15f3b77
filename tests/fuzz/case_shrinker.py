"""`shrink(case, fails)`: a smaller case that fails as well, by dropping and replacing whatever can be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from graph_cases import Case, Leaf, Size, Step, declare, shape_of, used

MOST_TRIALS = 300


def shrink(case: Case, fails: Callable[[Case], bool], most: int = MOST_TRIALS) -> Case:
    """The smallest case that was found, in at most so many trials. `fails` says whether a case still fails alike."""
    left = most
    going = True
    while going and left:
        going = False
        for candidate in smaller(case):
            if not left:
                break
            left -= 1
            if candidate != case and fails(candidate):
                case, going = candidate, True
                break
    return case


def smaller(case: Case) -> Iterator[Case]:
    """Cases that are a step simpler, those that drop most first."""
    yield from (used(c) for c in _fewer_results(case))
    yield from (used(c) for c in _fewer_steps(case))
    yield from _plainer_settings(case)
    yield from (used(c) for c in _plainer_leaves(case))
    yield from (used(c) for c in _smaller_sizes(case))


def _fewer_results(case: Case) -> Iterator[Case]:
    if case.loss:
        for step in case.steps:
            yield replace(case, loss="", outputs=(step.name,), options=(), modelled=True)
        if case.outputs:
            yield replace(case, outputs=())
    else:
        for step in case.steps:
            if case.outputs != (step.name,):
                yield replace(case, outputs=(step.name,))
    if len(case.outputs) > 1 or (case.loss and case.outputs):
        for name in case.outputs:
            yield replace(case, outputs=tuple(n for n in case.outputs if n != name))


def _fewer_steps(case: Case) -> Iterator[Case]:
    """Each step replaced by what it is made of, or by a leaf of its own."""
    try:
        _, names = declare(case)
    except Exception:
        names = {}
    for step in reversed(case.steps):
        if step.name in (case.loss, *case.outputs) and len(case.steps) == 1:
            continue
        others = [n for n in step.operands if case.step(n) is not None or step.name not in (case.loss, *case.outputs)]
        for operand in others:
            yield _renamed(case, step.name, operand)
        if step.name in names and names[step.name].dtype.is_float and step.name not in (case.loss, *case.outputs):
            value = names[step.name]
            shape = shape_of(value)
            kinds = ("input", "parameter") if all(isinstance(s, int) for s in shape) else ("input",)
            for kind in kinds:
                leaf = Leaf(step.name, kind, shape, value.dtype.name)
                steps = tuple(s for s in case.steps if s.name != step.name)
                yield replace(case, steps=steps, leaves=(*case.leaves, leaf))


def _renamed(case: Case, name: str, other: str) -> Case:
    """The case without a step, whose readers read another value."""

    def operands(step: Step) -> tuple[str, ...]:
        return tuple(other if n == name else n for n in step.operands)

    steps = tuple(replace(s, operands=operands(s)) for s in case.steps if s.name != name)
    outputs = tuple(dict.fromkeys(other if n == name else n for n in case.outputs))
    return replace(case, steps=steps, outputs=outputs, loss=other if case.loss == name else case.loss)


def _plainer_settings(case: Case) -> Iterator[Case]:
    for index in range(len(case.options)):
        yield replace(case, options=case.options[:index] + case.options[index + 1 :])
    if case.modelled and case.loss:
        yield replace(case, modelled=False)
    if case.small_tiles:
        yield replace(case, small_tiles=False)
    if case.native:
        yield replace(case, native=False)
    if case.optimizer:
        yield replace(case, optimizer=0)
    if case.training:
        yield replace(case, training=False)
    if case.sizes[1] != case.sizes[0]:
        yield replace(case, sizes=(case.sizes[0], case.sizes[0]))
    for fusion in ("optimal", "off"):
        if case.fusion not in ("optimal", fusion):
            yield replace(case, fusion=fusion)


def _plainer_leaves(case: Case) -> Iterator[Case]:
    dtypes = {leaf.dtype for leaf in case.leaves if leaf.dtype.endswith(("16", "64")) and leaf.dtype != "int64"}
    for dtype in dtypes:
        yield _with_leaves(case, lambda leaf, d=dtype: replace(leaf, dtype="float32") if leaf.dtype == d else leaf)
    for leaf in case.leaves:
        if leaf.layout != "dense":
            yield _with_leaves(case, lambda x, name=leaf.name: replace(x, layout="dense") if x.name == name else x)
        if leaf.kind == "constant" or (leaf.kind == "input" and all(isinstance(s, int) for s in leaf.shape)):
            continue
        if leaf.dtype in dtypes and len(dtypes) < len(case.leaves):
            yield _with_leaves(case, lambda x, name=leaf.name: replace(x, dtype="float32") if x.name == name else x)


def _with_leaves(case: Case, change: Callable[[Leaf], Leaf]) -> Case:
    return replace(case, leaves=tuple(map(change, case.leaves)))


def _smaller_sizes(case: Case) -> Iterator[Case]:
    for dim, size in case.sizes[0]:
        for less in (1, 2, 3, 5):
            if less < size:
                yield replace(case, sizes=tuple(tuple((n, less if n == dim else k) for n, k in b) for b in case.sizes))
        yield _spelled(replace(case, sizes=tuple(tuple((n, k) for n, k in b if n != dim) for b in case.sizes)),
                       dim, size)  # fmt: skip
    known = sorted({s for leaf in case.leaves for s in leaf.shape if isinstance(s, int) and s > 1}, reverse=True)
    for size in known:
        for less in (1, 2, 3):
            if less < size:
                yield _spelled(case, size, less)


def _size(size: Size, old: str | int, new: int) -> Size:
    if isinstance(size, int):
        return new if size == old else size
    spelled = re.sub(rf"\b{old}\b", str(new), size) if isinstance(old, str) else size
    try:
        return int(eval(spelled, {}))
    except NameError:
        return spelled


def _spelled(case: Case, old: str | int, new: int) -> Case:
    """A size put in place of another wherever it is written. What makes no sense then fails to run."""

    def text(line: str) -> str:
        return re.sub(rf"(?<![\w.{{]){old}(?![\w.}}])", str(new), line)

    steps = tuple(
        replace(s, tn=text(s.tn), torch=text(s.torch), margin=text(s.margin), well=text(s.well)) for s in case.steps
    )
    return replace(_with_leaves(case, lambda x: replace(x, shape=tuple(_size(s, old, new) for s in x.shape))),
                   steps=steps)  # fmt: skip
