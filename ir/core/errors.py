"""The one family of errors that tritonnotes raises on purpose.

Every message says which op and value it is about, what came in, what was wanted, and what to do.
"""

from __future__ import annotations


class TritonNotesError(Exception):
    """Base of every error that tritonnotes raises on purpose."""


class DeclarationError(TritonNotesError, ValueError):
    """A graph was declared wrongly: a bad name, shape, dtype or argument."""


class ShapeError(DeclarationError):
    """Shapes do not fit the op that was asked for."""


class DTypeError(DeclarationError, TypeError):
    """A dtype is not one that the op works on."""


class ModelImportError(DeclarationError):
    """A torch module cannot be imported; the message names the op, the module and the line where it is called."""


class VerificationError(TritonNotesError):
    """A stage broke its own invariants: a defect of the compiler, never of the user."""


class FormatError(TritonNotesError, ValueError):
    """A text, JSON or state file is not what its schema allows."""


class PlanError(TritonNotesError, ValueError):
    """A fusion that was asked for cannot be had; the message holds the reason."""


class FeedError(TritonNotesError, ValueError):
    """A tensor that was fed does not fit the input, parameter or state it was fed for."""


class StateFileError(FeedError, OSError):
    """A state cannot be written to the file that was named, or read from what is none."""


class InterruptedStepError(TritonNotesError, RuntimeError):
    """A step was interrupted between its launches, and its state is neither that before it nor that after it."""


class KernelError(TritonNotesError, RuntimeError):
    """A generated kernel misbehaved (bounds, race, poison) or did not compile."""


class CacheError(TritonNotesError, OSError):
    """The kernel cache on disk cannot be trusted or used."""


def first_line(error: Exception) -> str:
    """What another library's error says first, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
