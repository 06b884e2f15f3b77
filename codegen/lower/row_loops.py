"""Rows longer than registers hold: the passes in which a kernel walks along them, and what each pass computes."""

from __future__ import annotations

from dataclasses import dataclass

from .tile_ir import COL, TILE, Kernel, Step

REDUCTIONS = ("sum", "max", "min")


@dataclass(frozen=True)
class RowLoop:
    """One walk along the row. `wide` are the steps computed for each block of columns, `reductions` what is taken of
    them, `stores` what is written; `after` are the steps that follow once the walk is over."""

    wide: tuple[Step, ...]
    reductions: tuple[Step, ...]
    stores: tuple[Step, ...]
    after: tuple[Step, ...]


def is_wide(step: Step) -> bool:
    """Whether a step has a number for each column."""
    return step.form in (TILE, COL)


def running_maximum(kernel: Kernel) -> dict[str, str]:
    """For each sum of eˣ⁻ᵐ, m the maximum of x over the same row, that maximum: both are taken in one pass, the sum
    rescaled whenever the maximum grows (Milakov and Gimelshein, 2018)."""
    steps = {s.name: s for s in kernel.steps}
    found = {}
    for total in kernel.steps:
        if total.op != "sum":
            continue
        exponential = steps[total.args[0]]
        shifted = steps[exponential.args[0]] if exponential.op == "exp" else exponential
        if shifted.op != "sub":
            continue
        x, largest = shifted.args
        if exponential.op == "exp" and steps[largest].op == "max" and steps[largest].args == (x,):
            found[total.name] = largest
    return found


def row_loops(kernel: Kernel) -> tuple[tuple[Step, ...], tuple[RowLoop, ...]]:
    """What is computed before the first pass, and the passes. Wide steps are computed again in each pass that needs
    them: their loads are meant to come from the cache."""
    online = running_maximum(kernel)
    steps = {s.name: s for s in kernel.steps if s.op != "store"}
    ready: dict[str, int] = {}
    """The pass in which a wide step can be computed, or before which another one is known."""
    taken: dict[str, int] = {}
    for step in steps.values():
        replicated = max((ready[a] for a in step.args), default=0)
        if step.op in REDUCTIONS:
            taken[step.name] = replicated = taken[online[step.name]] if step.name in online else replicated
            replicated += 1
        ready[step.name] = replicated
    stores = [s for s in kernel.steps if s.op == "store"]
    written = {s.name: ready[s.args[0]] for s in stores if is_wide(s)}
    count = 1 + max([*taken.values(), *written.values()], default=0)
    passes = []
    for number in range(count):
        reductions = [s for s in steps.values() if taken.get(s.name) == number]
        here = [s for s in stores if written.get(s.name) == number]
        # The sum beside a running maximum needs no more than what that maximum is taken of.
        roots = [steps[online.get(r.name, r.name)].args[0] for r in reductions] + [s.args[0] for s in here]
        needed = _needed(steps, roots)
        after = [s for s in steps.values() if not is_wide(s) and ready[s.name] == number + 1]
        passes.append(RowLoop(needed, tuple(reductions), tuple(here), tuple(after)))
    before = [s for s in steps.values() if not is_wide(s) and ready[s.name] == 0]
    return tuple(before), tuple(passes)


def _needed(steps: dict[str, Step], roots: list[str]) -> tuple[Step, ...]:
    """The wide steps behind some steps, themselves included, in order."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in found and is_wide(steps[name]):
            found.add(name)
            todo += steps[name].args
    return tuple(s for s in steps.values() if s.name in found)
