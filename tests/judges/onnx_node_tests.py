"""Every node test of ONNX, imported by `tn.from_onnx` and run by the torch executor: what ONNX's own files expect."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.onnx_importer.operators.package import as_tensor
from tritonnotes.onnx_importer.walk import row_of

Run = Callable[[tn.Graph, Mapping[str, Tensor]], Mapping[str, Tensor]]

WRITTEN_OUT = ("Attention", "RotaryEmbedding")
"""Operators in 16 bits that are read as ONNX writes them out."""

SAYS_SIZES = {
    "affine_grid": "size", "center_crop_pad": "shape", "hannwindow": "x", "hammingwindow": "x", "blackmanwindow": "x",
}  # fmt: skip
"""The inputs that say what is computed of operators that are read as ONNX writes them out, by how tests are called."""


@dataclass(frozen=True)
class NodeTest:
    """A model, the arrays that it is fed by name, and those that it must give."""

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]
    expected: tuple[Any, ...]
    rtol: float
    atol: float

    @property
    def op_type(self) -> str:
        return self.model.graph.node[0].op_type

    @property
    def _units(self) -> int:
        """Units in the last place of a result in 16 bits that are nobody's: one where a node rounds once, more where an
        operator is written out as many nodes, which round after each other."""
        written_out = len(self.model.graph.node) > 1 or self.op_type in WRITTEN_OUT
        return 4 if written_out else 1

    def wrong(self, run: Run) -> list[str]:
        """What is wrong with the imported model's results. Raises `TritonNotesError` where it is refused."""
        graph = tn.from_onnx(self.model)
        names = [given.name for given in graph.inputs]
        feeds = {name: as_tensor(np.asarray(a)) for name, a in zip(names, self.feeds.values(), strict=True)}
        found = run(graph, feeds)
        return [
            f"{name}: {difference}"
            for (name, got), want in zip(found.items(), self.expected, strict=True)
            if (difference := self._difference(got.detach(), as_tensor(np.asarray(want))))
        ]

    def _difference(self, got: Tensor, want: Tensor) -> str:
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
        rtol = max(self.rtol, self._units * torch.finfo(want.dtype).eps) if want.dtype.is_floating_point else self.rtol
        close = torch.allclose(got.double(), want.double(), rtol, self.atol, equal_nan=True)
        return "" if close else f"off by {(got.double() - want.double()).abs().max()}"


def eager(graph: tn.Graph, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """In training form, since a test has the form that its node says."""
    return tn.eager(graph, feeds, graph.state(), training=True)


def compiled(graph: tn.Graph, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return tn.compile(graph, training=True, device="cpu")(**feeds)


@functools.cache
def node_tests() -> tuple[NodeTest, ...]:
    """All tests of ONNX whose inputs and results are tensors, also those of operators written out as others."""
    from onnx.backend.test.case import node as tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(tests.__path__):
            importlib.import_module(f"{tests.__name__}.{module.name}")
    found = []
    for test in tests._NodeTestCases:
        inputs, expected = test.data_sets[0]
        if all(isinstance(array, np.ndarray | np.generic) for array in (*inputs, *expected)):
            also = next((named for start, named in SAYS_SIZES.items() if test.name.startswith(f"test_{start}")), "")
            model, feeds = _with_known(test.model, inputs, also)
            found.append(NodeTest(test.name, model, feeds, tuple(expected), test.rtol, test.atol))
    return tuple(found)


def _with_known(model: onnx.ModelProto, inputs: Any, also: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with what says what is computed, such as a shape, as initializers: there files have it."""
    version = max((o.version for o in model.opset_import if o.domain == ""), default=1)
    feeds = dict(zip((given.name for given in model.graph.input), inputs, strict=True))
    rows = [(node, row_of(node.op_type, version)) for node in model.graph.node]
    known = {
        node.input[place]
        for node, row in rows
        if row is not None
        for place in row.known
        if place < len(node.input) and node.input[place] in feeds
    } | {name for name in feeds if name == also}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.input[:]
    made.graph.input.extend(given for given in model.graph.input if given.name not in known)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(feeds[n]), n) for n in known)
    return made, {name: array for name, array in feeds.items() if name not in known}
