"""The combiners of reductions and scans: the operations of their region, and what leaves a number as it is."""

from __future__ import annotations

import math

from ..errors import Uncovered
from ..llvm.elementwise import bits_of, compute, is_elementwise
from ..llvm.writer import literal, splat
from ..ttir.ttir import Op, Value
from .lowering import Lowering

_FLOAT_IDENTITY = {
    "arith.addf": -0.0, "arith.mulf": 1.0, "arith.maxnumf": math.nan, "arith.minnumf": math.nan,
    "arith.maximumf": -math.inf, "arith.minimumf": math.inf,
}  # fmt: skip


def _integer_identity(name: str, bits: int) -> int | None:
    return {
        "arith.addi": 0, "arith.ori": 0, "arith.xori": 0, "arith.muli": 1, "arith.andi": -1,
        "arith.maxsi": -(1 << bits - 1), "arith.minsi": (1 << bits - 1) - 1, "arith.maxui": 0, "arith.minui": -1,
    }.get(name)  # fmt: skip


def identity(op: Op) -> str | None:
    """What a reduction starts from, where its combiner is one operation that has such a number."""
    region = op.regions[0].ops
    if len(region) != 2 or len(op.operands) != 1:
        return None
    elem = op.operands[0].type.elem
    if op.operands[0].type.is_float:
        number = _FLOAT_IDENTITY.get(region[0].name)
        return None if number is None else literal(number, elem)
    whole = _integer_identity(region[0].name, bits_of(elem))
    return None if whole is None else literal(whole, elem)


def combine(low: Lowering, op: Op, left: list[str], right: list[str], width: int) -> list[str]:
    """The combiner applied to registers of `width` lanes (0: scalars), those of earlier elements first."""
    region = op.regions[0]
    known = dict(zip(region.args, left + right, strict=True))

    def register(value: Value) -> str:
        if value in known:
            return known[value]
        outer = low.scalar(value)
        return low.w.broadcast(outer, value.type.elem, width) if width else outer

    for inner in region.ops:
        if inner.name in ("tt.reduce.return", "tt.scan.return"):
            return [register(value) for value in inner.operands]
        if inner.name == "arith.constant":
            known[inner.result] = splat(
                literal(inner.attrs["value"], inner.result.type.elem), inner.result.type.elem, width
            )
        elif is_elementwise(inner.name) and not inner.regions:
            known[inner.result] = compute(low.w, inner, [register(value) for value in inner.operands], width)
        else:
            raise Uncovered(f"{inner.name} in the combiner of {op.name}", inner.line)
    raise Uncovered(f"a combiner of {op.name} that returns nothing", op.line)
