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
    """The graph of an ONNX model: its nodes as ops of tritonnotes, or as calls of torch where they have no formula.

    `file` is a path, the bytes of a file, or an `onnx.ModelProto`. Inputs, outputs, parameters and other values are
    called as in the file (characters that no name has become `_`). Symbolic sizes are `Dim`s; `sizes` fixes some of
    them, or calls them otherwise, as two that are one: `sizes={"time": 8, "mask_axis": "batch"}`. Initializers of
    floats are parameters, which begin with their values in the file; numbers of shape () are constants, and running
    statistics and ints are buffers, and so are initializers that `frozen` names: `frozen=["val_*"]`. Dropout and batch
    norm are as the file has them; with `training=True` they train, whatever it says.

    Needs the onnx package: `pip install 'tritonnotes[onnx]'`. Raises `ModelImportError` for what cannot be imported,
    with the node, its operator set and its inputs.
    """
    model = read(file)
    graph = Graph(local_name(model.graph.name or "model", ()))
    declare(graph, model, dict(sizes or {}), [*frozen], training)
    return graph
