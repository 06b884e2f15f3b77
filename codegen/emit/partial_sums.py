"""Sums over all rows: what programs add up and leave, and how what they left is added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..fusion.last_block import GROUP
from ..lower.tile_ir import COL, ROW, SCALAR, Step
from ..support.expressions import Display, Expression, Name, both, call, number, product, total
from ..support.facets import Axis, reduced
from ..support.sizes import static_size
from ..support.statements import BLANK, Assign, Comment, Evaluate, For, Statement, marked
from . import column_moments
from .ops import load, store, tl
from .steps import taken_in
from .writer import Writer


def accumulator_statements(writer: Writer) -> list[Statement]:
    """What sums start from, before the loop over tiles."""
    lines: list[Statement] = []
    for step in writer.kernel.steps:
        if step.op == "accumulate":
            shape = Display(()) if step.extent == SCALAR else writer.tile_shape(COL)
            if writer.carries(step):
                shape = writer.tile_shape(writer.steps[step.args[0]].extent)
            start = call("tl.full", shape, step.attrs["identity"], tl(step.dtype))
            lines.append(Assign(step.name, start, origins=step.origin))
        elif step.op == "moments":
            lines += column_moments.start_statements(writer, step)
    return lines


def partial_statements(writer: Writer) -> list[Statement]:
    """What a program leaves of each sum."""
    accumulated = [s for s in writer.kernel.steps if s.op == "accumulate"]
    traversal, index = writer.layout.traversal, writer.index
    partial_row = index.partial_row(traversal.place, index.col_bound(), writer.layout.col_shape)
    lines: list[Statement] = []
    for step in filter(writer.carries, accumulated):
        summed = reduced(step.attrs["reduction"], Name(step.name), step.attrs["axis"], step.dtype)
        lines.append(Assign(step.name, summed, origins=writer.origins(step)))
    gathered = [s for s in writer.kernel.steps if s.op == "moments"]
    if gathered or len([s for s in accumulated if s.extent != SCALAR]) > 1:
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
    return [*lines, *(line for s in gathered for line in column_moments.left_statements(writer, s, partial_row))]


def finalize_statements(writer: Writer) -> list[Statement]:
    """Add up what each program left, in the order of the programs; or what each group of them did."""
    steps = [s for s in writer.kernel.steps if s.op == "finalize"]
    return _added(writer, steps, "Sums over all rows: add up what each {}")


def deviation_statements(writer: Writer) -> list[Statement]:
    """Add up how far the moments that programs left are from the mean of all rows, which is known by then."""
    steps = [s for s in writer.kernel.steps if s.op == "deviations"]
    return _added(writer, steps, "How far from that mean rows are: add up what follows of the moments that each {}")


def _added(writer: Writer, steps: list[Step], what: str) -> list[Statement]:
    """Add up what each program or group left, with a comment that says what it is."""
    if not steps:
        return []
    added = _groups_added if writer.layout.adds_groups else _programs_added
    left = f"group of {GROUP}" if writer.layout.adds_groups else "program"
    said = f"{what.format(left)} left, always in the same order."
    return [BLANK, Comment(said), *added(writer, steps), BLANK]


def _groups_added(writer: Writer, steps: list[Step]) -> list[Statement]:
    """One group after the other. A thread adds up columns of its own: its loads do not wait for each other, and it
    needs nothing of other threads."""
    first, program, programs = map(Name, ("first", "program", "programs"))
    lines, places = _places(writer, steps)
    mask = both(program < programs, writer.index.mask(ROW))
    at_once = product(Name("PROGRAMS"), GROUP)
    # Triton unrolls the loop on a GPU; as machine code of a CPU it stays one.
    unrolled: Expression = Name("PROGRAMS")
    if steps[0].op == "deviations":
        unrolled = unrolled // 2  # more numbers of each group
    groups = call("tl.range", 0, at_once, GROUP, loop_unroll_factor=unrolled)
    taken = _taken_in(writer, steps, places, mask, lambda op, s, x: x)
    inside = For("member", groups, (Assign("program", first + Name("member")), *lines, *taken))
    return [*_identities(steps, Display((Name("BLOCK"),))), _over(steps, at_once, (inside,))]


def _programs_added(writer: Writer, steps: list[Step]) -> list[Statement]:
    """Many programs at once, each a row of a tile."""
    program, programs, first = map(Name, ("program", "programs", "first"))
    has_rows = bool(writer.layout.rows)
    lanes: Expression = call("tl.arange", 0, Name("PROGRAMS"))
    lanes = lanes.subscript(":, None") if has_rows else lanes
    lines, places = _places(writer, steps, "None, :") if has_rows else ([], {s.name: program for s in steps})
    tile_mask = writer.index.mask(ROW) if has_rows else None
    mask = both(program < programs, tile_mask.subscript("None, :") if tile_mask else None)
    taken = _taken_in(writer, steps, places, mask, lambda op, s, x: reduced(op, x, Axis(0), s.dtype), "None, :")
    body = (Assign("program", first + lanes), *lines, *taken)
    shape = Display((Name("BLOCK"),) if has_rows else ())
    return [*_identities(steps, shape), _over(steps, Name("PROGRAMS"), body)]


def _over(steps: list[Step], at_once: Expression, body: tuple[Statement, ...]) -> Statement:
    """The loop over what programs left, so many of them at once."""
    programs, group = Name("programs"), Name("group")
    if steps[0].op == "finalize":
        return For("first", call("range", 0, programs, at_once), body)
    turns = call("range", call("tl.cdiv", programs, at_once))
    return For(group.name, turns, (Assign("first", group * at_once), *body))


def _identities(steps: list[Step], shape: Expression) -> list[Statement]:
    return [Assign(s.name, call("tl.full", shape, s.attrs["identity"], tl(s.dtype)), origins=s.origin) for s in steps]


def _taken_in(
    writer: Writer,
    steps: list[Step],
    places: Mapping[str, Expression],
    mask: Expression | None,
    of_lanes: Callable[[str, Step, Expression], Expression],
    across: str = "",
) -> Iterator[Statement]:
    """Loads of what programs left, taken in by sums. `across` are the axes of a tile along which its columns lie, if it
    has two."""
    if steps[0].op == "deviations":
        yield from column_moments.taken_in(writer, steps, places, of_lanes, across)
        return
    if len(steps) > 1:
        assert mask is not None
        yield Assign("in_programs", mask)
        mask = Name("in_programs")
    for s in steps:
        loaded = load(total(Name(s.attrs["pointer"]), places[s.name]), mask=mask, other=s.attrs["identity"])
        op = s.attrs["reduction"]
        yield from marked([taken_in(op, s.name, of_lanes(op, s, loaded))], s.origin)


def _places(writer: Writer, steps: list[Step], axes: str = "") -> tuple[list[Statement], dict[str, Expression]]:
    """Where programs left each of their rows of partial sums, with columns along these `axes` of a tile if it has two,
    and what must be computed before."""
    size = static_size(writer.layout.row_shape)
    stride = number(size) if size is not None else writer.index.row_bound()
    partial_row = writer.index.partial_row(Name("program"), stride, writer.layout.row_shape)
    offsets = {s.name: writer.index.offset(s.attrs["address"]) for s in steps}
    cells = {n: offset.subscript(axes) if axes else offset for n, offset in offsets.items()}
    lines: list[Statement] = []
    if len(set(cells.values())) > 1:
        lines.append(Assign("partial_row", partial_row))
        partial_row = Name("partial_row")
    shared = cells[steps[0].name]
    lines.append(Assign("partial_cell", partial_row + shared))
    return lines, {n: Name("partial_cell") if cell == shared else partial_row + cell for n, cell in cells.items()}
