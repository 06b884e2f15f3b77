"""Loops along rows that registers do not hold: each takes reductions block by block, or writes what needs them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from ..lower.row_loops import is_wide, row_loops
from ..lower.tile_ir import COL, ROW, Step
from ..support.expressions import Display, Expression, Name, call
from ..support.facets import combined, identity_of, reduced
from ..support.statements import BLANK, Assign, For, Statement, marked
from .ops import tl
from .steps import statements, store_statements, taken_in
from .writer import Writer, moment_names


def row_loop_statements(writer: Writer, known: Sequence[Step]) -> list[Statement]:
    """What a kernel does along its rows, as many times as its reductions depend on each other. The steps that are
    `known` have been computed."""
    found = row_loops(writer.kernel)
    hoisted = {s.name for s in known}
    lines = statements(writer, _named(writer, found.before, hoisted))
    stores = [s for s in writer.kernel.steps if s.op == "store"]
    for loop in found.loops:
        reductions = [s for s in _named(writer, loop.reductions) if s.name not in loop.moments]
        deviating = [writer.steps[name] for name in dict.fromkeys(loop.moments.values())]
        lines += [BLANK, *_of_each(writer, reductions, _running_start)]
        lines += _of_each(writer, deviating, _moments_start)
        body = statements(writer, _named(writer, loop.wide))
        body += _of_each(writer, reductions, _running_statements)
        body += _of_each(writer, deviating, _moments_statements)
        written = store_statements(writer, [s for s in stores if s.args[0] in loop.stored])
        body = [*writer.index.column_lines(body + written), *body, *([BLANK] if written else []), *written]
        lines.append(For("start", _blocks(writer), tuple(body)))
        counts = _of_each(writer, deviating, _lane_counts)
        lines += [BLANK, *counts, *statements(writer, _named(writer, loop.after, writer.running))]
    return [*lines, BLANK, *store_statements(writer, [s for s in stores if not is_wide(s)])]


def _blocks(writer: Writer) -> Expression:
    """Where each block of columns starts."""
    columns = 0, writer.index.col_bound(), Name("BLOCK")
    ahead = writer.layout.blocks_ahead
    return call("tl.range", *columns, num_stages=1 + ahead) if ahead else call("range", *columns)


def _named(writer: Writer, names: Iterable[str], but: Container[str] = ()) -> list[Step]:
    """The steps of these names, without some."""
    return [writer.steps[name] for name in names if name not in but]


def _of_each(
    writer: Writer, steps: Sequence[Step], written: Callable[[Writer, Step], Iterable[Statement]]
) -> list[Statement]:
    """The statements of some steps, as being of them."""
    return [line for step in steps for line in marked(list(written(writer, step)), writer.origins(step))]


def _running_start(writer: Writer, step: Step) -> Iterator[Statement]:
    """What a reduction along the row starts from."""
    (arg,) = (writer.steps[a] for a in step.args)
    identity = identity_of(step.op, arg.dtype)
    if step.name in writer.running:
        shape = writer.tile_shape(ROW) if writer.layout.rows else Display(())
        yield Assign(step.name, call("tl.full", shape, identity, tl(step.dtype)))
        return
    yield Assign(f"{step.name}_lanes", call("tl.full", writer.tile_shape(arg.extent), identity, tl(arg.dtype)))


def _running_statements(writer: Writer, step: Step) -> Iterator[Statement]:
    """How a reduction along the row takes in one more block of columns."""
    if step.name in writer.online and step.name in writer.running:
        yield from _rescaled(writer, step)
    elif step.name in writer.online:
        largest = writer.steps[writer.online[step.name]]
        lanes = Name(f"{largest.name}_lanes"), Name(f"{step.name}_lanes")
        yield Assign(", ".join(map(str, lanes)), call("add_exponential", *lanes, writer.reduced_value(largest)))
    elif step.name not in writer.largest:  # that maximum moves together with the sum beside it
        yield taken_in(step.op, f"{step.name}_lanes", writer.reduced_value(step))


def _rescaled(writer: Writer, total_step: Step) -> Iterator[Statement]:
    """A sum of eˣ⁻ᵐ beside the running maximum m of all lanes: what it holds is rescaled whenever m grows."""
    largest = writer.steps[writer.online[total_step.name]]
    name, before, sum_so_far = Name(largest.name), Name(f"{largest.name}_before"), Name(total_step.name)
    candidates, terms = Name(f"{name}_candidates"), Name(f"{sum_so_far}_terms")
    axis = largest.attrs["axis"]
    has_none = candidates.equals(identity_of("max", largest.dtype))
    yield Assign(candidates.name, writer.reduced_value(largest))
    yield Assign(before.name, name)
    new = reduced("max", candidates, axis, largest.dtype, largest.name in writer.covered)
    yield Assign(name.name, combined("max", before, new))
    # Where there is nothing but −∞ so far, −∞ − (−∞) is no number.
    yield Assign(terms.name, call("tl.where", has_none, 0.0, call("tl.exp", candidates - name)))
    rescaled = sum_so_far * call("rescale", before, name)
    yield Assign(sum_so_far.name, rescaled + reduced("sum", terms, axis, total_step.dtype))


def _moments_start(writer: Writer, step: Step) -> Iterator[Statement]:
    """What the moments of each lane start from."""
    _, *lanes = moment_names(step)
    for lane in lanes:
        yield Assign(lane.name, call("tl.full", writer.tile_shape(step.extent), 0.0, tl(step.dtype)))


def _moments_statements(writer: Writer, step: Step) -> Iterator[Statement]:
    """How the moments of each lane take in one more block of columns."""
    _, first, mean, squares = moment_names(step)
    start, x = Name("start"), writer.value(step.name)
    yield Assign(first.name, call("tl.where", start.equals(0), x, first))
    off = x - first
    mask = writer.index.mask(COL)
    # Lanes outside see their mean once more, which changes nothing.
    seen = off if mask is None else call("tl.where", mask, off, mean)
    count = start // Name("BLOCK") + 1
    yield Assign(f"{mean}, {squares}", call("add_moment", mean, squares, seen, count))


def _lane_counts(writer: Writer, step: Step) -> Iterator[Statement]:
    """How many columns each lane has seen."""
    counts, *_ = moment_names(step)
    yield Assign(counts.name, call("tl.cdiv", writer.index.col_bound() - writer.index.lanes(), Name("BLOCK")))
