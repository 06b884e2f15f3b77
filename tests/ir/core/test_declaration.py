"""A mistake is an error where it is made: it names the op, the value, the shapes and dtypes it got, and the remedy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from tritonnotes import accuracy, cross_entropy, gelu, layer_norm, linear, mse_loss, relu, silu, softmax, var
from tritonnotes.ir import Dim, Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError, TritonNotesError

BATCH = Dim("batch")


class Model:
    """A graph with something of every kind to go wrong with."""

    def __init__(self) -> None:
        self.g = Graph("m")
        self.x = self.g.input("x", (BATCH, 64))
        self.y = self.g.input("y", (BATCH,), dtype="int64")
        self.narrow = self.g.input("narrow", (BATCH, 32))
        self.long = self.g.input("long", (Dim("length"), 64))
        self.ints = self.g.input("ints", (BATCH, 4), dtype="int64")
        self.double = self.g.input("double", (64, 3), dtype="float64")
        self.empty = self.g.input("empty", (BATCH, 0))
        self.w = self.g.parameter("w", (128, 64))
        self.other = Graph("other").input("z", (BATCH, 64))
        self.positive = self.x > 0


Mistake = Callable[[Model], object]
NO_NAME = "is no name; use ASCII letters, digits and '_', parts joined by '.'"
NO_TRUTH = "has no truth value while a graph is declared.*use tn.where, &, | and ~"

NAMES: dict[str, tuple[Mistake, str]] = {
    "a line break": (lambda m: m.g.input("m\nPWN=1", (3,)), rf"graph 'm': input: 'm\\nPWN=1' {NO_NAME}"),
    "a space": (lambda m: m.g.buffer("a b", (3,)), f"graph 'm': buffer: 'a b' {NO_NAME}"),
    "another alphabet": (lambda m: m.g.parameter("σ", (3,)), f"graph 'm': parameter: 'σ' {NO_NAME}"),
    "a ligature": (lambda m: m.g.input("ﬁ", (3,)), f"'ﬁ' {NO_NAME}"),
    "a call": (lambda m: m.g.input("x=globals().__setitem__('PWN',1)", (3,)), "is no name"),
    "nothing": (lambda m: m.g.input("", (3,)), "'' is no name"),
    "a path": (lambda m: m.g.input("../x", (3,)), "'../x' is no name"),
    "a number": (lambda m: m.g.input(3, (3,)), "graph 'm': input: a name is a str, got int; pass a string"),  # type: ignore[arg-type]
    "too long": (lambda m: m.g.input("a" * 101, (3,)), "a name of 101 characters; use at most 100"),
    "taken": (lambda m: m.g.input("x", (3,)), "the name 'x' is taken in graph 'm'; choose another"),
    "of an op without parameters": (lambda m: relu(m.x, name="m\nPWN=1"), rf"relu: 'm\\nPWN=1' {NO_NAME}"),
    "of an op with parameters": (lambda m: linear(m.x, 3, name="a b"), f"linear: 'a b' {NO_NAME}"),
    "of a norm": (lambda m: layer_norm(m.x, name="a=b"), f"layer_norm: 'a=b' {NO_NAME}"),
    "of a loss": (lambda m: cross_entropy(m.x, m.y, name="a\x00"), f"cross_entropy: .* {NO_NAME}"),
    "of a metric": (lambda m: accuracy(m.x, m.y, name="é"), f"accuracy: 'é' {NO_NAME}"),
    "of an output": (lambda m: m.g.output(**{"a=b": m.x}), f"graph 'm': output: 'a=b' {NO_NAME}"),
    "of a graph": (lambda m: Graph("a b"), f"Graph: 'a b' {NO_NAME}"),
    "of a Dim": (lambda m: Dim("a\nb"), rf"Dim: 'a\\nb' {NO_NAME}"),
    "of a Dim with a dot": (lambda m: Dim("a.b"), "Dim: 'a.b' holds a dot; use letters, digits and '_'"),
}

SHAPES: dict[str, tuple[Mistake, str]] = {
    "a size below 0": (lambda m: m.g.input("q", (3, -1)), "input 'q': .* 2 dims holds -1; sizes are ints ≥ 0 or Dims"),
    "a float": (lambda m: m.g.input("q", (2.0,)), "input 'q': .* holds 2.0; sizes are ints"),
    "a bool": (lambda m: m.g.parameter("q", (True,)), "parameter 'q': .* holds True; sizes are ints"),
    "a string for a Dim": (lambda m: m.g.input("q", ("batch", 3)), "input 'q': .* holds 'batch'; sizes are ints"),
    "a string": (lambda m: m.g.input("q", "batch"), "input 'q': a shape is a tuple of ints and Dims, got 'batch'"),
    "None": (lambda m: m.g.input("q", None), "input 'q': a shape is a tuple of ints and Dims, got None"),
    "a bool for an axis": (lambda m: softmax(m.x, True), "softmax: axis True is no int"),
    "what torch once called unbiased": (lambda m: var(m.x, False), "var: axis False is no int"),
    "the same of one number": (lambda m: var(m.g.input("q", ()), False), "var: axis False is no int"),
    "2⁸⁰ elements": (lambda m: m.g.input("q", (2**40, 2**40)), r"input 'q': a shape of more than 2\*\*62 elements"),
    "5,000 digits": (lambda m: m.g.input("q", (10**5000,)), r"input 'q': a shape of more than 2\*\*62 elements"),
    "5,000 digits below 0": (lambda m: m.g.input("q", (-(10**5000),)), "input 'q': .* holds a huge negative number"),
    "2⁸⁰ elements by broadcasting": (
        lambda m: m.g.input("p", (2**40, 1)) + m.g.input("q", (1, 2**40)),
        r"add: a shape of more than 2\*\*62 elements",
    ),
    "sizes that do not broadcast": (
        lambda m: m.x + m.narrow,
        r"add: shapes \[batch, 64\] and \[batch, 32\] do not broadcast, they differ in axis -1 \(32 vs 64\); make",
    ),
    "Dims that do not broadcast": (
        lambda m: m.x - m.long,
        r"sub: shapes \[batch, 64\] and \[length, 64\] do not broadcast, .* axis -2 \(batch vs length\); make these",
    ),
    "ranks that do not broadcast": (lambda m: m.x * m.y, r"mul: shapes \[batch, 64\] and \[batch\] do not broadcast"),
    "a loss of unlike shapes": (
        lambda m: mse_loss(m.x, m.narrow),
        r"mse_loss \(input: float32\[batch, 64\], target: float32\[batch, 32\]\): sub: .* do not broadcast",
    ),
    "a linear layer over a Dim": (
        lambda m: linear(P.transpose(m.x, (1, 0)), 3, name="fc1"),
        r"linear fc1: 'transpose' has shape \[64, batch\]; its last axis must be a known int",
    ),
    "a linear layer of a number": (
        lambda m: linear(m.g.constant(1.0), 3, name="fc1"),
        r"linear fc1: .* has shape \[\]",
    ),
    "a weight of another shape": (
        lambda m: linear(m.narrow, weight=m.w, name="fc1"),
        r"linear 'fc1': 'w' has shape \[128, 64\], but \[128, 32\] is wanted; pass a value of that shape",
    ),
    "a bias of another shape": (
        lambda m: linear(m.x, 3, bias=m.w, name="fc1"),
        r"linear 'fc1': 'w' has shape \[128, 64\], but \[3\] is wanted",
    ),
    "a norm over other sizes": (
        lambda m: layer_norm(m.x, 32, name="ln1"),
        r"layer_norm ln1: 'x' of shape \[batch, 64\] does not end in normalized_shape \[32\]; give its last sizes",
    ),
    "a norm over a Dim": (
        lambda m: layer_norm(m.y, name="ln1"),
        r"layer_norm ln1: 'y' of shape \[batch\].* must be ints",
    ),
    "a norm's weight": (
        lambda m: layer_norm(m.x, weight=m.w, name="ln1"),
        r"layer_norm 'ln1': 'w' .* \[64\] is wanted",
    ),
    "targets of another batch": (
        lambda m: cross_entropy(m.x, m.g.input("t", (10,), dtype="int64")),
        r"cross_entropy: logits 'x' of shape \[batch, 64\] want targets of shape \[batch\], got 't' of shape \[10\]",
    ),
    "targets of images": (
        lambda m: cross_entropy(m.g.input("image", (BATCH, 3, 8, 9)), m.y),
        r"cross_entropy: logits 'image' .* want targets of shape \[batch, 8, 9\], got 'y' of shape \[batch\]",
    ),
    "logits of rank 0": (lambda m: cross_entropy(m.g.constant(1.0), m.y), r"0-dim; logits have shape \(N, C\)"),
    "accuracy of another batch": (
        lambda m: accuracy(m.x, m.g.input("t", (10,), dtype="int64")),
        r"accuracy: logits 'x' of shape \[batch, 64\] want targets of shape \[batch\], got 't' of shape \[10\]",
    ),
    "a matrix product": (
        lambda m: P.matmul(m.x, m.w),
        r"matmul: 'x' of shape \[batch, 64\] and 'w' of shape \[128, 64\]",
    ),
    "a reshape": (lambda m: P.reshape(m.x, (BATCH, 32)), r"reshape: 'x' of shape \[batch, 64\] does not have as many"),
    "an axis too far": (lambda m: P.sum(m.x, 2), "sum: axis 2 of a value with 2 dims; use -2 to 1"),
    "an axis twice": (lambda m: P.mean(m.x, (1, -1)), r"axes \(1, -1\) name one axis twice; name each once"),
    "an axis that is no int": (lambda m: P.sum(m.x, "a"), "sum: axis 'a' is no int; use -2 to 1"),  # type: ignore[arg-type]
    "no permutation": (
        lambda m: P.transpose(m.x, (0, 0)),
        r"transpose: \(0, 0\) is no permutation of the 2 axes of 'x'",
    ),
    "no permutation of ints": (lambda m: P.transpose(m.x, ("a", 0)), "transpose: .* is no permutation"),  # type: ignore[arg-type]
    "the maximum of nothing": (
        lambda m: P.max(m.empty, 1),
        r"max: 'empty' of shape \[batch, 0\] is empty along \(1,\)",
    ),
    "an argument too many": (lambda m: P.tanh(m.x, m.x), r"tanh: takes 1 arguments \(x\), got 2"),
}

DTYPES: dict[str, tuple[Mistake, str]] = {
    "an unknown dtype": (
        lambda m: m.g.input("q", (3,), dtype="complex64"),
        "unknown dtype 'complex64'; use one of float16",
    ),
    "a cast to an unknown dtype": (lambda m: P.cast(m.x, "int7"), "unknown dtype 'int7'; use one of float16"),
    "a parameter of ints": (
        lambda m: m.g.parameter("q", (3,), dtype="int64"),
        "'q': dtype int64 cannot be trained; use",
    ),
    "an int activation": (
        lambda m: gelu(m.ints),
        r"gelu \(x: int64\[batch, 4\]\): .*needs a float dtype, got int64",
    ),
    "a bool activation": (lambda m: silu(m.positive), "silu .*does not work on bool"),
    "a negated bool": (lambda m: -m.positive, "neg: does not work on bool, got 'gt'; cast it, or use &, | and ~"),
    "a summed bool": (lambda m: P.sum(m.positive), "sum: does not work on bool, got 'gt'; cast it first, as in"),
    "a float condition": (lambda m: P.where(m.x, m.x, 0), "is no condition; compare it first, as in x > 0"),
    "float targets": (
        lambda m: cross_entropy(m.x, m.g.input("t", (BATCH,))),
        "cross_entropy: target 't' is float32; class indices are int64",
    ),
    "float targets of accuracy": (
        lambda m: accuracy(m.x, m.g.input("t", (BATCH,))),
        "accuracy: target 't' is float32; class indices are int64",
    ),
    "int logits": (lambda m: cross_entropy(m.ints, m.y), r"cross_entropy \(logits: int64\[batch, 4\], target: int64"),
    "a matrix product of two dtypes": (
        lambda m: P.matmul(m.x, m.double),
        "matmul: 'x' is float32 and 'double' is float64; both must have one float dtype, cast one of them",
    ),
    "a linear layer of ints": (lambda m: linear(m.ints, 3, name="fc1"), "'fc1.weight': dtype int64 cannot be trained"),
    "a fraction as an int": (lambda m: m.g.constant(1.5, "int64"), "constant: 1.5 is no int64; give a whole number"),
    "nan as an int": (lambda m: m.g.constant(math.nan, "int32"), "constant: nan is no int32; give a whole number"),
    "inf as an int": (lambda m: m.g.constant(math.inf, "int64"), "constant: inf is no int64; give a whole number"),
    "an int too large": (
        lambda m: m.g.constant(2**31, "int32"),
        "constant: 2147483648 does not fit int32; give a smaller",
    ),
}

OTHERS: dict[str, tuple[Mistake, str]] = {
    "values of two graphs": (
        lambda m: m.x + m.other,
        "add: .*z.* belongs to graph 'other', not 'm'; declare both in one",
    ),
    "values of two graphs in an op": (
        lambda m: mse_loss(m.x, m.other),
        r"mse_loss: its arguments belong to different graphs \(m and other\); declare them in one",
    ),
    "a weight of another graph": (
        lambda m: linear(m.x, weight=Graph("other").parameter("v", (3, 64)), bias=None, name="fc1"),
        r"linear: its arguments belong to different graphs \(m and other\); declare them in one",
    ),
    "an output of another graph": (lambda m: m.g.output(z=m.other), "output 'z': not a Value of graph 'm', got Value"),
    "an output that is a number": (lambda m: m.g.output(z=3), "output 'z': not a Value of graph 'm', got 3"),  # type: ignore[arg-type]
    "an output twice": (
        lambda m: (m.g.output(z=m.x), m.g.output(z=m.x)),
        "output 'z' is named already; choose another",
    ),
    "no value at all": (lambda m: P.tanh(3.0), r"tanh: takes Values of a graph, got float; start from g.input"),
    "no value for an op": (lambda m: relu(3.0), r"relu: takes Values of a graph, got float; start from g.input"),
    "a string for a number": (lambda m: m.x + "1", "add: expected a number, got str; pass an int, float or bool"),
    "a list for a number": (lambda m: [1, 2] * m.x, "mul: expected a number, got list; pass an int, float or bool"),
    "None for a number": (lambda m: m.x / None, "div: expected a number, got NoneType; pass an int, float or bool"),
    "a number past int64": (lambda m: m.x + 10**5000, "add: an integer of 16610 bits does not fit int64; use a float"),
    "a truth value": (lambda m: bool(m.positive), NO_TRUTH),
    "and": (lambda m: m.positive and m.x, NO_TRUTH),
    "not": (lambda m: not m.positive, NO_TRUTH),
    "a chained comparison": (lambda m: 0 < m.x < 1, NO_TRUTH),
    "if": (lambda m: 1 if m.x == 1 else 0, NO_TRUTH),
    "a loop": (lambda m: [v for v in m.x], "x cannot be iterated: a Value stands for a whole tensor"),
    "a wrong reduction": (
        lambda m: cross_entropy(m.x, m.y, reduction="avg"),
        "cross_entropy.*: reduction is 'avg'; use 'mean', 'sum' or 'none'",
    ),
    "another loss's reduction": (
        lambda m: mse_loss(m.x, m.x, reduction="batchmean"),
        "mse_loss.*: reduction is 'batchmean'",
    ),
    "features that are no int": (
        lambda m: linear(m.x, "3", name="fc1"),
        r"linear 'fc1': out_features is '3'; give an int",
    ),  # type: ignore[arg-type]
    "no features": (
        lambda m: linear(m.x),
        r"linear 'linear_1': out_features is None; give an int, as in tn.linear\(x, 128\)",
    ),
    "an argument too many": (lambda m: relu(m.x, m.x), r"relu: too many positional arguments; it takes \(x"),
    "an unknown attribute": (
        lambda m: relu(m.x, inplace=True),
        "relu: got an unexpected keyword argument 'inplace'; it takes",
    ),
    "an attribute that a loss has not": (
        lambda m: cross_entropy(m.x, m.y, smoothing=0.1),
        "cross_entropy: got an unexpected keyword argument 'smoothing'; it takes",
    ),
    "a positional argument too many for a layer": (
        lambda m: linear(m.x, 3, True, m.w),
        "linear: too many positional arguments; it takes",
    ),
    "an index past int64": (
        lambda m: cross_entropy(m.x, m.y, ignore_index=2**70),
        "cross_entropy: ignore_index: .*71 bits",
    ),
    "an unknown init": (
        lambda m: m.g.parameter("q", (3,), init="xavier"),
        r"'q': init 'xavier' .*use a number or one of zeros",
    ),
    "an init without its number": (lambda m: m.g.parameter("q", (3,), init="normal", mean=0.0), r"normal\(mean, std\)"),
    "an init with a string": (
        lambda m: m.g.buffer("q", (3,), "uniform", low="a", high=1.0),
        "'q': low: expected a number",
    ),  # type: ignore[arg-type]
    "an update of an input": (
        lambda m: m.g.update(m.x, m.x),
        "update: .*x.* is no parameter, buffer or slot of graph 'm'",
    ),
    "an update of a number": (lambda m: m.g.update(3, m.x), "update: 3 is no parameter, buffer or slot"),  # type: ignore[arg-type]
    "an update by a number": (lambda m: m.g.update(m.w, 3), "update of 'w': 3 is no Value of graph 'm'"),  # type: ignore[arg-type]
    "an update by another graph": (lambda m: m.g.update(m.w, m.other), "update of 'w': .* is no Value of graph 'm'"),
    "an update that does not fit": (
        lambda m: m.g.update(m.w, m.x),
        r"of 'w': float32\[batch, 64\] does not fit float32\[128, 64\]",
    ),
    "a value that is not there": (lambda m: m.g["nope"], "graph 'm' has no value 'nope'"),
    "an op that is not there": (
        lambda m: m.g.call("os.system", m.x),
        "unknown op 'os.system'; a custom op must be declared",
    ),
}


def raises(kind: type[TritonNotesError], mistake: Mistake, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that broadcast
        with pytest.raises(kind, match=message) as caught:
            mistake(Model())
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("mistake", "message"), NAMES.values(), ids=list(NAMES))
def test_a_bad_name_is_refused(mistake: Mistake, message: str) -> None:
    raises(DeclarationError, mistake, message)


@pytest.mark.parametrize(("mistake", "message"), SHAPES.values(), ids=list(SHAPES))
def test_a_bad_shape_is_refused(mistake: Mistake, message: str) -> None:
    raises(ShapeError, mistake, message)


@pytest.mark.parametrize(("mistake", "message"), DTYPES.values(), ids=list(DTYPES))
def test_a_bad_dtype_is_refused(mistake: Mistake, message: str) -> None:
    raises(DTypeError, mistake, message)


@pytest.mark.parametrize(("mistake", "message"), OTHERS.values(), ids=list(OTHERS))
def test_another_mistake_is_refused(mistake: Mistake, message: str) -> None:
    raises(DeclarationError, mistake, message)


@pytest.mark.parametrize("name", ["lambda", "tl", "class", "__import__", "None", "fc1.weight", "a.0", "_", "x" * 100])
def test_reserved_words_are_legal_names(name: str) -> None:
    g = Graph(name)
    assert relu(g.input(name, (3,))).args[0] is g[name]


def test_a_refused_leaf_leaves_its_name_free() -> None:
    g = Graph("m")
    for bad in ({"shape": (-1,)}, {"shape": (3,), "dtype": "int64"}, {"shape": (3,), "init": "xavier"}):
        with pytest.raises(DeclarationError):
            g.parameter("w", **bad)  # type: ignore[arg-type]
    assert g.parameter("w", (3,)).index == 0


def test_a_mean_over_unlike_shapes_that_broadcast_warns_and_goes_on() -> None:
    g = Graph("m")
    with pytest.warns(UserWarning, match=r"mse_loss: 'a' of shape \[batch, 4\] and 'b' of shape \[4\] broadcast"):
        loss = mse_loss(g.input("a", (BATCH, 4)), g.input("b", (4,)))
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        ((BATCH, 64), (64,), (BATCH, 64)),
        ((BATCH, 1), (1, 64), (BATCH, 64)),
        ((), (BATCH,), (BATCH,)),
        ((1,), (BATCH, 0), (BATCH, 0)),
        ((7, 1, 5), (3, 1), (7, 3, 5)),
    ],
)
def test_arithmetic_broadcasts_as_torch_does(
    a: tuple[int | Dim, ...], b: tuple[int | Dim, ...], result: tuple[int | Dim, ...]
) -> None:
    g = Graph("m")
    left, right = g.input("a", a), g.input("b", b)
    for made in (left + right, right - left, left * right, right / left, P.maximum(left, right), left < right):
        assert made.shape == result


def test_numpy_scalars_are_numbers() -> None:
    g = Graph("m")
    x = g.input("x", (3,))
    doubled = x * np.float32(0.1)
    held: Value = doubled.args[1]  # type: ignore[assignment]
    assert type(held.attrs["value"]) is float
    assert held.attrs["value"] == float(np.float32(0.1))
    assert held.dtype.name == "float32"


def test_a_dim_is_its_name() -> None:
    g = Graph("m")
    summed = g.input("a", (Dim("batch"), 3)) + g.input("b", (Dim("batch"), 1))
    assert summed.shape == (BATCH, 3)
