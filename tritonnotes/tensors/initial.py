"""First values of parameters and buffers: those that torch's own modules draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError, DTypeError
from ..ir.core.graph import Graph, Value
from ..ir.core.types import dims_in, show_shape
from .allocation import allocating
from .dtypes import torch_dtype


def initial_state(graph: Graph, seed: int = 0) -> dict[str, Tensor]:
    """Parameters and buffers of `graph` by name, in the order of declaration, on the CPU, in their declared dtypes.

    Bit for bit what torch.nn modules declared in the same order hold after `torch.manual_seed(seed)`; the global
    generator is neither read nor moved. What `graph.first` holds begins as a copy of that. Raises `DeclarationError`
    for a parameter whose shape holds a `Dim`.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    state = {}
    for value in graph.leaves("parameter", "buffer"):
        known = [size for size in value.shape if isinstance(size, int)]
        unknown = [dim.name for dim in dims_in(value.shape)]
        if unknown:
            raise DeclarationError(
                f"{value.op.name} {value.name!r}: its size {unknown[0]!r} is known only when tensors are fed, so it "
                "has no first value; declare it with ints"
            )
        what = f"{value.op.name} {value.name!r} of shape {show_shape(value.shape)}"
        # Drawn on the CPU whatever torch's default device is, so that all devices begin with the same bits.
        with allocating(what):
            made = torch.empty(known, dtype=torch_dtype(value.dtype), device="cpu")
        _fill(made, value.name, value.attrs, generator)
        state[value.name] = made if value.name not in graph.first else _given(value, graph.first[value.name])
    return state


def _given(value: Value, tensor: Tensor) -> Tensor:
    """A copy of what a parameter or buffer begins with, which has to fit its declaration."""
    if tuple(tensor.shape) != value.shape or tensor.dtype != torch_dtype(value.dtype):
        raise DeclarationError(
            f"{value.op.name} {value.name!r} is {value.dtype}{show_shape(value.shape)} and begins with "
            f"{tensor.dtype}{list(tensor.shape)}; give graph.first[{value.name!r}] its dtype and shape"
        )
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _fill(tensor: Tensor, name: str, attrs: Mapping[str, Any], generator: torch.Generator) -> None:
    init = attrs["init"]
    if (
        init in ("uniform", "normal", "normal_rows", "kaiming_uniform", "bias_uniform")
        and not tensor.is_floating_point()
    ):
        raise DTypeError(f"{name!r}: init {init!r} draws real numbers, its dtype is {tensor.dtype}; use a float dtype")
    match init:
        case "zeros" | "ones":
            tensor.fill_(float(init == "ones"))
        case "constant":
            tensor.fill_(attrs["value"])
        case "uniform":
            tensor.uniform_(attrs["low"], attrs["high"], generator=generator)
        case "normal_rows":
            tensor.normal_(attrs["mean"], attrs["std"], generator=generator)
            if attrs["zero_row"] >= 0:
                tensor[int(attrs["zero_row"])] = 0
        case "normal":
            tensor.normal_(attrs["mean"], attrs["std"], generator=generator)
        case "kaiming_uniform":
            if tensor.ndim < 2:
                raise DeclarationError(f"{name!r}: kaiming_uniform needs (out, in, ...), got {list(tensor.shape)}")
            if tensor.numel():  # torch draws nothing for an empty weight, and warns
                torch.nn.init.kaiming_uniform_(tensor, a=attrs["a"], generator=generator)
        case "bias_uniform":
            bound = 1 / math.sqrt(attrs["fan_in"]) if attrs["fan_in"] > 0 else 0.0
            tensor.uniform_(-bound, bound, generator=generator)
        case _:
            raise DeclarationError(f"{name!r}: unknown init {init!r}")
