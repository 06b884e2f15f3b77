"""Runs `triton.jit` kernels on CPU tensors as machine code."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from .engine import Loaded, Object, compile_object, kept_object, kept_text, object_key, this_machine
from .errors import NativeError
from .front import TRITON_VERSION, Ttir, triton_ir
from .kernel import lower
from .lowering import Options
from .sanitize import GuardBlock, span
from .threads import DECLARATIONS, openmp

POINTERS = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int8: "*i8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8",
    torch.uint16: "*u16", torch.uint32: "*u32", torch.uint64: "*u64", torch.bool: "*i1",
}  # fmt: skip

IGNORED = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg", "launch_pdl", "launch_cooperative_grid"})
"""Launch options that say how to compile for a GPU, and nothing here."""

FORMATS = {
    "ptr": "Q", "f32": "f4x", "f64": "d", "i32": "i4x", "i64": "q", "i16": "h6x", "i8": "b7x", "i1": "B7x",
}  # fmt: skip
"""One argument in the block of arguments, eight bytes each."""

TTIR_KIND = "ttir"
_SEPARATOR = "\0"


class NativeKernel:
    """One kernel for arguments of certain types, as machine code."""

    def __init__(self, name: str, symbol: str, made: Object) -> None:
        self.name = name
        self.arguments: tuple[str, ...] = tuple(made.facts["arguments"])
        self.workspace = int(made.facts["workspace"])
        self.faults: tuple[str, ...] = tuple(made.facts["faults"])
        unknown = [elem for elem in self.arguments if elem not in FORMATS]
        if unknown:
            raise NativeError(f"kernel {name}: arguments of type {', '.join(unknown)} cannot be passed")
        self.struct = struct.Struct("<" + "".join(FORMATS[elem] for elem in self.arguments))
        exports = (symbol, f"{symbol}.parallel")
        self._loaded = Loaded(made.code, exports)
        size, word, pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
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
        work = _workspace(self.workspace * max(threads, 1))
        if threads <= 1:
            self.serial(packed, 0, count, x, y, z, work, guard)
        else:
            self.parallel(packed, count, x, y, z, work, guard, threads)


_local = threading.local()


def _workspace(size: int) -> int:
    """Scratch memory for this thread's launches, kept for the next one."""
    if not size:
        return 0
    kept: Tensor | None = getattr(_local, "workspace", None)
    if kept is None or kept.numel() < size + 64:
        kept = _local.workspace = torch.empty(size + 64, dtype=torch.uint8)
    return -(-kept.data_ptr() // 64) * 64


class _Face:
    """A kernel's parameters, read once."""

    def __init__(self, kernel: JITFunction) -> None:
        self.name = kernel.__name__
        self.names = [p.name for p in kernel.params]
        self.constexpr = frozenset(p.name for p in kernel.params if p.is_constexpr)
        self.general = frozenset(p.name for p in kernel.params if p.do_not_specialize)
        self.annotated = {p.name: p.annotation_type for p in kernel.params if p.annotation_type}
        self.defaults = {p.name: p.default for p in kernel.params if p.has_default}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self.names):
            raise NativeError(f"kernel {self.name} takes {len(self.names)} arguments, but {len(args)} were given")
        bound = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name in bound:
                raise NativeError(f"kernel {self.name}: argument {name} was given twice")
            if name in self.names:
                bound[name] = value
            elif name not in IGNORED:
                raise NativeError(f"kernel {self.name} has no argument {name}; it takes {', '.join(self.names)}")
        missing = [name for name in self.names if name not in bound and name not in self.defaults]
        if missing:
            raise NativeError(f"kernel {self.name}: missing arguments {', '.join(missing)}")
        return {name: bound[name] if name in bound else self.defaults[name] for name in self.names}

    def type_of(self, name: str, value: Any) -> str:
        """The Triton type of an argument; "constexpr" where its value is compiled in, as Triton's JIT does it."""
        if name in self.constexpr or value is None:
            return "constexpr"
        if isinstance(value, Tensor):
            if value.device.type != "cpu":
                raise NativeError(f"kernel {self.name}: {name} is on {value.device}; native code runs on CPU tensors")
            if value.dtype not in POINTERS:
                raise NativeError(f"kernel {self.name}: {name} is a tensor of {value.dtype}, which is not covered")
            return POINTERS[value.dtype]
        if name in self.annotated:
            return self.annotated[name]
        if isinstance(value, bool):
            return "i1"
        if isinstance(value, float):
            return "fp32"
        if isinstance(value, int):
            if value == 1 and name not in self.general:
                return "constexpr"
            if -(2**31) <= value < 2**31:
                return "i32"
            return "i64" if -(2**63) <= value < 2**63 else "u64"
        raise NativeError(
            f"kernel {self.name}: argument {name} is a {type(value).__name__}; native code takes tensors, numbers and "
            "compile-time constants"
        )


_faces: dict[JITFunction, _Face] = {}
_kernels: dict[Any, NativeKernel] = {}


def _face(kernel: Any) -> _Face:
    found = _faces.get(kernel)
    if found is None:
        if not isinstance(kernel, JITFunction):
            raise NativeError(
                f"a triton.jit function is wanted, not a {type(kernel).__name__}; of an autotuned or heuristic kernel "
                "pass its .fn, with a value for each constant (is TRITON_INTERPRET set?)"
            )
        found = _faces[kernel] = _Face(kernel)
    return found


def compile(
    kernel: JITFunction,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any] | None = None,
    *,
    enable_fp_fusion: bool = True,
    sanitize: bool = False,
    aliased: bool = False,
) -> NativeKernel:
    """The machine code of a kernel for arguments of given types.

    `signature` gives a Triton type for each runtime parameter ("*fp32", "i32", "fp32", ...), `constexprs` a value for
    each other one that has no default. `aliased`: tensors may overlap, so that accesses keep their order. Raises
    UnsupportedError for what native code does not cover, and NativeError for what Triton's front end refuses.
    """
    face = _face(kernel)
    given = dict(constexprs or {})
    values = {name: given.get(name, face.defaults.get(name)) for name in face.names if name not in signature}
    options = Options(enable_fp_fusion, this_machine().has_wide_registers, aliased, sanitize)
    key = (kernel, tuple(sorted(signature.items())), _hashable(values), options)
    found = _kernels.get(key)
    if found is None:
        found = _kernels[key] = _compiled(kernel, signature, values, options)
    return found


def _hashable(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, type(value), value) for name, value in values.items())


def _compiled(
    kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, Any], options: Options
) -> NativeKernel:
    ttir = kept_ir(kernel, signature, constexprs)

    def build() -> Object:
        lowered = lower(ttir, options)
        code = compile_object(f"{DECLARATIONS}\n{lowered.text}", f"kernel {ttir.name}")
        facts = {"arguments": lowered.arguments, "workspace": lowered.workspace, "faults": lowered.faults}
        return Object(facts, code)

    key = object_key(ir=ttir.text, options=vars(options))
    return NativeKernel(ttir.name, "kernel", kept_object(key, build))


def kept_ir(kernel: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, Any]) -> Ttir:
    """A kernel's IR, from the cache where its source, all that it calls and its constants are known there."""

    def build() -> str:
        made = triton_ir(kernel, signature, constexprs)
        return _SEPARATOR.join((made.name, made.text, made.located))

    constants = {name: _described(value) for name, value in constexprs.items()}
    if None in constants.values():
        return triton_ir(kernel, signature, constexprs)
    key = object_key(source=kernel.cache_key, signature=dict(signature), constants=constants, triton=TRITON_VERSION)
    return Ttir(*kept_text(TTIR_KIND, key, build).split(_SEPARATOR))


def _described(value: Any) -> str | None:
    """A constant as text that says everything about it; None for objects of which that is not known."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{type(value).__name__} {value!r}"
    return None


def launch(
    kernel: JITFunction,
    grid: Sequence[int] | Callable[[dict[str, Any]], Sequence[int]],
    *args: Any,
    sanitize: bool = False,
    enable_fp_fusion: bool = True,
    threads: int | None = None,
    tensors: Sequence[Tensor] = (),
    uninitialized: Sequence[Tensor] = (),
    **kwargs: Any,
) -> None:
    """Runs `kernel` once for each program of `grid` over CPU tensors, which are written in place.

    `args` and `kwargs` are what the JIT would take: tensors, ints (int32, or int64 where they do not fit), floats (as
    float32), bools, None, and values for constexpr parameters; `grid` up to three sizes, or a function of the
    arguments. `num_warps` and the like are ignored. Programs are shared out over `threads` (torch.get_num_threads());
    the bits are the same for any number. With `sanitize`, accesses are checked, at some cost; a fault raises
    NativeError and names the access. `tensors` are then those that the kernel reaches only through pointer tables, and
    `uninitialized` those whose content means nothing before the kernel stores it.
    """
    face = _face(kernel)
    values = face.bind(args, kwargs)
    sizes = tuple(grid(values)) if callable(grid) else tuple(grid)
    if len(sizes) > 3 or any(size < 0 for size in sizes):
        raise NativeError(f"kernel {face.name}: a grid has up to three sizes, none negative, not {sizes}")
    x, y, z = (*sizes, 1, 1, 1)[:3]
    if x * y * z == 0:
        return
    if x * y * z >= 2**31:
        raise NativeError(f"kernel {face.name}: a grid of {x * y * z} programs is too large; the limit is 2³¹ − 1")
    types = {name: face.type_of(name, value) for name, value in values.items()}
    signature = {name: type_ for name, type_ in types.items() if type_ != "constexpr"}
    constexprs = {name: values[name] for name, type_ in types.items() if type_ == "constexpr"}
    given = [values[name] for name in signature]
    made = compile(
        kernel, signature, constexprs, enable_fp_fusion=enable_fp_fusion, sanitize=sanitize, aliased=overlap(given)
    )
    packed = made.struct.pack(*[v.data_ptr() if isinstance(v, Tensor) else v for v in given])
    threads = torch.get_num_threads() if threads is None else threads
    if not sanitize:
        made.run((x, y, z), packed, threads)
        return
    guard = GuardBlock([v for v in given if isinstance(v, Tensor)], tensors, uninitialized)
    made.run((x, y, z), packed, threads, guard.address)
    if guard.fault:
        raise NativeError(made.faults[guard.fault - 1])


def overlap(values: Sequence[Any]) -> bool:
    """Whether any two tensors share memory."""
    spans: list[tuple[int, int]] = []
    for value in values:
        if isinstance(value, Tensor) and value.numel():
            spans.append(span(value))
    spans.sort()
    return any(a[1] > b[0] for a, b in zip(spans, spans[1:], strict=False))
