"""Passes over parsed IR: products and sums that become one fused multiply-add."""

from __future__ import annotations

from collections.abc import Sequence

from .ttir import Block, Function, Op, Uses, Value

_SUMS = frozenset({"arith.addf", "arith.subf"})


def fuse_multiply_add(function: Function) -> Function:
    """a · b + c as one operation with one rounding, where the product has no other use.

    Decided here and not by LLVM, so that the numbers do not depend on which of several copies of a loop they went
    through. This is what `enable_fp_fusion` does on a GPU, for float32 and float64.
    """
    uses = Uses(function)
    return Function(function.name, tuple(_fused(block, uses) for block in function.blocks))


def _fused(block: Block, uses: Uses) -> Block:
    ops: list[Op] = []
    taken: set[Op] = set()
    for op in block.ops:
        found = _fma(op, block, uses, taken) if op.name in _SUMS and op.result.type.elem in ("f32", "f64") else None
        if found is None:
            regions = op.regions if op.name in ("tt.reduce", "tt.scan") else tuple(_fused(r, uses) for r in op.regions)
            ops.append(Op(op.name, op.operands, op.results, op.attrs, op.words, regions, op.line))
        else:
            ops += found
    dropped = {product.result for product in taken}
    return Block(block.args, tuple(op for op in ops if not dropped.intersection(op.results)), block.label)


def _fma(op: Op, block: Block, uses: Uses, taken: set[Op]) -> Sequence[Op] | None:
    for place in (0, 1):
        product = uses.definition.get(op.operands[place])
        if product is None or product.name != "arith.mulf" or uses.block[product] is not block:
            continue
        if len(uses.of(product.result)) != 1 or product in taken:
            continue
        taken.add(product)
        a, b = product.operands
        c = op.operands[1 - place]
        if op.name == "arith.addf":
            return (Op("math.fma", (a, b, c), op.results, {}, (), (), op.line),)
        negated = Value(c.type if place == 0 else a.type, f"{op.result.name}.negated")
        source, given = (c, (a, b, negated)) if place == 0 else (a, (negated, b, c))
        return (
            Op("arith.negf", (source,), (negated,), {}, (), (), op.line),
            Op("math.fma", given, op.results, {}, (), (), op.line),
        )
    return None
