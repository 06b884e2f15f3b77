"""All modules of torch's own table of modules, imported: results, gradients and training steps against eager."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from module_samples import INFOS, LR, MOMENTUM, Learned, Sample, Trained, differences, rows_of, sample_of
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.core.errors import ModelImportError

UNINITIALIZED = "uninitialized parameter.*Call `forward` with a dummy batch"
REFUSED = {
    "CTCLoss": r"aten._ctc_loss.default \(DynamicOutputShapeException\)",
    "GaussianNLLLoss": "Could not guard on data-dependent expression",
}
"""Modules that torch.export refuses, and what it says: a shape that depends on values, and an `if` on values."""

AVERAGES = "Could not extract specialized integer from data-dependent expression"
CAUSAL = "Could not guard on data-dependent expression"
REFUSED_SAMPLES = {
    ("BatchNorm1d", 2): AVERAGES,
    ("BatchNorm2d", 1): AVERAGES,
    ("BatchNorm3d", 1): AVERAGES,
    ("TransformerEncoder", 19): CAUSAL,
    **dict.fromkeys([("Transformer", 32), ("Transformer", 63)], CAUSAL),
    ("GLU", 2): r"only where Eq\(Mod\(batch, 2\), 0\).*batch=None",
}
"""Single samples that are refused, with the reason: `momentum=None`, which torch computes in Python from a number in a
tensor; masks without `is_causal`, whose values torch looks at for it; halves of the batch."""

WHOLE = {"Transformer", "TransformerDecoderLayer", "TransformerEncoder"}
"""Models rather than modules, of a hundred kernels and more. Their layers are compiled here, and they are imported."""

IMPORTED = [name for name, info in INFOS.items() if name not in REFUSED and not info.is_lazy]
COMPILED = [name for name in IMPORTED if name not in WHOLE]
HOW: dict[str, Any] = {"target": "cpu", "fusion": "greedy"}


def assert_computes(sample: Sample, training: bool) -> None:
    net = deepcopy(sample.module)
    model = tn.compile(net, *sample.example, training=training, **HOW)
    runs = (Trained(sample, torch.float32, net, model), Trained(sample, torch.float32), Trained(sample, torch.float64))
    assert differences(*(one.runs() for one in runs)) == []


def assert_learns(sample: Sample) -> None:
    net = deepcopy(sample.module)
    optimizer = tn.sgd(lr=LR, momentum=MOMENTUM)
    step = tn.compile_step(net, *sample.example, optimizer=optimizer, **HOW)
    step.model.train()

    def run(inputs: list[Tensor], weights: list[Tensor]) -> dict[str, Any]:
        made = step.model(*inputs, *weights)
        return {"results": [t for name, t in made.items() if name != "loss"], "loss": made["loss"]}

    mine, eager = Trained(sample, torch.float32, net, run), Trained(sample, torch.float32)
    exact = Trained(sample, torch.float64)
    assert differences(mine.runs(), eager.runs(), exact.runs()) == []
    assert differences(mine.steps(step), eager.steps(), exact.steps()) == []


@pytest.mark.parametrize("name", COMPILED)
def test_a_module_computes_and_learns_as_in_eager(name: str) -> None:
    sample = sample_of(INFOS[name], 0, training=True)
    if any(p.requires_grad for p in sample.module.parameters()):
        assert_learns(sample)
    else:
        assert_computes(sample, training=True)


@pytest.mark.parametrize("name", [name for name in COMPILED if INFOS[name].train_and_eval_differ])
def test_a_module_evaluates_as_in_eager(name: str) -> None:
    assert_computes(sample_of(INFOS[name], 0, training=False), training=False)


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_exports_not_is_refused(name: str) -> None:
    sample = sample_of(INFOS[name], 0, training=True, draws=1)
    with pytest.raises(ModelImportError, match=REFUSED[name]):
        tn.from_torch(sample.module, *sample.example)


@pytest.mark.parametrize("name", [name for name, info in INFOS.items() if info.is_lazy])
def test_lazy_modules_are_imported_once_they_have_run(name: str) -> None:
    sample = sample_of(INFOS[name], 0, training=True, draws=1)
    with pytest.raises(ModelImportError, match=UNINITIALIZED):
        tn.from_torch(sample.module, *sample.example)
    wanted = sample.module.results(sample.draws[0][0])
    model = tn.compile(sample.module, *sample.example, strict=True)
    torch.testing.assert_close(model(*sample.example)["results"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTED)
def test_other_samples_are_imported(name: str) -> None:
    """Some of them, and all that are known to be refused, by torch's own run of the imported graph."""
    count = len(rows_of(INFOS[name], training=True))
    known = {place for module, place in REFUSED_SAMPLES if module == name}
    for place in sorted({int(name in COMPILED), count // 2, count - 1} | known):
        sample = sample_of(INFOS[name], place, training=True, draws=2)
        if place in known:
            with pytest.raises(ModelImportError, match=REFUSED_SAMPLES[name, place]):
                tn.from_torch(sample.module, *sample.example)
            continue
        net = deepcopy(sample.module)
        mine = Trained(sample, torch.float32, net, by_torch(tn.from_torch(net, *sample.example), net))
        found = mine.runs(), Trained(sample, torch.float32).runs(), Trained(sample, torch.float64).runs()
        assert differences(*found) == [], f"sample {place}"


def by_torch(g: tn.Graph, net: Learned) -> Callable[..., dict[str, Any]]:
    """A run of a graph by the judge, which moves buffers as a model does."""

    def run(inputs: list[Tensor], weights: list[Tensor]) -> dict[str, Any]:
        feeds = dict(zip([v.name for v in g.inputs], [*inputs, *weights], strict=True))
        state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        state = {v.name: state[v.name] for v in g.leaves("parameter", "buffer")}
        made = tn.eager(g, feeds, state, training=True)
        for name, moved in tn.eager_updates(g, feeds, state).items():
            state[name].detach().copy_(moved)
        return {"results": [t for name, t in made.items() if name != "loss"], "loss": made["loss"]}

    return run
