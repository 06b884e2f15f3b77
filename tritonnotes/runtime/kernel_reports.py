"""`tritonnotes report`, `model.reports()` and `step.reports()`: kernel reports as text for people and as data for
programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import triton

from ..codegen.pipeline import make_program
from ..codegen.plan.chunk_loops import chunk_loops
from ..codegen.program.compile import WIDEST
from ..codegen.program.program import Program
from ..codegen.report.kernel_reports import ASSUMPTIONS, KernelReport, make_reports
from ..codegen.support.sizes import NOMINAL, Sizes
from ..codegen.support.text import counted
from ..codegen.target.gpus import GPUS, Gpu
from ..codegen.target.load_phases import Section
from ..ir.core.errors import DeclarationError, KernelError
from ..ir.core.graph import Graph
from ..ir.core.types import dims_in
from ..ir.passes.joint import cotangent_names, gradient_graph
from ..ir.passes.split import split_gradient


@dataclass(frozen=True, repr=False)
class Reports:
    """The reports of one program, of its generated kernels in launch order, for one GPU after another. `title` says
    which program, `sizes` what its `Dim`s were, `library` how many launches are library calls, which have no report. Of
    a step that is cut in two `parts` are the reports of each program, in the order in which they run, and the rest
    speaks of both."""

    title: str
    sizes: Mapping[str, int]
    library: int
    reports: tuple[KernelReport, ...]
    parts: tuple[Reports, ...] = ()

    def __iter__(self) -> Iterator[KernelReport]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    def __repr__(self) -> str:
        gpus = ", ".join(dict.fromkeys(report.gpu.name for report in self.reports)) or "no GPU"
        return f"Reports({self.title!r}: {counted(len(self.reports), 'kernel report')} on {gpus})"

    def __str__(self) -> str:
        shown = [block for part in self.parts or (self,) for block in part._blocks()]
        return "\n\n".join([*shown, "Predicted times assume:\n" + _bullets(ASSUMPTIONS)])

    def _blocks(self) -> list[str]:
        """A head, then each report."""
        known = ", ".join(f"{name} = {size}" for name, size in self.sizes.items())
        have = "has" if self.library == 1 else "have"
        calls = f"; {counted(self.library, 'library call')} {have} no report" if self.library else ""
        head = f"{self.title}: {_kernels(len({c.name for c in self.reports}))}{f', {known}' if known else ''}{calls}"
        return [head, *map(_text, self.reports)]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it; `gpus` says where the figures of each GPU are from, `parts` names the kernels of
        each program where there are two."""
        gpus = {report.gpu.arch: report.gpu for report in self.reports}
        parts = {part.title: list(dict.fromkeys(report.name for report in part)) for part in self.parts}
        return {
            "program": self.title,
            "sizes": dict(self.sizes),
            **({"parts": parts} if parts else {}),
            "library_calls": self.library,
            "gpus": {f"sm_{arch}": _gpu(gpu) for arch, gpu in gpus.items()},
            "assumptions": list(ASSUMPTIONS),
            "kernels": [_data(report) for report in self.reports],
        }


def program_reports(
    program: Program,
    title: str,
    *,
    archs: Iterable[int] = (90,),
    batch: int | Mapping[str, int] = NOMINAL,
    sizes: Mapping[str, int] = {},
) -> Reports:
    """The reports of a program for each of the architectures (80, 90, 100), with `Dim`s of these `sizes`, and `batch`
    for those that it does not name. Raises `KernelError` for another architecture, where Triton is told to interpret,
    and where compilation fails; `DeclarationError` for a `Dim` that the graph does not have."""
    if triton.knobs.runtime.interpret:
        raise KernelError("Triton is told to interpret kernels, not to compile them; unset TRITON_INTERPRET")
    for arch in (archs := tuple(archs)):
        if arch not in GPUS:
            raise KernelError(f"no report for sm_{arch}; there are {', '.join(f'sm_{known}' for known in GPUS)}")
    dims = sorted({dim.name for v in program.graph.values for dim in dims_in(v.shape)})
    given = Sizes(batch, sizes)
    strangers = sorted(set(given) - set(dims))
    if strangers:
        raise DeclarationError(f"{title} has no Dim {', '.join(strangers)}; it has {', '.join(dims) or 'none'}")
    made = {arch: make_reports(program, arch, given) for arch in archs}
    loops = [loop.plan for loop in chunk_loops(program.plan.launches)]
    library = sum(len(plan.library) for plan in (program.plan, *loops))
    return Reports(title, {name: given[name] for name in dims}, library, tuple(c for a in archs for c in made[a]))


def step_reports(
    programs: Mapping[str, Program], title: str, *, arch: int, batch: int | Mapping[str, int], sizes: Mapping[str, int]
) -> Reports:
    """The reports of a step's programs, in the order in which they run, by what each does. `Dim`s are those of the
    first; raises as `program_reports` does."""
    if len(programs) == 1:
        (program,) = programs.values()
        return program_reports(program, title, archs=(arch,), batch=batch, sizes=sizes)
    parts: list[Reports] = []
    given = Sizes(batch, sizes)
    for what, program in programs.items():
        # The first has every `Dim`, and so refuses a name that is none.
        known = {d.name for d in program.dims}
        held = {n: s for n, s in given.items() if n in known or not parts}
        parts.append(program_reports(program, f"{title}, {what}", archs=(arch,), batch=given.default, sizes=held))
    library = sum(part.library for part in parts)
    return Reports(title, parts[0].sizes, library, tuple(report for part in parts for report in part), tuple(parts))


def gradient_programs(graph: Graph) -> tuple[Program, Program]:
    """The forward and the backward program that autograd runs where every float parameter and input wants a gradient.
    Raises `DeclarationError` where nothing does."""
    wanted = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    floats = [n for n, v in graph.outputs.items() if v.dtype.is_float]
    if not wanted or not floats:
        raise DeclarationError(f"graph {graph.name!r} has no gradient: no float output, or no float input or parameter")
    split = split_gradient(
        gradient_graph(graph, wanted), list(graph.outputs), [*cotangent_names(graph, floats).values()]
    )
    return make_program(split.forward, declared=graph), make_program(split.backward, declared=graph)


def _text(report: KernelReport) -> str:
    tile = (
        " and ".join(f"{counted(rows, 'row')} of {block}" for rows, block in report.tiles)
        if report.tiles
        else counted(report.block, "element")
        if report.block
        else "one element"
    )
    spills = f"spills {report.spilled_bytes} bytes a thread" if report.spilled_bytes else "no spills"
    reread = f", {report.traffic.reread:,} of them reread from the cache" if report.traffic.reread else ""
    partials = f", and {report.partial_bytes:,} of partial sums in the cache" if report.partial_bytes else ""
    sizes = [name for name in report.aligned if not name.endswith("_ptr")]
    lines = [
        f"{report.name}: {report.kind}, on {report.gpu.name} (sm_{report.gpu.arch})",
        f"  tile       {tile}, {counted(report.num_warps, 'warp')}, {counted(report.programs, 'program')}",
        f"  registers  {report.registers} a thread, {spills}; {report.shared_bytes:,} bytes of shared memory",
        f"  occupancy  {report.occupancy}",
        *(f"  {'accesses' if not i else '':9}  {access}" for i, access in enumerate(report.accesses)),
        f"  mix        {', '.join(f'{count} {kind}' for kind, count in report.mix.items())}",
        f"  waits      {'; then, in last programs, '.join(map(_waits, report.sections))}",
        f"  moves      {report.traffic.total:,} bytes{reread}{partials}; "
        f"{counted(report.operations, 'operation')}, {report.intensity:.2f} a byte",
        f"  predicted  {report.seconds * 1e6:,.1f} µs, bound by {report.bound}{_finishing(report)}",
        f"  aligned    all pointers{''.join(f', {name}' for name in sizes)}: multiples of {WIDEST}",
    ]
    return "\n".join(lines)


def _finishing(report: KernelReport) -> str:
    return f"; {report.finishing * 1e6:,.1f} µs of it finish sums" if report.finishing else ""


def _waits(section: Section) -> str:
    return f"{counted(section.barriers, 'barrier')}, {counted(section.phases, 'load phase')}"


def _data(report: KernelReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "kind": report.kind,
        "arch": report.gpu.arch,
        "rows": report.rows,
        "block": report.block,
        "programs": report.programs,
        "num_warps": report.num_warps,
        "registers": report.registers,
        "spilled_bytes": report.spilled_bytes,
        "shared_bytes": report.shared_bytes,
        "occupancy": {
            "share": report.occupancy.share,
            "programs": report.occupancy.programs,
            "warps": report.occupancy.warps,
            "limiter": report.occupancy.limiter,
        },
        "accesses": [
            {
                "argument": access.argument,
                "kind": "store" if access.is_store else "load",
                "widths": {str(bits): count for bits, count in access.widths.items()},
                "why_narrow": access.reason or None,
            }
            for access in report.accesses
        ],
        "mix": dict(report.mix),
        "sections": [asdict(section) for section in report.sections],
        "bytes_in_flight": report.bytes_in_flight,
        "bytes_read": report.traffic.read,
        "bytes_written": report.traffic.written,
        "bytes_read_again": report.traffic.reread,
        "bytes_of_partial_sums": report.partial_bytes,
        "operations": report.operations,
        "operations_per_byte": report.intensity,
        "predicted_seconds": report.seconds,
        "finishing_seconds": report.finishing,
        "bound": report.bound,
        "divisible_by_16": list(report.aligned),
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "multiprocessors": gpu.multiprocessors,
        "bytes_per_second": gpu.bandwidth,
        "instructions_per_second": gpu.instructions,
        "warps": gpu.warps,
        "programs": gpu.programs,
        "registers": gpu.registers,
        "shared_bytes": gpu.shared_bytes,
        "sources": dict(gpu.sources),
    }


def _kernels(count: int) -> str:
    return counted(count, "kernel")


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"  - {line}" for line in lines)
