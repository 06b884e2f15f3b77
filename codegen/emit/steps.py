"""The steps of a tile as statements, below comments that say which op of the graph they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..lower.tile_ir import Kernel, Step
from ..support.expressions import Attribute, Call, Expression, Name, walk
from ..support.facets import combined
from ..support.provenance import united
from ..support.statements import BLANK, Assign, Comment, Evaluate, Statement, marked
from ..support.text import wrapped_lines
from .calls import function_call
from .column_moments import tile_statements as gathered
from .matmul import ProductText, summed_alike
from .ops import load, store, tl, zeros
from .writer import Writer

PHASES = {"forward": "", "backward": "gradient of ", "update": "update of "}
"""How an op is named in each phase of a training step."""


def tile_statements(kernel: Kernel) -> list[Statement]:
    """What a one-dimensional kernel does with the lanes `offset` under `mask`. Where these lie, and what the host's
    numbers are, is left to the caller."""
    return statements(Writer(kernel), [s for s in kernel.steps if s.op != "argument"])


def statements(writer: Writer, steps: Sequence[Step]) -> list[Statement]:
    """Steps in order: products, loads, arithmetic, stores."""
    lines: list[Statement] = []
    # Before anything else is loaded: a product needs registers for its operands.
    products = [s for s in steps if s.op == "product"]
    spelled = ProductText(writer.kernel, writer.index)
    for group in summed_alike(products):
        headings = dict.fromkeys(line for s in group for line in _heading(s))
        multiplied = united(writer.origins(s) for s in group)
        lines += [BLANK, *headings, *marked(spelled.lines(group), multiplied), BLANK]
    if products and writer.layout.split_k:
        rest = statements(writer, [s for s in steps if s.op != "product"])
        (shared,) = products
        return [*lines, *marked(spelled.shared_lines(shared, rest), writer.origins(shared))]
    loads = [s for s in steps if s.op in ("load", "argument")]
    for step in loads:
        if step.op == "load":
            lines.append(Assign(step.name, writer.loaded(step), origins=step.origin))
        elif step.attrs.get("pointer"):
            lines.append(Assign(step.name, load(Name(step.attrs["pointer"])), origins=step.origin))
    shown = _heading(products[-1]) if products and not loads else ()
    for step in steps:
        if step.op in _ELSEWHERE or writer.is_inlined(step):
            continue
        if step.op == "accumulate" and not writer.layout.loops_tiles:
            continue  # the partial sum is what it is taken of
        heading = _heading(step)
        if heading and heading != shown:
            lines += [BLANK, *heading]
            shown = heading
        if step.op == "moments":
            lines += gathered(writer, step)
            continue
        lines += marked([_statement(writer, step)], writer.origins(step))
    stores = store_statements(writer, [s for s in steps if s.op == "store"])
    return [*lines, BLANK, *stores] if stores else lines


def _heading(step: Step) -> tuple[Comment, ...]:
    scope = step.scope
    if scope is None or not scope.name:
        return ()
    op = scope.op.removeprefix("custom.")
    which = ", ".join(dict.fromkeys(filter(None, (scope.name, op))))
    said = scope.derivative if scope.phase == "backward" else scope.formula
    text = f"{PHASES[scope.phase]}{which}" + (f": {said}" if said else "")
    return tuple(Comment(line, origins=step.origin) for line in wrapped_lines(text, 104))


def _statement(writer: Writer, step: Step) -> Statement:
    if step.op == "accumulate":
        taken = writer.reduced_value(step) if writer.carries(step) else writer.reduction(step)
        return taken_in(step.attrs["reduction"], step.name, taken)
    if step.op == "take_rows":
        return Assign(step.name, writer.gathered(step))
    if step.op == "replicated":
        (part,) = (p for p in writer.kernel.replicated_sums if p.kernel.name == step.attrs["function"])
        return function_call(writer, part, step.name)
    if step.op == "repeat":
        tile = zeros(writer.tile_shape(step.extent), tl(step.dtype))
        return Assign(step.name, writer.value(step.args[0]) + tile)
    if "place" in step.attrs:
        taken = Call(Name("max_and_place"), (writer.reduced_value(step), Name("col")), step.attrs["axis"].keywords)
        return Assign(f"{step.name}, {step.attrs['place']}", taken)
    return Assign(step.name, writer.expression(step))


def store_statements(writer: Writer, steps: Sequence[Step]) -> list[Statement]:
    """The stores, and before them what more than one of them rounds."""
    values = [writer.stored(s) for s in steps]
    lines: list[Statement] = []
    for value, count in Counter(values).items():
        if count > 1 and _casts(value):
            rounded = Name(f"{steps[values.index(value)].args[0]}_rounded")
            rounds = united(writer.origins(s) for s, v in zip(steps, values, strict=True) if v == value)
            lines.append(Assign(rounded.name, value, origins=rounds))
            values = [rounded if v == value else v for v in values]
    for step, value in zip(steps, values, strict=True):
        stored = store(writer.address(step), value, mask=writer.index.mask(step.extent))
        lines.append(Evaluate(stored, origins=writer.origins(step)))
    return lines


def _casts(value: Expression) -> bool:
    return any(isinstance(part, Attribute) and part.name == "to" for part in walk(value))


def taken_in(op: str, name: str, value: Expression) -> Statement:
    """How what a reduction has so far takes in one more value."""
    if op == "sum":
        return Assign(name, value, "+=")
    return Assign(name, combined(op, Name(name), value))


_ELSEWHERE = ("load", "argument", "number", "index", "finalize", "deviations", "operand", "product", "place", "store")
"""Steps that are no statements among others: written before or after them, or inside."""
