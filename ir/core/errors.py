"""The one family of errors that tritonnotes raises on purpose.

Every message says which op and value it is about, what came in, what was wanted, and what to do.
"""

from __future__ import annotations


class TritonNotesError(Exception):
    """Base of every error that tritonnotes raises on purpose."""


class DeclarationError(TritonNotesError, ValueError):
    """A graph was declared wrongly: a bad name, shape, dtype or argument."""


class ShapeError(DeclarationError):
    """The shapes of arguments do not fit the op."""


class DTypeError(DeclarationError, TypeError):
    """The op does not support a dtype."""


class ModelImportError(DeclarationError):
    """A torch module cannot be imported; the message names the op, the module and the line where it is called."""


class VerificationError(TritonNotesError):
    """A stage violated its own invariants: a bug of the compiler, not of the user."""


class FormatError(TritonNotesError, ValueError):
    """A text, JSON or state file does not follow its schema."""


class PlanError(TritonNotesError, ValueError):
    """A requested fusion is impossible; the message gives the reason."""


class FeedError(TritonNotesError, ValueError):
    """A tensor does not fit the input, parameter or state that it is passed for."""


class StateFileError(FeedError, OSError):
    """A state cannot be written to the file, or the file is not a state."""


class InterruptedStepError(TritonNotesError, RuntimeError):
    """A step was interrupted between its launches, so its state is neither that before nor that after the step."""


class KernelError(TritonNotesError, RuntimeError):
    """A kernel has a fault (bounds, data race, poison) or does not compile."""


class CacheError(TritonNotesError, OSError):
    """The kernel cache on disk cannot be trusted or used."""


def first_line(error: Exception) -> str:
    """What another library's error says first, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
