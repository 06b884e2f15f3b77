"""What a kernel takes: its parameters, the Triton types of the arguments, and how arguments are packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ..errors import NativeError
from ..llvm.writer import round_to_float32
from ..ttir.meaning import described

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


class Face:
    """A kernel's parameters, read once."""

    def __init__(self, kernel: JITFunction) -> None:
        self.kernel, self.source = kernel, kernel.src
        self.name = kernel.__name__
        self.names = [p.name for p in kernel.params]
        self.constexpr = frozenset(p.name for p in kernel.params if p.is_constexpr)
        self.general = frozenset(p.name for p in kernel.params if p.do_not_specialize)
        self.annotated = {p.name: p.annotation_type for p in kernel.params if p.annotation_type}
        self.defaults = {p.name: p.default for p in kernel.params if p.has_default}
        self.specialized: dict[Any, tuple[dict[str, str], dict[str, Any], dict[Any, Any]]] = {}
        """For each kind of arguments: their types, the constants, and the machine code, by whether tensors overlap and
        which of them have a shadow."""

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


_faces: dict[int, Face] = {}
"""By the address of a kernel, which its face holds: Triton would parse all that a kernel calls to hash it."""


def face_of(kernel: Any) -> Face:
    found = _faces.get(id(kernel))
    if found is None or found.source is not kernel.src:
        if not isinstance(kernel, JITFunction):
            raise NativeError(
                f"a triton.jit function is wanted, not a {type(kernel).__name__}; of an autotuned or heuristic kernel "
                "pass its .fn, with a value for each constant (is TRITON_INTERPRET set?)"
            )
        found = _faces[id(kernel)] = Face(kernel)
    return found


def kinds(face: Face, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells arguments of one specialization from those of another. Constants go as text, since 0.0 and -0.0 are
    equal and are not the same."""
    found: list[Any] = []
    for name, value in values.items():
        if name in face.constexpr:
            found.append(described(value) or value)
        elif isinstance(value, Tensor):
            found.append(value.dtype if value.is_cpu else value.device)
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append(value == 1 or (value < 2**63) + (-(2**31) <= value < 2**31) + 2 * (value >= -(2**63)))
        else:
            found.append(type(value))
    return tuple(found)


def split(face: Face, values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], list[Any]]:
    """The types of what is passed at each launch, the values of what is compiled in, and what is passed, in order."""
    types = {name: face.type_of(name, value) for name, value in values.items()}
    signature = {name: type_ for name, type_ in types.items() if type_ != "constexpr"}
    return signature, {n: values[n] for n, t in types.items() if t == "constexpr"}, [values[n] for n in signature]


def grid_of(name: str, grid: Any, values: Mapping[str, Any]) -> tuple[int, int, int]:
    """The three sizes of a grid, which may be a function of the arguments."""
    sizes = tuple(grid(dict(values))) if callable(grid) else tuple(grid)
    if len(sizes) > 3 or any(size < 0 for size in sizes):
        raise NativeError(f"kernel {name}: a grid has up to three sizes, none negative, not {sizes}")
    x, y, z = (*sizes, 1, 1, 1)[:3]
    if x * y * z >= 2**31:
        raise NativeError(f"kernel {name}: a grid of {x * y * z} programs is too large; the limit is 2³¹ − 1")
    return x, y, z


def overlap(spans: Sequence[tuple[int, int]]) -> bool:
    """Whether any two of some spans of memory share an address."""
    ordered = sorted([there for there in spans if there[0] < there[1]])
    return any([one[1] > other[0] for one, other in zip(ordered, ordered[1:], strict=False)])


def packable(values: Sequence[Any]) -> list[Any]:
    """Arguments as numbers that a block of arguments takes: addresses, integers as signed ones, floats as float32."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value.data_ptr())
        elif isinstance(value, float):
            found.append(value if abs(value) < 3e38 else round_to_float32(value))
        else:
            found.append(value if value < 2**63 else value - 2**64)
    return found
