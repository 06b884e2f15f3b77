"""The generated module: header, helpers, kernels with their launchers, and `run`, which launches them in order.

It imports torch and triton alone, and what it holds depends on the graph alone: no paths, no dates, no hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.version import VERSION

from ..emit.foreach import render_foreach
from ..emit.grouped_matmul import render_grouped_matmul
from ..emit.host import uses_math
from ..emit.kernel import KernelSource, render_kernel
from ..emit.ops import HELPERS, helpers_in_order
from ..emit.prelude import ALL_REDUCE, CALLS_OF_TORCH, LAUNCH, LAUNCHER_HELPERS
from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import Kernel
from ..memory.arena import Arena
from ..memory.buffers import Buffer
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import Launch
from ..support.arguments import RunArguments
from ..support.provenance import BLANK_LINE, LineOrigin, Part, in_launch, part
from ..support.repeats import with_loops
from ..support.text import counted
from .library import torch_helpers
from .run import RunWriter, has_collectives
from .temporaries import arena_parts


def render_module(
    plan: FusionPlan,
    kernels: tuple[GeneratedKernel, ...],
    declared: Graph,
    buffers: tuple[Buffer, ...],
    arena: Arena,
    chunks: Mapping[str, tuple[Buffer, ...]],
    written: Mapping[str, GeneratedKernel],
    in_memory: bool = False,
) -> tuple[tuple[KernelSource, ...], tuple[Part, ...]]:
    """The source of each kernel, and the pieces of the module, two blank lines between them. `chunks` are the buffers
    of one chunk, by the name of the loop over chunks, `written` the kernels that are written, by the names of the
    launches. With numbers `in_memory`, `run` takes a tensor of them, and `numbers_of` says what it must hold."""
    by_name = {kernel.name: _rendered(kernel, in_memory) for kernel in dict.fromkeys(written.values())}
    sources = tuple(by_name.values())
    first: dict[str, str] = {}
    for launch, kernel in written.items():
        first.setdefault(kernel.name, launch)
    helpers = helpers_in_order(set().union(*(s.helpers for s in sources)) if sources else set())
    arguments = RunArguments(plan.graph, [k.name for k in kernels], by_name)
    functions = {launch: kernel.name for launch, kernel in written.items()}
    run = RunWriter(plan, {k.name: k for k in kernels}, functions, buffers, chunks, arguments, in_memory)
    run_part = run.part()
    imports = ["import math", ""] if uses_math(run.host.statements) or arena.lives else []
    imports = ["", *imports, "import torch", "import triton", "import triton.language as tl"]
    parts = [
        _head(_header(plan, declared, functions), imports),
        part(LAUNCH, "run"),
        *([part(ALL_REDUCE, "run")] if has_collectives(plan) else []),
        *(part(CALLS_OF_TORCH[name], "run") for name in torch_helpers(plan)),
        *(part(HELPERS[name], "helper", function=name) for name in helpers),
        *(
            part(text, "launcher")
            for name, text in LAUNCHER_HELPERS.items()
            if any(name in s.launcher_helpers for s in sources)
        ),
    ]
    shared = {f.name: f for s in sources for f in s.functions if f.name in s.common}
    parts += [Part(function.text, function.lines) for function in shared.values()]
    for source in sources:
        mine = [Part(f.text, f.lines) for f in source.functions if f.name not in source.common]
        parts += [in_launch(p, first[source.name]) for p in mine]
        parts.append(part(source.launcher, "launcher", first[source.name]))
    parts += [part(text, "memory") for text in arena_parts(arena, arguments)]
    parts += [run_part, run.numbers() if in_memory else part(run.main(arena), "main")]
    return tuple(by_name[functions[kernel.name]] for kernel in kernels), tuple(parts)


def _rendered(kernel: GeneratedKernel, numbers_in_memory: bool) -> KernelSource:
    match kernel:
        case ForeachKernel():
            return render_foreach(kernel, numbers_in_memory)
        case GroupedMatmulKernel():
            return render_grouped_matmul(kernel, numbers_in_memory)
        case Kernel():
            return render_kernel(kernel, numbers_in_memory)


def _head(header: list[tuple[str, str]], imports: list[str]) -> Part:
    """The comment in front of a module, and its imports."""
    lines = [LineOrigin("header", launch) for _, launch in header]
    lines += [LineOrigin("import") if line else BLANK_LINE for line in imports]
    return Part("\n".join([*(line for line, _ in header), *imports]) + "\n", lambda: lines)


def _header(plan: FusionPlan, declared: Graph, functions: Mapping[str, str]) -> list[tuple[str, str]]:
    """The lines of the comment, each with the launch that it is about."""
    made = f"{counted(len(plan.kernels), 'generated kernel')} and {counted(len(plan.library), 'library call')}"
    lines = [
        (f"Triton kernels of the graph {plan.graph.name}, generated by tritonnotes {VERSION}.", ""),
        ("", ""),
        (f"{made}; {plan.bytes_moved():,} bytes a run{plan.at()}.", ""),
        ("", ""),
    ]
    for name, (first, *others) in _by_function(plan.launches, functions).items():
        each = " each" if others else ""
        lines.append((f"{name}: {first.kind}, {first.bytes_moved():,} bytes{each}", first.name))
        said = [f"{launch.name}: {', '.join(launch.ops)}" for launch in (first, *others)]
        said = said if others else [", ".join(first.ops)]
        lines += [(f"    {line}", [first, *others][place].name) for line, place in with_loops(said, "n", prose=True)]
    lines += [(line, "") for line, _ in with_loops(["", *str(declared).splitlines()], "n", prose=True)]
    return [(f"# {line}".rstrip(), launch) for line, launch in lines]


def _by_function(launches: Iterable[Launch], functions: Mapping[str, str]) -> dict[str, list[Launch]]:
    """The launches that share a kernel, by its name; others by their own."""
    found: dict[str, list[Launch]] = {}
    for launch in launches:
        found.setdefault(functions.get(launch.name, launch.name), []).append(launch)
    return found
