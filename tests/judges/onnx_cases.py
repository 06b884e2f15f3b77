"""ONNX's node tests as graphs of ours: what `onnx.backend.test` feeds a node, what it expects, and the node in float64.

`ROWS` has a row for each ONNX operator that we have too: how its inputs and attributes become a call of ours, with
ONNX's defaults. A case that is none of ours raises `OutOfScope` with the reason.
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import DTYPES

Array = Any


class OutOfScope(Exception):
    """A case that is none of ours; the text says why."""


@dataclass(frozen=True)
class Case:
    """One node with the arrays that it is fed and those that it must give."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[Array, ...]
    expected: tuple[Array, ...]
    rtol: float
    atol: float

    @property
    def node(self) -> onnx.NodeProto:
        return self.model.graph.node[0]

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes as Python has them."""
        given = {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in given.items()}

    def declared(self) -> Graph:
        """The node as a graph of ours: its inputs by their places, `t0`, `t1`, …, its first result the output `y`."""
        row = ROWS[self.node.op_type]
        graph = Graph("node")
        given: list[Any] = []
        arrays = iter(enumerate(self.inputs))
        for place, name in enumerate(self.node.input):
            if not name:
                given.append(None)
                continue
            index, array = next(arrays)
            if array.dtype.name not in DTYPES:
                raise OutOfScope(f"dtypes are {', '.join(DTYPES)}")
            known = place in row.static
            given.append(array if known else graph.input(f"t{index}", array.shape, array.dtype.name))
        graph.output(y=row.build(*given, **self.attributes))
        return graph

    def feeds(self, graph: Graph, inputs: Sequence[Array]) -> dict[str, Tensor]:
        """Tensors for the inputs that the graph has."""
        return {f"t{i}": tensor(a) for i, a in enumerate(inputs) if any(v.name == f"t{i}" for v in graph.inputs)}

    def exact(self, inputs: Sequence[Array]) -> Tensor:
        """The first result as ONNX's numpy implementation computes it in float64."""
        wide = [a.astype(np.float64) if _is_float(a) else a for a in inputs]
        result = _run(self.model, wide)
        if result.dtype == np.float32:
            result = _run(_in_double(self.model), wide)
        return torch.as_tensor(np.array(result))


def tensor(array: Array) -> Tensor:
    """A tensor of the dtype of the same name; numpy's bfloat16 comes from another package."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.as_tensor(np.array(array))


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _run(model: onnx.ModelProto, inputs: Sequence[Array]) -> Array:
    names = [i.name for i in model.graph.input]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0]


def _in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model of an operator that computes in float32 unless its attribute `stash_type` says otherwise, and rounds to
    the dtype of its inputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    (node,) = made.graph.node
    kept = [a for a in node.attribute if a.name != "stash_type"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("stash_type", onnx.TensorProto.DOUBLE)])
    return made


@functools.cache
def cases(op_type: str) -> tuple[Case, ...]:
    """ONNX's own tests of one operator (not of its expansion into others), and ours where it has none that fit."""
    from onnx.backend.test.case import node as tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        importlib.import_module(f"{tests.__name__}.{ROWS[op_type].module or op_type.lower()}")
    found = [t for t in tests._NodeTestCases if [n.op_type for n in t.model.graph.node] == [op_type]]
    theirs = (
        Case(t.name, t.model, *(tuple(map(np.asarray, arrays)) for arrays in t.data_sets[0]), t.rtol, t.atol)
        for t in found
    )
    return (*theirs, *_own_cases(op_type))


def _own_cases(op_type: str) -> tuple[Case, ...]:
    """Nodes with attributes or shapes of ours, computed by ONNX's reference, where none of its own tests has them."""
    if op_type not in REPLICATED:
        return ()
    shapes, attributes = REPLICATED[op_type]
    random = np.random.default_rng(0)
    arrays = tuple(random.standard_normal(shape).astype(np.float32) for shape in shapes)
    names = [f"x{i}" for i in range(len(shapes))]
    node = onnx.helper.make_node(op_type, names, ["y"], **attributes)
    typed = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "own",
        [typed(n, onnx.TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
        [typed("y", onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph)
    expected = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    return (Case(f"own_{op_type.lower()}", model, arrays, tuple(expected), 1e-3, 1e-7),)


REPLICATED: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "PRelu": (((5, 7, 3), (7, 1)), {}),
    "HardSigmoid": (((7, 33),), {"alpha": 1 / 6, "beta": 0.5}),
}


# -- the operators that both have --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """How a node becomes a call of ours: `build(*inputs, **attributes)`, None for an input left out.

    `static` are the places of inputs that a graph must know when it is declared: `build` gets them as arrays. `module`
    is the file of ONNX's tests where it has another name than the operator.
    """

    build: Callable[..., Value]
    static: tuple[int, ...] = ()
    module: str = ""


def _only(holds: bool, reason: str) -> None:
    if not holds:
        raise OutOfScope(reason)


def _prelu(x: Value, slope: Value) -> Value:
    channels = x.shape[1]
    fits = slope.shape == (channels, *(1,) * (len(x.shape) - 2))
    _only(fits, "slopes are one, or one for each channel of axis 1")
    return tn.prelu(x, tn.reshape(slope, (channels,)))


def _selu(x: Value, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Value:
    _only(abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6, "selu has its two constants")
    return tn.selu(x)


def _hard_sigmoid(x: Value, alpha: float = 0.2, beta: float = 0.5) -> Value:
    _only(abs(alpha - 1 / 6) < 1e-7 and beta == 0.5, "hardsigmoid is x / 6 + 1/2, as in torch")
    return tn.hardsigmoid(x)


def _shrink(x: Value, bias: float = 0.0, lambd: float = 0.5) -> Value:
    _only(bias in (0, lambd), "a shrink is hard, with bias 0, or soft, with bias lambd")
    return tn.hardshrink(x, lambd) if bias == 0 else tn.softshrink(x, lambd)


def _swish(x: Value, alpha: float = 1.0) -> Value:
    _only(alpha == 1, "silu is x · σ(x), without alpha")
    return tn.silu(x)


def _swiglu(a: Value, b: Value, alpha: float = 1.0) -> Value:
    _only(alpha == 1, "silu is x · σ(x), without alpha")
    return tn.swiglu(tn.cat([a, b], -1))


def _layer_norm(
    x: Value, weight: Value, bias: Value | None = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    return tn.layer_norm(x, x.shape[axis:], weight, bias, epsilon)


def _cross_entropy(
    scores: Value,
    labels: Value,
    weights: Value | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Value:
    return tn.cross_entropy(scores, labels, weights, ignore_index=ignore_index, reduction=reduction)


def _nll_loss(
    input: Value, target: Value, weight: Value | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Value:
    return tn.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


def _gemm(
    a: Value,
    b: Value,
    c: Value | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Value:
    product = alpha * tn.matmul(tn.transpose(a, 0, 1) if transA else a, b, bool(transB))
    return product if c is None else product + beta * c


def _matmul(a: Value, b: Value) -> Value:
    _only(len(b.shape) == 2, "the second of a product is a matrix, (K, N)")
    return tn.matmul(a, b)


def _folded(build: Callable[[Value, Value], Value]) -> Callable[..., Value]:
    """An operator of any number of inputs from ours of two."""

    def all_of(*values: Value) -> Value:
        _only(len(values) > 1, "one value alone is itself")
        return functools.reduce(build, values)

    return all_of


def _same_dtype(build: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def of_floats(a: Value, b: Value) -> Value:
        _only(a.dtype is b.dtype and a.dtype.is_float, "powers and quotients are of floats of one dtype")
        return build(a, b)

    return of_floats


def _number(given: Array | float | None) -> Any:
    """A bound, a ratio or a switch, which ONNX passes as an array of one number, or once passed as an attribute."""
    return given.item() if isinstance(given, np.ndarray) else given


def _clip(x: Value, low: Array | None = None, high: Array | None = None) -> Value:
    _only(low is not None or high is not None, "a clamp has a bound")
    return tn.clamp(x, _number(low), _number(high))


def _dropout(x: Value, ratio: Array | float | None = None, training: Array | None = None, seed: int = 0) -> Value:
    _only(not _number(training), "what is dropped is drawn from another generator (tests/ir/ops/test_dropout.py)")
    return tn.dropout(x, 0.5 if ratio is None else _number(ratio), training=False)


def _reduced(build: Callable[..., Value], *, of_nothing: bool = True) -> Callable[..., Value]:
    """A reduction over the axes of the second input; none or no such input: all of them."""

    def over(x: Value, axes: Array | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Value:
        listed = tuple(int(a) for a in (() if axes is None else axes))
        _only(bool(listed) or not noop_with_empty_axes, "a reduction over no axes is left out")
        _only(of_nothing or 0 not in [x.shape[a] for a in listed or range(len(x.shape))], "nothing has no extremum")
        _only(x.dtype.kind != "bool", "extrema are of numbers")
        return build(x, listed or None, bool(keepdims))

    return over


def _argmax(x: Value, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    _only(not select_last_index, "a tie goes to the lowest index")
    return tn.argmax(x, axis, bool(keepdims))


def _flatten(x: Value, axis: int = 1) -> Value:
    sizes = [size for size in x.shape if isinstance(size, int)]
    return tn.reshape(x, math.prod(sizes[:axis]), math.prod(sizes[axis:]))


def _reshape(x: Value, shape: Array, allowzero: int = 0) -> Value:
    return tn.reshape(x, [int(s) if s or allowzero else x.shape[i] for i, s in enumerate(shape)])


def _expand(x: Value, shape: Array) -> Value:
    return tn.expand(x, tuple(torch.broadcast_shapes(x.shape, shape.tolist())))


def _unsqueeze(x: Value, axes: Array) -> Value:
    rank = len(x.shape) + len(axes)
    return functools.reduce(tn.unsqueeze, sorted(int(a) % rank for a in axes), x)


def _slice(x: Value, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Value:
    _only(steps is None or set(steps.tolist()) == {1}, "a part is narrowed, never strided")
    places = range(len(starts)) if axes is None else axes.tolist()
    index: list[Any] = [slice(None)] * len(x.shape)
    for axis, start, end in zip(places, starts.tolist(), ends.tolist(), strict=True):
        size = x.shape[axis]
        assert isinstance(size, int)
        low, high, _ = slice(start, end).indices(size)
        index[axis] = slice(low, max(low, high))
    return x[tuple(index)]


def _batch_norm(
    x: Value,
    scale: Value,
    bias: Value,
    mean: Value,
    var: Value,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Value:
    # In training only the result is compared: ONNX's running variance is the biased one.
    running = (None, None) if training_mode else (mean, var)
    return tn.batch_norm(x, *running, scale, bias, training=bool(training_mode), eps=epsilon)


def _group_norm(
    x: Value, scale: Value, bias: Value, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    return tn.group_norm(x, num_groups, scale, bias, epsilon)


def _rms_norm(x: Value, scale: Value, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    return tn.rms_norm(x, x.shape[axis:], scale, epsilon)


def _softplus(x: Value) -> Value:
    return tn.softplus(x)


ROWS: dict[str, Row] = {
    "Abs": Row(tn.abs),
    "Neg": Row(tn.neg),
    "Sign": Row(tn.sign),
    "Floor": Row(tn.floor),
    "Exp": Row(tn.exp),
    "Log": Row(tn.log),
    "Sqrt": Row(tn.sqrt),
    "Sin": Row(tn.sin),
    "Cos": Row(tn.cos),
    "Erf": Row(tn.erf),
    "Add": Row(tn.add),
    "Sub": Row(tn.sub),
    "Mul": Row(tn.mul),
    "Div": Row(_same_dtype(tn.div)),
    "Pow": Row(_same_dtype(tn.pow)),
    "Max": Row(_folded(tn.maximum)),
    "Min": Row(_folded(tn.minimum)),
    "Where": Row(tn.where),
    "Reciprocal": Row(tn.reciprocal),
    "Sum": Row(_folded(tn.add)),
    "Mean": Row(lambda *values: _folded(tn.add)(*values) / len(values)),
    "Equal": Row(tn.eq),
    "Greater": Row(tn.gt),
    "GreaterOrEqual": Row(tn.ge, module="greater_or_equal"),
    "Less": Row(tn.lt),
    "LessOrEqual": Row(tn.le, module="less_or_equal"),
    "And": Row(tn.logical_and, module="and_"),
    "Or": Row(tn.logical_or, module="or_"),
    "Not": Row(tn.logical_not, module="not_"),
    "Clip": Row(_clip, static=(1, 2)),
    "Relu": Row(tn.relu),
    "LeakyRelu": Row(lambda x, alpha=0.01: tn.leaky_relu(x, alpha)),
    "PRelu": Row(_prelu),
    "Elu": Row(lambda x, alpha=1.0: tn.elu(x, alpha)),
    "Selu": Row(_selu),
    "Celu": Row(lambda x, alpha=1.0: tn.celu(x, alpha)),
    "Gelu": Row(lambda x, approximate="none": tn.gelu(x, approximate=approximate)),
    "Mish": Row(tn.mish),
    "Softplus": Row(_softplus),
    "Softsign": Row(tn.softsign),
    "Sigmoid": Row(tn.sigmoid),
    "Tanh": Row(tn.tanh),
    "HardSigmoid": Row(_hard_sigmoid),
    "HardSwish": Row(tn.hardswish),
    "ThresholdedRelu": Row(lambda x, alpha=1.0: tn.threshold(x, alpha, 0.0)),
    "Shrink": Row(_shrink),
    "Swish": Row(_swish),
    "SwiGLU": Row(_swiglu),
    "Softmax": Row(lambda x, axis=-1: tn.softmax(x, axis)),
    "LogSoftmax": Row(lambda x, axis=-1: tn.log_softmax(x, axis)),
    "LayerNormalization": Row(_layer_norm),
    "RMSNormalization": Row(_rms_norm),
    "GroupNormalization": Row(_group_norm),
    "InstanceNormalization": Row(
        lambda x, scale, bias, epsilon=1e-5: tn.instance_norm(x, weight=scale, bias=bias, eps=epsilon),
        module="instance_normalization",
    ),
    "BatchNormalization": Row(_batch_norm, module="batch_normalization"),
    "LpNormalization": Row(lambda x, axis=-1, p=2: tn.normalize(x, p, axis)),
    "Dropout": Row(_dropout, static=(1, 2)),
    "SoftmaxCrossEntropyLoss": Row(_cross_entropy, module="softmax_cross_entropy_loss"),
    "NegativeLogLikelihoodLoss": Row(_nll_loss),
    "Gemm": Row(_gemm),
    "MatMul": Row(_matmul),
    "ReduceSum": Row(_reduced(tn.sum), static=(1,)),
    "ReduceMean": Row(_reduced(tn.mean), static=(1,)),
    "ReduceMax": Row(_reduced(tn.max, of_nothing=False), static=(1,)),
    "ReduceMin": Row(_reduced(tn.min, of_nothing=False), static=(1,)),
    "ReduceLogSumExp": Row(_reduced(tn.logsumexp), static=(1,), module="reduce_log_sum_exp"),
    "ArgMax": Row(_argmax),
    "Reshape": Row(_reshape, static=(1,)),
    "Flatten": Row(_flatten),
    "Squeeze": Row(lambda x, axes=None: tn.squeeze(x, None if axes is None else tuple(axes.tolist())), static=(1,)),
    "Unsqueeze": Row(_unsqueeze, static=(1,)),
    "Expand": Row(_expand, static=(1,)),
    "Slice": Row(_slice, static=(1, 2, 3, 4)),
    "Concat": Row(lambda *parts, axis: tn.cat(parts, axis)),
    "Transpose": Row(lambda x, perm=None: tn.permute(x, tuple(perm or range(len(x.shape))[::-1]))),
}
"""For each operator the call. One more operator is one more line."""
