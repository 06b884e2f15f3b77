"""The notes: the page is what the registry gives now, what it claims holds, and a picture shows what torch computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled import draw
from paths import ROOT
from torch import Tensor
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.cli.notes import page
from tritonnotes.cli.plots import PlotError, picture, plot_note
from tritonnotes.ir.core.errors import DTypeError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import OPS, Op, catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES
from tritonnotes.ir.core.registry import Note
from tritonnotes.ir.core.types import as_dtype
from tritonnotes.judge.executor import oracle
from tritonnotes.judge.references import REFERENCES
from tritonnotes.judge.tolerance import compare
from tritonnotes.notes import UnknownNameError, entries, entry_of, find
from tritonnotes.tensors.initial import initial_state

PAGE = ROOT / "docs/ops.md"
NAMES = sorted(catalogue())
OWN_FORMULA = Note("x + 3", "1", "One addition.", "None.", "This test.", "nowhere")


def test_the_page_is_what_the_registry_gives_now(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-goldens"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "run tritonnotes ops --write docs/ops.md, and read the diff"


def test_the_page_says_all_of_every_op_and_rule() -> None:
    text = page()
    for name in [*NAMES, *(n for n, r in UPDATE_RULES.items() if not r.custom)]:
        assert text.count(f"\n### {name}\n") == 1
        section = text.partition(f"\n### {name}\n")[2].partition("\n#")[0].replace("\\", "")
        entry = find(name)
        for line in (entry.signature, *entry.lines().values()):
            assert line in section, f"{name}: {line}"


def test_an_op_registered_now_is_listed_without_further_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    def three_more(x, *, shift=3.0):
        return x + shift

    three_more.__module__ = "tritonnotes.ir.ops.activations"
    made = Op("three_more", three_more, domain=(-1, 1), note=OWN_FORMULA, sample=None)
    made.sample = lambda graph, shape, dtype: made.apply(graph.input("x", shape, dtype))
    monkeypatch.setitem(OPS, "three_more", made)
    entry = next(e for e in entries("activations") if e.name == "three_more")
    assert entry.signature == "three_more(x, *, shift=3.0)"
    assert "\n### three_more\n" in page()


def test_an_op_of_a_module_that_names_no_family_has_the_modules_name() -> None:
    made = Op("lonely", lambda x: x, domain=(-1, 1), note=OWN_FORMULA, sample=lambda graph, shape, dtype: None)
    assert entry_of(made).family == "test notes"


def test_a_reference_shows_what_it_takes_from_where_it_was_made() -> None:
    assert find("cross_entropy").reference.startswith("meaning = torch.nn.functional.cross_entropy\n")
    assert (
        "def _log_cosh(" in find("log_cosh_loss").reference and "meaning = _log_cosh" in find("log_cosh_loss").reference
    )
    assert "lambda input, target: F.relu(1 - input * target)" in find("hinge_loss").reference
    assert "metric = 'recall'" in find("recall").reference
    assert find("gelu").reference == "torch.nn.functional.gelu"


def test_a_family_holds_its_own_entries_and_no_others() -> None:
    families = {entry.family for entry in entries()}
    assert {"activations", "losses", "metrics", "normalizations", "update rules"} <= families
    for family in families:
        assert entries(family) == [e for e in entries() if e.family == family]


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_is_the_one_that_users_call(name: str) -> None:
    entry, called = find(name), getattr(tn, name, None)
    if called is None:
        assert not entry.signature.startswith("tn.")
        return
    for parameter in inspect.signature(called).parameters.values():
        if parameter.name != "name":
            assert parameter.name in entry.signature
            assert parameter.default is parameter.empty or f"{parameter.name}={parameter.default!r}" in entry.signature


def test_arguments_of_a_primitive_have_names() -> None:
    assert find("add").signature == "tn.add(a, b, /)"


# -- the dtypes that an entry lists, for those that the tests of kernels do not go through -----------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_op_runs_in_every_dtype_that_it_lists(name: str) -> None:
    thing = catalogue()[name]
    listed = entry_of(thing).dtypes
    assert {"float32", "float64", "float16", "bfloat16"} <= set(listed)
    for dtype in set(listed) & {"int32", "int64", "bool"}:
        graph = Graph("listed")
        assert thing.sample is not None
        graph.output(y=thing.sample(graph, (4, 6), as_dtype(dtype)))
        feeds, model = draw(graph), tn.compile(graph)
        state = initial_state(graph)
        result, wanted = model(**feeds)["y"], tn.eager(graph, feeds, state)["y"]
        if wanted.is_floating_point():  # as of elementary functions of integers
            judged = compare(result, wanted, oracle(graph, feeds, state)["y"])
            assert judged.ok, judged
        else:
            torch.testing.assert_close(result, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["relu", "relu6", "hardtanh", "threshold"])
def test_bools_are_no_numbers_to_an_activation(name: str) -> None:
    attrs = {"threshold": 0.5, "value": 1.0} if name == "threshold" else {}
    with pytest.raises(RuntimeError):
        REFERENCES[name](torch.ones(3, dtype=torch.bool), **attrs)
    with pytest.raises(DTypeError, match=rf"{name} \(x: bool\[3\]\): works on numbers, got bool for 'x'; cast it"):
        getattr(tn, name)(Graph("bools").input("x", (3,), "bool"), **attrs)


@pytest.mark.parametrize("name", ["smooth_l1_loss", "huber_loss", "quantile_loss", "gaussian_nll_loss"])
def test_losses_of_integers_alone_are_refused(name: str) -> None:
    graph = Graph("integers")
    values = [graph.input(n, (3,), "int32") for n in ("a", "b", "c")][: 3 if name.startswith("gauss") else 2]
    with pytest.raises(DTypeError, match=f"{name} .*needs a float dtype"):
        getattr(tn, name)(*values)


@pytest.mark.parametrize("name", ["nll_loss", "multi_margin_loss"])
def test_scores_of_classes_are_no_integers(name: str) -> None:
    graph = Graph("integers")
    with pytest.raises(DTypeError, match=f"{name} .*needs a float dtype, got int64 for 'input'"):
        getattr(tn, name)(graph.input("input", (3, 4), "int64"), graph.input("target", (3,), "int64"))


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong, near", [("gleu", "glu"), ("softmaxx", "softmax"), ("GELU", "gelu"), ("adan", "adam")])
def test_an_unknown_name_meets_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no op, .* '{wrong}'; did you mean '{near}'"):
        find(wrong)


def test_a_name_that_resembles_none_meets_them_all() -> None:
    with pytest.raises(UnknownNameError, match="there are .*cross_entropy"):
        find("zzzzzzzz")
    with pytest.raises(UnknownNameError, match="no family 'loss'; did you mean 'losses'"):
        entries("loss")


DESCRIBED = {entry.name for entry in entries()}


@pytest.mark.parametrize("name", tn.__all__)
def test_every_public_name_has_a_note_or_says_that_it_has_none(name: str) -> None:
    """What is registered under a name, or under that of what is called so, is what its note is of."""
    called = getattr(tn, name)
    wanted = next((n for n in (name, getattr(called, "__name__", "")) if n in DESCRIBED), None)
    if wanted is not None:
        assert tn.note(name).name == tn.note(called).name == wanted
        return
    with pytest.raises(UnknownNameError, match=rf"tn\.{name} has no note of its own; help\(tn\.{name}\)"):
        tn.note(name)


def test_another_name_of_an_op_has_its_note() -> None:
    assert (tn.note("amax").name, tn.note("tn.amin").name) == ("max", "min")


# -- pictures ----------------------------------------------------------------------------------------------------------

DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "hardshrink": F.hardshrink,
    "prelu": lambda x: F.prelu(x, x.new_full((1,), 0.25)),
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "mse_loss": lambda x: (x - 1) ** 2,
    "binary_cross_entropy": lambda x: -torch.log(x),
    "hinge_loss": lambda x: F.relu(1 - x),
    "poisson_nll_loss": lambda x: torch.exp(x) - x,
    "div": lambda x: x / 1,
}
"""Of one number, the other arguments at 1: what torch says of it."""


@pytest.mark.parametrize("name", DRAWN)
def test_a_curve_is_torchs_function_and_its_slope_is_autograds(name: str) -> None:
    made = picture(name)
    (curve,) = made.curves
    x = torch.tensor(made.x, requires_grad=True)
    y = DRAWN[name](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(curve.y, y.detach(), rtol=1e-10, atol=1e-12)
    assert curve.slope is not None
    np.testing.assert_allclose(curve.slope, slope, rtol=1e-10, atol=1e-12)
    assert made.over in ("x", "input", "a") and len(set(made.x)) == len(made.x) > 100


def test_an_op_along_an_axis_is_drawn_over_one_number_of_a_row() -> None:
    made = picture("softmax")
    rows = torch.linspace(-3, 3, 9, dtype=torch.float64)[:3].repeat(len(made.x), 1)
    rows[:, 0] = torch.tensor(made.x)
    rows.requires_grad_()
    wanted = F.softmax(rows, -1)
    assert [c.label for c in made.curves] == ["softmax[0, 0]", "softmax[0, 1]", "softmax[0, 2]"]
    for column, curve in enumerate(made.curves):
        (slope,) = torch.autograd.grad(wanted[:, column].sum(), rows, retain_graph=True)
        np.testing.assert_allclose(curve.y, wanted[:, column].detach(), rtol=1e-10)
        assert curve.slope is not None
        np.testing.assert_allclose(curve.slope, slope[:, 0], rtol=1e-9, atol=1e-15)


def test_both_halves_of_a_gated_unit_have_their_curve() -> None:
    made = picture("glu")
    first, second = (c.y for c in made.curves)
    x = torch.tensor(made.x)
    np.testing.assert_allclose(first, x * torch.sigmoid(torch.tensor(1.0, dtype=torch.float64)))
    np.testing.assert_allclose(second, torch.sigmoid(x))


def test_a_loss_without_gradient_has_no_slope_to_draw(tmp_path: Path) -> None:
    (curve,) = plot_note("zero_one_loss", tmp_path / "steps.png").curves
    assert curve.slope is None and set(curve.y) == {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_every_op_is_drawn_or_says_why_not(name: str) -> None:
    try:
        made = picture(name)
    except PlotError as error:
        assert str(error).startswith(f"{name}: nothing to draw, ")
        assert not _is_elementwise(name)
        return
    for curve in made.curves:
        assert curve.y.shape == made.x.shape and np.isfinite(curve.y).all() and np.ptp(curve.y) > 0


def _is_elementwise(name: str) -> bool:
    return find(name).family in ("activations", "losses", "normalizations")


@pytest.mark.parametrize("name, why", [
    ("linear", "products with a matrix"), ("embedding", "whole numbers"), ("cat", "moves numbers"),
    ("dropout", "draws numbers anew"),
])  # fmt: skip
def test_what_cannot_be_drawn_says_why(name: str, why: str) -> None:
    with pytest.raises(PlotError, match=why):
        picture(name)


def test_an_update_rule_is_no_curve() -> None:
    with pytest.raises(PlotError, match="adam: an update rule is a step of training"):
        picture("adam")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture_is_a_file_of_its_format(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"softmax.{suffix}"
    plot_note("softmax", file)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert file.read_bytes().startswith(start)


def test_a_format_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match=r"'gelu.xyz': no picture .* use one of .*png"):
        plot_note("gelu", tmp_path / "gelu.xyz")
    assert not list(tmp_path.iterdir())
