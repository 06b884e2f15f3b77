"""The source of matrix products in the tiles of a kernel: blocks along the sum, and sums that programs share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tritonnotes.ir.core.types import Shape, element_count

from ..analysis.matmul import INNER_BLOCK, is_ragged
from ..lower.index_math import COLUMN, Indexing
from ..lower.tile_ir import ROW, TILE, Kernel, Step
from ..support.expressions import ZERO, Display, Expression, Name, both, call, number, product, total
from ..support.provenance import united
from ..support.sizes import known_size
from ..support.statements import Assign, CallFunction, Comment, Evaluate, For, If, Statement
from .ops import load, store, tl, zeros


def summed_alike(products: Iterable[Step]) -> list[list[Step]]:
    """Products that share a loop, as they sum over the same sizes."""
    alike: dict[Shape, list[Step]] = {}
    for step in products:
        alike.setdefault(step.attrs["summed"], []).append(step)
    return list(alike.values())


class ProductText:
    """Spells the products of one kernel."""

    def __init__(self, kernel: Kernel, index: Indexing) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.index = index
        self.steps = index.steps

    def lines(self, products: Sequence[Step]) -> list[Statement]:
        """Matrix products, summed block by block over the same sizes."""
        summed, inner = products[0].attrs["summed"], products[0].attrs["inner"]
        size = self.index.size_product(summed)
        operands = [self.steps[name] for name in dict.fromkeys(name for step in products for name in step.args)]
        loaded = [line for s in operands for line in self._operand_lines(s, summed, Name(inner))]
        length, block = known_size(summed), Name("INNER")
        lanes = call("tl.arange", 0, block)
        if length is not None and length <= INNER_BLOCK and not self.layout.split_k:
            return [Assign(inner, lanes), *loaded, *(Assign(s.name, _dot(s)) for s in products)]
        start: Expression = Name("start")
        if self._is_wide_sum(summed, operands):
            start = call("tl.cast", start, Name("tl.int64"))
        first: Expression = ZERO
        behind = size
        lines: list[Statement] = [Assign(s.name, _no_sum()) for s in products]
        if self.layout.split_k:
            share = call("tl.cdiv", size, block * Name("parts")) * block
            lines += [Assign("length", share), Assign("first", Name("part") * Name("length"))]
            first, behind = Name("first"), call("tl.minimum", Name("first") + Name("length"), size)
        body = [Assign(inner, start + lanes), *loaded, *(Assign(s.name, _dot(s, Name(s.name))) for s in products)]
        return [*lines, For("start", call("range", first, behind, block), tuple(body))]

    def _is_wide_sum(self, summed: Shape, operands: Sequence[Step]) -> bool:
        """Whether an offset along the summed axis may pass 2**31."""
        strides = [known_size(s.attrs["behind"]) if "behind" in s.attrs else None for s in operands]
        length = known_size(summed)
        if length is None or None in strides:
            return self.index.is_wide
        return length * max(stride for stride in strides if stride is not None) >= 2**31

    def _operand_call(self, step: Step, summed: Shape, inner: Expression) -> list[Statement]:
        """A block of an operand that the kernel computes itself."""
        (part,) = (p for p in self.kernel.operands if p.kernel.name == step.attrs["function"])
        mine = self.index.row() if step.extent == ROW else COLUMN
        places = (inner, mine) if step.attrs["leading"] else (mine, inner)
        block: Expression = Name(step.name)
        if is_ragged(summed):
            block = call("tl.where", inner < self.index.size_product(summed), block, 0.0)
        if step.dtype.itemsize < 4:
            block = block.method("to", tl(step.dtype))
        bound: list[Expression] = []
        if part.kernel.layout.counts_rows:
            ends = self.index.row_bound() if step.extent == ROW else self.index.col_bound()
            bound.append(self.index.size_product(summed) if step.attrs["leading"] else ends)
        origins = united([step.origin, *(s.origin for s in part.kernel.steps)])
        called = call(part.kernel.name, *places, *map(Name, part.arguments), *bound)
        computed = CallFunction(called, step.name, origins=origins)
        return [computed] if block == Name(step.name) else [computed, Assign(step.name, block, origins=step.origin)]

    def shared_lines(self, step: Step, rest: Sequence[Statement]) -> list[Statement]:
        """Programs that share the sum of a tile leave what they have, and the last of them adds it up; `rest` is what
        it does with the sum."""
        pointer, cell = Name(step.attrs["pointer"]), self.index.offset(step.attrs["address"])
        mask = self.index.mask(TILE)
        size = number(element_count(step.attrs["address"].shape, {}))
        tile = self.layout.traversal.tile
        assert tile is not None, "a tile whose sum is shared has a number"
        part, parts, other = map(Name, ("part", "parts", "other"))
        added = load(total(pointer, other * size, cell), mask=mask)
        return [
            Comment(
                "Split-K: the programs of a tile store partial sums, and the last to arrive adds them up, in one order."
            ),
            Evaluate(store(total(pointer, part * size, cell), Name(step.name), mask=mask)),
            If(
                call("arrives_last", total(Name(step.attrs["arrivals"]), tile), parts),
                (
                    Assign(step.name, _no_sum()),
                    For("other", call("range", parts), (Assign(step.name, added, "+="),)),
                    *rest,
                ),
            ),
        ]

    def _operand_lines(self, step: Step, summed: Shape, name: Name) -> list[Statement]:
        """A block of one side of a product, 0 behind its end."""
        inner = name.subscript("None, :" if step.extent == ROW else ":, None")
        if "function" in step.attrs:
            return self._operand_call(step, summed, inner)
        place = product(inner, self.index.size_product(step.attrs["behind"]))
        mask = both(
            self.index.mask(step.extent), inner < self.index.size_product(summed) if is_ragged(summed) else None
        )
        offset = self.index.offset(step.attrs["address"])
        loaded = load(total(Name(step.attrs["pointer"]), offset, place), mask=mask, other=number(0.0) if mask else None)
        return [Assign(step.name, loaded, origins=step.origin)]


def _dot(step: Step, *sum_so_far: Expression) -> Expression:
    return call("tl.dot", *map(Name, step.args), *sum_so_far, input_precision=Name("PRECISION"))


def _no_sum() -> Expression:
    return zeros(Display((Name("ROWS"), Name("BLOCK"))), Name("tl.float32"))
