"""Metrics against scikit-learn, over random and degenerate batches: formulas, references and kernels; and what they
cost beside a loss."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from compiled import DTYPES, assert_within_policy, judge
from edges import BATCH, INF, NAN, graph_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import assert_same, formula_values, reference_values
from scikit_learn_scores import AVERAGES, CLASSES, SCORES, ZERO_DIVISIONS, expected
from sklearn import metrics as sk

import tritonnotes as tn
from tritonnotes.codegen.analysis.views import memory_of
from tritonnotes.codegen.fusion.legality import MAX_UNITS
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir import Graph, Value
from tritonnotes.ir.core.errors import DeclarationError, DTypeError, ShapeError
from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph

SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, NAN, INF, -INF)
Rows = tuple[list[list[float]], list[int]]


# -- what scikit-learn says --------------------------------------------------------------------------------------------


def argmax(row: Sequence[float]) -> int:
    return int(np.argmax(np.array(row)))  # NaN first, of ties the lowest index


@st.composite
def batches(draw: st.DrawFn, logits: Sequence[float] = SPECIAL, least: int = 1) -> Rows:
    """Rows of logits with many ties, and targets from some of the classes: often one alone, often all wrong."""
    rows = draw(st.lists(st.lists(st.sampled_from(logits), min_size=CLASSES, max_size=CLASSES), min_size=least))
    present = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=CLASSES))
    targets = [draw(st.sampled_from(present)) for _ in rows]
    if draw(st.booleans()):
        targets = [(argmax(row) + 1) % CLASSES for row in rows]
    return rows, targets


def feeds_of(rows: Rows, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    x = torch.tensor(rows[0], dtype=dtype).reshape(-1, CLASSES)
    return {"x": x, "t": torch.tensor(rows[1], dtype=torch.int64)}


def declare(graph: Graph, dtype: str = "float64") -> tuple[Value, Value]:
    return graph.input("x", (BATCH, CLASSES), dtype), graph.input("t", (BATCH,), "int64")


@cache
def all_scores(dtype: str = "float64") -> Graph:
    """Every score of every average and zero_division, and the counts."""
    graph = Graph("scores")
    x, t = declare(graph, dtype)
    for metric, average, zero in itertools.product(SCORES, AVERAGES, ZERO_DIVISIONS):
        score = getattr(tn, metric)(x, t, average=average, zero_division=zero)
        graph.output(**{f"{metric}_{average}_{zero:g}": score})
    for k in range(1, CLASSES + 1):
        graph.output(**{f"accuracy_{k}": tn.accuracy(x, t, k), f"error_rate_{k}": tn.error_rate(x, t, k)})
    graph.output(confusion=tn.confusion_matrix(x, t))
    return graph


def assert_as_scikit_learn(values: dict[str, torch.Tensor], rows: Rows, zero: float) -> None:
    logits, true = rows
    predicted = [argmax(row) for row in logits]
    for average in AVERAGES:
        for metric, want in expected(true, predicted, average, zero).items():
            assert_close(values[f"{metric}_{average}_{zero:g}"], want, f"{metric} {average} {zero}")
    assert values["confusion"].tolist() == sk.confusion_matrix(true, predicted, labels=range(CLASSES)).tolist()
    assert_close(values["accuracy_1"], sk.accuracy_score(true, predicted), "accuracy")
    for k in range(1, CLASSES + 1):
        share = sum(t in largest(row, k) for row, t in zip(logits, true, strict=True)) / len(true)
        assert_close(values[f"accuracy_{k}"], share, f"top {k}")
        assert_close(values[f"error_rate_{k}"], 1 - share, f"not top {k}")


def assert_close(got: torch.Tensor, want: Any, what: str) -> None:
    """Within two units in the last place of float32."""
    torch.testing.assert_close(
        got.cpu().double(),
        torch.as_tensor(want, dtype=torch.float64),
        rtol=2.4e-7,
        atol=0,
        equal_nan=True,
        msg=f"{what}: {got}, {want}",
    )


def largest(row: Sequence[float], k: int) -> list[int]:
    """The first `k` classes by sorting: NaN first, then by size, of ties the lowest index."""
    return sorted(range(len(row)), key=lambda i: (row[i] == row[i], -row[i] if row[i] == row[i] else 0, i))[:k]


@cache
def primitives_of(graph: Graph) -> Graph:
    return decompose(graph)


def evaluated(graph: Graph, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `formula_values` gives, with the graph taken apart but once."""
    primitives = primitives_of(graph)
    found = evaluate(primitives, {name: t.numpy() for name, t in feeds.items()})
    return {name: torch.as_tensor(np.array(found[v])) for name, v in primitives.outputs.items()}


@settings(deadline=None, max_examples=60)
@given(rows=batches(), zero=st.sampled_from(ZERO_DIVISIONS))
def test_formulas_and_references_agree_with_scikit_learn(rows: Rows, zero: float) -> None:
    assert_as_scikit_learn(evaluated(all_scores(), feeds_of(rows)), rows, zero)
    assert_as_scikit_learn(reference_values(all_scores(), feeds_of(rows)), rows, zero)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_agree_with_scikit_learn(dtype: str) -> None:
    model = tn.compile(all_scores(dtype))

    @settings(deadline=None, max_examples=12)
    @given(rows=batches(), zero=st.sampled_from(ZERO_DIVISIONS))
    def holds(rows: Rows, zero: float) -> None:
        feeds = {n: t.to(model.device) for n, t in feeds_of(rows, getattr(torch, dtype)).items()}
        assert_as_scikit_learn(model(**feeds), rows, zero)

    holds()


@settings(deadline=None, max_examples=40)
@given(rows=batches(logits=tuple(float(i) for i in range(100))), k=st.integers(1, CLASSES))
def test_top_k_agrees_with_scikit_learn_where_nothing_is_tied(rows: Rows, k: int) -> None:
    logits = [[x + i / CLASSES for i, x in enumerate(row)] for row in rows[0]]  # scikit-learn's ties go to the last
    graph = graph_of(lambda x, t: tn.accuracy(x, t, k=k), x=(BATCH, CLASSES), t=((BATCH,), "int64"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k of all classes is always right
        want = sk.top_k_accuracy_score(rows[1], logits, k=k, labels=range(CLASSES))
    assert float(formula_values(graph, feeds_of((logits, rows[1])))["y"]) == pytest.approx(want, rel=1e-12)


# -- degenerate batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [formula_values, reference_values])
def test_empty_batch_counts_nothing(build: Callable[..., dict[str, torch.Tensor]]) -> None:
    values = build(all_scores(), feeds_of(([], [])))
    assert not values["confusion"].any() and values["accuracy_1"].isnan() and values["error_rate_3"].isnan()
    for metric, average, zero in itertools.product(SCORES, AVERAGES, ZERO_DIVISIONS):
        got = values[f"{metric}_{average}_{zero:g}"].double()
        torch.testing.assert_close(got, torch.full_like(got, zero), equal_nan=True)


def test_one_class_is_always_right() -> None:
    graph = Graph("one")
    x, t = graph.input("x", (BATCH, 1), "float64"), graph.input("t", (BATCH,), "int64")
    graph.output(accuracy=tn.accuracy(x, t), f1=tn.f1(x, t, average="macro"), counts=tn.confusion_matrix(x, t))
    graph.output(specificity=tn.specificity(x, t, average="macro", zero_division=NAN))
    feeds = {"x": torch.zeros(3, 1).double(), "t": torch.zeros(3, dtype=torch.int64)}
    values = formula_values(graph, feeds)
    assert_same(values, reference_values(graph, feeds))
    assert values["accuracy"] == values["f1"] == 1 and values["counts"].tolist() == [[3]]
    assert values["specificity"].isnan()


def ignoring(ignore_index: int) -> Graph:
    graph = Graph("ignoring")
    x, t = declare(graph)
    for metric in SCORES:
        graph.output(**{metric: getattr(tn, metric)(x, t, average="macro", ignore_index=ignore_index)})
    graph.output(top=tn.accuracy(x, t, 2, ignore_index=ignore_index), wrong=tn.error_rate(x, t))
    graph.output(counts=tn.confusion_matrix(x, t, ignore_index=ignore_index))
    return graph


@pytest.mark.parametrize("ignored", [-100, 2, -1])
def test_ignored_rows_count_nowhere(ignored: int) -> None:
    x = torch.randn(40, CLASSES, generator=torch.Generator().manual_seed(0)).double()
    target = torch.arange(40) % CLASSES
    target[::3] = ignored
    kept = target != ignored
    graph = ignoring(ignored)
    values = formula_values(graph, {"x": x, "t": target})
    assert_same(values, reference_values(graph, {"x": x, "t": target}), rtol=2.0**-23)
    without = formula_values(graph, {"x": x[kept], "t": target[kept]})
    assert values["counts"].sum() == kept.sum()
    assert all(torch.equal(values[name], without[name]) for name in values if name != "wrong" or ignored == -100)


def test_targets_outside_the_classes_raise_on_the_cpu() -> None:
    graph = Graph("outside")
    x, t = declare(graph, "float32")
    graph.output(y=tn.f1(x, t, average="macro"))
    model = tn.compile(graph, device="cpu")
    wanted = r"target 4 in input 't' at \[1\] is out of bounds for 4 classes; use 0 to 3, or -100"
    with pytest.raises(IndexError, match=wanted):
        model(x=torch.zeros(2, CLASSES), t=torch.tensor([0, 4]))


# -- more axes, and more classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(CLASSES,), (5, CLASSES, 3), (2, CLASSES, 3, 2)], ids=str)
def test_classes_lie_along_the_axis_of_cross_entropy(shape: tuple[int, ...]) -> None:
    axis = 1 if len(shape) > 1 else 0
    rest = shape[:axis] + shape[axis + 1 :]
    graph = Graph("axes")
    x, t = graph.input("x", shape, "float64"), graph.input("t", rest, "int64")
    graph.output(loss=tn.cross_entropy(x, t), top=tn.accuracy(x, t, 2), f1=tn.f1(x, t, average=None))
    graph.output(counts=tn.confusion_matrix(x, t))
    generator = torch.Generator().manual_seed(3)
    feeds = {"x": torch.randn(shape, generator=generator).double()}
    feeds["t"] = torch.randint(0, CLASSES, rest, generator=generator)
    values = formula_values(graph, feeds)
    assert_same(values, reference_values(graph, feeds), rtol=2.0**-23)
    predicted, true = feeds["x"].argmax(axis).flatten(), feeds["t"].flatten()
    assert values["counts"].tolist() == sk.confusion_matrix(true, predicted, labels=range(CLASSES)).tolist()


@pytest.mark.parametrize("classes", [2, 31, 32, 33, 70])
def test_confusion_matrix_of_few_and_of_many_classes(classes: int) -> None:
    """Above 32 classes the counts are a product of matrices."""
    graph = Graph("many")
    x, t = graph.input("x", (BATCH, classes)), graph.input("t", (BATCH,), "int64")
    graph.output(counts=tn.confusion_matrix(x, t))
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(300, classes, generator=generator)
    target = torch.randint(0, classes, (300,), generator=generator)
    target[:7] = -100
    model = tn.compile(graph)
    counts = model(x=logits.to(model.device), t=target.to(model.device))["counts"]
    want = sk.confusion_matrix(target[7:], logits.argmax(1)[7:], labels=range(classes))
    assert counts.dtype == torch.int64 and counts.tolist() == want.tolist()
    assert any(launch.is_library or launch.products for launch in model.plan.launches) is (classes > 32)


# -- yes or no ---------------------------------------------------------------------------------------------------------


@cache
def binary(dtype: str = "float64", target: str = "int64", threshold: float = 0.0) -> Graph:
    graph = Graph("binary")
    x, t = graph.input("x", (BATCH,), dtype), graph.input("t", (BATCH,), target)
    for metric, average, zero in itertools.product(SCORES, ("binary", *AVERAGES), ZERO_DIVISIONS):
        score = getattr(tn, metric)(x, t, average=average, zero_division=zero, threshold=threshold)
        graph.output(**{f"{metric}_{average}_{zero:g}": score})
    graph.output(accuracy=tn.accuracy(x, t, threshold=threshold), wrong=tn.error_rate(x, t, threshold=threshold))
    graph.output(counts=tn.confusion_matrix(x, t, threshold=threshold))
    return graph


def assert_binary(values: dict[str, torch.Tensor], true: list[int], predicted: list[int], zero: float) -> None:
    table = sk.confusion_matrix(true, predicted, labels=[0, 1])
    assert values["counts"].tolist() == table.tolist()
    assert_close(values["accuracy"], sk.accuracy_score(true, predicted), "accuracy")
    assert_close(values["wrong"], 1 - sk.accuracy_score(true, predicted), "wrong")
    for average in ("binary", *AVERAGES):
        for metric, want in expected(true, predicted, average, zero, classes=2).items():
            assert_close(values[f"{metric}_{average}_{zero:g}"], want, f"{metric} {average} {zero}")


SIGNED = st.lists(st.tuples(st.sampled_from([*SPECIAL, 1e-30]), st.integers(0, 1)), min_size=1)


@settings(deadline=None, max_examples=60)
@given(
    pairs=SIGNED,
    threshold=st.sampled_from([0.0, 0.5]),
    target=st.sampled_from(["int64", "float64", "bool"]),
    zero=st.sampled_from(ZERO_DIVISIONS),
)
def test_yes_and_no_agree_with_scikit_learn(
    pairs: list[tuple[float, int]], threshold: float, target: str, zero: float
) -> None:
    """A score above the threshold says yes; NaN is not above it."""
    graph = binary(target=target, threshold=threshold)
    true, predicted = [t for _, t in pairs], [int(x > threshold) for x, _ in pairs]
    feeds = {"x": torch.tensor([x for x, _ in pairs]).double()}
    feeds["t"] = torch.tensor(true).to(getattr(torch, target))
    assert_binary(evaluated(graph, feeds), true, predicted, zero)
    assert_binary(reference_values(graph, feeds), true, predicted, zero)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_of_yes_and_no_agree_with_scikit_learn(dtype: str) -> None:
    model = tn.compile(binary(dtype, dtype), fusion="greedy")  # one kernel of some 250 primitives

    @settings(deadline=None, max_examples=12)
    @given(pairs=SIGNED, zero=st.sampled_from(ZERO_DIVISIONS))
    def holds(pairs: list[tuple[float, int]], zero: float) -> None:
        x, t = (torch.tensor(side, dtype=getattr(torch, dtype)) for side in zip(*pairs, strict=True))
        values = model(x=x.to(model.device), t=t.to(model.device))
        assert_binary(values, [int(y) for _, y in pairs], (x > 0).long().tolist(), zero)

    holds()


def test_targets_of_minus_one_say_no_as_those_of_0_do() -> None:
    graph = graph_of(lambda x, t: tn.recall(x, t), x=(4,), t=(4,))
    assert formula_values(graph, {"x": torch.tensor([1.0, 1, -1, -1]), "t": torch.tensor([1.0, -1, 1, -1])})["y"] == 0.5


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 3, 4)], ids=str)
def test_yes_and_no_of_any_rank(shape: tuple[int, ...]) -> None:
    graph = Graph("rank")
    x, t = graph.input("x", shape), graph.input("t", shape)
    graph.output(f1=tn.f1(x, t), both=tn.recall(x, t, average=None), counts=tn.confusion_matrix(x, t))
    graph.output(accuracy=tn.accuracy(x, t))
    generator = torch.Generator().manual_seed(1)
    feeds = {"x": torch.randn(shape, generator=generator), "t": (torch.rand(shape, generator=generator) < 0.5).float()}
    assert_within_policy(judge(graph, feeds))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x, t: tn.accuracy(x, t, 5), "accuracy.*k is 5, with 4 classes; it is an int between 1 and"),
        (lambda x, t: tn.error_rate(x, t, 0), "error_rate.*k is 0"),
        (lambda x, t: tn.accuracy(x, x, 2), "k is 2, with one score for each target"),
        (lambda x, t: tn.f1(x, t), "f1.*average is 'binary', but there are . classes; use 'micro'"),
        (lambda x, t: tn.recall(x, t, average="samples"), "recall.*average is 'samples'; use 'binary', 'micro'"),
        (lambda x, t: tn.precision(x, t, average="macro", zero_division=0.5), "zero_division is 0.5; use 0, 1 or nan"),
        (lambda x, t: tn.precision(x, t, average="macro", zero_division="warn"), "zero_division is 'warn'"),
    ],
)
def test_number_that_makes_no_metric_raises(build: Callable[..., Value], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        graph_of(build, x=(BATCH, CLASSES), t=((BATCH,), "int64"))


@pytest.mark.parametrize("metric", ["accuracy", "error_rate", "confusion_matrix", *SCORES])
def test_target_of_another_shape_or_dtype_raises(metric: str) -> None:
    build = getattr(tn, metric)
    with pytest.raises(DTypeError, match=f"{metric}: target 't' is float64; class indices are int64"):
        graph_of(build, x=(BATCH, 3), t=(BATCH,))
    with pytest.raises(ShapeError, match=rf"{metric}: .*want targets of shape \[batch\], got 't' of shape \[7\]"):
        graph_of(build, x=(BATCH, 3), t=((7,), "int64"))
    with pytest.raises(ShapeError, match=rf"{metric}: .*of shape \[batch\], or yes and no of their own shape, got 't'"):
        graph_of(build, x=(BATCH, 3), t=((BATCH, 4), "int64"))


def test_axis_of_classes_of_symbolic_size_is_counted_too() -> None:
    graph = Graph("symbolic")
    x, t = graph.input("x", (BATCH, tn.Dim("classes"))), graph.input("t", (BATCH,), "int64")
    graph.output(right=tn.accuracy(x, t, 2), f1=tn.f1(x, t, average=None))
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert_within_policy(judge(graph, {"x": logits, "t": torch.arange(9) % 5}))


# -- beside a loss -----------------------------------------------------------------------------------------------------


def plan_of(metrics: dict[str, dict[str, Any]], yes_or_no: bool = False, classes: int = 10) -> FusionPlan:
    """A training step on logits that a layer makes, with its metrics."""
    graph = Graph("beside")
    x = graph.input("x", (BATCH, 64))
    if yes_or_no:
        logits, target = tn.linear(x, 1, name="fc"), graph.input("t", (BATCH, 1))
        loss = tn.binary_cross_entropy_with_logits(logits, target)
    else:
        logits, target = tn.linear(x, classes, name="fc"), graph.input("t", (BATCH,), "int64")
        loss = tn.cross_entropy(logits, target)
    graph.output(loss=loss, **{n: getattr(tn, n)(logits, target, **attrs) for n, attrs in metrics.items()})
    return make_plan(joint_graph(graph, "loss", tn.sgd(lr=0.1)))


def readers(plan: FusionPlan) -> int:
    """How many kernels have the logits: read them, or the product that they are made of, or multiply themselves."""
    made = {v for v in plan.graph.values if v.scope.name == "fc" and v.scope.phase == "forward"}
    return sum(any(memory_of(v) in made for v in (*k.loads, *k.products)) for k in plan.kernels)


@pytest.mark.parametrize("yes_or_no", [False, True], ids=["classes", "yes or no"])
def test_metrics_beside_a_loss_read_the_logits_no_further_time(yes_or_no: bool) -> None:
    average = {"average": "binary" if yes_or_no else "macro"}
    top = {} if yes_or_no else {"k": 3}
    metrics: dict[str, dict[str, Any]] = {"accuracy": {}, "error_rate": top, **{m: average for m in SCORES}}
    alone, beside = plan_of({}, yes_or_no), plan_of(metrics, yes_or_no)
    assert readers(beside) == readers(alone) > 0
    # At a batch of 256 the logits are 4 bytes for each class and row; the counts are a few for each class.
    logits = 4 * 256 * (1 if yes_or_no else 10)
    more = beside.bytes_moved(256) - alone.bytes_moved(256)
    assert 0 < more < logits / 2
    # What a metric moves does not grow with the batch at all.
    assert beside.bytes_moved(4096) - alone.bytes_moved(4096) == more


def test_confusion_matrix_beside_a_loss_moves_a_prediction_for_each_row() -> None:
    alone, beside = plan_of({}), plan_of({"confusion_matrix": {}})
    assert readers(beside) == readers(alone)
    predictions, targets = 2 * 8, 8
    grown = [p.bytes_moved(4096) - p.bytes_moved(256) for p in (beside, alone)]
    assert grown[0] - grown[1] == (predictions + targets) * (4096 - 256)


def test_further_read_of_the_logits_would_be_noticed() -> None:
    graph = Graph("down_the_rows")
    logits = tn.linear(graph.input("x", (BATCH, 64)), 10, name="fc")
    t = graph.input("t", (BATCH,), "int64")
    sum_exp = tn.sum(tn.exp(logits - tn.max(logits, 0)), 0)
    graph.output(loss=tn.cross_entropy(logits, t), down=logits / sum_exp)
    # One kernel has the largest of each column, another their sum, a third what is divided by it.
    assert readers(make_plan(joint_graph(graph, "loss", tn.sgd(lr=0.1)))) == 3 > readers(plan_of({})) == 1


def test_names_of_metrics_reach_the_kernel() -> None:
    graph = Graph("named")
    x, t = declare(graph, "float32")
    graph.output(loss=tn.cross_entropy(x, t), f1=tn.f1(x, t, average="macro"))
    source = tn.compile(graph).source
    for line in ("is_hit = is_predicted & is_true", "# f1: 2 · hits / (predicted + true)"):
        assert line in source


def test_more_primitives_than_one_kernel_takes_are_planned_by_the_search_too() -> None:
    model = tn.compile(binary("float32", "float32"), fusion="optimal")
    assert max(len(kernel.units) for kernel in model.plan.launches) <= MAX_UNITS < len(model.plan.units.units)
