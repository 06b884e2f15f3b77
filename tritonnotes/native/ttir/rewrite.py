"""Passes over parsed IR: tiles that a loop steps uniformly; products and sums that become one operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .ttir import Block, Function, Op, Type, Uses, Value

_STEPS = {"tt.addptr": "i64", "arith.addi": ""}
"""Operations that step a tile, and the type to count steps in; that of the tile where there is none."""


def count_steps(function: Function) -> Function:
    """`pointers += STEP` in a loop carries a whole tile. Carries how far it has come instead, a scalar: the tile is
    then its start plus that, computed where it is used, and accesses through it stay contiguous."""
    uses = Uses(function)
    return Function(function.name, tuple(_counted(block, uses) for block in function.blocks))


def _counted(block: Block, uses: Uses) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        inner = op if not op.regions else _with_regions(op, tuple(_counted(region, uses) for region in op.regions))
        ops += _counted_loop(inner, uses) if op.name == "scf.for" else [inner]
    return Block(block.args, tuple(ops), block.label)


def _with_regions(op: Op, regions: tuple[Block, ...]) -> Op:
    return Op(op.name, op.operands, op.results, op.attrs, op.words, regions, op.line)


def _uniform_step(arg: Value, yielded: Value, uses: Uses) -> Value | int | None:
    """The scalar, or the constant, by which a loop steps all of a tile."""
    op = uses.definition.get(yielded)
    if op is None or op.name not in _STEPS or not arg.type.is_tile:
        return None
    others = [operand for operand in op.operands if operand is not arg]
    if len(others) != 1:
        return None
    step = uses.definition.get(others[0])
    if step is None or (op.name == "tt.addptr" and op.operands[0] is not arg):
        return None
    if step.name == "arith.constant":
        return int(step.attrs["value"])
    return step.operands[0] if step.name == "tt.splat" else None


def _counted_loop(op: Op, uses: Uses) -> list[Op]:
    body = op.regions[0]
    end = body.terminator
    if end is None or end.name != "scf.yield":
        return [op]
    before: list[Op] = []
    first: list[Op] = []
    last: list[Op] = []
    after: list[Op] = []
    operands, args, yielded, results = list(op.operands), list(body.args), list(end.operands), list(op.results)
    for number, start in enumerate(op.operands[3:]):
        arg, result = body.args[number + 1], op.results[number]
        step = _uniform_step(arg, end.operands[number], uses)
        if step is None:
            continue
        step_op = uses.definition[end.operands[number]].name
        count = Type(_STEPS[step_op] or arg.type.elem)
        zero, far, further, total = (Value(count, f"{arg.name}.{what}") for what in ("zero", "far", "further", "total"))
        before.append(Op("arith.constant", (), (zero,), {"value": 0}, (), (), op.line))
        for into, scalar, tile in ((first, far, arg), (after, total, result)):
            wide = Value(Type(count.elem, arg.type.shape), f"{scalar.name}.tile")
            into.append(Op("tt.splat", (scalar,), (wide,), {}, (), (), op.line))
            into.append(Op(step_op, (start, wide), (tile,), {}, (), (), op.line))
        amount = Value(count, f"{arg.name}.step")
        if isinstance(step, int):
            last.append(Op("arith.constant", (), (amount,), {"value": step}, (), (), op.line))
        elif step.type.elem == count.elem:
            amount = step
        else:
            last.append(Op("arith.extsi", (step,), (amount,), {}, (), (), op.line))
        last.append(Op("arith.addi", (far, amount), (further,), {}, (), (), op.line))
        operands[3 + number], args[number + 1], yielded[number], results[number] = zero, far, further, total
    if not before:
        return [op]
    whole = Op(end.name, tuple(yielded), (), end.attrs, end.words, (), end.line)
    inside = Block(tuple(args), (*first, *body.ops[:-1], *last, whole), body.label)
    return [*before, Op(op.name, tuple(operands), tuple(results), op.attrs, op.words, (inside,), op.line), *after]


def drop_identities(function: Function) -> Function:
    """A reduction over an axis of one element gives that element: a view, which needs no memory. With `keep_dims` it is
    the tile itself, as a reshape to the same shape is."""
    same: dict[Value, Value] = {}
    return Function(function.name, tuple(_without_identities(block, same) for block in function.blocks))


def _without_identities(block: Block, same: dict[Value, Value]) -> Block:
    """`same` are values that stand for others from here on."""
    ops: list[Op] = []
    single: dict[Value, tuple[Value, int]] = {}
    for op in block.ops:
        operands = tuple(same.get(operand, operand) for operand in op.operands)
        if op.name == "tt.reduce" and op.result.type.is_tile and operands[0].type.dims[op.integer("axis")] == 1:
            for operand, result in zip(operands, op.results, strict=True):
                single[result] = operand, op.integer("axis")
                ops.append(Op("tt.reshape", (operand,), (result,), {}, (), (), op.line))
        elif op.name == "tt.expand_dims" and single.get(op.operands[0], (None, -1))[1] == op.integer("axis"):
            same[op.result] = single[op.operands[0]][0]
        elif op.name == "tt.reshape" and op.result.type == operands[0].type:
            same[op.result] = operands[0]
        else:
            is_combiner = op.name in ("tt.reduce", "tt.scan")
            regions = op.regions if is_combiner else tuple(_without_identities(region, same) for region in op.regions)
            ops.append(Op(op.name, operands, op.results, op.attrs, op.words, regions, op.line))
    return Block(block.args, tuple(ops), block.label)


_SUMS = frozenset({"arith.addf", "arith.subf"})


def fuse_multiply_add(function: Function) -> Function:
    """a · b + c as one operation with one rounding, where nothing else is computed from the product.

    Decided here and not by LLVM, so that the numbers do not depend on which of several copies of a loop they went
    through. Nor do they depend on a store of the product, which only some kernels have: then it is computed as well. A
    product that is used twice is one number: of p + (c − p), nothing but c may remain. This is what `enable_fp_fusion`
    does on a GPU, for float32 and float64.
    """
    uses = Uses(function)
    return Function(function.name, tuple(_fused(block, uses) for block in function.blocks))


def _fused(block: Block, uses: Uses) -> Block:
    ops: list[Op] = []
    taken: Counter[Op] = Counter()
    for op in block.ops:
        found = _fma(op, block, uses, taken) if op.name in _SUMS and op.result.type.elem in ("f32", "f64") else None
        if found is None:
            is_combiner = op.name in ("tt.reduce", "tt.scan")
            regions = op.regions if is_combiner else tuple(_fused(region, uses) for region in op.regions)
            ops.append(_with_regions(op, regions))
        else:
            ops += found
    dropped = {product.result for product, count in taken.items() if count == len(uses.of(product.result))}
    return Block(block.args, tuple(op for op in ops if not dropped.intersection(op.results)), block.label)


def _fma(op: Op, block: Block, uses: Uses, taken: Counter[Op]) -> Sequence[Op] | None:
    for place in (0, 1):
        product = uses.definition.get(op.operands[place])
        if product is None or product.name != "arith.mulf" or uses.block[product] is not block:
            continue
        if sum(user.name != "tt.store" for user in uses.of(product.result)) != 1:
            continue
        taken[product] += 1
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
