"""Machine code of the generated kernels, linked to lines, with the width of each access and the kernel's report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from ..codegen.program.compile import compile_each
from ..codegen.program.program import Program
from ..codegen.report.kernel_reports import KernelReport, make_reports
from ..codegen.support.provenance import LineMap
from ..codegen.target.gpus import GPUS
from ..codegen.target.sass import LOADS, STORES, Instruction
from ..ir.core.errors import KernelError
from .progress import Told, tell_nobody
from .things import Things

_GENERATED = 64 + len(".py")
"""Letters of a generated file's name: a hash and its ending."""


class Listed(Protocol):
    """An instruction of a CPU, and the lines that it comes of, the innermost first."""

    @property
    def text(self) -> str: ...
    @property
    def lines(self) -> tuple[int, ...]: ...


class Listing(Protocol):
    """A kernel as machine code of a CPU, as `native.listing` gives it."""

    @property
    def name(self) -> str: ...
    @property
    def cpu(self) -> str: ...
    @property
    def instructions(self) -> Sequence[Listed]: ...


@dataclass(frozen=True)
class Row:
    """An instruction: its text, its kind, and the bits that one thread moves if it touches memory of the device."""

    text: str
    kind: str
    bits: int


@dataclass(frozen=True)
class Block:
    """Instructions in a row that come of one line; 0 where none is known."""

    line: int
    ops: str
    values: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Machine:
    """A kernel's machine code and its report in words. `known` of its `count` instructions lead to an op."""

    name: str
    launch: str
    facts: tuple[tuple[str, str], ...]
    accesses: tuple[tuple[str, bool], ...]
    blocks: tuple[Block, ...]
    count: int
    known: int


@dataclass(frozen=True)
class MachineCode:
    """The kernels for one processor, or the reason why there are none."""

    processor: str
    kernels: tuple[Machine, ...] = ()
    why_not: str = ""

    @property
    def count(self) -> int:
        return sum(kernel.count for kernel in self.kernels)

    @property
    def known(self) -> int:
        return sum(kernel.known for kernel in self.kernels)


def disassembled(
    program: Program, things: Things, arch: int, sizes: Mapping[str, int], told: Told = tell_nobody
) -> MachineCode:
    """The machine code for sm_`arch`, or why there is none. `told` hears of each kernel that is disassembled."""
    gpu = GPUS[arch].name
    if not program.kernels:
        return MachineCode(gpu, why_not="The plan has no generated kernel.")
    compiled = []
    try:
        for code in compile_each(program, arch, sizes=sizes):
            compiled.append(code)
            told(f"{code.name}, {len(code.instructions)} instructions")  # first asked for here: that takes the time
        reports = make_reports(program, arch, sizes, compiled=compiled)
    except KernelError as error:
        return MachineCode(gpu, why_not=f"The kernels were not compiled for sm_{arch}: {error}")
    kernels = []
    for report, code in zip(reports, compiled, strict=True):
        lined = [(line_of(i, program.line_map), _row(i)) for i in code.instructions]
        blocks = tuple(_blocks(lined, program.line_map, things))
        known = sum(len(block.rows) for block in blocks if block.line)
        accesses = tuple((str(access), access.is_wide) for access in report.accesses)
        launch = things.launch(report.name)
        count = len(code.instructions)
        kernels.append(Machine(report.name, launch, tuple(_facts(report)), accesses, blocks, count, known))
    return MachineCode(gpu, tuple(kernels))


def listed(program: Program, things: Things, listings: Sequence[Listing]) -> MachineCode:
    """The machine code of kernels for a CPU."""
    first: dict[str, str] = {}
    for launch, kernel in program.written.items():
        first.setdefault(kernel.name, launch)
    kernels = []
    for listing in listings:
        lined = [(_step_line(i.lines, program.line_map), Row(i.text, "", 0)) for i in listing.instructions]
        blocks = tuple(_blocks(lined, program.line_map, things))
        known = sum(len(block.rows) for block in blocks if block.line)
        launch = things.launch(first[listing.name])
        kernels.append(Machine(listing.name, launch, (), (), blocks, len(lined), known))
    cpu = listings[0].cpu if listings else "CPU"
    return MachineCode(cpu, tuple(kernels), "" if kernels else "The plan has no generated kernel.")


def line_of(instruction: Instruction, lines: LineMap) -> int:
    """The innermost line of a kernel's function that an instruction comes of, 0 if none of its places is one."""
    return _step_line((line for file, line in instruction.places if _is_generated(file)), lines)


def _is_generated(file: str) -> bool:
    return file.endswith(".py") and len(file.rpartition("/")[2]) == _GENERATED


def _step_line(found: Iterable[int], lines: LineMap) -> int:
    """The first of some lines that is one of a kernel's function."""
    return next((n for n in found if 0 < n <= len(lines) and lines[n].role in ("step", "setup")), 0)


def _blocks(code: Iterable[tuple[int, Row]], lines: LineMap, things: Things) -> Iterator[Block]:
    for line, rows in groupby(code, key=lambda lined: lined[0]):
        origins = lines[line].origins if line else ()
        values = things.values_of(o.value for o in origins) if line and lines[line].role == "step" else ""
        yield Block(line, things.ops(o.name for o in origins), values, tuple(row for _, row in rows))


def _row(instruction: Instruction) -> Row:
    is_access = instruction.name in (*LOADS, *STORES)
    text = " ".join(filter(None, (instruction.predicate, instruction.opcode, instruction.operands)))
    return Row(text, instruction.kind, instruction.bits if is_access else 0)


def _facts(report: KernelReport) -> Iterator[tuple[str, str]]:
    yield "programs", f"{report.programs:,} of {report.num_warps} warps each"
    yield (
        "registers",
        f"{report.registers} a thread"
        + (f", {report.spilled_bytes} bytes spilled" if report.spilled_bytes else ", none spilled"),
    )
    yield "shared memory", f"{report.shared_bytes:,} bytes"
    yield "occupancy", f"{report.occupancy.share:.0%}, limited by {report.occupancy.limiter}"
    yield "traffic", f"{report.traffic.read:,} bytes read, {report.traffic.written:,} written"
    yield "time, at best", f"{report.seconds * 1e6:.1f} µs, bound by {report.bound}"
    yield "instructions", ", ".join(f"{count} {kind}" for kind, count in report.mix.items())
