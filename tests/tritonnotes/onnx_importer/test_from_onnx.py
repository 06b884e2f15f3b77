"""ONNX files as graphs: what torch exports, trained on beside torch; names, sizes, numbers of the file, and faults."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.ir.core.errors import ModelImportError
from tritonnotes.tensors.initial import initial_state

ROWS, LR = 6, 0.1

TEXT = """\
graph main_graph declared
x: float32[batch, 8] = input()
0.weight: float32[16, 8] = parameter(init='zeros')
0.bias: float32[16] = parameter(init='zeros')
0.Gemm_output_0: float32[batch, 16] = linear(x, 0.weight, 0.bias)
1.Relu_output_0: float32[batch, 16] = relu(0.Gemm_output_0)
2.weight: float32[4, 16] = parameter(init='zeros')
2.bias: float32[4] = parameter(init='zeros')
2.Gemm_output_0: float32[batch, 4] = linear(1.Relu_output_0, 2.weight, 2.bias)
logits: float32[batch, 4] = softmax(2.Gemm_output_0, dim=-1)
output logits = logits
"""


def exported(net: nn.Module, x: Tensor, *, opset: int = 17, training: bool = False) -> bytes:
    """A module as torch writes it, with a symbolic batch."""
    file = io.BytesIO()
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), file, dynamo=False, opset_version=opset, training=mode, do_constant_folding=not training,
            input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    return file.getvalue()


def model_of(text: str, **initializers: Any) -> onnx.ModelProto:
    """A model in ONNX's own text form, with arrays for some of its names."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in initializers.items())
    return model


# -- whole models ------------------------------------------------------------------------------------------------------


def mlp() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5))
    return net, torch.randn(ROWS, 8)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.SiLU(),
            nn.AvgPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head(h.view(h.shape[0], -1))


class Block(nn.Module):
    """A block of a transformer, and the mean of its tokens."""

    def __init__(self, heads: int = 2, width: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Embedding(11, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, time, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return self.head(x.mean(1))


def cnn() -> tuple[nn.Module, Tensor]:
    return Cnn(), torch.randn(ROWS, 1, 12, 12)


def transformer() -> tuple[nn.Module, Tensor]:
    return Block(), torch.randint(0, 11, (ROWS, 7))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(3, 4, bidirectional=True, batch_first=True), nn.GRU(8, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.lstm(x)[0])[1][-1]


def recurrent() -> tuple[nn.Module, Tensor]:
    return Recurrent(), torch.randn(ROWS, 7, 3)


class UNet(nn.Module):
    """Down, up, and what was there beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, stride=2)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 5, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.norm(self.first(x)))
        both = torch.cat([first, self.up(F.silu(self.down(first)))], 1)
        return F.interpolate(self.last(both), scale_factor=2, mode="bilinear").mean((2, 3))


def unet() -> tuple[nn.Module, Tensor]:
    return UNet(), torch.randn(ROWS, 1, 8, 8)


class Many(nn.Module):
    """Functions of torch, which an export writes out as many nodes."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x.clamp(min=0.1) ** 2
        y = y / y.norm(dim=-1, keepdim=True)
        values, places = y.topk(2)
        kept = torch.where(y > 0.3, y, torch.zeros_like(y))
        return (
            kept.std(-1), values.mean(), places, torch.einsum("bi,bj->bij", y, kept).flatten(1), y.var(0), y[:, ::2],
            F.pad(y, (1, 2)), x.masked_fill(x < 0.5, 1.0), F.one_hot(places[:, 0], 4).float(), torch.outer(y[0], y[1]),
            x.cumsum(1), x.roll(1, 1), F.hardswish(x), F.softshrink(x), F.logsigmoid(x), F.glu(x, -1), F.normalize(x),
            x.argmin(1), torch.stack([x, y], 1), x.repeat(2, 1), x.gather(1, places), x[:, None, [0, 2]], x[-1],
        )  # fmt: skip


MODELS = (mlp, cnn, transformer, recurrent, unet)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_that_torch_exports_computes_and_trains_as_in_torch(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    net, x = make()
    training = make is not recurrent  # in training form torch writes an LSTM's weights apart
    g = tn.from_onnx(exported(net, x, training=training))
    more = torch.cat([x, x[:2]])  # another size of the batch than that of the export
    y = torch.randint(0, 5, (len(more),))
    net.train(training)
    twin = deepcopy(net)
    target = g.input("y", (tn.Dim("batch"),), dtype="int64")
    g.output(loss=tn.cross_entropy(g.outputs["logits"], target))
    found = tn.eager(g, {"x": more, "y": y}, g.state(), training=training)
    torch.testing.assert_close(found["logits"], net(more), rtol=1e-5, atol=1e-5)

    step = tn.compile_step(g, optimizer=tn.sgd(lr=LR), device="cpu")
    optimizer = torch.optim.SGD(twin.parameters(), lr=LR)
    for _ in range(2):
        loss = F.cross_entropy(twin(more), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(x=more, y=y)["loss"], loss.detach(), rtol=1e-5, atol=1e-5)
    trained = step.model.state_dict()
    named = {name: p for name, p in twin.named_parameters() if name in trained}
    assert make is recurrent or len(named) >= len([*twin.parameters()]) - 4, "matrices are turned, and named anew"
    for name, parameter in named.items():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_functions_of_torch_come_out_as_they_go_in() -> None:
    x, more = torch.rand(4, 4), torch.rand(6, 4)
    g = tn.from_onnx(exported(Many(), x))
    found = tn.eager(g, {"x": more}, g.state())
    for got, want in zip(found.values(), Many()(more), strict=True):
        torch.testing.assert_close(got, want)


def test_running_statistics_move_as_onnx_has_it() -> None:
    net, x = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 5)), torch.randn(ROWS, 8) * 3 + 1
    g = tn.from_onnx(exported(net, x, training=True))
    state = g.state()
    moved = tn.eager_updates(g, {"x": x}, state)
    batch = {"0.running_mean": x.mean(0), "0.running_var": x.var(0, correction=0)}
    torch.testing.assert_close(moved, {name: 0.9 * state[name] + 0.1 * now for name, now in batch.items()})
    model = tn.compile(g, device="cpu")
    net.eval().load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(x)["logits"], net(x), msg="evaluation takes the running statistics")
    kept = tn.from_onnx(exported(net.eval(), x))
    assert not kept.updates and not kept.outputs["logits"].graph.leaves("scalar")


@pytest.mark.parametrize("opset", (9, 11, 12, 13, 17))
def test_operator_sets_say_the_same_in_other_words(opset: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softmax(1), nn.Hardtanh(0.05, 0.2), nn.Dropout(0.3)).eval()
    x = torch.randn(ROWS, 3, 4)
    g = tn.from_onnx(exported(net, x, opset=opset))
    torch.testing.assert_close(tn.eager(g, {"x": x}, g.state())["logits"], net(x).detach())


# -- names, sizes, numbers ---------------------------------------------------------------------------------------------


def test_a_graph_reads_like_a_declared_one_and_begins_with_the_numbers_of_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(-1))
    file = tmp_path / "net.onnx"
    file.write_bytes(exported(net, torch.randn(2, 8)))
    for given in (file, str(file), file.read_bytes(), onnx.load(file)):
        g = tn.from_onnx(given)
        assert str(g) == TEXT
    model = tn.compile(g, device="cpu")
    assert model.state_dict().keys() == net.state_dict().keys()
    for other in (g, deepcopy(g), pickle.loads(pickle.dumps(g)), tn.autocast(g), model.graph):
        torch.testing.assert_close(initial_state(other), dict(net.state_dict()))
    g.first["0.weight"] = torch.zeros(3)
    with pytest.raises(tn.TritonNotesError, match=r"'0.weight' is float32\[16, 8\] and begins with torch.float32\[3\]"):
        g.state()


def test_state_of_a_graph_is_not_the_files() -> None:
    """Two models of one graph share no tensor."""
    g = tn.from_onnx(model_of("g (float[N, 2] x) => (float[N, 2] y) { y = Mul(x, w) }", w=np.ones(2, np.float32)))
    one, other = tn.compile(g, device="cpu"), tn.compile(g, device="cpu")
    with torch.no_grad():
        one.state_dict()["w"].fill_(3)
    assert other.state_dict()["w"].tolist() == g.state()["w"].tolist() == [1, 1]


def test_names_of_the_file_that_are_no_names_are_told_apart() -> None:
    model = model_of(
        "g (float[N, 2] x, float[N, 2] other) => (float[N, 2] y) { a = Relu(x) b = Add(a, other) y = Neg(b) }"
    )
    for old, new in (("a", "/l/Relu:0"), ("b", "l.Relu_0"), ("x", "in:0")):
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
    model.graph.input[0].name = "in:0"
    g = tn.from_onnx(model)
    assert [v.name for v in g.values] == ["in_0", "other", "l.Relu_0_1", "l.Relu_0", "y"]


def test_sizes_are_dims_and_may_be_fixed() -> None:
    text = """g (float[batch, time, 4] x, float[batch, time] mask) => (float y, float[batch] z)
    { shape = Shape(x) zero = Constant <value_int = 0> () rows = Gather(shape, zero)
      one = Constant <value_ints = [0]> () rows1 = Unsqueeze(rows, one)
      rest = Constant <value_ints = [-1]> () wanted = Concat <axis = 0> (rows1, rest)
      flat = Reshape(x, wanted) total = ReduceSum <keepdims = 0> (flat) y = Identity(total)
      ones = Constant <value_ints = [1]> () z = ReduceSum <keepdims = 0> (mask, ones) }"""
    g = tn.from_onnx(model_of(text))
    assert str(g["flat"].shape) == "(batch, 4*time)" and g["x"].shape == (tn.Dim("batch"), tn.Dim("time"), 4)
    assert [*g.outputs] == ["y", "z"]
    assert tn.from_onnx(model_of(text), sizes={"batch": 3, "time": 2})["flat"].shape == (3, 8)
    assert tn.from_onnx(model_of(text), sizes={"time": "batch"})["flat"].shape == (tn.Dim("batch"), 4 * tn.Dim("batch"))
    with pytest.raises(ModelImportError, match=r"'rows' is no symbolic size of the model; it has batch, time"):
        tn.from_onnx(model_of(text), sizes={"rows": 3})


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
def test_dtypes_are_those_of_the_file(dtype: str) -> None:
    kind = getattr(TensorProto, {"float64": "DOUBLE", "float32": "FLOAT"}.get(dtype, dtype.upper()))
    numbers = torch.tensor([1.0, 2.0, -3.0], dtype=getattr(torch, dtype))
    weight = helper.make_tensor("w", kind, (3,), numbers.double().tolist())
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("Cast", ["h"], ["y"], to=TensorProto.INT64)],
        "g", [info("x", kind, ("N", 3))], [info("y", TensorProto.INT64, None)], [weight],
    )  # fmt: skip
    g = tn.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert (g["w"].op.name, g["w"].dtype.name) == ("parameter", dtype) and torch.equal(g.state()["w"], numbers)
    x = torch.full((2, 3), 2, dtype=numbers.dtype)
    assert tn.eager(g, {"x": x}, g.state())["y"].tolist() == [[2, 4, -6]] * 2


def test_what_a_file_holds_is_a_parameter_a_buffer_a_constant_or_a_shape() -> None:
    text = """g (float[N, 4] x, int64[N] i) => (float[N, 2] y, int64[N] j)
    { h = Reshape(x, shape) k = Mul(h, scale) s = Add(k, w) y = Slice(s, zeros, two, one)
      j = Add(i, table) }"""
    g = tn.from_onnx(model_of(
        text, shape=np.array([0, 4]), scale=np.float32(2), w=np.arange(4, dtype=np.float32), zeros=np.array([0]),
        two=np.array([2]), one=np.array([1]), table=np.array([3]), unread=np.ones(3, np.float32),
    ))  # fmt: skip
    assert {v.name: v.op.name for v in g.leaves("parameter", "buffer")} == {"w": "parameter"}
    found = tn.eager(g, {"x": torch.ones(2, 4), "i": torch.tensor([1, 2])}, g.state())
    assert found["y"].tolist() == [[2, 3]] * 2 and found["j"].tolist() == [4, 5]


def test_a_name_of_ours_makes_way_for_one_of_the_file() -> None:
    """A layer is called `linear_1` until it has the name of the file, where another value is called so."""
    text = """g (float[N, 3] x) => (float[N, 3] linear_1)
    { linear = Gemm <transB = 1> (x, w) second = Gemm <transB = 1> (linear, w) linear_1 = Relu(second) }"""
    g = tn.from_onnx(model_of(text, w=np.eye(3, dtype=np.float32)))
    assert [v.name for v in g.values] == ["x", "w", "linear", "second", "linear_1"]


def test_initializers_that_are_frozen_are_no_parameters() -> None:
    text = "g (float[N, 2] x) => (float[N, 2] y) { h = Mul(x, val_1) s = Add(h, val_2) y = Add(s, w) }"
    numbers = {"val_1": [1.0, 2.0], "val_2": [3.0, 3.0], "w": [0.0, 1.0]}
    model = model_of(text, **{name: np.array(numbers, np.float32) for name, numbers in numbers.items()})
    for frozen, parameters in (((), ["val_1", "val_2", "w"]), (["val_*"], ["w"]), (["w", "val_1"], ["val_2"])):
        g = tn.from_onnx(model, frozen=frozen)
        assert [v.name for v in g.parameters] == parameters
        assert tn.eager(g, {"x": torch.ones(1, 2)}, g.state())["y"].tolist() == [[4, 6]]


def test_a_file_in_evaluation_is_trained_where_that_is_asked_for() -> None:
    text = """g (float[N, 2] x) => (float[N, 2] y)
    { h = BatchNormalization(x, w, b, mean, var) y = Dropout(h, ratio) }"""
    ones = np.ones(2, np.float32)
    model = model_of(text, w=ones, b=0 * ones, mean=ones, var=4 * ones, ratio=np.float32(0.5))
    x = torch.randn(400, 2)
    kept = tn.from_onnx(model)
    torch.testing.assert_close(tn.eager(kept, {"x": x}, kept.state(), training=True)["y"], (x - 1) / 2)
    trained = tn.from_onnx(model, training=True)
    dropped = tn.eager(trained, {"x": x}, trained.state(), training=True, seed=0)["y"]
    assert 300 < (dropped == 0).sum() < 500 and sorted(trained.updates) == ["mean", "var"]
    torch.testing.assert_close(tn.compile(trained, device="cpu")(x)["y"].detach(), (x - 1) / 2)


def test_a_sequence_is_taken_apart() -> None:
    text = """g (float[N, 6] x) => (float[N, 4] y)
    { parts = SplitToSequence <axis = 1> (x, two) a = SequenceAt(parts, first) b = SequenceAt(parts, last)
      both = SequenceConstruct(b, a) y = ConcatFromSequence <axis = 1> (both) }"""
    model = model_of(text, two=np.array(2), first=np.array(0), last=np.array(-1))
    found = tn.eager(tn.from_onnx(model), {"x": torch.arange(6.0)[None]})
    assert found["y"].tolist() == [[4, 5, 0, 1]]


def test_functions_of_a_file_are_written_out() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N, 3] x) => (float[N, 3] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 17]> twice (x) => (y) { y = Add(x, x) }"""
    g = tn.from_onnx(parser.parse_model(text))
    assert tn.eager(g, {"x": torch.ones(1, 3)})["y"].tolist() == [[2, 2, 2]]


def test_a_model_agrees_with_onnxs_own_evaluator() -> None:
    text = """g (float[N, 3, 8] x) => (float[N, 2, 3] y, int64[N, 2, 3] place)
    { t = Transpose <perm = [0, 2, 1]> (x) p = Einsum <equation = "nij,jk->nik"> (t, w) s = CumSum(p, axis)
      c = Concat <axis = 1> (s, p) h = Celu(c) y, place = TopK <axis = 1> (h, two) }"""
    w = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    model = model_of(text, w=w, axis=np.array(1), two=np.array([2]))
    x = np.random.default_rng(1).standard_normal((4, 3, 8)).astype(np.float32)
    g = tn.from_onnx(model)
    want = dict(zip(("y", "place"), ReferenceEvaluator(model).run(None, {"x": x}), strict=True))
    got = tn.compile(g, device="cpu")(torch.from_numpy(x))
    for name, array in want.items():
        torch.testing.assert_close(got[name], torch.from_numpy(np.array(array)))


def test_operators_that_onnx_defines_by_others_are_written_out() -> None:
    text = """g (float[N, 3, 4, 8] q, float[N, 3, 4, 8] k, float[N, 3, 4, 8] v) => (float[N, 3, 4, 8] y)
    { a = Attention <is_causal = 1> (q, k, v) y = Attention <softcap = 2.0> (a, k, v) }"""
    model = model_of(text)
    model.opset_import[0].version = 23
    g = tn.from_onnx(model)
    assert g["a"].attrs["call"] == "aten.scaled_dot_product_attention.default", "torch has it as one call"
    feeds = {name: torch.randn(2, 3, 4, 8) for name in "qkv"}
    (want,) = ReferenceEvaluator(model).run(None, {name: t.numpy() for name, t in feeds.items()})
    torch.testing.assert_close(tn.eager(g, feeds)["y"], torch.from_numpy(want), rtol=1e-4, atol=1e-5)
    inner = [v.name for v in g.values if v.name.startswith("y.")]
    assert "y.AttnWeightSoftmax" in inner


def test_sizes_may_be_numbers_that_tensors_are_computed_with() -> None:
    text = """g (float[N, M] x) => (float[N, M] y, int64[2] s, int64[M] places)
    { s = Shape(x) f = Cast <to = 1> (s) first = Gather(f, zero) less = Sub(first, one) y = Div(x, less)
      second = Gather(s, last) places = Range(start, second, step) }"""
    g = tn.from_onnx(model_of(
        text, zero=np.array(0), one=np.float32(1), last=np.array(1), start=np.array(0), step=np.array(1)
    ))  # fmt: skip
    x = torch.randn(5, 3)
    for found in (tn.eager(g, {"x": x}), tn.compile(g, device="cpu")(x)):
        torch.testing.assert_close(found["y"], x / 4)
        assert found["s"].tolist() == [5, 3] and found["places"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("chosen", (True, False))
def test_the_branch_that_the_file_chooses_is_taken(chosen: bool) -> None:
    text = """g (float[N, 2] x) => (float[N, 2] y)
    { y = If (c) <then_branch = then () => (float[N, 2] a) { a = Neg(x) },
                  else_branch = other () => (float[N, 2] b) { b = Abs(x) }> }"""
    g = tn.from_onnx(model_of(text, c=np.array(chosen)))
    assert tn.eager(g, {"x": torch.ones(1, 2)})["y"].tolist() == [[-1.0 if chosen else 1.0] * 2]


# -- faults ------------------------------------------------------------------------------------------------------------


REFUSED = {
    "an operator that is none of ours": (
        "g (float[N, 3] x) => (float[N, 3] y) { h = Relu(x) y = NonZero(h) }",
        r"node NonZero \(ai.onnx 17; h: float32\[N, 3\]\): is none of the operators that are read; docs/onnx.md",
    ),
    "a domain of others": (
        "g (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.FusedGemm(x) }",
        r"node FusedGemm \(com.microsoft 17; x: float32\[N, 3\]\): is of the domain 'com.microsoft'",
    ),
    "an attribute that nobody has": (
        "g (float[N, 3] x) => (float[N, 3] y) { y = Relu <slope = 2.0> (x) }",
        r"node Relu .*: got an unexpected keyword argument 'slope', in operator set 17",
    ),
    "a shape that is fed": (
        "g (float[N, 3] x, int64[2] shape) => (float[N, 3] y) { y = Reshape(x, shape) }",
        r"node Reshape .*: input 1, 'shape', says what is computed, and is known only when tensors are fed",
    ),
    "a sum of sizes": (
        "g (float[N, 3] x) => (float[N, 3] y) { s = Shape(x) t = Add(s, s) y = Reshape(x, t) }",
        r"node Reshape .*: input 1, 't', says what is computed, and is known only when .* fix these with sizes=",
    ),
    "a size that is no product": (
        "g (float[N, 1, H] x, float[2, 1, 3] w) => (float[N, 2, H2] y) { y = Conv <strides = [2]> (x, w) }",
        r"node Conv .*: aten.conv1d.default: a size of its result, .* is no product of Dims; fix it with sizes=",
    ),
    "a dtype that is none of ours": (
        "g (uint8[N, 3] x) => (uint8[N, 3] y) { y = Identity(x) }",
        r"input 'x': unknown dtype 'uint8'; use one of float16",
    ),
    "shapes that do not fit": (
        "g (float[N, 3] x, float[N, 4] z) => (float[N, 3] y) { y = Add(x, z) }",
        r"node Add \(ai.onnx 17; x: float32\[N, 3\], z: float32\[N, 4\]\): add: shapes .* do not broadcast",
    ),
    "a name that nothing gives": (
        "g (float[N, 3] x) => (float[N, 3] y) { y = Add(x, nowhere) }",
        r"node Add .*: reads 'nowhere', which nothing gives before it",
    ),
    "an output that is computed nowhere": (
        "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] mask) { y = Relu(x) }",
        r"output 'mask': reads 'mask', which nothing gives",
    ),
    "what torch refuses": (
        "g (float[N, 3, 8] x, float[4, 2, 3] w) => (float[N, 4, 6] y) { y = Conv(x, w) }",
        r"node Conv .*: aten.conv1d.default .*: Invalid channel",
    ),
}


@pytest.mark.parametrize("text, message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_the_node_and_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ModelImportError, match=message):
        tn.from_onnx(model_of(text))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for given in (b"", b"no model at all"):
        with pytest.raises(ModelImportError, match="it is no ONNX model"):
            tn.from_onnx(given)
    with pytest.raises(tn.TritonNotesError, match="takes a path, bytes or an onnx.ModelProto, got Linear"):
        tn.from_onnx(nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError):
        tn.from_onnx(tmp_path / "none.onnx")
    old = model_of("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    old.opset_import[0].version = 6
    with pytest.raises(ModelImportError, match="written in operator set 6; 7 and newer ones are read"):
        tn.from_onnx(old)


def test_the_extra_is_named_where_onnx_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelImportError, match=r"pip install 'tritonnotes\[onnx\]'"):
        tn.from_onnx(b"")
