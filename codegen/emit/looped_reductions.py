"""Loops along rows that registers do not hold: each takes reductions block by block, or writes what needs them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from ..lower.row_loops import is_wide, row_loops
from ..lower.tile_ir import ROW, Step
from ..support.expressions import Display, Expression, Name, call
from ..support.facets import combined, identity_of, reduced
from ..support.statements import BLANK, Assign, For, Statement, marked
from .ops import tl
from .steps import statements, store_statements, taken_in
from .writer import Writer


def row_loop_statements(writer: Writer, known: Sequence[Step]) -> list[Statement]:
    """What a kernel does along its rows, as many times as its reductions depend on each other. The steps that are
    `known` have been computed."""
    found = row_loops(writer.kernel)
    hoisted = {s.name for s in known}
    lines = statements(writer, _named(writer, found.before, hoisted))
    stores = [s for s in writer.kernel.steps if s.op == "store"]
    for loop in found.loops:
        reductions = _named(writer, loop.reductions)
        starts = (line for s in reductions for line in marked([_running_start(writer, s)], writer.origins(s)))
        lines += [BLANK, *starts]
        body = statements(writer, _named(writer, loop.wide))
        body += [line for s in reductions for line in marked(_running_statements(writer, s), writer.origins(s))]
        written = store_statements(writer, [s for s in stores if s.args[0] in loop.stored])
        body = [*writer.index.column_lines(body + written), *body, *([BLANK] if written else []), *written]
        lines.append(For("start", call("range", 0, writer.index.col_bound(), Name("BLOCK")), tuple(body)))
        lines += [BLANK, *statements(writer, _named(writer, loop.after, writer.running))]
    return [*lines, BLANK, *store_statements(writer, [s for s in stores if not is_wide(s)])]


def _named(writer: Writer, names: Iterable[str], but: Container[str] = ()) -> list[Step]:
    """The steps of these names, without some."""
    return [writer.steps[name] for name in names if name not in but]


def _running_start(writer: Writer, step: Step) -> Statement:
    """What a reduction along the row starts from."""
    (arg,) = (writer.steps[a] for a in step.args)
    identity = identity_of(step.op, arg.dtype)
    if step.name in writer.running:
        shape = writer.tile_shape(ROW) if writer.layout.rows else Display(())
        return Assign(step.name, call("tl.full", shape, identity, tl(step.dtype)))
    return Assign(f"{step.name}_lanes", call("tl.full", writer.tile_shape(arg.extent), identity, tl(arg.dtype)))


def _running_statements(writer: Writer, step: Step) -> list[Statement]:
    """How a reduction along the row takes in one more block of columns."""
    if step.name in writer.online:
        return _rescaled(writer, step)
    if step.name in writer.running:
        return []  # the maximum moves together with the sum beside it
    return [taken_in(step.op, f"{step.name}_lanes", writer.reduced_value(step))]


def _rescaled(writer: Writer, total_step: Step) -> list[Statement]:
    """A sum of eˣ⁻ᵐ beside the running maximum m: what it holds is rescaled whenever m grows."""
    largest = writer.steps[writer.online[total_step.name]]
    name, before, sum_so_far = Name(largest.name), Name(f"{largest.name}_before"), Name(total_step.name)
    candidates, terms = Name(f"{name}_candidates"), Name(f"{sum_so_far}_terms")
    axis = largest.attrs["axis"]
    highest = reduced("max", candidates, axis, largest.dtype)
    has_none: Expression = candidates.equals(identity_of("max", largest.dtype))
    exponentials = call("tl.exp", candidates - name)
    rescaled = sum_so_far * call("rescale", before, name)
    return [
        Assign(candidates.name, writer.reduced_value(largest)),
        Assign(before.name, name),
        Assign(name.name, combined("max", before, highest)),
        # Where there is nothing but −∞ so far, −∞ − (−∞) is no number.
        Assign(terms.name, call("tl.where", has_none, 0.0, exponentials)),
        Assign(sum_so_far.name, rescaled + reduced("sum", terms, axis, total_step.dtype)),
    ]
