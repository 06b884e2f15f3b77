"""Modules of tn.nn: torch's results, gradients and state dicts, also where something traces them."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor, nn

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.judge.tolerance import compare
from tritonnotes.nn.replacing import COUNTERPARTS
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()

ARGUMENTS: dict[str, tuple[object, ...]] = {
    "LayerNorm": (6,),
    "RMSNorm": (6,),
    "GroupNorm": (2, 6),
    "BatchNorm1d": (6,),
    "BatchNorm2d": (6,),
    "LeakyReLU": (0.2,),
    "ELU": (0.5,),
    "CELU": (0.5,),
    "GELU": ("tanh",),
    "Softplus": (2.0, 3.0),
    "PReLU": (6,),
    "GLU": (-1,),
    "Softmax": (-1,),
    "LogSoftmax": (1,),
}
LOSSES = {
    "CrossEntropyLoss": {"ignore_index": 2, "label_smoothing": 0.1},
    "NLLLoss": {"reduction": "sum"},
    "BCEWithLogitsLoss": {},
    "MSELoss": {},
    "L1Loss": {"reduction": "none"},
    "SmoothL1Loss": {"beta": 0.5},
    "HuberLoss": {"delta": 0.5},
}
NAMES = sorted(kind.__name__ for kind in COUNTERPARTS)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A module of torch with weights that are not the first ones, and ours with its state."""
    torch.manual_seed(0)
    args, options = ARGUMENTS.get(name, ()), LOSSES.get(name, {})
    theirs, mine = (getattr(where, name)(*args, **options).to(DEVICE) for where in (nn, tn.nn))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(0.5, 1.5)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def fed(name: str) -> list[Tensor]:
    shape = (4, 6, 2, 2) if name.endswith("2d") else (4, 6)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    if name in ("CrossEntropyLoss", "NLLLoss"):
        return [x.to(DEVICE), (torch.arange(4) % 6).to(DEVICE)]
    if name in LOSSES:
        return [x.to(DEVICE), torch.rand(shape, generator=generator).to(DEVICE)]
    return [x.to(DEVICE)]


def results(module: nn.Module, tensors: list[Tensor], exact: bool = False) -> list[Tensor]:
    """The result of a module, the gradients of its input and parameters, and its buffers; exact in float64."""
    module = copy.deepcopy(module).double() if exact else copy.deepcopy(module)
    first, *rest = (t.double() if exact and t.is_floating_point() else t.clone() for t in tensors)
    y = module(first.requires_grad_(), *rest)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y, *torch.autograd.grad(y, [first, *module.parameters()], upstream), *module.buffers()]


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


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["BatchNorm1d", "BatchNorm2d"])
def test_batch_norm_evaluates_by_its_running_statistics(name: str) -> None:
    theirs, mine = pair(name)
    x = fed(name)[0]
    for module in (theirs, mine):
        module(x)
        module.eval()
    torch.testing.assert_close(mine(x), theirs(x))
    assert int(mine.num_batches_tracked) == 1


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
