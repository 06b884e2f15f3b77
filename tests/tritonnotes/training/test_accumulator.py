"""An epoch's scores are those of all its rows: as scikit-learn has them, without waiting for the device on the way."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from edges import BATCH, NAN
from hypothesis import given, settings
from hypothesis import strategies as st
from scikit_learn_scores import AVERAGES, SCORES, ZERO_DIVISIONS, expected
from sklearn import metrics as sk
from torch.utils._python_dispatch import TorchDispatchMode

import tritonnotes as tn
from tritonnotes.ir import Graph
from tritonnotes.ir.core.errors import DeclarationError, FeedError

CLASSES = 4
Labels = tuple[list[int], list[int]]


def counts_of(true: list[int], predicted: list[int], classes: int = CLASSES) -> torch.Tensor:
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for i, j in zip(true, predicted, strict=True):
        counts[i, j] += 1
    return counts


def labels(classes: int = CLASSES) -> st.SearchStrategy[Labels]:
    pairs = st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)))
    return pairs.map(lambda found: ([t for t, _ in found], [p for _, p in found]))


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(labels(), min_size=1, max_size=4), zero=st.sampled_from(ZERO_DIVISIONS))
def test_scores_of_an_epoch_are_those_of_all_its_rows(batches: list[Labels], zero: float) -> None:
    epoch = tn.MetricAccumulator(counts=["confusion"])
    for true, predicted in batches:
        epoch.update({"confusion": counts_of(true, predicted)})
    true, predicted = ([label for side in batches for label in side[i]] for i in (0, 1))
    if not true:
        assert epoch.accuracy().isnan() and epoch.error_rate().isnan()
        return
    assert epoch.confusion_matrix().tolist() == sk.confusion_matrix(true, predicted, labels=range(CLASSES)).tolist()
    same(epoch.accuracy(), sk.accuracy_score(true, predicted))
    same(epoch.error_rate(), 1 - sk.accuracy_score(true, predicted))
    for average in AVERAGES:
        for metric, want in expected(true, predicted, average, zero).items():
            same(getattr(epoch, metric)(average=average, zero_division=zero), want)


def same(got: torch.Tensor, want: Any, rtol: float = 1e-14) -> None:
    assert got.dtype == torch.float64
    wanted = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got.cpu(), wanted, rtol=rtol, atol=1e-15, equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(pairs=labels(2).filter(lambda found: bool(found[0])), zero=st.sampled_from(ZERO_DIVISIONS))
def test_binary_scores_are_those_of_yes(pairs: Labels, zero: float) -> None:
    epoch = tn.MetricAccumulator(counts=["c"])
    epoch.update({"c": counts_of(*pairs, classes=2)})
    for metric, want in expected(*pairs, "binary", zero, classes=2).items():
        same(getattr(epoch, metric)(zero_division=zero), want)


@pytest.mark.parametrize("zero", ZERO_DIVISIONS)
def test_an_epoch_of_nothing_scores_what_0_by_0_is_said_to_be(zero: float) -> None:
    epoch = tn.MetricAccumulator(counts=["c"])
    epoch.update({"c": torch.zeros(3, 3, dtype=torch.int64)})
    for metric, average in itertools.product(SCORES, AVERAGES):
        score = getattr(epoch, metric)(average=average, zero_division=zero)
        same(score, torch.full_like(score, zero))


def test_mean_weighs_batches_by_their_rows() -> None:
    epoch = tn.MetricAccumulator(means=["loss"])
    for loss, rows in ((1.0, 3), (4.0, 1), (NAN, 0)):
        epoch.update({"loss": torch.tensor(loss)}, rows=rows)
    same(epoch.mean("loss"), 7 / 4)
    epoch.update({"loss": torch.tensor(NAN)}, rows=torch.tensor(0))
    epoch.update({"loss": torch.tensor(5.5)}, rows=torch.tensor(2.0))
    same(epoch.mean("loss"), 3)


def test_small_batches_lose_nothing_in_a_long_epoch() -> None:
    epoch = tn.MetricAccumulator(means=["loss"])
    for _ in range(1000):
        epoch.update({"loss": torch.tensor(0.1)}, rows=7)
    same(epoch.mean("loss"), float(torch.tensor(0.1)), rtol=1e-12)


class Waits(TorchDispatchMode):
    """Notes every call that makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.split(".")[0] in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"):
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_neither_update_nor_score_waits_for_the_device() -> None:
    epoch = tn.MetricAccumulator(means=["loss"], counts=["c"])
    outputs = {"loss": torch.tensor(1.0), "c": torch.ones(2, 2, dtype=torch.int64)}
    with Waits() as waits:
        for rows in (2, torch.tensor(3)):
            epoch.update(outputs, rows=rows)
        scores = [epoch.mean("loss"), epoch.accuracy(), epoch.error_rate(), epoch.confusion_matrix()]
        for metric, average, zero in itertools.product(SCORES, ("binary", *AVERAGES), ZERO_DIVISIONS):
            scores.append(getattr(epoch, metric)(average=average, zero_division=zero))
        assert waits.seen == []
        float(scores[0])
    assert waits.seen == ["_local_scalar_dense.default"]


def model_of_classes(name: str = "classes") -> Graph:
    graph = Graph(name)
    x, y = graph.input("x", (BATCH, 5)), graph.input("y", (BATCH,), "int64")
    logits = tn.linear(x, 3, name="fc")
    graph.output(loss=tn.cross_entropy(logits, y), confusion=tn.confusion_matrix(logits, y), logits=logits)
    graph.output(f1=tn.f1(logits, y, average="macro"))
    return graph


def test_epoch_of_a_training_step_is_right_where_the_mean_of_its_batches_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 5, generator=generator)
    y = torch.randint(0, 3, (100,), generator=generator)
    step = tn.compile_step(model_of_classes(), optimizer=tn.sgd(lr=0.1))
    epoch = tn.MetricAccumulator(means=["loss"], counts=["confusion"])
    predicted, losses, batch_f1s = [], 0.0, []
    for rows in torch.arange(100).split(32):
        result = step(x=x[rows].to(step.device), y=y[rows].to(step.device))
        epoch.update(result, rows=len(rows))
        predicted += result["logits"].argmax(1).tolist()
        losses += float(result["loss"]) * len(rows)
        batch_f1s.append(float(result["f1"]))
    want = sk.f1_score(y, predicted, average="macro")
    same(epoch.f1(average="macro"), want)
    assert abs(sum(batch_f1s) / 4 - want) > 1e-3
    same(epoch.mean("loss"), losses / 100)


def test_outputs_of_a_model_are_let_go_of() -> None:
    """What is added up holds no graph of autograd's, and is no longer the model's."""
    model = tn.compile(model_of_classes())
    outputs = model(x=torch.ones(4, 5, device=model.device), y=torch.tensor([0, 1, 2, 0], device=model.device))
    assert outputs["loss"].requires_grad
    epoch = tn.MetricAccumulator(means=["loss"], counts=["confusion"])
    epoch.update(outputs, rows=4)
    before = epoch.confusion_matrix()
    assert not epoch.mean("loss").requires_grad
    outputs["confusion"].zero_()
    before.zero_()
    assert epoch.confusion_matrix().sum() == 4


def test_reset_starts_anew_and_several_counts_are_told_apart() -> None:
    epoch = tn.MetricAccumulator(means=["loss"], counts=["small", "large"])
    fed = {"small": torch.eye(2, dtype=torch.int64), "large": torch.ones(3, 3, dtype=torch.int64)}
    epoch.update(fed | {"loss": torch.tensor(2.0)}, rows=9)
    epoch.reset()
    epoch.update(fed | {"loss": torch.tensor(1.0)}, rows=9)
    assert epoch.mean("loss") == 1 and epoch.accuracy("small") == 1
    assert epoch.f1("large", average="micro") == pytest.approx(1 / 3)
    with pytest.raises(FeedError, match=r"no counts are named; it adds up \['small', 'large'\]"):
        epoch.accuracy()


# -- what is refused ---------------------------------------------------------------------------------------------------

FED = {"loss": torch.tensor(1.0), "c": torch.eye(3, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"c": FED["c"]}, r"output 'loss' is missing; there are \['c'\]"),
        ({"loss": torch.ones(3), "c": FED["c"]}, r"'loss' is float32\[3\]; a mean over a batch is one float"),
        ({"loss": torch.tensor(1), "c": FED["c"]}, r"'loss' is int64\[\]; a mean"),
        (FED | {"c": torch.ones(3, 3)}, r"'c' is float32\[3, 3\], wanted int64\[3, 3\]; name an output of tn.conf"),
        (FED | {"c": torch.eye(4, dtype=torch.int64)}, r"'c' is int64\[4, 4\], wanted int64\[3, 3\]"),
        (FED | {"c": torch.ones(3, dtype=torch.int64)}, r"'c' is int64\[3\], wanted int64\[3, 3\]"),
    ],
)
def test_output_of_another_kind_is_refused_and_changes_nothing(outputs: dict[str, Any], message: str) -> None:
    epoch = tn.MetricAccumulator(means=["loss"], counts=["c"])
    epoch.update(FED, rows=2)
    with pytest.raises(FeedError, match=message):
        epoch.update(outputs, rows=2)
    assert epoch.mean("loss") == 1 and epoch.confusion_matrix().sum() == 3


def test_what_was_never_named_or_fed_is_refused() -> None:
    epoch = tn.MetricAccumulator(means=["loss"], counts=["c"])
    with pytest.raises(FeedError, match="'loss' is a mean over how many rows"):
        epoch.update(FED)
    with pytest.raises(FeedError, match="no batch has been added, so 'c' is unknown"):
        epoch.f1(average="macro")
    epoch.update(FED, rows=1)
    with pytest.raises(FeedError, match=r"'accuracy' is none of its means, which are \['loss'\]"):
        epoch.mean("accuracy")
    with pytest.raises(FeedError, match="'d' is none of its counts"):
        epoch.f1("d")
    with pytest.raises(DeclarationError, match="f1: average is 'binary', but there are 3 classes; use 'micro'"):
        epoch.f1()
    with pytest.raises(DeclarationError, match="recall: average is 'samples'"):
        epoch.recall(average="samples")
    with pytest.raises(DeclarationError, match="recall: zero_division is 'warn'; use 0, 1 or nan"):
        epoch.recall(average="micro", zero_division="warn")  # type: ignore[arg-type]
    for wrong in ({}, {"means": "loss"}, {"counts": [3]}):
        with pytest.raises(DeclarationError, match="MetricAccumulator: "):
            tn.MetricAccumulator(**wrong)  # type: ignore[arg-type]
