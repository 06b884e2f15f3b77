"""What kernels over many tensors are written with: the function of a block, its two calls, and the choice of one."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.codegen.emit.foreach import (
    BlockFunction,
    Pointer,
    access_width,
    branches,
    by_kind,
    listed_block,
)
from tritonnotes.codegen.emit.ops import load
from tritonnotes.codegen.support.expressions import Name
from tritonnotes.codegen.support.statements import BLANK, Assign, Line, Statement, written
from tritonnotes.codegen.support.tables import Table
from tritonnotes.ir.core.types import float32

TABLE = Table(("size", "aligned", "kind"))
DOUBLED = BlockFunction(
    "doubled",
    "One block, doubled.",
    (Pointer("p_ptr", TABLE.addresses, float32),),
    ("factor_ptr",),
    (Assign("factor", load(Name("factor_ptr"))),),
    (BLANK, Line("tl.store(p_ptr + offset, factor * tl.load(p_ptr + offset, mask=mask), mask=mask)")),
)


def lines(statements: Iterable[Statement]) -> list[str]:
    return [line for line, _ in written(statements)]


def test_a_function_of_a_block_finds_its_tensors_by_the_row() -> None:
    assert (
        DOUBLED.function.text
        == '''\
@triton.jit
def doubled(row_ptr, factor_ptr, start, inside, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    """One block, doubled."""
    p_ptr = address(row_ptr + 3, start, tl.float32, ALIGN)
    factor = tl.load(factor_ptr)
    offset = tl.arange(0, BLOCK)
    mask = offset < inside // ALIGN * ALIGN

    tl.store(p_ptr + offset, factor * tl.load(p_ptr + offset, mask=mask), mask=mask)
'''
    )


def test_a_block_is_called_once_for_each_alignment() -> None:
    assert lines(DOUBLED.calls(["factor_ptr"], "total")) == [
        "if is_wide:",
        "    total = doubled(row_ptr, factor_ptr, start, inside, BLOCK, ALIGN=16)",
        "else:",
        "    total = doubled(row_ptr, factor_ptr, start, inside, BLOCK, ALIGN=1)",
    ]


def test_one_body_needs_no_choice_and_the_last_of_several_no_condition() -> None:
    x, y, z = ((Line(name),) for name in "xyz")
    a, b, c = map(Name, "abc")
    assert lines(branches([a], [x])) == ["x"]
    assert lines(branches([a, b, c], [x, y, z])) == ["if a:", "    x", "elif b:", "    y", "else:", "    z"]
    assert lines(by_kind(TABLE, [x])) == ["x"]
    assert lines(by_kind(TABLE, [x, y]))[:2] == ["kind = tl.load(row_ptr + 2)", "if kind == 0:"]


def test_lines_name_the_columns_of_the_table() -> None:
    assert lines([access_width(TABLE)]) == ["is_wide = (tl.load(row_ptr + 1) != 0) & (inside % 16 == 0)"]
    found = lines(listed_block("table_ptr", TABLE.width(2)))
    assert found[1] == "row_ptr = table_ptr + tl.load(blocks_ptr + 2 * program) * 5"
