"""How functions go over the tiles of a kernel, and how they find each: what differs between them, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traversal:
    """One way to go over the tiles of a kernel.

    `arguments` are what the function takes to find its tile, `setup` the lines that it begins with. `tile_row` and
    `tile_col` are the numbers of the tile among those below and beside each other; the former is empty where there is
    only one. `tile` is its number among all, where programs that share its sum are counted. `loop` is the head of the
    loop over tiles, where one program takes several; `grid` the number of programs along the rows, where the function
    is launched. In both `{rows}` stands for the number of rows, `{block}` for that of a tile's.

    `is_given`: rows and columns are arguments themselves. `is_one_row`: the tile is one row, so its lanes are columns.
    `is_persistent`: a number of programs that is given at the launch shares all tiles.

    `filled_for` are the reductions whose identity a load may have in lanes outside, the first that applies.
    `names_offsets`: an offset that is written more than once gets a name.

    Where sums over rows leave partial sums, `place` is the number of the one that a program leaves, `programs` how many
    programs there are, and `partials` how many partial sums.
    """

    arguments: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    tile_row: str = ""
    tile_col: str = "tl.program_id(1)"
    tile: str = ""
    loop: str = ""
    grid: str = ""
    is_given: bool = False
    is_one_row: bool = False
    is_persistent: bool = False
    filled_for: tuple[str, ...] = ("sum",)
    names_offsets: bool = True
    place: str = "program"
    programs: str = "programs"
    partials: str = "programs"


TILE_PER_PROGRAM = Traversal(tile_row="tl.program_id(0)", grid="triton.cdiv({rows}, {block})")
"""Each program has one tile."""


PERSISTENT = Traversal(
    setup=("program = tl.program_id(0)",),
    tile_row="tile",
    loop="for tile in range(program, tl.cdiv({rows}, {block}), programs):",
    grid="programs",
    is_persistent=True,
)
"""A fixed number of programs shares the tiles, so that few partial sums are left."""


ALL_TILES = Traversal(tile_row="tile", loop="for tile in range(tl.cdiv({rows}, {block})):")
"""One program goes over all tiles."""


ONLY_TILE = Traversal()
"""There is one tile."""


GIVEN_BLOCK = Traversal(arguments=("row", "col"), is_given=True)
"""The caller says which rows and columns."""


def row_per_program(may_be_empty: bool) -> Traversal:
    """Each program has one row, which it holds whole: lanes are its columns, and each offset begins with where it
    does. A launch of no rows has one program."""
    return Traversal(
        tile_row="tl.program_id(0)",
        grid="max({rows}, 1)" if may_be_empty else "{rows}",
        is_one_row=True,
        filled_for=("max", "sum"),
        names_offsets=False,
        place="row",
        programs="tl.num_programs(0)",
        partials="{rows}",
    )


def split_k(tiles_cols: bool) -> Traversal:
    """Several programs share the sum of each tile of a matrix product."""
    cols = ("tile_col = tl.program_id(1)",) if tiles_cols else ()
    parts = ("part = tl.program_id(2)", "parts = tl.num_programs(2)")
    return Traversal(
        setup=("tile_row = tl.program_id(0)", *cols, *parts),
        tile_row="tile_row",
        tile_col="tile_col",
        tile="tile_row * tl.num_programs(1) + tile_col" if tiles_cols else "tile_row",
        grid="triton.cdiv({rows}, {block})",
    )


def numbered_tile(across: int, splits_k: bool) -> Traversal:
    """The caller says which tile by one number, of tiles that lie `across` beside each other, or below (0)."""
    return Traversal(
        arguments=("tile", "part", "parts") if splits_k else ("tile",),
        setup=(f"tile_row = tile // {across}", f"tile_col = tile % {across}") if across else (),
        tile_row="tile_row" if across else "tile",
        tile_col="tile_col",
        tile="tile",
    )
