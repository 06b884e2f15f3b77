"""Index arithmetic of generated kernels held to 32 and 64 bits: what may pass 2³¹ must be computed with 64.

Read from the source alone. A program's launchers run with tensors that hold nothing, so grids and sizes are those of a
real run of any size; then each kernel's integers are followed from the numbers of programs, lanes and sizes, each with
the largest value that it may have and with the bits that Triton gives it.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from triton.runtime.jit import JITFunction

from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.support.sizes import Sizes
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.ir.core.evaluate import concrete
from tritonnotes.tensors.dtypes import torch_dtype

MOST_PROGRAMS = 1024
"""That share a sum: a GPU of 2024 takes about half as many."""

MOST_COLUMNS = 65_535
"""Programs along the second and third axis of a grid, by CUDA's rules."""


@dataclass(frozen=True)
class Whole:
    """An integer: the largest that it may be, and its bits."""

    most: int
    bits: int = 32


def index_complaints(program: Program, sizes: Mapping[str, int], programs: int = MOST_PROGRAMS) -> list[str]:
    """What passes its bits where `Dim`s have these sizes, and grids that no GPU runs."""
    module = load_source(program.source, KernelCache())
    found: list[str] = []

    def launch(kernel: JITFunction[Any], grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        found.extend(f"{kernel.__name__}: grid {grid}" for size in grid[1:] if size > MOST_COLUMNS)
        names = [*kernel.arg_names[: len(arguments)], *options]
        given = dict(zip(names, (*arguments, *options.values()), strict=True))
        reader = _Reader(module, grid)
        reader.run(kernel, {n: _whole(v) if isinstance(v, int) else v for n, v in given.items()})
        found.extend(f"{kernel.__name__}: {line}" for line in dict.fromkeys(reader.complaints))

    bound = {dim.name: Sizes(1, sizes)[dim.name] for dim in program.dims}
    shared = {**bound, "programs": programs}
    tensors = {
        b.name: torch.empty(_shape(b.shape, shared), dtype=torch_dtype(b.dtype), device="meta") for b in program.buffers
    }
    numbers = {v.name: 1.0 for v in program.graph.leaves("scalar")}
    module.run(tensors, **program.arguments.given(bound, numbers), programs=programs, launch=launch)
    return found


def _shape(shape: Any, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(concrete(shape, sizes))


def _whole(value: int) -> Whole:
    return Whole(value, 32 if value < 2**31 else 64)


class _Reader:
    """Follows the integers of one kernel and of what it calls; None stands for all that is no integer of an index."""

    def __init__(self, module: Any, grid: tuple[int, ...]) -> None:
        self.module = module
        self.grid = grid
        self.complaints: list[str] = []

    def run(self, kernel: JITFunction[Any], known: dict[str, Any]) -> None:
        (function,) = ast.parse(textwrap.dedent(kernel.src)).body
        assert isinstance(function, ast.FunctionDef)
        for line in _statements(function.body):
            self._follow(line, known)

    def _follow(self, line: ast.stmt, known: dict[str, Any]) -> None:
        match line:
            case ast.For(target=ast.Name(name), iter=ast.Call(args=given)):
                bounds = [self.value(a, known) for a in given]
                ends = bounds[0] if len(bounds) == 1 else bounds[1]
                bits = max((b.bits for b in bounds if isinstance(b, Whole)), default=32)
                known[name] = Whole(max(0, ends.most - 1), bits) if isinstance(ends, Whole) else None
            case ast.Assign(targets=[ast.Name(name)], value=value):
                known[name] = self.value(value, known)
            case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.Expr(value=value) | ast.Return(value=value):
                self.value(value, known)

    def value(self, node: ast.expr | None, known: dict[str, Any]) -> Whole | None:
        match node:
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return _whole(number)
            case ast.Name(name):
                found = known.get(name)
                return found if isinstance(found, Whole) else None
            case ast.BinOp(left, sign, right):
                return self._combined(node, sign, self.value(left, known), self.value(right, known))
            case ast.Subscript(value):
                return self.value(value, known)
            case ast.Call():
                return self._called(node, known)
        for part in ast.iter_child_nodes(node) if node is not None else ():
            if isinstance(part, ast.expr):
                self.value(part, known)
        return None

    def _combined(self, node: ast.expr, sign: ast.operator, a: Whole | None, b: Whole | None) -> Whole | None:
        if a is None or b is None:
            return None
        bits = max(a.bits, b.bits)
        most = {
            ast.Add: lambda: a.most + b.most,
            ast.Sub: lambda: a.most,
            ast.Mult: lambda: a.most * b.most,
            ast.FloorDiv: lambda: a.most,
            ast.Mod: lambda: min(a.most, max(0, b.most - 1)),
        }[type(sign)]()
        if isinstance(sign, ast.FloorDiv) and isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
            most = a.most // max(1, b.most)
        if most >= 2 ** (bits - 1):
            self.complaints.append(f"{ast.unparse(node)} reaches {most:,} in {bits} bits")
        return Whole(most, bits)

    def _called(self, node: ast.Call, known: dict[str, Any]) -> Whole | None:
        given = [self.value(a, known) for a in node.args]
        match ast.unparse(node.func), node.args, given:
            case "tl.program_id", [ast.Constant(axis)], _:
                return Whole(max(0, (*self.grid, 1, 1)[axis] - 1))
            case "tl.num_programs", [ast.Constant(axis)], _:
                return Whole((*self.grid, 1, 1)[axis])
            case "tl.arange", _, [_, Whole(most)]:
                return Whole(most - 1)
            case "tl.cast", [_, kind], [Whole(most), _] if "int64" in ast.unparse(kind):
                return Whole(most, 64)
            case "tl.cdiv", _, [Whole() as a, Whole() as b]:
                return Whole(-(-a.most // max(1, b.most)), a.bits)
            case "tl.minimum", _, [Whole() as a, Whole() as b]:
                return Whole(min(a.most, b.most), max(a.bits, b.bits))
            case str(name), _, _ if isinstance(called := getattr(self.module, name, None), JITFunction):
                passed = dict(zip(called.arg_names, given, strict=False))
                passed |= {k.arg: self.value(k.value, known) for k in node.keywords if k.arg}
                self.run(called, passed)
        if isinstance(node.func, ast.Attribute):
            self.value(node.func.value, known)
        for keyword in node.keywords:
            self.value(keyword.value, known)
        return None


def _statements(lines: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements in the order of the text."""
    for line in lines:
        yield line
        for block in ("body", "orelse"):
            yield from _statements(getattr(line, block, []))
