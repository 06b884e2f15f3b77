"""The stages of a graph on its way to kernels, as text for people and as data for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import triton

from ..codegen.emit.kernel import KernelSource
from ..codegen.fusion.constraints import Fusion
from ..codegen.lower.lower import GeneratedKernel, tile_programs
from ..codegen.pipeline import make_plan, make_program
from ..codegen.program.compile import compile_program, divisible_by_16
from ..codegen.program.program import Program
from ..codegen.report.explain import explain_plan
from ..codegen.report.plan_data import explained_data, launch_data, launch_memory, plan_data
from ..codegen.support.sizes import NOMINAL
from ..codegen.target.compile import CompiledReport
from ..codegen.target.targets import GPU
from ..ir.core.errors import DeclarationError, KernelError
from ..ir.core.graph import Graph
from ..ir.core.optimizer import Optimizer
from ..ir.core.rewrite import optimize
from ..ir.passes.decompose import decompose
from ..ir.passes.evaluation import evaluation_form
from ..ir.passes.joint import joint_graph
from ..runtime.executors.listed import native_listings


@dataclass(frozen=True)
class Shown:
    """A stage: `text` to print, `data` to serialise."""

    text: str
    data: dict[str, Any]


def is_trainable(graph: Graph, loss: str) -> bool:
    """Whether `graph` has parameters and an output named `loss` that is one float."""
    root = graph.outputs.get(loss)
    return bool(graph.parameters) and root is not None and root.shape == () and root.dtype.is_float


def joint_or_forward(graph: Graph, loss: str | None, optimizer: Optimizer) -> Graph:
    """In primitives: the training step that minimises `loss`, or where that is None the forward run in evaluation."""
    return optimize(decompose(evaluation_form(graph))) if loss is None else joint_graph(graph, loss, optimizer)


def show(
    graph: Graph,
    stage: str,
    *,
    loss: str | None,
    optimizer: Optimizer,
    arch: int = 90,
    kernel: str | None = None,
    target: str = GPU,
) -> Shown:
    """One stage of a declared graph.

    `loss` and `optimizer` make the training step, and `loss=None` the forward run; `kernel` picks one launch of the
    stages from the plan on; `arch` is what 'ptx' and 'sass' compile for, `target` what is planned for; 'asm'
    is what this machine's CPU gets. Raises `DeclarationError` for a kernel that the plan does not have, `KernelError`
    where compilation fails.
    """
    if stage == "graph":
        return _graph(graph)
    if stage == "prims":
        return _graph(optimize(decompose(evaluation_form(graph) if loss is None else graph)))
    joint = joint_or_forward(graph, loss, optimizer)
    if stage == "joint":
        return _graph(joint)
    program = make_program(joint, Fusion(target=target), declared=graph)
    stages: dict[str, Callable[[Program, str | None], Shown]] = {
        "plan": _plan,
        "kernel": _kernels,
        "triton": _triton,
        "ptx": lambda program, kernel: _compiled(program, kernel, "ptx", arch),
        "sass": lambda program, kernel: _compiled(program, kernel, "sass", arch),
        "asm": _assembly,
    }
    return stages[stage](program, kernel)


def explain(graph: Graph, *, loss: str | None, optimizer: Optimizer, target: str = GPU) -> str:
    """What each launch does and moves, and why what is apart is apart."""
    return explain_plan(make_plan(joint_or_forward(graph, loss, optimizer), Fusion(target=target)))


def explain_data(graph: Graph, *, loss: str | None, optimizer: Optimizer, target: str = GPU) -> dict[str, Any]:
    """The plan, and of every edge the verdict and what forcing its opposite would cost."""
    return explained_data(make_plan(joint_or_forward(graph, loss, optimizer), Fusion(target=target)))


def _graph(graph: Graph) -> Shown:
    return Shown(str(graph), {"graph": json.loads(graph.to_json())})


def _plan(program: Program, name: str | None) -> Shown:
    plan = program.plan
    if name is not None:
        launch = _pick(name, {k.name: k for k in plan.launches})
        lines = [f"{launch.name}: {launch.kind}, {launch.bytes_moved():,} bytes{launch.at}"]
        lines += [f"  {word:10} {', '.join(data) or 'nothing'}" for word, data in launch_memory(launch).items()]
        return Shown("\n".join(lines), launch_data(launch))
    return Shown(str(plan), plan_data(plan))


def _kernels(program: Program, name: str | None) -> Shown:
    chosen = _chosen(name, {k.name: k for k in program.kernels})
    return Shown("\n\n".join(map(str, chosen)), {"kernels": [_kernel(k) for k in chosen]})


def _kernel(kernel: GeneratedKernel) -> dict[str, Any]:
    programs = tile_programs(kernel)
    parameters = [
        {"name": p.name, "role": p.role, "dtype": p.dtype.name} for program in programs for p in program.parameters
    ]
    steps = [
        {"name": s.name, "op": s.op, "args": list(s.args), "form": s.extent, "dtype": s.dtype.name}
        for program in programs
        for s in program.steps
    ]
    return {"name": kernel.name, "kind": kernel.kind, "parameters": parameters, "steps": steps}


def _triton(program: Program, name: str | None) -> Shown:
    chosen = _sources(program, name)
    text = (
        program.source
        if name is None
        else "\n\n".join("\n\n".join([*s.common.values(), s.text, s.launcher]) for s in chosen)
    )
    kernels = [
        {"name": s.name, "signature": s.signature, "constexprs": s.constexprs, "num_warps": s.num_warps} for s in chosen
    ]
    return Shown(text, {"source": text, "kernels": kernels})


def _compiled(program: Program, name: str | None, form: str, arch: int) -> Shown:
    wanted = {s.name: s for s in _sources(program, name)}
    if triton.knobs.runtime.interpret:
        raise KernelError("Triton is told to interpret kernels, not to compile them; unset TRITON_INTERPRET")
    compiled = {report.name: report for report in compile_program(program, arch)}
    reports = [report for name, report in compiled.items() if name in wanted]
    codes = [report.ptx if form == "ptx" else report.sass_with_source(program.source) for report in reports]
    texts = [f"{_report_lines(r, wanted[r.name])}\n{code.strip()}" for r, code in zip(reports, codes, strict=True)]
    kernels = [{**_report(r, wanted[r.name]), form: code} for r, code in zip(reports, codes, strict=True)]
    return Shown("\n\n".join(texts), {"arch": arch, "kernels": kernels})


def _assembly(program: Program, name: str | None) -> Shown:
    wanted = {s.name for s in _sources(program, name)}
    listings = [listing for listing in native_listings(program) if listing.name in wanted]
    kernels = [asdict(listing) for listing in listings]
    return Shown("\n\n".join(listing.with_source(program.source) for listing in listings), {"kernels": kernels})


def _report_lines(report: CompiledReport, source: KernelSource) -> str:
    def widths(found: dict[int, int]) -> str:
        return ", ".join(f"{count} of {bits} bits" for bits, count in sorted(found.items())) or "none"

    spills = "spills registers" if report.spills else "no spills"
    shared = f"{report.shared_bytes:,} bytes of shared memory"
    used = f"{report.registers} registers, {spills}, {shared}, {report.num_warps} warps"
    sizes = [name for name in divisible_by_16(source) if not source.signature[name].startswith("*")]
    return (
        f"// {report.name} for sm_{report.arch}: {used}\n"
        f"// loads: {widths(report.load_widths)}; stores: {widths(report.store_widths)}\n"
        f"// compiled with all pointers{''.join(f', {name}' for name in sizes)} declared divisible by 16, as they are "
        f"where torch allocates and every Dim is {NOMINAL}"
    )


def _report(report: CompiledReport, source: KernelSource) -> dict[str, Any]:
    return {
        "name": report.name,
        "registers": report.registers,
        "spills": bool(report.spills),
        "shared_bytes": report.shared_bytes,
        "num_warps": report.num_warps,
        "divisible_by_16": divisible_by_16(source),
        "load_widths": {str(bits): count for bits, count in report.load_widths.items()},
        "store_widths": {str(bits): count for bits, count in report.store_widths.items()},
    }


def _sources(program: Program, name: str | None) -> list[KernelSource]:
    """The kernels as they are written, each once, or the one of a launch."""
    by_launch = {k.name: s for k, s in zip(program.kernels, program.kernel_sources, strict=True)}
    return list({s.name: s for s in _chosen(name, by_launch)}.values())


def _chosen(name: str | None, known: dict[str, Any]) -> list[Any]:
    return list(known.values()) if name is None else [_pick(name, known)]


def _pick(name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise DeclarationError(f"no kernel {name!r} at this stage; there are {', '.join(known) or 'none'}")
    return known[name]
