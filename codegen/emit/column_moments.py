"""Moments of columns: what a program gathers of the rows of its tiles, and leaves; and the sums that follow from what
all of them left, once the mean of all rows is known.

Of each column a program leaves, beside the sum of its rows, how far their mean is from that sum over their number, and
Σ (x − mean)²; and once for all how many rows it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..lower.tile_ir import COL, ROW, TILE, Step
from ..support.expressions import Expression, Name, call, number, total
from ..support.statements import Assign, CallFunction, Evaluate, Statement, marked
from .ops import load, store, tl
from .writer import Writer, moment_names


def start_statements(writer: Writer, step: Step) -> Iterator[Statement]:
    """What the moments of each place of a tile start from."""
    _, *lanes = moment_names(writer.steps[step.args[0]])
    for lane in lanes:
        yield Assign(lane.name, call("tl.full", writer.tile_shape(TILE), 0.0, tl(step.dtype)), origins=step.origin)


def tile_statements(writer: Writer, step: Step) -> list[Statement]:
    """How the moments of each place take in one more tile. Those outside see what changes nothing."""
    _, first, mean, squares = moment_names(writer.steps[step.args[0]])
    tile, program, x = Name("tile"), Name("program"), writer.value(step.args[0])
    mask = writer.index.mask_of_reduction(step) if step.attrs.get("masked") else None
    known = x if mask is None else call("tl.where", mask, x, 0.0)
    off = x - first
    seen = off if mask is None else call("tl.where", mask, off, mean)
    taken = Name(f"{step.args[0]}_lanes_seen")
    lines = [
        Assign(first.name, call("tl.where", tile.equals(program), known, first)),
        Assign(taken.name, (tile - program) // Name("programs") + 1),
        Assign(f"{mean}, {squares}", call("add_moment", mean, squares, seen, taken)),
    ]
    return marked(lines, writer.origins(step))


def left_statements(writer: Writer, step: Step, partial_row: Expression) -> list[Statement]:
    """What a program leaves of the moments of its rows."""
    counts, *lanes = moment_names(writer.steps[step.args[0]])
    rows, mean, squares = (Name(f"{step.args[0]}_rows_{what}") for what in ("count", "mean", "squares"))
    index, program, programs = writer.index, Name("program"), Name("programs")
    lane = call("tl.arange", 0, Name(index.row_block_name())).subscript(":, None")
    tiles = call("tl.cdiv", index.row_bound() - lane, Name(index.row_block_name()))
    place = total(partial_row, index.offset(step.attrs["address"]))
    is_first = call("tl.program_id", 1).equals(0) if writer.layout.tiles_cols else None
    lines = [
        Assign(counts.name, call("tl.cdiv", call("tl.maximum", tiles - program, 0), programs)),
        Assign(f"{rows}, {mean}, {squares}", call("moments_of_lanes", Name(step.args[1]), *lanes, counts)),
        Evaluate(store(total(Name(step.attrs["means"]), place), mean, mask=index.mask(COL))),
        Evaluate(store(total(Name(step.attrs["squares"]), place), squares, mask=index.mask(COL))),
        Evaluate(store(Name(step.attrs["rows"]) + program, rows, mask=is_first)),
    ]
    return marked(lines, step.origin)


def group_call(step: Step, columns: int, block: int, group: int) -> CallFunction:
    """The call that puts together what the programs of a group left."""
    left = (Name(step.attrs[what]) for what in ("totals", "means", "squares", "rows"))
    called = call("add_up_moments", *left, Name("first"), Name("members"), COLS=columns, BLOCK=block, GROUP=group)
    return CallFunction(called, origins=step.origin)


def taken_in(
    writer: Writer,
    steps: Sequence[Step],
    places: Mapping[str, Expression],
    of_lanes: Callable[[str, Step, Expression], Expression],
    across: str,
) -> Iterator[Statement]:
    """Loads of the moments that programs left at `places`, taken in by the sums that follow from them. `across` are the
    axes of a tile along which its columns lie, if it has two."""
    program, is_program, columns = Name("program"), Name("in_programs"), writer.index.mask(ROW)
    mask = is_program
    yield Assign(is_program.name, program < Name("programs"))
    if columns is not None:
        mask = Name("inside")
        yield Assign(mask.name, is_program & (columns.subscript(across) if across else columns))
    known: set[str] = set()
    for step in steps:
        totals, means, squares, pointer = (Name(step.attrs[what]) for what in ("totals", "means", "squares", "rows"))
        place = places[step.name]
        rows = Name(pointer.name.removesuffix("_ptr"))
        mean, off, power = (Name(f"{rows}_{what}") for what in ("mean", "off", "squares"))
        if pointer.name not in known:
            known.add(pointer.name)
            about = writer.tensor(step.args[0])
            about = about.subscript(across) if across else about
            left = load(total(totals, place), mask=mask, other=number(0.0))
            rest = load(total(means, place), mask=mask, other=number(0.0))
            lines = [
                Assign(rows.name, load(total(pointer, program), mask=is_program, other=number(0))),
                Assign(mean.name, left / call("tl.maximum", rows, 1)),
                Assign(off.name, mean - about + rest),
                # A program that had no rows has left no mean.
                Assign(off.name, call("tl.where", rows > 0, off, 0.0)),
            ]
            yield from marked(lines, step.origin)
        taken = rows * off
        if step.attrs["power"] == 2:
            left = load(total(squares, place), mask=mask, other=number(0.0))
            yield from marked([Assign(power.name, left)], step.origin)
            taken = call("squares_about", power, rows, off)
        yield from marked([Assign(step.name, of_lanes("sum", step, taken), "+=")], step.origin)
