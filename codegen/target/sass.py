"""Machine code as nvdisasm prints it: which instructions there are, what kind of work each is, and which line of the
generated source it comes from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType

_LINE = re.compile(r'^\s*//## File "(?P<file>.*?)", line (?P<line>\d+)(?P<called> inlined at )?')


_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*)"
)


_WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}


LOADS = ("LDG", "LD", "LDGSTS")


STORES = ("STG", "ST")


KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "global load": LOADS,
        "global store": STORES,
        "atomic": ("ATOM", "ATOMG", "RED", "MEMBAR", "ERRBAR", "CCTL", "FENCE"),
        "spill": ("LDL", "STL"),
        "shared memory": ("LDS", "STS", "LDSM", "STSM", "ATOMS"),
        "constant": ("LDC", "LDCU", "ULDC"),
        "shuffle": ("SHFL", "REDUX", "CREDUX", "VOTE", "VOTEU", "MATCH"),
        "special function": ("MUFU",),
        "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FMNMX3", "FSEL", "FSET", "FSETP", "FCHK", "FSWZADD", "FRND",
                  "FADD2", "FMUL2", "FFMA2", "HADD2", "HMUL2", "HFMA2", "HMNMX2", "HSET2", "HSETP2"),
        "double": ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX"),
        "conversion": ("F2F", "F2FP", "F2I", "F2IP", "I2F", "I2FP", "I2I", "I2IP", "FI2F"),
        "control": ("BAR", "BRA", "BRX", "BSSY", "BSYNC", "CALL", "EXIT", "RET", "WARPSYNC", "YIELD", "NOP", "DEPBAR",
                    "BREAK", "BMOV", "NANOSLEEP", "KILL", "ACQBULK", "PREEXIT"),
        "matrix": ("HMMA", "IMMA", "DMMA", "HGMMA", "UTCHMMA"),
    }
)  # fmt: skip
"""Kinds of instructions by the names that they begin with. What is in none is integer work: addresses, masks, moves."""


INTEGER = "integer"


_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


@dataclass(frozen=True)
class Instruction:
    """One instruction: `name` is what comes before the first dot of `opcode`; `file` and `line` are the statement that
    it comes from, of the innermost function where one was inlined ('' and 0 where that is not said). `callers` are the
    places that called that function, the nearest first. `operands` are as they are printed, and
    `predicate` is what it depends on."""

    opcode: str
    file: str = ""
    line: int = 0
    callers: tuple[tuple[str, int], ...] = ()
    operands: str = ""
    predicate: str = ""

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """The file and line of the instruction, and of each call around it."""
        return ((self.file, self.line), *self.callers)

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def kind(self) -> str:
        return _KIND_OF.get(self.name, INTEGER)

    @property
    def bits(self) -> int:
        """Bits that one thread moves, of an instruction that touches memory."""
        stated = [_WIDTHS[part] for part in self.opcode.split(".") if part in _WIDTHS]
        return stated[-1] if stated else 32


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions of what `nvdisasm --print-code` printed, with their lines if it was told
    `--print-line-info-inline`. Padding after the last exit is left out."""
    places: tuple[tuple[str, int], ...] = (("", 0),)
    is_called = False
    held: list[Instruction] = []
    for row in text.splitlines():
        if place := _LINE.match(row):
            # The place of a call follows that of what it calls.
            here = (place["file"], int(place["line"]))
            places = (*places, here) if is_called else (here,)
            is_called = place["called"] is not None
        elif found := _INSTRUCTION.match(row):
            (file, line), *callers = places
            predicate = (found["predicate"] or "").strip()
            operands = found["operands"].strip()
            held.append(Instruction(found["opcode"], file, line, tuple(callers), operands, predicate))
            if held[-1].name not in ("NOP", "BRA"):
                yield from held
                held = []


def widths(code: Iterable[Instruction], names: tuple[str, ...]) -> Counter[int]:
    """{bits: number of instructions of these names that move as many for each thread}."""
    return Counter(each.bits for each in code if each.name in names)


def mix(code: Iterable[Instruction]) -> dict[str, int]:
    """How many instructions there are of each kind, the most frequent first. One in a loop counts once."""
    return dict(Counter(each.kind for each in code).most_common())


def with_source(text: str, source: str) -> str:
    """What `nvdisasm --print-code --print-line-info` printed of a kernel of the file `source`, with the lines of the
    file above the instructions that came of them, as `// 45: x = tl.load(x_ptr + cell)`. Where a line of another file
    was inlined, and nvdisasm does not say where, that file is named."""
    lines = source.splitlines()
    rows: list[str] = []
    own, said, place = None, "", None
    for row in text.splitlines():
        if found := _LINE.match(row):
            # The first instruction is of the kernel's own file. Of what was inlined the caller's line comes last.
            own = own or found["file"]
            place = found["file"], int(found["line"])
            continue
        if place is not None:
            file, line = place
            told = f"{line}: {lines[line - 1].strip()}" if file == own else f"{PurePath(file).name}, line {line}"
            if told != said:
                rows.append(f"\t// {told}")
            said, place = told, None
        rows.append(row)
    return "\n".join(rows) + "\n"
