"""The source of a launch of several products: a function for each, the kernel that hands out tiles, its launcher."""

from __future__ import annotations

from itertools import accumulate
from math import prod

from tritonnotes.ir.core.types import Dim

from ..analysis.matmul import summed
from ..cost.matmul import SHARE, split_k_expression
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..support.expressions import Expression, Name, product
from ..support.text import INDENT, call_lines, wrapped
from .kernel import KernelSource, functions_of, joined
from .launcher import Launcher, scalar_type


def render_grouped_matmul(kernel: GroupedMatmulKernel) -> KernelSource:
    """Spell a launch of several products."""
    sides = [functions_of(side.kernel) for side in kernel.sides]
    launchers = [side.launcher for side in sides]
    functions = tuple(function for side in sides for function in side.functions)
    return KernelSource(
        kernel.name,
        f"{joined(functions)}\n\n{_kernel(kernel, launchers)}",
        _launcher(kernel, launchers),
        frozenset().union(*(side.helpers for side in sides)),
        {p.name: scalar_type(p) for p in kernel.parameters},
        {"PRECISION": "ieee"},
        _warps(launchers),
        {p.name: p.size for p in kernel.parameters if p.role == "size"},
        _registers(launchers),
        functions=functions,
    )


def _warps(launchers: list[Launcher]) -> int:
    return max(launcher.num_warps() for launcher in launchers)


def _registers(launchers: list[Launcher]) -> int | None:
    return min((most for launcher in launchers if (most := launcher.most_registers())), default=None)


def _kernel(kernel: GroupedMatmulKernel, launchers: list[Launcher]) -> str:
    names = ", ".join(dict.fromkeys(op for member in kernel.plan.members for op in member.ops))
    lines = ["@triton.jit", f"def {kernel.name}("]
    lines += [f"{INDENT}{p.name}," for p in kernel.parameters]
    lines += [f"{INDENT}PRECISION: tl.constexpr,", "):", f'{INDENT}"""{wrapped(f"Side by side: {names}.")}"""']
    lines.append(f"{INDENT}tile = tl.program_id(0)")
    if kernel.split_k:
        lines += [f"{INDENT}part = tl.program_id(1)", f"{INDENT}parts = tl.num_programs(1)"]
    ends = list(accumulate(kernel.tiles))
    for i, (side, launcher) in enumerate(zip(kernel.sides, launchers, strict=True)):
        first = ends[i - 1] if i else 0
        mine = f"tile - {first}" if first else "tile"
        arguments = [mine, *(["part", "parts"] if kernel.split_k else [])]
        for name in side.arguments:
            is_count = kernel.parameter(name).role == "arrivals"
            arguments.append(f"{name} + {first}" if is_count and first else name)
        passed = {**launcher.constexprs(), "PRECISION": "PRECISION"}
        arguments += [f"{name}={value}" for name, value in passed.items()]
        head = "else:" if i == len(ends) - 1 else f"{'elif' if i else 'if'} tile < {ends[i]}:"
        lines.append(f"{INDENT}{head}")
        lines += [INDENT * 2 + line for line in call_lines(f"{side.kernel.name}(", arguments, ")")]
    return "\n".join(lines) + "\n"


def _launcher(kernel: GroupedMatmulKernel, launchers: list[Launcher]) -> str:
    names = [p.name.removesuffix("_ptr") for p in kernel.parameters]
    count, warps = sum(kernel.tiles), _warps(launchers)
    reason = f"{count} tiles of {len(kernel.sides)} products: each alone would leave more of a GPU idle."
    grid = f"({count},)"
    if kernel.split_k:
        grid = f"({count}, {split_k_expression(_summed(kernel), kernel.split_k)})"
        reason += f" Programs share sums of {2 * SHARE} and more."
    lines = [*call_lines(f"def run_{kernel.name}(", names, "):"), f'{INDENT}"""{wrapped(reason)}"""']
    lines.append(f"{INDENT}grid = {grid}")
    passed = [*names, "PRECISION=float32_precision()", f"num_warps={warps}"]
    most = _registers(launchers)
    passed += [f"maxnreg={most}"] if most else []
    lines += [INDENT + line for line in call_lines("launch(", [kernel.name, "grid", *passed], ")")]
    return "\n".join(lines) + "\n"


def _summed(kernel: GroupedMatmulKernel) -> Expression:
    """How much the products sum over, by the names that the launcher has for sizes."""
    (multiplied,) = kernel.plan.members[0].products
    shape = summed(multiplied)
    names = {p.size[0]: p.name for p in kernel.parameters if p.role == "size"}
    return product(*(Name(names[s]) for s in shape if isinstance(s, Dim)), prod(s for s in shape if isinstance(s, int)))
