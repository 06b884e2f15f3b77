"""A kernel's machine code to read, each instruction with the line of source that it comes of.

It is made on request, with debug locations in the LLVM IR. The code that runs is made without: it is the same, but for
what LLVM keeps apart so that lines stay true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from triton.runtime.jit import JITFunction

from ..llvm.debug_lines import DebugLines
from ..llvm.engine import assembly, this_machine
from ..llvm.threads import DECLARATIONS
from ..lower.kernel import lower
from ..lower.lowering import Options
from ..ttir.front import triton_ir
from .arguments import face_of, split

_LOCATION = re.compile(r"\.loc\s+\d+\s+(\d+)")


@dataclass(frozen=True)
class Instruction:
    """An instruction in AT&T's notation, and the lines of the kernel's file that it comes of: the innermost first, then
    those that call what it stands in. None are known of what LLVM adds: prologues, and constants and copies in front of
    loops."""

    text: str
    lines: tuple[int, ...]

    @property
    def line(self) -> int:
        """The innermost line, 0 where none is known."""
        return self.lines[0] if self.lines else 0


@dataclass(frozen=True)
class Listing:
    """A kernel's machine code for `cpu`. What calls it over a grid is left out."""

    name: str
    cpu: str
    instructions: tuple[Instruction, ...]

    @property
    def known(self) -> int:
        """How many instructions have a line."""
        return sum(1 for instruction in self.instructions if instruction.lines)

    def with_source(self, source: str) -> str:
        """The instructions, with the lines of the file `source` above what came of them."""
        lines = source.splitlines()
        shown = [f"# {self.name} for {self.cpu}: {len(self.instructions)} instructions, {self.known} have a line"]
        for line, instructions in groupby(self.instructions, key=lambda instruction: instruction.line):
            shown.append(f"# line {line}: {lines[line - 1].strip()}" if 0 < line <= len(lines) else "# no line")
            shown += (f"    {instruction.text}" for instruction in instructions)
        return "\n".join(shown)


def listing(kernel: JITFunction, *args: Any, enable_fp_fusion: bool = True, **constexprs: Any) -> Listing:
    """The machine code of a kernel for these arguments, as `launch` takes them. Of tensors the dtype alone is looked
    at, so that they may be on any device. Raises as `compile` does."""
    face = face_of(kernel)
    plain = [torch.empty(0, dtype=arg.dtype) if isinstance(arg, torch.Tensor) else arg for arg in args]
    signature, values, _ = split(face, face.bind(plain, constexprs))
    return _listed(kernel, signature, values, Options(enable_fp_fusion, this_machine().has_wide_registers))


def _listed(
    kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, Any], options: Options
) -> Listing:
    ttir, own_file = triton_ir(kernel, signature, constexprs), kernel.fn.__code__.co_filename

    known: dict[tuple[int, ...], int] = {(): 0}

    def number_of(line: int | None) -> int:
        """A number for the lines in the kernel's own file: helpers of Triton's come of the lines that call them."""
        found = tuple(number for file, number in ttir.places(line) if file == own_file)
        return known.setdefault(found, len(known))

    lines = DebugLines(number_of)
    lowered = lower(ttir, options, lines=lines)
    text = assembly("\n".join([DECLARATIONS, lowered.text, lines.text]))
    return Listing(ttir.name, this_machine().cpu, tuple(_instructions(text, f"{lowered.symbol}.", list(known))))


def _instructions(text: str, own: str, lines: Sequence[tuple[int, ...]]) -> Iterator[Instruction]:
    """The instructions of the functions whose names begin so; the numbers that LLVM was given stand for these lines."""
    number, is_own = 0, False
    for written in text.splitlines():
        code = written.partition("#")[0].strip()
        if written and not written[0].isspace():
            name = code.removesuffix(":").strip('"')
            if code.endswith(":") and not name.startswith("."):
                number, is_own = 0, name.startswith(own) and name.removeprefix(own) not in ("share", "parallel")
        elif (found := _LOCATION.match(code)) is not None:
            number = int(found.group(1))
        elif is_own and code and not code.startswith("."):
            yield Instruction(" ".join(code.split()), lines[number])
