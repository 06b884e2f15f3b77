"""`tn.from_onnx`: ONNX models as graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .graph import Graph
from .importer.names import local_name
from .onnx_importer.reading import read
from .onnx_importer.walk import declare

if TYPE_CHECKING:
    from onnx import ModelProto


def from_onnx(
    file: str | os.PathLike[str] | bytes | ModelProto,
    *,
    sizes: Mapping[str, int | str] | None = None,
    frozen: Sequence[str] = (),
    training: bool = False,
) -> Graph:
    """The graph of an ONNX model: its nodes as ops of tritonnotes, or as calls of torch if they have no formula here.

    `file` is a path, the bytes of a file, or an `onnx.ModelProto`. Inputs, outputs, parameters and other values have
    the names of the file; characters that are not allowed in names become `_`. Symbolic sizes become `Dim`s. `sizes`
    fixes or renames them, also to declare two sizes equal: `sizes={"time": 8, "mask_axis": "batch"}`. Float
    initializers become parameters with the values of the file as initial values. Numbers of shape () become constants.
    Running statistics, ints and initializers in `frozen` (`frozen=["val_*"]`) become buffers. Dropout and batch norm
    are in the form of the file; `training=True` imports both in training form.

    Needs the onnx package: `pip install 'tritonnotes[onnx]'`. Raises `ModelImportError` for what cannot be imported,
    with the node, its operator set and its inputs.
    """
    model = read(file)
    graph = Graph(local_name(model.graph.name or "model", ()))
    declare(graph, model, dict(sizes or {}), [*frozen], training)
    return graph
