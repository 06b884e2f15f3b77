"""Triton's own front end, with no GPU: a `triton.jit` function and the types of its arguments become Triton IR text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction

from tritonnotes.codegen.target.language import triton_language

from ..errors import NativeError

CAPABILITY = 80
"""The target that the front end is told. Its backend lowers block pointers and tensor descriptors to plain pointers,
which later architectures keep for their hardware."""


NAMELESS = "@kernel("
"""What stands for a kernel's name in IR that kernels of other names share."""


MOST_CALLS = 64
"""The most references to places that are followed: a wrong text must not hang."""


TRITON_VERSION = str(triton.__version__)


@dataclass(frozen=True)
class Ttir:
    """The IR of one kernel. `located` is the same text with locations, line for line; empty where none are known."""

    name: str
    text: str
    located: str

    @classmethod
    def named(cls, name: str, nameless: str) -> Ttir:
        """A kernel of this name that says what `nameless` does."""
        return cls(name, nameless.replace(NAMELESS, f"@{name}("), "")

    @property
    def nameless(self) -> str:
        """The text but for the kernel's name, so that it is the same for all kernels that say the same."""
        return self.text.replace(f"@{self.name}(", NAMELESS)

    def source_line(self, line: int | None) -> str:
        """ " (file, line N)" of what stands on a line of the text; empty where that is not known."""
        # Where the kernel itself calls the helper that it stands in.
        places = self.places(line)
        return f" ({places[-1][0].rpartition('/')[2]}, line {places[-1][1]})" if places else ""

    def places(self, line: int | None) -> tuple[tuple[str, int], ...]:
        """The file and the line of what stands on a line of the text, and of the calls around it, the innermost first;
        none where they are not known."""
        body, known = self._locations
        if line is None or line >= len(body) or "loc(" not in body[line]:
            return ()
        return tuple(_places(body[line].rpartition("loc(")[2].removesuffix(")"), known))

    @cached_property
    def _locations(self) -> tuple[list[str], dict[str, str]]:
        """The lines of the located text, and what its references stand for."""
        lines = self.located.splitlines()
        named = (text.partition(" = ") for text in lines if text.startswith("#loc"))
        return [text for text in lines if not text.startswith("#loc")], {name: place for name, _, place in named}


def triton_ir(kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, Any]) -> Ttir:
    """The IR of `kernel` after the passes that every backend runs: helpers inlined, constants folded.

    `signature` gives a Triton type for each runtime parameter ("*fp32", "i32", ...), `constexprs` a value for each
    other one. Raises NativeError where Triton refuses the kernel.
    """
    types = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    target = GPUTarget("cuda", CAPABILITY, 32)
    try:
        with triton_language:
            source = ASTSource(fn=kernel, signature=types, constexprs=dict(constexprs), attrs=None)
            backend = make_backend(target)
            options = backend.parse_options({"enable_fp_fusion": True})
            context = ir.context()
            ir.load_dialects(context)
            backend.load_dialects(context)
            codegen, modules = backend.get_codegen_implementation(options), backend.get_module_map()
            module = source.make_ir(target, options, codegen, modules, context)
            module = backend.make_ttir(module, {}, options, CAPABILITY)
            return Ttir(kernel.__name__, module.str_nodebug(), str(module))
    except Exception as error:
        what = f"{type(error).__name__}: {_root(error)}"
        raise NativeError(f"kernel {kernel.__name__}: Triton's front end refuses it with {types}: {what}") from error


def _root(error: BaseException) -> str:
    # Triton wraps an error once for each helper function that it was in.
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip() or type(error).__name__


def _places(place: str, known: Mapping[str, str], depth: int = 0) -> Iterator[tuple[str, int]]:
    """What a reference of the IR to a place stands for."""
    found = known.get(place, "")
    if not found or depth > MOST_CALLS:
        return
    inner = found.removeprefix("loc(").removesuffix(")")
    if inner.startswith("callsite("):
        for part in inner.removeprefix("callsite(").removesuffix(")").split(" at "):
            yield from _places(part, known, depth + 1)
    elif "(#loc" in inner:
        yield from _places(inner.rpartition("(")[2].removesuffix(")"), known, depth + 1)  # a name in front of a place
    elif inner.startswith('"'):
        file, _, rest = inner.rpartition('":')
        yield file.removeprefix('"'), int(rest.split(":")[0])
