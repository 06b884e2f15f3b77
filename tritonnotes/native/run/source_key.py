"""What tells the source of one kernel from that of another, with all that it calls, without parsing it."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, ModuleType

from triton.runtime.jit import JITFunction

from tritonnotes.codegen.target.cache import key_of
from tritonnotes.codegen.target.load import GENERATED


def source_key(kernel: JITFunction) -> str:
    """A hash of the text of a kernel and of all that it calls, with the lines where they stand. Unless a module is
    generated, it is Triton's own, which parses every function to find what it calls."""
    texts = own_texts(kernel)
    if texts is None:
        return str(kernel.cache_key)
    lines = {name: kernel.__globals__[name].starting_line_number for name in texts}
    return key_of(name=kernel.__name__, texts=texts, lines=lines)


def own_texts(kernel: JITFunction) -> dict[str, str] | None:
    """The texts of a kernel of a generated module and of the functions there that it calls, by name; None for other
    kernels, and for those that may use anything else that is no module.

    Generated modules call functions by the names that their code holds, and Triton's own through modules.
    """
    if not kernel.__module__.startswith(GENERATED):
        return None
    known = kernel.__globals__
    texts: dict[str, str] = {}
    todo = [kernel.__name__]
    while todo:
        function = known.get(name := todo.pop())
        if not isinstance(function, JITFunction) or function.__globals__ is not known or function.__name__ != name:
            return None
        texts[name] = f"{function.noinline} {function.src}"
        for used in _names(function.fn.__code__):
            if used in known and used not in texts and not isinstance(known[used], ModuleType):
                todo.append(used)
    return texts


def _names(code: CodeType) -> Iterator[str]:
    """The names that code reads of its module, and those of attributes."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
