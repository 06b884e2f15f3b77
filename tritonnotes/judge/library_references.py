"""What a library op means: the call of torch that its attributes name, made with tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ir.core.types import DType
from ..tensors.dtypes import torch_dtype


def library(
    *args: Tensor,
    call: str,
    arguments: tuple[Any, ...],
    options: tuple[Any, ...],
    which: int,
    shape: tuple[int, ...],
    dtype: DType,
) -> Tensor:
    """Result number `which` of a call."""
    result: Tensor = _results(args, call, arguments, options)[which]
    return result


def library_gradient(
    d: Tensor,
    *args: Tensor,
    call: str,
    arguments: tuple[Any, ...],
    options: tuple[Any, ...],
    result: int,
    which: int,
) -> Tensor:
    """The gradient of Σ result · d with respect to argument number `which`."""
    with torch.enable_grad():
        inputs = [arg.detach().requires_grad_() if i == which else arg for i, arg in enumerate(args)]
        out = _results(inputs, call, arguments, options)[result]
        found = torch.autograd.grad(out, inputs[which], d.to(out.dtype), allow_unused=True)[0]
    return torch.zeros_like(args[which]) if found is None else found


def _results(args: Sequence[Tensor], call: str, arguments: tuple[Any, ...], options: tuple[Any, ...]) -> list[Any]:
    """All results, counted through tuples and lists. Tensors of float64 are what the oracle computes with: then all
    floats of the call are."""
    exact = any(arg.dtype == torch.float64 for arg in args)

    def given(part: Any) -> Any:
        match part:
            case tuple():
                return [given(inner) for inner in part]
            case DType():
                return torch.float64 if exact and part.is_float else torch_dtype(part)
            case "none":
                return None
            case "device":
                return args[0].device if args else torch.device("cpu")
            case str() if part.startswith("%"):
                return args[int(part[1:])]
            case str() if part.startswith("'"):
                return part[1:]
            case str():
                return getattr(torch, part.partition(".")[2])
        return part

    function: Any = torch.ops
    for name in call.split("."):
        function = getattr(function, name)
    made = function(*map(given, arguments), **{name: given(value) for name, value in options})
    return pytree.tree_leaves(made, is_leaf=lambda part: part is None)
