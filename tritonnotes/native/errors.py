"""The errors of native code. Both name the kernel, and the line of its source where that is known."""

from __future__ import annotations

from tritonnotes.ir.core.errors import KernelError

REMEDY = "run it in the strict interpreter instead: tritonnotes.interpreter.launch, or strict=True"


class NativeError(KernelError):
    """A kernel could not be launched as machine code, or the sanitizer stopped it."""


class UnsupportedError(NativeError):
    """A kernel uses what native code does not cover. The message names the line and the remedy."""


class Uncovered(Exception):
    """Raised in the middle of lowering, where only the operation is known; `kernel.lower` turns it into an
    `UnsupportedError` with the kernel's name and line. `line` is the operation's line in the text of the IR."""

    def __init__(self, what: str, line: int | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
