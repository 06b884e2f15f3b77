"""What tells the source of one kernel from that of another, with all that it calls."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, ModuleType

from triton.runtime.jit import JITFunction

from tritonnotes.codegen.target.cache import key_of
from tritonnotes.codegen.target.language import triton_language
from tritonnotes.codegen.target.load import GENERATED


def source_key(kernel: JITFunction) -> str:
    """A hash of the text of a kernel and of all that it calls, with the lines where they stand.

    Triton's own parses every function, to find what it calls. Generated modules call by name functions of the same
    module, and Triton's own through modules, so there the names that their code holds say the same.
    """
    texts = _texts(kernel) if kernel.__module__.startswith(GENERATED) else None
    if texts is not None:
        return key_of(name=kernel.__name__, texts=texts)
    with triton_language:  # Triton looks at what the kernel calls
        return str(kernel.cache_key)


def _texts(kernel: JITFunction) -> dict[str, tuple[int, str]] | None:
    """The first line and the text of a kernel and of the functions of its module that it calls, by name; None where it
    may use anything else that is no module."""
    known = kernel.__globals__
    texts: dict[str, tuple[int, str]] = {}
    todo = [kernel]
    while todo:
        function = todo.pop()
        texts[function.__name__] = (function.starting_line_number, "".join(function.raw_src))
        for name in _names(function.fn.__code__):
            value = known.get(name)
            if isinstance(value, JITFunction) and value.__globals__ is known and value.__name__ == name:
                todo += () if name in texts else (value,)
            elif name in known and not isinstance(value, ModuleType):
                return None
    return texts


def _names(code: CodeType) -> Iterator[str]:
    """The names that code reads of its module, and those of attributes."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
