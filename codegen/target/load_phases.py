"""How loads follow each other in machine code: which are on their way together, and which wait for others to arrive.

A load takes some 600 to 800 ns on an H100, however little it moves. So what a kernel takes beyond its bytes is the
number of loads that wait for each other, and what it draws from memory the bytes that are on their way at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .sass import Instruction

ATOMICS = ("ATOM", "ATOMG", "RED")
"""Instructions by which programs count their arrivals: what stands between two of them only a last program does."""


LOADS_TO_REGISTERS = ("LDG", "LD")


_REGISTER = re.compile(r"\bR(\d+)\b")


_LEFT = re.compile(r"SB\d+, (0x[0-9a-f]+)")


@dataclass(frozen=True)
class Section:
    """The code of a kernel up to its first atomic, between two of them, or after the last. What stands in a loop counts
    once.

    `barriers` are those that all warps of a program wait at. `loads` are instructions that read global memory, to
    registers or, asynchronously, to shared memory. `phases` is the longest chain of loads of which each begins only
    once something that the one before it loaded has been used. `bytes_in_flight` is the most that a thread has on its
    way at once.
    """

    barriers: int
    loads: int
    phases: int
    bytes_in_flight: int


def sections(code: Iterable[Instruction]) -> tuple[Section, ...]:
    """The sections of a kernel, in the order of its code."""
    return tuple(map(_section, _parts(code)))


def _parts(code: Iterable[Instruction]) -> Iterator[list[Instruction]]:
    part: list[Instruction] = []
    for instruction in code:
        if instruction.name in ATOMICS:
            yield part
            part = []
        part.append(instruction)
    yield part


def _section(part: list[Instruction]) -> Section:
    walk = _Walk()
    for instruction in part:
        walk.step(instruction)
    names = [i.name for i in part]
    return Section(names.count("BAR"), walk.loads, walk.phases, walk.most)


class _Walk:
    """Goes down a section, and keeps what is on its way.

    `arrived` is the phase of the latest load that something has waited for: what is loaded from there on belongs to the
    next one.
    """

    def __init__(self) -> None:
        self.loads = self.phases = self.arrived = self.most = 0
        self.pending: dict[int, tuple[int, int]] = {}
        self.sizes: dict[int, int] = {}
        self.copied: list[int] = []
        self.copying = 0

    def step(self, instruction: Instruction) -> None:
        registers = [int(n) for n in _REGISTER.findall(instruction.operands)]
        for load, phase in {self.pending[r] for r in registers if r in self.pending}:
            self.arrived = max(self.arrived, phase)
            self._forget(load)
        match instruction.name:
            case name if name in LOADS_TO_REGISTERS and registers:
                self._load(instruction, registers[0])
            case "LDGSTS":
                self.loads += 1
                self.phases = max(self.phases, self.arrived + 1)
                self.copying += instruction.bits // 8
            case "LDGDEPBAR":
                self.copied.append(self.copying)
                self.copying = 0
            case "DEPBAR" if left := _LEFT.search(instruction.operands):
                self.copied = self.copied[max(0, len(self.copied) - int(left[1], 16)) :]
        self.most = max(self.most, sum(self.sizes.values()) + sum(self.copied) + self.copying)

    def _load(self, instruction: Instruction, first: int) -> None:
        self.loads += 1
        phase = self.arrived + 1
        self.phases = max(self.phases, phase)
        self.sizes[self.loads] = instruction.bits // 8
        for register in range(first, first + max(1, instruction.bits // 32)):
            self.pending[register] = (self.loads, phase)

    def _forget(self, load: int) -> None:
        self.sizes.pop(load, None)
        self.pending = {register: (other, phase) for register, (other, phase) in self.pending.items() if other != load}
