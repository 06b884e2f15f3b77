"""The `onnx` package, which an extra installs, and its element types as those of numpy and torch."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ir.core.errors import DeclarationError, ModelImportError


def onnx_package(part: str = "onnx") -> Any:
    """The package, or a module of it. Raises `ModelImportError` where it is not installed."""
    try:
        return importlib.import_module(part)
    except ImportError as error:
        raise ModelImportError(
            "from_onnx reads files with the onnx package, which is not installed: pip install 'tritonnotes[onnx]'"
        ) from error


def dtype_name(elem_type: int) -> str:
    """numpy's name of an element type of ONNX, which is torch's where torch has it."""
    onnx = onnx_package()
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type).name)
    except (KeyError, TypeError):
        raise DeclarationError(f"element type {elem_type} is none that ONNX names") from None


def element_type(name: str) -> int:
    """ONNX's number of an element type that is called so."""
    kinds = onnx_package().TensorProto
    return int(getattr(kinds, {"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())))


def numpy_dtype(name: str) -> Any:
    """What arrays of this dtype have; bfloat16 is of another package."""
    return onnx_package("onnx.helper").tensor_dtype_to_np_dtype(element_type(name))


def as_tensor(given: Any) -> Tensor:
    """A tensor of an array's own; numpy's bfloat16 comes from another package."""
    if given.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(given, order="C").view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(given, order="C"))
