"""`launch`: one kernel, all its programs, one after another."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as upstream
from triton.runtime.interpreter import TensorHandle
from triton.runtime.jit import JITFunction, mangle_type

from tritonnotes.codegen.target.language import triton_language
from tritonnotes.ir.core.errors import KernelError

from . import builder as build
from .memory import Memory
from .ownership import Ownership
from .patches import redirected, rewritten

# Launch options that say how to compile, and nothing to an interpreter.
_OPTIONS = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion"})
_FACE = "__tritonnotes_face__"
_pointer_types: dict[torch.dtype, tl.dtype] = {}


class _Face:
    """A kernel's parameters, read once: names in order, which are constexpr, annotated types, defaults."""

    def __init__(self, kernel: JITFunction) -> None:
        self.names = [parameter.name for parameter in kernel.params]
        self.constexpr = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
        self.types = {p.name: tl.str_to_ty(p.annotation_type, None) for p in kernel.params if p.annotation_type}
        self.defaults = {p.name: p.default for p in kernel.params if p.has_default}

    def bind(self, kernel: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self.names):
            raise KernelError(f"kernel {kernel} takes {len(self.names)} arguments, but {len(args)} were given")
        bound = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name in bound:
                raise KernelError(f"kernel {kernel}: argument {name} was given twice")
            if name in self.names:
                bound[name] = value
            elif name not in _OPTIONS:
                raise KernelError(f"kernel {kernel} has no argument {name}; it takes {', '.join(self.names)}")
        missing = [name for name in self.names if name not in bound and name not in self.defaults]
        if missing:
            raise KernelError(f"kernel {kernel}: missing arguments {', '.join(missing)}")
        return {name: bound[name] if name in bound else self.defaults[name] for name in self.names}


def launch(
    kernel: JITFunction,
    grid: Sequence[int] | Callable[[dict[str, Any]], Sequence[int]],
    *args: Any,
    strict: bool = True,
    tensors: Sequence[torch.Tensor] = (),
    ownership: Ownership | None = None,
    **kwargs: Any,
) -> None:
    """Runs `kernel` once for each program of `grid`: up to three sizes (no program if one of them is 0), or a function
    of the arguments that gives them. `native.launch` is called in the same way.

    `args` and `kwargs` are what the JIT would take: CPU tensors (written in place), ints (int32, or int64
    when they do not fit), floats (rounded to float32, as on a GPU), bools, None, and values for constexpr
    parameters; compile options such as `num_warps` are ignored. `tensors` are those that the kernel reaches
    only through pointer tables; `ownership` knows what was written in tensors that share an arena.

    With `strict`, these raise KernelError: an access out of a tensor's bounds or between the elements of a
    strided one, a misaligned one, two lanes of one program storing to one address, a data race between two
    programs, a load of what an arena held before, a failed `tl.device_assert`. Masked lanes of a load
    without `other` hold NaN, or a large integer. Without `strict` nothing is checked, and a wrong kernel can
    crash the process.

    Always: bfloat16 arithmetic raises KernelError, as does anything that the kernel itself raises; the
    message names the kernel and the program. Tensors may then be half written. `triton.language` is changed
    while this runs: launches of other threads wait, and so do their compilations by tritonnotes.
    """
    if not isinstance(kernel, JITFunction):
        raise KernelError(f"a triton.jit function is wanted, not a {type(kernel).__name__} (is TRITON_INTERPRET set?)")
    face = _face_of(kernel)
    values = face.bind(kernel.__name__, args, kwargs)
    sizes = tuple(grid(dict(values))) if callable(grid) else tuple(grid)
    if len(sizes) > 3 or any(size < 0 for size in sizes):
        raise KernelError(f"kernel {kernel.__name__}: a grid has up to three sizes, none negative, not {sizes}")
    nx, ny, nz = (*sizes, 1, 1, 1)[:3]
    programs = nx * ny * nz
    if programs == 0:
        return
    memory = None
    if strict:
        named = _tensors_in({name: value for name, value in values.items() if name not in face.constexpr})
        named += [(f"tensors[{index}]", tensor) for index, tensor in enumerate(tensors)]
        memory = Memory(named, programs, ownership)
    # Triton's interpreter has one builder for all threads, and `triton.language` is redirected for the whole process.
    with triton_language, redirected, np.errstate(all="ignore"):
        function = rewritten(kernel)
        bound = _convert(kernel.__name__, face, values, memory)
        _run(kernel, function, (nx, ny, nz), bound, memory)


@contextmanager
def atomic_sums() -> Iterator[dict[str, None]]:
    """Until this ends, notes where launches add floats by atomic operations, as "kernel NAME (FILE, line N)"."""
    before, builder = build.builder.sums, build.builder
    builder.sums = {}
    try:
        yield builder.sums
    finally:
        builder.sums = before


def bound_arguments(kernel: JITFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a launch by name, defaults included. Raises `KernelError` where they do not fit."""
    return _face_of(kernel).bind(kernel.__name__, args, kwargs)


def _face_of(kernel: JITFunction) -> _Face:
    face: _Face | None = kernel.fn.__dict__.get(_FACE)
    if face is None:
        face = kernel.fn.__dict__[_FACE] = _Face(kernel)
    return face


def _run(
    kernel: JITFunction,
    function: Callable[..., Any],
    grid: tuple[int, int, int],
    bound: dict[str, Any],
    memory: Memory | None,
) -> None:
    builder = build.builder
    before = builder.memory, builder.options, builder.grid_idx, builder.place
    builder.place = lambda: f"kernel {kernel.__name__}{_line_in(kernel, _frames())}"
    builder.memory, builder.options = memory, build.RELAXED if memory is None else build.STRICT
    builder.set_grid_dim(*grid)
    program = (0, 0, 0)
    try:
        for x, y, z in itertools.product(*(range(size) for size in grid)):
            builder.grid_idx = program = x, y, z
            if memory is not None:
                memory.begin(program)
            function(**bound)
    except Exception as error:
        what = str(error) if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"
        where = _line_in(kernel, traceback.walk_tb(error.__traceback__))
        raise KernelError(f"kernel {kernel.__name__}, program {program}{where}: {what}") from error
    finally:
        builder.memory, builder.options, builder.grid_idx, builder.place = before


def _line_in(kernel: JITFunction, frames: Iterable[tuple[FrameType, int]]) -> str:
    """ " (file, line N)" of the innermost of some frames that is in the kernel's file. They go inwards."""
    file = kernel.fn.__code__.co_filename
    lines = [number for frame, number in frames if frame.f_code.co_filename == file]
    return f" ({os.path.basename(file)}, line {lines[-1]})" if lines else ""


def _frames() -> list[tuple[FrameType, int]]:
    """Those of this thread."""
    return list(traceback.walk_stack(sys._getframe()))[::-1]


def _tensors_in(values: Mapping[str, Any]) -> list[tuple[str, torch.Tensor]]:
    found: list[tuple[str, torch.Tensor]] = []
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            found.append((name, value))
        elif isinstance(value, tuple):
            found += _tensors_in({f"{name}[{index}]": item for index, item in enumerate(value)})
        elif isinstance(value, upstream.TensorDescriptor):
            found.append((name, value.base))
    return found


def _convert(kernel: str, face: _Face, values: Mapping[str, Any], memory: Memory | None) -> dict[str, Any]:
    """What the kernel sees of each argument. Tensors are numbered in the order of `_tensors_in`."""
    number = itertools.count()

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type != "cpu":
                raise KernelError(f"kernel {kernel}: {name} is on {value.device}; the interpreter needs CPU tensors")
            index = next(number)
            address = value.data_ptr() if memory is None else memory.pointer(index)
            dtype = _pointer_types.get(value.dtype)
            if dtype is None:
                dtype = _pointer_types[value.dtype] = tl.str_to_ty(mangle_type(value), None)
            return tl.tensor(TensorHandle(np.array([address], np.uint64), dtype), dtype)
        if value is None or isinstance(value, (str, tl.dtype, JITFunction)):
            return value
        if isinstance(value, (bool, int, float)):
            return _scalar(kernel, name, value, face.types.get(name))
        if isinstance(value, tuple):
            return upstream._tuple_create(value, [convert(f"{name}[{i}]", item) for i, item in enumerate(value)])
        if isinstance(value, upstream.TensorDescriptor):
            next(number)
            return upstream._implicit_cvt(value)
        raise KernelError(f"kernel {kernel}: argument {name} is a {type(value).__name__}, which the JIT does not take")

    unwrap = tl.core._unwrap_if_constexpr
    bound = {}
    for name, value in values.items():
        value = unwrap(value)
        bound[name] = value if name in face.constexpr else convert(name, value)
    return bound


def _scalar(kernel: str, name: str, value: bool | int | float, dtype: tl.dtype | None) -> tl.tensor:
    if dtype is None:
        if isinstance(value, bool):
            dtype = tl.int1
        elif isinstance(value, float):
            dtype = tl.float32
        elif -(2**31) <= value < 2**31:
            dtype = tl.int32
        elif -(2**63) <= value < 2**63:
            dtype = tl.int64
        else:
            dtype = tl.uint64
    try:
        data = np.array([value], build.np_dtype(dtype))
    except OverflowError as error:
        raise KernelError(f"kernel {kernel}: argument {name} = {value} does not fit {dtype}") from error
    if dtype.name == "bf16":
        raise KernelError(f"kernel {kernel}: argument {name} is annotated bfloat16; pass it as float32")
    return tl.tensor(TensorHandle(data, dtype), dtype)
