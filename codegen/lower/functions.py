"""The functions of a launch: what each is for, and how it goes over its tiles. What differs between them, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

from ..support.expressions import Expression, Name, call
from ..support.statements import Assign


@dataclass(frozen=True)
class Purpose:
    """What a tile program is for.

    `about` is the docstring of its function, with `{}` for what it computes. `is_launched`: a grid of programs runs it;
    others are called by the function that is. `cuts_axes`: its axes may be cut into rows and columns as suits it.
    `adds_groups`: the partial sums that it adds up are those of groups of programs, where they have columns.
    """

    about: str
    is_launched: bool = False
    cuts_axes: bool = True
    adds_groups: bool = False


LAUNCHED = Purpose("{}.", is_launched=True)
"""The kernel of a launch."""


GROUP_MEMBER = Purpose("{}.")
"""One of several kernels in one launch, called for each of its tiles."""


LAST_BLOCK = Purpose("Finalizes {}.", adds_groups=True)
"""Finalizes sums, in the last program of a launch."""


ONCE = Purpose("{}, once for all programs.")
"""Numbers of no sum, in one program of a launch."""


REPLICATED_SUM = Purpose("A reduction of {} that is replicated: every program computes it.")
"""A replicated sum: every program computes it."""


MATMUL_OPERAND = Purpose("{}, of a block that is multiplied.", cuts_axes=False)
"""An operand of a matrix product, computed for the rows and columns of a block."""


PROGRAM, PROGRAMS = Name("program"), Name("programs")


def program_id(axis: int) -> Expression:
    """The number of the running program along an axis of the grid."""
    return call("tl.program_id", axis)


@dataclass(frozen=True)
class Traversal:
    """One way to go over the tiles of a kernel.

    `arguments` are what the function takes to find its tile, `setup` the lines that it begins with. `tile_row` and
    `tile_col` are the numbers of the tile among those below and beside each other; the former is None where there is
    only one. `tile` is its number among all, where programs that share its sum are counted. `over` gives the tiles of
    one program, out of how many there are, where it takes several; `grid` the number of programs along the rows, out
    of how many rows and tiles there are, where the function is launched.

    `is_given`: rows and columns are arguments themselves. `is_one_row`: the tile is one row, so its lanes are columns.
    `is_persistent`: a number of programs that is given at the launch shares all tiles.

    `carries_tiles`: of sums over rows each place of the tile has one of its own until all tiles are done. They are
    summed once then, where threads would have to wait for each other at every tile.

    `filled_for` are the reductions whose identity a load may have in lanes outside, the first that applies.
    `names_offsets`: an offset that is written more than once gets a name.

    Where sums over rows leave partial sums, `place` is the number of the one that a program leaves, `programs` how many
    programs there are, and `partials` how many partial sums: as many as rows, if it is None.
    """

    arguments: tuple[str, ...] = ()
    setup: tuple[Assign, ...] = ()
    tile_row: Expression | None = None
    tile_col: Expression = program_id(1)
    tile: Expression | None = None
    over: Callable[[Expression], Expression] | None = None
    grid: Callable[[Expression, Expression], Expression] | None = None
    is_given: bool = False
    is_one_row: bool = False
    is_persistent: bool = False
    carries_tiles: bool = False
    filled_for: tuple[str, ...] = ("sum",)
    names_offsets: bool = True
    place: Name = PROGRAM
    programs: Expression = PROGRAMS
    partials: Expression | None = PROGRAMS


def _prefetched(stages: int, tiles: Expression) -> Expression:
    if stages == 1:
        return call("range", PROGRAM, tiles, PROGRAMS)
    return call("tl.range", PROGRAM, tiles, PROGRAMS, num_stages=stages)


TILE_PER_PROGRAM = Traversal(tile_row=program_id(0), grid=lambda rows, tiles: tiles)
"""Each program has one tile."""


def with_named_program(traversal: Traversal) -> Traversal:
    """The same for a function that asks once more which of the programs it is."""
    return replace(traversal, setup=(Assign("program", program_id(0)), *traversal.setup), tile_row=PROGRAM)


PERSISTENT = Traversal(
    setup=(Assign("program", program_id(0)),),
    tile_row=Name("tile"),
    over=lambda tiles: call("range", PROGRAM, tiles, PROGRAMS),
    grid=lambda rows, tiles: PROGRAMS,
    is_persistent=True,
)
"""A fixed number of programs shares the tiles, so that few partial sums are left."""


PREFETCHED: Mapping[int, Traversal] = {
    stages: replace(PERSISTENT, over=partial(_prefetched, stages), carries_tiles=True) for stages in (1, 2, 3)
}
"""The same on a GPU, by the number of tiles that are on chip: while one is computed the next ones are on their way."""


ALL_TILES = Traversal(tile_row=Name("tile"), over=lambda tiles: call("range", tiles))
"""One program goes over all tiles."""


ONLY_TILE = Traversal()
"""There is one tile."""


GIVEN_BLOCK = Traversal(arguments=("row", "col"), is_given=True)
"""The caller says which rows and columns."""


@cache
def row_per_program(may_be_empty: bool) -> Traversal:
    """Each program has one row, which it holds whole: lanes are its columns, and each offset begins with where it
    does. A launch of no rows has one program."""
    return Traversal(
        tile_row=program_id(0),
        grid=lambda rows, tiles: call("max", rows, 1) if may_be_empty else rows,
        is_one_row=True,
        filled_for=("max", "sum"),
        names_offsets=False,
        place=Name("row"),
        programs=call("tl.num_programs", 0),
        partials=None,
    )


@cache
def split_k(tiles_cols: bool) -> Traversal:
    """Several programs share the sum of each tile of a matrix product."""
    row, col = Name("tile_row"), Name("tile_col")
    cols = (Assign("tile_col", program_id(1)),) if tiles_cols else ()
    parts = (Assign("part", program_id(2)), Assign("parts", call("tl.num_programs", 2)))
    return Traversal(
        setup=(Assign("tile_row", program_id(0)), *cols, *parts),
        tile_row=row,
        tile_col=col,
        tile=row * call("tl.num_programs", 1) + col if tiles_cols else row,
        grid=lambda rows, tiles: tiles,
    )


@cache
def numbered_tile(across: int, splits_k: bool) -> Traversal:
    """The caller says which tile by one number, of tiles that lie `across` beside each other, or below (0)."""
    tile = Name("tile")
    setup = (Assign("tile_row", tile // across), Assign("tile_col", tile % across)) if across else ()
    return Traversal(
        arguments=("tile", "part", "parts") if splits_k else ("tile",),
        setup=setup,
        tile_row=Name("tile_row") if across else tile,
        tile_col=Name("tile_col"),
        tile=tile,
    )
