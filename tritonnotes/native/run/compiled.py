"""A kernel as machine code: compiled, kept, loaded, called."""

from __future__ import annotations

import ctypes
import json
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from tritonnotes.codegen.target.language import triton_language

from ..errors import NativeError, UnsupportedError
from ..llvm.engine import Loaded, Object, compile_object, kept_object, kept_text, object_key, this_machine
from ..llvm.threads import DECLARATIONS, openmp
from ..lower.faults import Fault
from ..lower.guard_block import shadowed, span
from ..lower.kernel import lower
from ..lower.lowering import Options
from ..ttir.front import TRITON_VERSION, Ttir, triton_ir
from ..ttir.meaning import described, meaning_of
from .arguments import FORMATS, Face, face_of, kinds, overlap, split
from .source_key import own_texts, source_key

TTIR_KIND, MEANING_KIND = "ttir", "meaning"


_kernels: dict[Any, NativeKernel] = {}


class NativeKernel:
    """One kernel for arguments of certain types, as machine code."""

    def __init__(self, name: str, symbol: str, made: Object) -> None:
        self.name, self.symbol, self.code = name, symbol, made.code
        self.arguments: tuple[str, ...] = tuple(made.facts["arguments"])
        self.workspace = int(made.facts["workspace"])
        self.shadows = frozenset(made.facts["shadows"])
        self.faults = tuple(Fault(*fault) for fault in made.facts["faults"])
        unknown = [elem for elem in self.arguments if elem not in FORMATS]
        if unknown:
            raise NativeError(f"kernel {name}: arguments of type {', '.join(unknown)} cannot be passed")
        self.struct = struct.Struct("<" + "".join(FORMATS[elem] for elem in self.arguments))
        exports = (symbol, f"{symbol}.parallel")
        self._loaded = Loaded((made.code,), exports)
        size, word, pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
        self.address = self._loaded[symbol]
        # A ctypes function lets go of the interpreter's lock while it runs.
        self.serial = ctypes.CFUNCTYPE(None, pointer, size, size, word, word, word, pointer, pointer)(
            self._loaded[symbol]
        )
        self.parallel = ctypes.CFUNCTYPE(None, pointer, size, word, word, word, pointer, pointer, word)(
            self._loaded[f"{symbol}.parallel"]
        )

    def run(self, grid: tuple[int, int, int], packed: bytes, threads: int, guard: int = 0) -> None:
        """All programs of a grid over a packed block of arguments."""
        x, y, z = grid
        count = x * y * z
        threads = min(threads, count) if openmp() else 1
        work = workspace(self.workspace * max(threads, 1))
        if threads <= 1:
            self.serial(packed, 0, count, x, y, z, work, guard)
        else:
            self.parallel(packed, count, x, y, z, work, guard, threads)


_local = threading.local()


def workspace(size: int) -> int:
    """Scratch memory for this thread's launches, kept for the next one."""
    if not size:
        return 0
    kept: Tensor | None = getattr(_local, "workspace", None)
    if kept is None or kept.numel() < size + 64:
        kept = _local.workspace = torch.empty(size + 64, dtype=torch.uint8, device="cpu")
    return -(-kept.data_ptr() // 64) * 64


def compile(
    kernel: JITFunction,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any] | None = None,
    *,
    enable_fp_fusion: bool = True,
    sanitize: bool = False,
    shadows: Sequence[int] = (),
    aliased: bool = False,
) -> NativeKernel:
    """The machine code of a kernel for arguments of given types.

    `signature` gives a Triton type for each runtime parameter ("*fp32", "i32", "fp32", ...), `constexprs` a value for
    each other one that has no default. `sanitize` compiles checks in; `shadows` are the numbers, among the pointers, of
    those to uninitialised memory. `aliased`: tensors may overlap, so that accesses keep their order. Raises
    UnsupportedError for what native code does not cover, and NativeError for what Triton's front end refuses.
    """
    face = face_of(kernel)
    given = dict(constexprs or {})
    values = {name: given.get(name, face.defaults.get(name)) for name in face.names if name not in signature}
    options = Options(enable_fp_fusion, this_machine().has_wide_registers, aliased, sanitize, tuple(shadows))
    key = (face, tuple(sorted(signature.items())), _hashable(values), options)
    found = _kernels.get(key)
    if found is None:
        found = _kernels[key] = _compiled(kernel, signature, values, options)
    return found


def specialized(
    face: Face,
    kernel: JITFunction,
    values: Mapping[str, Any],
    enable_fp_fusion: bool,
    sanitize: bool = False,
    uninitialized: Sequence[Tensor] = (),
) -> tuple[NativeKernel, list[Any]]:
    """The machine code of a kernel for these arguments, and which of them are passed to it, in order."""
    key = (kinds(face, values), enable_fp_fusion, sanitize)
    found = face.specialized.get(key)
    if found is None:
        signature, constexprs, _ = split(face, values)
        found = face.specialized[key] = (signature, constexprs, {})
    signature, constexprs, made = found
    given = [values[name] for name in signature]
    spans = [span(value) for value in given if isinstance(value, Tensor)]
    aliased, shadows = overlap(spans), shadowed(spans, uninitialized) if uninitialized else ()
    if (aliased, shadows) not in made:
        made[aliased, shadows] = compile(
            kernel,
            signature,
            constexprs,
            enable_fp_fusion=enable_fp_fusion,
            sanitize=sanitize,
            shadows=shadows,
            aliased=aliased,
        )
    return made[aliased, shadows], given


def _hashable(values: Mapping[str, Any]) -> tuple[Any, ...]:
    # As text, since 0.0 and -0.0 are equal and are not the same.
    return tuple((name, described(value) or value) for name, value in values.items())


def _compiled(
    kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, Any], options: Options
) -> NativeKernel:
    ttir = kept_ir(kernel, signature, constexprs, with_lines=options.sanitize)

    def build() -> Object:
        try:
            lowered = lower(ttir, options, symbol)
        except UnsupportedError:
            lower(triton_ir(kernel, signature, constexprs), options, symbol)  # says so with the line of its source
            raise
        code = compile_object(f"{DECLARATIONS}\n{lowered.text}", f"kernel {ttir.name}")
        facts = {"arguments": lowered.arguments, "workspace": lowered.workspace, "faults": lowered.faults}
        return Object({**facts, "shadows": options.shadows}, code)

    # Faults name lines, so what is sanitized depends on where the source stands.
    key = object_key(ir=ttir.nameless, options=vars(options), located=ttir.located if options.sanitize else "")
    symbol = f"kernel_{key[:32]}"
    return NativeKernel(ttir.name, symbol, kept_object(key, build))


def kept_ir(
    kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, Any], *, with_lines: bool = False
) -> Ttir:
    """A kernel's IR, from the cache where all that decides it is known there. Without lines, kernels share it that say
    the same, whatever they are called and wherever they stand."""
    constants = {name: described(value) for name, value in constexprs.items()}
    if None in constants.values():
        return triton_ir(kernel, signature, constexprs)
    with triton_language:  # the keys look at what the kernel calls
        meaning = None if with_lines else _kept_meaning(kernel)
        source = source_key(kernel) if meaning is None else ""
    if meaning is None:
        key = object_key(source=source, signature=dict(signature), constants=constants, triton=TRITON_VERSION)
        made = kept_text(TTIR_KIND, key, lambda: json.dumps(asdict(triton_ir(kernel, signature, constexprs))))
        return Ttir(**json.loads(made))
    arguments = [signature.get(name, constants.get(name)) for name in kernel.arg_names]
    key = object_key(meaning=meaning, arguments=arguments, triton=TRITON_VERSION)
    return Ttir.named(
        kernel.__name__, kept_text(TTIR_KIND, key, lambda: triton_ir(kernel, signature, constexprs).nameless)
    )


def _kept_meaning(kernel: JITFunction) -> str | None:
    """What a kernel says, of a generated one from the cache: finding it out takes longer than to read it."""
    texts = own_texts(kernel)
    if texts is None:
        return meaning_of(kernel)
    key = object_key(name=kernel.__name__, texts=texts, python=sys.version_info[:2], triton=TRITON_VERSION)
    return kept_text(MEANING_KIND, key, lambda: meaning_of(kernel) or "") or None
