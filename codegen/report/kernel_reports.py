"""Kernel reports: what a kernel is estimated to cost on a GPU you do not have, read from its machine code and from its
plan.

Registers, spills, shared memory, instructions and the widths of accesses are the compiler's. Occupancy follows from
them by the hardware's rules. Bytes are the plan's, operations the tile program's, and the predicted time is a roofline:
the time that the slowest of memory, arithmetic and waiting needs at least, under the assumptions stated here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tritonnotes.ir.core.types import element_count

from ..cost.matmul import splits_of
from ..cost.traffic import Traffic
from ..emit.kernel import KernelSource
from ..fusion.last_block import GROUP
from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.lower import GeneratedKernel
from ..lower.row_loops import is_wide, row_loops, running_maximum
from ..lower.tile_ir import COL, ROW, SCALAR, TILE, Kernel, Step
from ..program.compile import compile_program, divisible_by_16
from ..program.program import Program
from ..support.facets import FACETS
from ..support.sizes import NOMINAL_SIZES
from ..target.cache import KernelCache
from ..target.compile import CompiledReport
from ..target.gpus import GPUS, LANES, PROGRAMS_PER_SM, RESERVED_SHARED, Gpu, Occupancy, occupancy
from ..target.load_phases import Section, sections
from ..target.rates import ARRIVAL_SECONDS, CACHE_LATENCY, COPY_SHARE, LAUNCH_SECONDS, LOAD_LATENCY
from ..target.sass import mix
from .accesses import Access, accesses, constexprs_of

INSTRUCTIONS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("load", "store", "take_rows", "number", "index", "argument", "repeat"), 0),
        "moments": 7,
        **{op: facets.instructions for op, facets in FACETS.items()},
    }
)
"""Instructions that a primitive takes for one element of float32; what is not here takes one."""


ASSUMPTIONS = (
    f"memory: each byte once, at {COPY_SHARE:.0%} of the rated bandwidth, and no more at once than programs have on "
    f"their way for {LOAD_LATENCY * 1e9:.0f} ns; what is reread comes from the cache for free",
    "arithmetic: float32 instructions, one for each element and primitive, more for functions, none at the same time "
    "as another of its lane; addresses and masks cost nothing",
    f"latency: {LOAD_LATENCY * 1e9:.0f} ns for each load that waits for another; the largest of the three counts",
    f"besides, a launch takes {LAUNCH_SECONDS * 1e6:.1f} µs, and last programs that finish sums "
    f"{ARRIVAL_SECONDS * 1e6:.1f} µs for each count of arrivals, and their loads",
)


@dataclass(frozen=True, repr=False)
class KernelReport:
    """One kernel on one GPU.

    `tiles` are the rows and columns of a program's tile, of each product that a launch groups; where it has no columns
    there are none, and `block` are its elements (0: one number). `programs` is how many the launch has (those that
    share a sum over rows are as many as the runtime would take). `spilled_bytes` are those of each thread, `mix` counts
    instructions by kind (one in a loop once). `traffic` is what the plan says, `partial_bytes` what programs leave for
    each other, which is read again at once and stays in the cache. `sections` are the parts of the code between its
    atomics: the last programs' work stands apart from that of all. `operations` are the float32 instructions that the
    arithmetic of one launch needs. `aligned` names the arguments that the kernel was compiled for as multiples of 16.
    `seconds` is the predicted time, `finishing` how much of it last programs take to finish sums, and `bound` what it
    is bound by: 'memory', 'arithmetic', or 'launch', which stands for all that waits.
    """

    name: str
    kind: str
    gpu: Gpu
    tiles: tuple[tuple[int, int], ...]
    block: int
    programs: int
    num_warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    occupancy: Occupancy
    accesses: tuple[Access, ...]
    mix: Mapping[str, int]
    sections: tuple[Section, ...]
    traffic: Traffic
    partial_bytes: int
    operations: int
    aligned: tuple[str, ...]
    seconds: float
    finishing: float
    bound: str

    def __repr__(self) -> str:
        spills = f"{self.spilled_bytes} bytes spilled" if self.spilled_bytes else "no spills"
        moved = self.traffic.read + self.traffic.written
        return (
            f"KernelReport({self.name!r} on {self.gpu.name}: {self.kind}, {self.num_warps} warps, {self.registers} "
            f"registers, {spills}, {moved:,} bytes, {self.seconds * 1e6:.2f} µs predicted, bound by {self.bound})"
        )

    @property
    def rows(self) -> int:
        """Rows of a program's tile; 0 where it has no columns."""
        return self.tiles[0][0] if self.tiles else 0

    @property
    def copy_share(self) -> float:
        """The share of copy bandwidth at which the predicted time moves what the launch reads and writes."""
        return (self.traffic.read + self.traffic.written) / (self.gpu.bandwidth * COPY_SHARE) / self.seconds

    @property
    def bytes_in_flight(self) -> int:
        """Bytes that one program has on its way at once before it counts its arrival, at most. What several threads
        load of one place counts for each."""
        return self.sections[0].bytes_in_flight * LANES * self.num_warps

    @property
    def intensity(self) -> float:
        """Operations for each byte of device memory."""
        return self.operations / max(1, self.traffic.read + self.traffic.written)


def make_reports(
    program: Program,
    arch: int = 90,
    sizes: Mapping[str, int] = NOMINAL_SIZES,
    cache: KernelCache | None = None,
    compiled: Sequence[CompiledReport] = (),
) -> tuple[KernelReport, ...]:
    """The reports of a program's generated kernels, in launch order, on the GPU that stands for sm_`arch` (80, 90 or
    100), with `Dim`s of these `sizes`; of what was `compiled` for them, where that is given. Raises `KernelError` for
    another arch or where compilation fails."""
    compiled = compiled or compile_program(program, arch, cache, sizes)
    gpu = GPUS[arch]
    sharing = _sharing(program, gpu, sizes)
    return tuple(
        _report(program, kernel, spelled, report, gpu, program.sizes_in(kernel.name, sizes), sharing)
        for kernel, spelled, report in zip(program.kernels, program.kernel_sources, compiled, strict=True)
    )


def _report(
    program: Program,
    kernel: GeneratedKernel,
    spelled: KernelSource,
    report: CompiledReport,
    gpu: Gpu,
    sizes: Mapping[str, int],
    sharing: int,
) -> KernelReport:
    # From sm_90 on what the hardware keeps is in the kernel's own count.
    shared = report.shared_bytes + (RESERVED_SHARED if report.arch < 90 else 0)
    programs = _programs(kernel, spelled, sizes, sharing)
    launch = program.launch_of(kernel)
    traffic, with_partials = launch.traffic(sizes), launch.traffic(sizes, programs=sharing)
    operations = _operations(kernel, sizes, sharing)
    occupied = occupancy(gpu, report.num_warps, report.registers, shared)
    code = sections(report.instructions)
    threads = LANES * report.num_warps
    resident = min(programs, occupied.programs * gpu.multiprocessors)
    moved = with_partials.read + with_partials.written
    under_way = resident * code[0].bytes_in_flight * threads
    rate = gpu.bandwidth * COPY_SHARE
    body = {
        "memory": moved / (min(rate, under_way / LOAD_LATENCY) if under_way else rate),
        "arithmetic": operations / (gpu.instructions * _filled(programs, gpu)),
        "latency": code[0].phases * LOAD_LATENCY,
    }
    finishing = _finishing(kernel, code[1:], threads, sharing)
    waits = {"launch": LAUNCH_SECONDS + body["latency"] + finishing}
    bounds = waits | {name: body[name] for name in ("memory", "arithmetic")}
    return KernelReport(
        name=kernel.name,
        kind=kernel.kind,
        gpu=gpu,
        tiles=_tiles_of(kernel, spelled),
        block=spelled.constexprs.get("BLOCK", 0),
        programs=programs,
        num_warps=report.num_warps,
        registers=report.registers,
        spilled_bytes=report.stack_bytes + report.local_bytes,
        shared_bytes=shared,
        occupancy=occupied,
        accesses=accesses(program.written[kernel.name], spelled, program.source, report.instructions, sizes),
        mix=mix(report.instructions),
        sections=code,
        traffic=traffic,
        partial_bytes=with_partials.total - traffic.total,
        operations=operations,
        aligned=tuple(divisible_by_16(spelled, sizes)),
        seconds=LAUNCH_SECONDS + max(body.values()) + finishing,
        finishing=finishing,
        bound=max(bounds, key=lambda name: bounds[name]),
    )


def _finishing(kernel: GeneratedKernel, code: Sequence[Section], threads: int, sharing: int) -> float:
    """What last programs take: the count of arrivals, and loads of what others left, as many at once as they can."""
    numbers = {"accumulate": 1, "moments": 2}
    left = sum(
        numbers[s.op] * element_count(s.attrs["address"].shape, {}) * s.dtype.itemsize
        for s in (kernel.steps if isinstance(kernel, Kernel) and kernel.counts_arrivals else ())
        if s.op in numbers and s.extent != SCALAR
    )
    rows = [min(GROUP, sharing), -(-sharing // GROUP)]
    seconds = 0.0
    for number, section in enumerate(code):
        at_once = section.bytes_in_flight * threads
        rounds = rows[number] * left / at_once if at_once and number < len(rows) else 0
        seconds += ARRIVAL_SECONDS + max(section.phases, rounds) * CACHE_LATENCY
    return seconds


def _tiles_of(kernel: GeneratedKernel, spelled: KernelSource) -> tuple[tuple[int, int], ...]:
    """The rows and columns of each tile that programs may have."""
    match kernel:
        case GroupedMatmulKernel():
            tiles = (constexprs_of(member.kernel) for member in kernel.members)
            return tuple(dict.fromkeys((t["ROWS"], t["BLOCK"]) for t in tiles))
        case Kernel() if kernel.layout.traversal.is_one_row:
            return ((1, spelled.constexprs["BLOCK"]),)
    rows = spelled.constexprs.get("ROWS", 0)
    return ((rows, spelled.constexprs["BLOCK"]),) if rows else ()


def _filled(programs: int, gpu: Gpu) -> float:
    """The share of a GPU that so many programs keep busy."""
    return min(1.0, max(1, programs) / gpu.multiprocessors)


def _sharing(program: Program, gpu: Gpu, sizes: Mapping[str, int]) -> int:
    """How many programs share a sum over rows: no more than there are tiles, as the runtime has it."""
    carrying = [k for k in program.kernels if isinstance(k, Kernel) and k.layout.traversal.is_persistent]
    tiles = [_tiles(k, k.layout.row_block, program.sizes_in(k.name, sizes)) for k in carrying]
    return min(max(tiles, default=1), PROGRAMS_PER_SM * gpu.multiprocessors)


def _tiles(kernel: Kernel, rows: int, sizes: Mapping[str, int]) -> int:
    return -(-element_count(kernel.layout.row_shape, sizes) // max(1, rows))


def _programs(kernel: GeneratedKernel, spelled: KernelSource, sizes: Mapping[str, int], sharing: int) -> int:
    match kernel:
        case ForeachKernel():
            return kernel.programs(spelled.constexprs["BLOCK"])
        case GroupedMatmulKernel():
            return sum(kernel.tiles) * _parts(kernel.members[0].kernel, kernel.split_k, sizes)
        case Kernel():
            return _tile_programs(kernel, spelled, sizes, sharing)


def _tile_programs(kernel: Kernel, spelled: KernelSource, sizes: Mapping[str, int], sharing: int) -> int:
    layout = kernel.layout
    has_tiles = layout.rows and not layout.traversal.is_one_row
    held = spelled.constexprs["ROWS" if layout.cols else "BLOCK"] if has_tiles else 1
    over_rows = sharing if layout.traversal.is_persistent else _tiles(kernel, held, sizes) if layout.rows else 1
    over_cols = -(-element_count(layout.col_shape, sizes) // layout.block) if layout.tiles_cols else 1
    return over_rows * over_cols * (_parts(kernel, layout.split_k, sizes) if layout.split_k else 1)


def _parts(kernel: Kernel, split_k: int, sizes: Mapping[str, int]) -> int:
    """How many programs share the sum of a tile of a product."""
    (product,) = kernel.products
    return splits_of(element_count(product.attrs["summed"], sizes), split_k)


def _operations(kernel: GeneratedKernel, sizes: Mapping[str, int], sharing: int) -> int:
    """Instructions of the arithmetic of one launch. What a loop along a long row computes again counts again."""
    match kernel:
        case ForeachKernel():
            return sum(
                _arithmetic(block.kernel, element_count(tensors[0].shape, sizes), 1, sizes, sharing)
                for block in kernel.blocks
                for tensors in block.rows
            )
        case GroupedMatmulKernel():
            return sum(_operations(member.kernel, sizes, sharing) for member in kernel.members)
        case Kernel():
            rows, cols = (element_count(s, sizes) for s in (kernel.layout.row_shape, kernel.layout.col_shape))
            return _arithmetic(kernel, rows, cols, sizes, sharing)


def _arithmetic(kernel: Kernel, rows: int, cols: int, sizes: Mapping[str, int], sharing: int) -> int:
    """Instructions of a tile program over so many rows and columns."""
    elements = {TILE: rows * cols, ROW: rows, COL: cols, SCALAR: 1}
    tiles = {s.name: s.extent for s in kernel.steps}

    def cost(step: Step) -> int:
        # A sum takes as many additions as there are elements in what it is taken of.
        taken = [elements[tiles[a]] for a in step.args] if step.op in _REDUCING else []
        if step.op == "product":
            return elements[TILE] * element_count(step.attrs["summed"], sizes)
        count = elements[step.extent] * sharing if step.op == "finalize" else max([elements[step.extent], *taken])
        return INSTRUCTIONS.get(step.op, 1) * count

    return sum(map(cost, _executed(kernel)))


_REDUCING = ("sum", "max", "min", "accumulate", "moments")


def _executed(kernel: Kernel) -> Iterator[Step]:
    if not kernel.layout.loops_cols:
        yield from kernel.steps
        return
    steps, beside = {s.name: s for s in kernel.steps}, running_maximum(kernel)
    for loop in row_loops(kernel).loops:
        yield from (steps[name] for name in (*loop.wide, *loop.reductions))
        for exponential in (steps[steps[name].args[0]] for name in loop.reductions if name in beside):
            yield from (steps[exponential.args[0]], exponential)
        yield from (steps[steps[name].args[0]] for name in loop.moments)
    yield from (s for s in kernel.steps if not is_wide(s) and s.op not in ("sum", "max", "min"))
