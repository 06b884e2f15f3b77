"""How launched kernels take the numbers that the host works out: as arguments, or from memory.

A CUDA graph keeps the arguments of its launches, so that a learning rate among them could never change. What it
launches reads numbers from a tensor instead, which is written before each replay.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..lower.tile_ir import Parameter
from ..support.expressions import Name
from ..support.statements import Assign, Statement
from .ops import load

TRITON_TYPES = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}


Named = tuple[str, Parameter]
"""An argument of a launch, by the name that the kernel has for it."""


def declared(arguments: Iterable[Named], in_memory: bool) -> list[str]:
    """The arguments as a kernel's signature has them."""
    return [
        f"{name}_ptr" if in_memory and _is_number(p) else f"{name}: tl.int64" if p.is_exact else name
        for name, p in arguments
    ]


def types(arguments: Iterable[Named], in_memory: bool) -> dict[str, str]:
    """A Triton type for each argument."""
    made = {}
    for name, parameter in arguments:
        if in_memory and _is_number(parameter):
            made[f"{name}_ptr"] = "*i64" if parameter.is_exact else "*fp64"
        else:
            made[name] = triton_type(parameter)
    return made


def number_loads(arguments: Iterable[Named], in_memory: bool) -> list[Statement]:
    """What a kernel does first for numbers in memory. The host works them out in float64; as an argument each would
    arrive rounded like this."""
    if not in_memory:
        return []
    loaded = ((name, p, load(Name(f"{name}_ptr"))) for name, p in arguments if _is_number(p))
    return [
        Assign(name, value if p.is_exact else value.method("to", Name("tl.float32")), origins=p.origin)
        for name, p, value in loaded
    ]


def _is_number(parameter: Parameter) -> bool:
    return parameter.role == "scalar" and not parameter.is_pointer


def triton_type(parameter: Parameter) -> str:
    """The Triton type of an argument."""
    if parameter.is_pointer:
        return "*" + TRITON_TYPES[parameter.dtype.name]
    return "i32" if parameter.role == "size" else "i64" if parameter.is_exact else "fp32"
