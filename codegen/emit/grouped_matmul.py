"""The source of a launch of several products: a function for each, the kernel that hands out tiles, its launcher."""

from __future__ import annotations

from tritonnotes.ir.core.types import dims_in, known_factor

from ..analysis.matmul import summed
from ..cost.matmul import SPLIT_K_LENGTH, split_k_expression
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..support.expressions import Expression, Name, call, product, total
from ..support.provenance import united
from ..support.statements import CallFunction, If, Line
from ..support.text import INDENT, call_lines, counted, python_function, wrapped
from .kernel import FunctionText, KernelSource, function_text, functions_of
from .launcher import Launcher
from .prelude import GIVEN_LAUNCH
from .scalars_in_memory import declared, number_loads, types


def render_grouped_matmul(kernel: GroupedMatmulKernel, numbers_in_memory: bool = False) -> KernelSource:
    """Spell a launch of several products, which takes the host's numbers as arguments or reads them from memory."""
    spelled = {member.kernel.name: functions_of(member.kernel) for member in kernel.members}
    members = [spelled[member.kernel.name] for member in kernel.members]
    launchers = [member.launcher for member in members]
    called = {f.name: f for member in spelled.values() for f in member.functions}
    functions = (*called.values(), _kernel(kernel, launchers, numbers_in_memory))
    shared = [member.kernel.name for member in kernel.members if member.kernel.shared is not None]
    common = {f.name: f.text for name in shared for f in spelled[name].functions}
    return KernelSource(
        kernel.name,
        functions,
        _launcher(kernel, launchers),
        frozenset().union(*(member.helpers for member in members)),
        types(kernel.arguments, numbers_in_memory),
        {"PRECISION": "ieee"},
        _warps(launchers),
        {p.name: p.size for p in kernel.parameters if p.role == "size"},
        _registers(launchers),
        common,
        launcher_helpers=frozenset(["float32_precision"]),
    )


def _warps(launchers: list[Launcher]) -> int:
    return max(launcher.num_warps() for launcher in launchers)


def _registers(launchers: list[Launcher]) -> int | None:
    return min((most for launcher in launchers if (most := launcher.most_registers())), default=None)


def _kernel(kernel: GroupedMatmulKernel, launchers: list[Launcher], numbers_in_memory: bool) -> FunctionText:
    about = f"Grouped matmul: {', '.join(kernel.launch.ops)}. {kernel.shared or ''}".rstrip()
    header = ["@triton.jit", f"def {kernel.name}("]
    header += [f"{INDENT}{a}," for a in declared(kernel.arguments, numbers_in_memory)]
    header += [f"{INDENT}PRECISION: tl.constexpr,", "):", f'{INDENT}"""{wrapped(about)}"""']
    lines = [*number_loads(kernel.arguments, numbers_in_memory), Line("tile = tl.program_id(0)")]
    if kernel.split_k:
        lines += [Line("part = tl.program_id(1)"), Line("parts = tl.num_programs(1)")]
    roles = {p.name: p.role for p in kernel.parameters}
    tile, first = Name("tile"), 0
    for member, launcher, count in zip(kernel.members, launchers, kernel.tiles, strict=True):
        arguments = [tile - first if first else tile, *map(Name, ["part", "parts"] if kernel.split_k else [])]
        for name in member.arguments:
            arguments.append(total(Name(name), first if roles[name] == "arrivals" else 0))
        passed = {**launcher.constexprs(), "PRECISION": Name("PRECISION")}
        origins = united(step.origin for step in member.kernel.steps)
        called = (CallFunction(call(member.kernel.name, *arguments, **passed), origins=origins),)
        word, first = "elif" if first else "if", first + count
        is_last = member is kernel.members[-1]
        lines.append(If(None if is_last else tile < first, called, word))
    return function_text(kernel.name, header, lines)


def _launcher(kernel: GroupedMatmulKernel, launchers: list[Launcher]) -> str:
    names = [p.name.removesuffix("_ptr") for p in kernel.parameters]
    count, warps = sum(kernel.tiles), _warps(launchers)
    reason = f"{counted(count, 'tile')} of {len(kernel.members)} matmuls: each alone would leave more of a GPU idle."
    grid = f"({count},)"
    if kernel.split_k:
        grid = f"({count}, {split_k_expression(_summed(kernel), kernel.split_k)})"
        reason += f" Sums of {2 * SPLIT_K_LENGTH} and more are split-K."
    passed = [*names, "PRECISION=float32_precision()", f"num_warps={warps}"]
    most = _registers(launchers)
    passed += [f"maxnreg={most}"] if most else []
    lines = [f"grid = {grid}", *call_lines("launch(", [kernel.name, "grid", *passed], ")")]
    return python_function(f"run_{kernel.name}", [*names, GIVEN_LAUNCH], wrapped(reason), lines)


def _summed(kernel: GroupedMatmulKernel) -> Expression:
    """How much the products sum over, by the names that the launcher has for sizes."""
    (multiplied,) = kernel.launch.members[0].products
    shape = summed(multiplied)
    names = {p.size[0]: p.name for p in kernel.parameters if p.role == "size"}
    return product(*(Name(names[dim]) for dim in dims_in(shape)), known_factor(shape))
