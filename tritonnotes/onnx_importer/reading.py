"""ONNX models as the `onnx` package reads them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..ir.core.errors import DeclarationError, ModelImportError
from .operators.package import onnx_package

OLDEST = 7
"""The operator set from which on operators mean what the rules say."""

DEFAULT_DOMAINS = ("", "ai.onnx")


def read(file: Any) -> Any:
    """The `ModelProto` of a path, of bytes, or of a model that is read already, its functions written out. Raises
    `ModelImportError` for what is none."""
    onnx = onnx_package()
    if isinstance(file, onnx.ModelProto):
        model = file
    elif isinstance(file, bytes | bytearray | memoryview | str | os.PathLike):
        try:
            model = onnx.load_model(file) if isinstance(file, str | os.PathLike) else onnx.load_from_string(bytes(file))
        except OSError:
            raise
        except Exception as error:
            raise ModelImportError(f"it is no ONNX model: {error}") from error
    else:
        raise DeclarationError(
            f"from_onnx: takes a path, bytes or an onnx.ModelProto, got {type(file).__name__}; export a torch module "
            "with torch.onnx.export first, or import it with tn.from_torch"
        )
    if not model.graph.node and not model.graph.output:
        raise ModelImportError("it is no ONNX model: it holds no graph")
    return onnx_package("onnx.inliner").inline_local_functions(model) if model.functions else model


def opset(model: Any) -> int:
    """The version of ONNX's own operators that a model is written in."""
    versions = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    found = max(versions, default=1)
    if found < OLDEST:
        raise ModelImportError(
            f"it is written in operator set {found}; {OLDEST} and newer ones are read: convert it with "
            "onnx.version_converter"
        )
    return int(found)


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python and numpy have them."""
    helper = onnx_package("onnx.helper")
    return {given.name: _plain(helper.get_attribute_value(given)) for given in node.attribute}


def _plain(value: Any) -> Any:
    onnx = onnx_package()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return array(value)
    if isinstance(value, list | tuple) or type(value).__name__.startswith("Repeated"):
        return [_plain(part) for part in value]
    return value


def array(tensor: Any) -> Any:
    """The numbers of a `TensorProto`."""
    return np.asarray(onnx_package("onnx.numpy_helper").to_array(tensor))
