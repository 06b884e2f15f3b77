"""Modules of tn.nn: torch's results, gradients and state dicts, also where something traces them."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nn_modules import ARGUMENTS, DEVICE, NAMES, fed, pair, results
from paths import ROOT
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError, ShapeError
from tritonnotes.judge.tolerance import compare
from tritonnotes.nn.replacing import COUNTERPARTS, LEFT


@pytest.mark.interpreted
@pytest.mark.parametrize("name", NAMES)
def test_a_module_gives_what_torchs_gives_and_shares_its_state_dict(name: str) -> None:
    theirs, mine = pair(name)
    assert isinstance(mine, type(theirs)) and list(mine.state_dict()) == list(theirs.state_dict())
    runs = results(mine, fed(name)), results(theirs, fed(name)), results(theirs, fed(name), exact=True)
    for place, (one, other, truth) in enumerate(zip(*runs, strict=True)):
        comparison = compare(one, other, truth)
        assert comparison.ok, f"{name}, result {place}: {comparison}"
    theirs.load_state_dict(mine.state_dict())
    again = pickle.loads(pickle.dumps(mine))
    assert type(again) is type(mine) and repr(again) == repr(theirs)


def outcome(module: nn.Module, tensors: list[Tensor]) -> str:
    """What becomes of a gradient through a result that was written over."""
    first, *rest = (t.clone() for t in tensors)
    y = module(first.requires_grad_() * 1.0, *rest)
    y += 1.0
    try:
        y.sum().backward()
    except RuntimeError as error:
        return "refused" if "modified by an inplace operation" in str(error) else str(error)
    return "passes"


WITHOUT_WEIGHTS: dict[str, dict[str, object]] = {
    "LayerNorm": {"elementwise_affine": False},
    "RMSNorm": {"elementwise_affine": False},
    "BatchNorm1d": {"affine": False},
    "GroupNorm": {"affine": False},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_result_may_be_written_over_where_torchs_may(name: str) -> None:
    pairs = [pair(name)]
    if name in WITHOUT_WEIGHTS:
        pairs.append(tuple(getattr(w, name)(*ARGUMENTS[name], **WITHOUT_WEIGHTS[name]).to(DEVICE) for w in (nn, tn.nn)))
    for theirs, mine in pairs:
        if outcome(theirs, fed(name)) == "passes":
            assert outcome(mine, fed(name)) == "passes"


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm3d", "InstanceNorm2d"])
def test_norms_evaluate_by_their_running_statistics(name: str) -> None:
    theirs, mine = pair(name)
    x = fed(name)[0]
    for module in (theirs, mine):
        module(x)
        module.eval()
    torch.testing.assert_close(mine(x), theirs(x))
    assert int(mine.num_batches_tracked) == int(theirs.num_batches_tracked)


@pytest.mark.interpreted
def test_modules_take_what_torchs_take_in_other_forms() -> None:
    """One sample without a batch, and a variance for each row or for all."""
    sample, rows = torch.randn(6, 5).to(DEVICE), torch.randn(4, 6).to(DEVICE)
    torch.testing.assert_close(tn.nn.InstanceNorm1d(6)(sample), nn.InstanceNorm1d(6)(sample))
    image = torch.randn(3, 2, 2).to(DEVICE)
    torch.testing.assert_close(tn.nn.Softmax2d()(image), nn.Softmax2d()(image))
    for var in (torch.full((4,), 0.5).to(DEVICE), 0.5):
        losses = [made(reduction="none")(rows, rows + 1, var) for made in (tn.nn.GaussianNLLLoss, nn.GaussianNLLLoss)]
        torch.testing.assert_close(*losses)
    with pytest.raises(ShapeError, match=r"tn.nn.Softmax2d: takes \(N, C, H, W\) or \(C, H, W\), got \[4, 6\]"):
        tn.nn.Softmax2d()(rows)


@pytest.mark.interpreted
@pytest.mark.parametrize("options", [{}, {"reduction": "none", "label_smoothing": 0.1}, {"bias": False}])
def test_linear_cross_entropy_is_both_in_turn_with_the_state_of_a_linear_layer(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    given = {**options, "ignore_index": 2, "class_weight": torch.tensor([0.5, 1.0, 1.5]).to(DEVICE)}
    mine = tn.nn.LinearCrossEntropy(6, 3, device=DEVICE, **given)
    linear = nn.Linear(6, 3, bias=options.get("bias", True), device=DEVICE)
    linear.load_state_dict(mine.state_dict())
    mine.load_state_dict(linear.state_dict())
    target = (torch.arange(10) % 3).reshape(5, 2).to(DEVICE)
    attrs = {n: v for n, v in given.items() if n not in ("class_weight", "bias")}
    found = []
    for exact in (False, True):
        x = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
        if exact:
            logits = linear(x).reshape(10, 3)
            y = nn.functional.cross_entropy(logits, target.flatten(), given["class_weight"], **attrs)
            y = y.reshape(5, 2) if attrs.get("reduction") == "none" else y
        else:
            y = mine(x, target)
        leaves = [x, *(linear if exact else mine).parameters()]
        found.append([y, *torch.autograd.grad(y.sum(), leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert repr(mine).startswith("LinearCrossEntropy(in_features=6, out_features=3, bias=")


def test_every_module_of_torch_whose_function_is_an_op_has_a_counterpart_or_a_reason() -> None:
    kinds = [getattr(nn, name) for name in nn.modules.__all__]
    without = [
        kind.__name__
        for kind in kinds
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and not issubclass(kind, LazyModuleMixin)
        and kind.forward is not nn.Module.forward
        and any(hasattr(tn, name) for name in re.findall(r"\bF\.(\w+)\(", inspect.getsource(kind.forward)))
        and kind not in COUNTERPARTS
        and kind not in LEFT
    ]
    assert without == []


@pytest.mark.interpreted
@pytest.mark.parametrize(("name", "formula"), [("SwiGLU", nn.functional.silu), ("GEGLU", nn.functional.gelu)])
def test_gated_units_are_one_half_squashed_times_the_other(name: str, formula: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 6).to(DEVICE)
    a, b = x.chunk(2, -1)
    torch.testing.assert_close(getattr(tn.nn, name)()(x), formula(a) * b)
    assert repr(getattr(tn.nn, name)(1)) == f"{name}(dim=1)"


@pytest.mark.interpreted
def test_modules_are_traced_in_one_graph() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 6), tn.nn.BatchNorm1d(6), tn.nn.GELU(), tn.nn.LayerNorm(6), tn.nn.Softmax(-1))
    made = made.to(DEVICE)
    found = []
    for run in (lambda m: m, lambda m: torch.compile(m, fullgraph=True, backend="aot_eager")):
        model = copy.deepcopy(made)
        loss = run(model)(fed("LayerNorm")[0]).square().sum()
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters()), *model.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.interpreted
def test_modules_are_exported_for_every_batch_and_loaded(tmp_path: Path) -> None:
    model = nn.Sequential(tn.nn.BatchNorm1d(6), tn.nn.GELU(), tn.nn.Softmax(-1)).to(DEVICE).eval()
    x = fed("LayerNorm")[0]
    made = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(made, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (x, x[:3]):
        torch.testing.assert_close(loaded(batch), model(batch))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (tn.nn.ReLU(inplace=True), "tn.nn.ReLU: inplace=True .*use torch.nn.ReLU"),
        (tn.nn.Softmax(), "tn.nn.Softmax: dim=None"),
        (tn.nn.BatchNorm1d(6, momentum=None), "tn.nn.BatchNorm1d: momentum=None"),
    ],
)
def test_what_is_not_done_is_refused_with_the_remedy(module: nn.Module, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        module(torch.ones(4, 6))


@pytest.mark.interpreted
def test_the_document_runs_and_shows_what_replace_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/modules.md").read_text(encoding="utf-8")
    shared: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/modules.md", "exec"), shared)
    (printed,) = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert capsys.readouterr().out == printed
    assert shared["x"].grad.shape == shared["x"].shape
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (?:norm|act|loss).*", text, re.MULTILINE))))
    assert listed == {n for n in tn.nn.__all__ if n not in ("replace", "Replacement")}
