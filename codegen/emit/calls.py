"""Calls of the functions that a kernel is made of besides its own, those of its last program among them."""

from __future__ import annotations

from tritonnotes.ir.core.types import element_count

from ..fusion.last_block import GROUP
from ..lower.functions import PROGRAM
from ..lower.index_math import Indexing
from ..lower.layout import columns_at_once
from ..lower.tile_ir import SCALAR, CalledKernel
from ..support.expressions import ONE, Call, Expression, Name, call, number, product
from ..support.provenance import united
from ..support.statements import BLANK, Assign, CallFunction, Comment, If, Statement
from ..target.gpus import LANES
from .column_moments import group_call
from .launcher import Launcher
from .writer import Writer


def function_call(writer: Writer, part: CalledKernel, target: str = "") -> CallFunction:
    """The call of a function that another kernel became, and what its result is given to."""
    launcher = Launcher(part.kernel, Indexing(part.kernel), {"COLS"})
    partials = writer.layout.traversal.partials or writer.index.row_bound()
    bound = (partials if name == "programs" else Name(name) for name in launcher.bound_arguments())
    arguments: tuple[Expression, ...] = (*map(Name, part.arguments), *bound)
    keywords = tuple((name, number(size)) for name, size in launcher.constexprs().items())
    origins = united(step.origin for step in part.kernel.steps)
    return CallFunction(Call(Name(part.kernel.name), arguments, keywords), target, origins=origins)


def last_block_statements(writer: Writer) -> list[Statement]:
    """What is left to do once every program is done: the last one to arrive does it. What waits for none of them the
    first does."""
    kernel = writer.kernel
    if not kernel.last_block:
        return []
    calls = tuple(function_call(writer, part) for part in kernel.last_block)
    if not kernel.counts_arrivals:
        return [BLANK, Comment("The first program also does what waits for no other."), If(PROGRAM.equals(0), calls)]
    arrivals = Name("arrivals_ptr")
    others = call("tl.num_programs", 1) if writer.layout.tiles_cols else ONE
    if not any(last.kernel.layout.rows for last in kernel.last_block):
        count = product(writer.layout.traversal.programs, others)
        return [
            BLANK,
            Comment("The last program to arrive finalizes the sums."),
            If(call("arrives_last", arrivals, count), calls),
        ]
    group, first, members, programs = map(Name, ("group", "first", "members", "programs"))
    is_last = call("arrives_last", arrivals, call("tl.cdiv", programs, GROUP))
    return [
        BLANK,
        Comment(f"The last program of each {GROUP} adds their sums up, and the last of these finalizes what is left."),
        Assign("group", Name("program") // GROUP),
        Assign("first", group * GROUP),
        Assign("members", call("tl.minimum", GROUP, programs - first)),
        If(
            call("arrives_last", arrivals + 1 + group, product(members, others)),
            (*_group_sums(writer), If(is_last, calls)),
        ),
    ]


def _group_sums(writer: Writer) -> list[Statement]:
    """The calls that add up what the programs of a group left."""
    threads = LANES * Launcher(writer.kernel, writer.index, set()).num_warps()
    finalized = {name for last in writer.kernel.last_block for name in last.arguments}
    groups: list[Statement] = []
    together = {s.attrs["totals"] for s in writer.kernel.steps if s.op == "moments" and s.attrs["rows"] in finalized}
    for step in writer.kernel.steps:
        if step.op == "moments" and step.attrs["rows"] in finalized:
            columns = element_count(step.attrs["address"].shape, {})
            # More numbers of each column are on their way at once.
            groups.append(group_call(step, columns, columns_at_once(columns, 2 * step.dtype.itemsize, threads), GROUP))
        if step.op == "accumulate" and step.extent != SCALAR and step.attrs["pointer"] in finalized - together:
            columns = element_count(step.attrs["address"].shape, {})
            added = (Name(step.attrs["pointer"]), Name("first"), Name("members"))
            block = columns_at_once(columns, step.dtype.itemsize, threads)
            called = call("add_up_group", *added, COLS=columns, BLOCK=block, GROUP=GROUP)
            groups.append(CallFunction(called, origins=step.origin))
    return groups
