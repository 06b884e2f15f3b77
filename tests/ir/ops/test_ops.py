"""Every op in the registry: formula against torch, derived gradient against autograd and against finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from numerics import (
    Tensors,
    assert_same,
    cotangents,
    draw,
    float_leaves,
    formula_gradients,
    formula_values,
    reference_gradients,
    reference_values,
    sample_graph,
)
from torch.autograd.gradcheck import GradcheckError

from tritonnotes.ir import Dim, Graph
from tritonnotes.ir import ops as ir_ops
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.op import OPS, Op, catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES
from tritonnotes.ir.core.registry import PRIMITIVES, Note
from tritonnotes.ir.core.types import DTYPES, float64
from tritonnotes.ir.passes.joint import gradient_graph
from tritonnotes.judge.executor import STATE, eager
from tritonnotes.judge.references import REFERENCES, UPDATE_REFERENCES

CATALOGUE = catalogue()
NO_GRADIENT = {name for name, entry in CATALOGUE.items() if entry.note.derivative.startswith("none:")}
NEEDS_AN_AXIS = {
    "linear",
    "layer_norm",
    "group_norm",
    "batch_norm",
    "instance_norm",
    "running_mean",
    "running_var",
    "normalize",
    "narrow",
    "cat",
    "embedding",
    "glu",
    "swiglu",
    "geglu",
    "reglu",
    "cross_entropy",
    "cross_entropy_of_probabilities",
    "nll_loss",
    "js_divergence",
    "entropy",
    "cosine_embedding_loss",
}
DIFFERENTIABLE = sorted(set(CATALOGUE) - NO_GRADIENT)
SIZES = (1, 2, 7, 33, 64, 200)
BATCH = Dim("batch")
FED = {"input", "parameter", "buffer", "slot", "scalar", "dim_size", "constant"}


# -- the registry is complete ------------------------------------------------------------------------------------------


def gaps() -> list[str]:
    """What the registry lacks: a line for each op or rule without reference, domain, note or sample."""
    found = []
    for name, entry in catalogue().items():
        found += [f"{name}: no reference"] if name not in REFERENCES else []
        found += [f"{name}: no sample"] if entry.sample is None else []
        arguments = entry.arg_names if isinstance(entry, Op) else list(entry.domain)
        found += [f"{name}: no domain for {a!r}" for a in arguments if a not in entry.domain]
        found += _note_gaps(name, entry.note)
    # A region of rows is no op: a pass makes it of others that have a reference each.
    for name in PRIMITIVES.keys() - FED - {"chunked"}:
        found += [f"{name}: no reference"] if name not in REFERENCES else []
    for name, rule in UPDATE_RULES.items():
        if not rule.custom:
            found += [f"{name}: no reference"] if name not in UPDATE_REFERENCES else []
            found += _note_gaps(name, rule.note, optional=("derivative",))
    return found


def _note_gaps(name: str, note: Note | None, optional: tuple[str, ...] = ()) -> list[str]:
    if note is None:
        return [f"{name}: no note"]
    lines = dataclasses.asdict(note)
    return [f"{name}: nothing under {k!r}" for k, v in lines.items() if not v.strip() and k not in optional]


def test_every_op_has_reference_domain_note_and_sample() -> None:
    assert gaps() == []


def test_op_without_reference_domain_note_or_sample_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(x, y):
        return x + y

    op = Op("planted", planted, domain={"x": (-1, 1)}, note=None, sample=None)
    monkeypatch.setitem(OPS, "planted", op)
    missing = ["no reference", "no sample", "no domain for 'y'", "no note"]
    assert gaps() == [f"planted: {what}" for what in missing]


def test_primitive_or_rule_without_reference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(REFERENCES, "tanh")
    monkeypatch.delitem(UPDATE_REFERENCES, "adam")
    assert set(gaps()) == {"tanh: no reference", "adam: no reference"}


def test_every_reference_belongs_to_something() -> None:
    assert {n for n in REFERENCES if not n.startswith("custom.")} <= OPS.keys() | PRIMITIVES.keys()


# -- formula against reference -----------------------------------------------------------------------------------------


def rtol(graph: Graph) -> float:
    """float64's where the reference computes in it; a metric's reference counts in float32."""
    return 1e-10 if graph.outputs["y"].dtype is float64 else 2.0**-23


@pytest.mark.parametrize("extremes", [False, True], ids=["inside", "extremes"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_formula_agrees_with_torch(name: str, extremes: bool) -> None:
    for cols in SIZES:
        graph = sample_graph(CATALOGUE[name], (BATCH, cols))
        for rows in (0, *SIZES):
            tensors = draw(graph, rows + cols, extremes, batch=rows)
            assert_same(formula_values(graph, tensors), reference_values(graph, tensors), rtol(graph))


@pytest.mark.parametrize("extremes", [False, True], ids=["inside", "extremes"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derived_gradient_agrees_with_autograd(name: str, extremes: bool) -> None:
    for cols in SIZES:
        graph = sample_graph(CATALOGUE[name], (BATCH, cols))
        for rows in (0, *SIZES):
            tensors = draw(graph, rows + cols, extremes, batch=rows)
            d = cotangents(graph, tensors)
            assert_same(formula_gradients(graph, tensors, d), reference_gradients(graph, tensors, d))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 5), (2, 3, 4, 5), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("name", CATALOGUE)
def test_any_rank_with_known_sizes(name: str, shape: tuple[int, ...]) -> None:
    agrees(name, shape)


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - NEEDS_AN_AXIS))
def test_zero_dim_values(name: str) -> None:
    agrees(name, ())


@pytest.mark.parametrize("name", sorted(NEEDS_AN_AXIS))
def test_zero_dim_value_where_an_axis_is_needed_is_one_typed_error(name: str) -> None:
    with pytest.raises(DeclarationError, match=name):
        sample_graph(CATALOGUE[name], ())


def agrees(name: str, shape: tuple[int, ...]) -> None:
    graph = sample_graph(CATALOGUE[name], shape)
    tensors = draw(graph)
    assert_same(formula_values(graph, tensors), reference_values(graph, tensors), rtol(graph))
    d = cotangents(graph, tensors)
    assert_same(formula_gradients(graph, tensors, d), reference_gradients(graph, tensors, d))


@pytest.mark.parametrize("name", sorted(NO_GRADIENT))
def test_metric_has_no_gradient(name: str) -> None:
    graph = sample_graph(CATALOGUE[name], (BATCH, 5))
    derived = gradient_graph(graph, float_leaves(graph))
    assert set(derived.outputs) == {"y"}


# -- finite differences, and torch's gradcheck of the derived gradient -------------------------------------------------


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if n != "cast"])  # it rounds: no small step shows its slope
def test_derived_gradient_agrees_with_finite_differences(name: str) -> None:
    for shape in ((3, 5), (7, 33), (2, 64)):
        graph = sample_graph(CATALOGUE[name], shape)
        tensors = draw(graph, seed=3)
        d = cotangents(graph, tensors)
        gradients = formula_gradients(graph, tensors, d)
        generator = torch.Generator().manual_seed(5)
        for leaf in float_leaves(graph):
            towards = torch.randn(tensors[leaf].shape, generator=generator, dtype=torch.float64)
            step = 1e-5
            ahead, behind = (
                _pairing(formula_values(graph, tensors | {leaf: tensors[leaf] + s * towards}), d) for s in (step, -step)
            )
            slope = float((gradients[leaf] * towards).sum())
            size = float((gradients[leaf] * towards).abs().sum())
            assert abs((ahead - behind) / (2 * step) - slope) < 1e-6 * max(size, 1.0), leaf


def _pairing(values: Tensors, d: Tensors) -> float:
    return sum(float((values[name] * upstream).sum()) for name, upstream in d.items())


class Formula(torch.autograd.Function):
    """A graph as autograd sees it: formula forward, derived gradient backward, no reference on the way."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, tensors: Tensors, leaves: list[str], *watched: torch.Tensor) -> torch.Tensor:
        ctx.given = graph, tensors | dict(zip(leaves, watched, strict=True)), leaves
        return formula_values(*ctx.given[:2])["y"]

    @staticmethod
    def backward(ctx: Any, *d: torch.Tensor) -> Any:
        graph, tensors, leaves = ctx.given
        gradients = formula_gradients(graph, tensors, {"y": d[0]}, leaves)
        return None, None, None, *(gradients[leaf] for leaf in leaves)


@pytest.mark.parametrize("name", [n for n in DIFFERENTIABLE if n != "cast"])
def test_slow_gradcheck(name: str) -> None:
    graph = sample_graph(CATALOGUE[name], (2, 3))
    tensors = draw(graph, seed=11)
    leaves = float_leaves(graph)
    watched = [tensors[leaf].clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(
        lambda *given: Formula.apply(graph, tensors, leaves, *given), watched, fast_mode=False, rtol=1e-5, atol=1e-7
    )


def test_gradcheck_notices_a_constant_that_is_slightly_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPS["sigmoid"], "derive", lambda d_y, y, x: (d_y * y * (0.99 - y),))
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        test_slow_gradcheck("sigmoid")


# -- dtypes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [d.name for d in DTYPES.values() if d.is_float])
@pytest.mark.parametrize("name", CATALOGUE)
def test_declared_dtype_and_shape_are_those_torch_gives(name: str, dtype: str) -> None:
    graph = Graph("sample")
    sample = CATALOGUE[name].sample
    assert sample is not None
    graph.output(y=sample(graph, (BATCH, 7), DTYPES[dtype]))
    tensors = draw(graph, batch=5)
    inputs = {v.name: tensors[v.name] for v in graph.inputs}
    # The executor raises where the reference's result differs from the declaration.
    y = eager(graph, inputs, {v.name: tensors[v.name] for v in graph.leaves(*STATE)}, training=True)["y"]
    assert str(y.dtype) == f"torch.{graph.outputs['y'].dtype}"


def test_layer_norm_of_bfloat16_with_float32_weight_is_bfloat16() -> None:
    graph = Graph("mixed")
    x = graph.input("x", (BATCH, 5), "bfloat16")
    weight, bias = (graph.parameter(n, (5,), init="ones") for n in ("weight", "bias"))
    graph.output(y=ir_ops.normalization.layer_norm(x, weight=weight, bias=bias))
    tensors = draw(graph, batch=3)
    y = eager(graph, {"x": tensors["x"]}, {n: tensors[n] for n in ("weight", "bias")})["y"]
    assert y.dtype == torch.bfloat16
    derived = gradient_graph(graph, ["x", "weight", "bias"])
    dtypes = {name: value.dtype.name for name, value in derived.outputs.items() if name != "y"}
    assert dtypes == {"gradient.x": "bfloat16", "gradient.weight": "float32", "gradient.bias": "float32"}
