"""Sums over all rows: what programs add up and leave, and how what they left is added up."""

from __future__ import annotations

from ..fusion.last_block import GROUP
from ..lower.tile_ir import COL, ROW, SCALAR, Step
from ..support.expressions import Display, Expression, Name, both, call, number, product, total
from ..support.facets import Axis, reduced
from ..support.sizes import static_size
from ..support.statements import BLANK, Assign, Comment, Evaluate, For, Statement, marked
from .ops import load, store, tl
from .steps import taken_in
from .writer import Writer


def accumulator_statements(writer: Writer) -> list[Statement]:
    """What sums start from, before the loop over tiles."""
    lines: list[Statement] = []
    for step in writer.kernel.steps:
        if step.op == "accumulate":
            shape = Display(()) if step.extent == SCALAR else writer.tile_shape(COL)
            start = call("tl.full", shape, step.attrs["identity"], tl(step.dtype))
            lines.append(Assign(step.name, start, origins=step.origin))
    return lines


def partial_statements(writer: Writer) -> list[Statement]:
    """What a program leaves of each sum."""
    accumulated = [s for s in writer.kernel.steps if s.op == "accumulate"]
    traversal, index = writer.layout.traversal, writer.index
    partial_row = index.partial_row(traversal.place, index.col_bound(), writer.layout.col_shape)
    lines: list[Statement] = []
    if len([s for s in accumulated if s.extent != SCALAR]) > 1:
        lines.append(Assign("partial_row", partial_row))
        partial_row = Name("partial_row")
    for step in accumulated:
        value: Expression = Name(step.name)
        mask = None
        place: Expression = traversal.place
        if step.extent != SCALAR:
            # In the order of the sum's own axes, which the kernel's columns may have in another.
            place = total(partial_row, index.offset(step.attrs["address"]))
            mask = index.mask(COL)
        elif not writer.layout.loops_tiles:
            # Where no loop adds up, what a program leaves is what the sum is taken of.
            value, mask = writer.value(step.args[0]), index.mask(ROW)
        left = store(total(Name(step.attrs["pointer"]), place), value, mask=mask)
        lines.append(Evaluate(left, origins=writer.origins(step)))
    return lines


def finalize_statements(writer: Writer) -> list[Statement]:
    """Add up what each program left, in the order of the programs; or what each group of them did."""
    steps = [s for s in writer.kernel.steps if s.op == "finalize"]
    has_rows = bool(writer.layout.rows)
    apart = GROUP if writer.layout.purpose.adds_groups and has_rows else 1
    left = f"group of {GROUP}" if apart > 1 else "program"
    program, programs, first = map(Name, ("program", "programs", "first"))
    shape = Display((Name("BLOCK"),) if has_rows else ())
    lanes: Expression = call("tl.arange", 0, Name("PROGRAMS"))
    lanes = lanes.subscript(":, None") if has_rows else lanes
    body: list[Statement] = [Assign("program", first + product(lanes, apart))]
    mask: Expression | None = program < programs
    places: dict[str, Expression] = dict.fromkeys((s.name for s in steps), program)
    if has_rows:
        tile_mask = writer.index.mask(ROW)
        mask = both(mask, tile_mask.subscript("None, :") if tile_mask else None)
        lines, places = _places(writer, steps)
        body += lines
    if len(steps) > 1:
        assert mask is not None
        body.append(Assign("in_programs", mask))
        mask = Name("in_programs")
    for s in steps:
        loaded = load(total(Name(s.attrs["pointer"]), places[s.name]), mask=mask, other=s.attrs["identity"])
        op = s.attrs["reduction"]
        body += marked([taken_in(op, s.name, reduced(op, loaded, Axis(0), s.dtype))], s.origin)
    return [
        BLANK,
        Comment(f"Sums over all rows: add up what each {left} left, always in the same order."),
        *(Assign(s.name, call("tl.full", shape, s.attrs["identity"], tl(s.dtype)), origins=s.origin) for s in steps),
        For("first", call("range", 0, programs, product(Name("PROGRAMS"), apart)), tuple(body)),
        BLANK,
    ]


def _places(writer: Writer, steps: list[Step]) -> tuple[list[Statement], dict[str, Expression]]:
    """Where programs left each of their rows of partial sums, and what must be computed before."""
    size = static_size(writer.layout.row_shape)
    stride = number(size) if size is not None else writer.index.row_bound()
    partial_row = writer.index.partial_row(Name("program"), stride, writer.layout.row_shape)
    cells = {s.name: writer.index.offset(s.attrs["address"]).subscript("None, :") for s in steps}
    lines: list[Statement] = []
    if len(set(cells.values())) > 1:
        lines.append(Assign("partial_row", partial_row))
        partial_row = Name("partial_row")
    shared = cells[steps[0].name]
    lines.append(Assign("partial_cell", partial_row + shared))
    return lines, {n: Name("partial_cell") if cell == shared else partial_row + cell for n, cell in cells.items()}
