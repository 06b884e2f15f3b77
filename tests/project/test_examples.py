"""The examples: they import, run reduced, and are what the documents say they are."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch
from paths import ROOT
from rich.console import Console
from scripts import assert_declares
from sklearn import metrics
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.cli import beside as beside_module
from tritonnotes.cli.beside import EAGER, INDUCTOR, OURS, Step, Trained, train_beside
from tritonnotes.cli.demo import digits, run_demo
from tritonnotes.datasets import Dataset, load_breast_cancer, load_digits, load_mnist

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an example runs as a script."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_declares_the_model_of_the_demo() -> None:
    assert str(example("digits").graph()) == str(digits())


@pytest.mark.parametrize("name", ["breast_cancer", "custom", "diabetes", "digits", "language_model", "mixer"])
def test_the_graph_of_an_example_is_declared_again_by_its_script(name: str, no_op_stays: None) -> None:
    assert_declares(example(name).graph())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_explains_itself_and_takes_a_number_of_epochs(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example(path.stem)
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and module.__doc__.strip() in out and "--epochs N  default" in out

    class Asked(Exception): ...

    def trains(*given: object, **settings: object) -> None:
        raise Asked(settings.get("epochs") or given[0])

    monkeypatch.setattr(module, "train" if hasattr(module, "train") else "run_demo", trains)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(module, "one_changed_line", lambda data: ([1.0], [1.0]), raising=False)
    with pytest.raises(Asked, match="^7$"):
        module.main(["--epochs", "7"])


def test_digits_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("digits")
    shown = {}

    def reduced(graph: tn.Graph, **settings: object) -> object:
        shown.update(settings)
        return run_demo(graph, epochs=1, out=tmp_path)

    monkeypatch.setattr(module, "run_demo", reduced)
    with pytest.raises(SystemExit) as stop:
        module.main([])
    assert stop.value.code == 0 and shown["console"] is not None


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes"])
def test_example_matches_eager_step_by_step(name: str, tmp_path: Path) -> None:
    result = example(name).train(out=tmp_path)
    assert result.ok and result.steps == len(result.fused_losses) > 80
    differences = [abs(f - e) / e for f, e in zip(result.fused_losses, result.eager_losses, strict=True)]
    assert max(differences) < 1e-5
    assert sum(result.fused_losses[-5:]) < 0.7 * sum(result.fused_losses[:5])
    assert result.fused_scores == pytest.approx(result.eager_scores, rel=1e-4)


def reduced_data(name: str) -> Dataset:
    if name == "language_model":
        return example(name).load_words(rows=1024)
    data = load_mnist()
    return Dataset(data.x[:320], data.y[:320], data.test_x[:100], data.test_y[:100])


def test_the_language_model_never_holds_all_logits() -> None:
    module = example("language_model")
    step = tn.compile_step(module.graph(), optimizer=tn.adam(lr=2e-3), logits_budget=module.CHUNK * module.WORDS * 4)
    batch = tn.Dim("batch")
    assert not any(b.shape == (batch, module.WORDS) for b in step.program.buffers)
    assert f"{module.CHUNK} rows at a time" in step.explain() and step.program.loops


@pytest.mark.parametrize("name", ["mixer", "language_model"])
def test_larger_example_matches_eager_step_by_step(name: str, tmp_path: Path) -> None:
    result = example(name).train(data=reduced_data(name), epochs=3, batch_size=96, out=tmp_path)
    assert result.ok and result.steps == len(result.fused_losses) >= 12
    differences = [abs(f - e) / e for f, e in zip(result.fused_losses, result.eager_losses, strict=True)]
    assert max(differences) < 1e-5
    assert sum(result.fused_losses[-3:]) < 0.95 * sum(result.fused_losses[:3])
    assert result.fused_scores == pytest.approx(result.eager_scores, rel=1e-4)


def assert_trains_as_eager_does(name: str, **settings: object) -> None:
    """A torch module of an example, trained by a step of ours and by eager PyTorch from the same weights."""
    results: dict[str, Trained] = example(name).train(epochs=1, ways=(OURS, EAGER), **settings)
    ours, eager = results[OURS], results[EAGER]
    assert len(ours.losses) == len(eager.losses) >= 4 and eager.losses[-1] < eager.losses[0]
    assert ours.losses == pytest.approx(eager.losses, rel=1e-5)
    assert ours.held_out == pytest.approx(eager.held_out, rel=1e-4)


def test_one_changed_line_trains_a_module_as_eager_does() -> None:
    module = example("from_torch")
    eager, compiled = module.one_changed_line(load_digits(), epochs=1)
    assert compiled == pytest.approx(eager, rel=1e-5) and eager[-1] < eager[0]


def test_torch_modules_of_the_examples_train_as_eager_does() -> None:
    assert_trains_as_eager_does("from_torch")
    assert_trains_as_eager_does("cnn", data=reduced_data("mnist"), batch_size=32, lr=3e-3)
    assert_trains_as_eager_does("gpt", data=example("gpt").load_text(rows=32), batch_size=7)


def test_a_way_that_cannot_run_is_named_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: nn.Module, loss: object, lr: float) -> Step:
        def step(x: Tensor, y: Tensor) -> Tensor:
            raise BackendCompilerFailed(refuse, RuntimeError("no compiler here"), [])

        return step

    monkeypatch.setattr(beside_module, "STEPS", {**beside_module.STEPS, INDUCTOR: refuse})
    console = Console(record=True, width=100)
    results = train_beside(
        nn.Linear(64, 10), load_digits(), F.cross_entropy, epochs=1, ways=(EAGER, INDUCTOR), console=console
    )
    shown = console.export_text()
    assert results[EAGER].losses and not results[INDUCTOR].losses
    assert results[INDUCTOR].failed == "RuntimeError: no compiler here" and "not run: RuntimeError" in shown


def test_mnist_comes_in_proportion() -> None:
    data = load_mnist()
    assert data.x.shape == (4000, 784) and data.test_x.shape == (1000, 784) and data.x.dtype == torch.float32
    assert data.y.bincount().tolist() == [400] * 10 and data.test_y.bincount().tolist() == [100] * 10
    assert data.x.min() == 0 and data.x.max() == 1


def test_words_follow_the_words_before_them() -> None:
    module = example("language_model")
    data = module.load_words(rows=1000)
    assert data.x.shape == (900, module.CONTEXT) and data.test_x.shape == (100, module.CONTEXT)
    assert torch.equal(data.x[1:, -1], data.y[:-1]) and torch.equal(data.x[1:, :-1], data.x[:-1, 1:])
    assert torch.equal(data.test_x[0, :-1], data.x[-1, 1:]), "what is held out comes after what is seen"
    assert data.y.max() < module.WORDS and (data.y == module.RARE).float().mean() < 0.2


def test_examples_are_run_as_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("breast_cancer", "diabetes"):
        module = example(name)
        monkeypatch.setattr(module, "run_demo", lambda *given, **settings: run_demo(*given, **settings | REDUCED))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            module.main([])
        assert stop.value.code == 0 and (tmp_path / "tritonnotes-demo" / name / "loss.png").exists()


REDUCED = {"epochs": 1, "console": None}


def test_scores_of_tumours_held_out_are_those_of_scikit_learn() -> None:
    """In one batch by the graph's outputs, and in batches of 20 by the accumulator."""
    module, data = example("breast_cancer"), load_breast_cancer()
    step = tn.compile_step(module.graph(), optimizer=tn.adam(lr=2e-3))
    for _, x, y in data.batches(64, 10, seed=0):
        step(x=x.to(step.device), y=y.to(step.device))
    x, y = data.test_x.to(step.device), data.test_y.to(step.device)
    epoch = tn.MetricAccumulator(means=["loss"], counts=["confusion"])
    with torch.no_grad():
        whole = step.model(x=x, y=y)
        for rows in torch.arange(len(x)).split(20):
            epoch.update(step.model(x=x[rows], y=y[rows]), rows=len(rows))
    predicted = (whole["logit"] > 0).cpu()
    assert epoch.mean("loss").item() == pytest.approx(whole["loss"].item(), rel=1e-6)
    for metric in ("precision", "recall", "f1"):
        want = getattr(metrics, f"{metric}_score")(data.test_y, predicted)
        assert 0.85 < want < 1
        assert whole[metric].item() == pytest.approx(want, rel=1e-6)
        assert getattr(epoch, metric)().item() == pytest.approx(want, rel=1e-12)


def test_numbers_are_predicted_better_than_by_their_mean(tmp_path: Path) -> None:
    scores = example("diabetes").train(out=tmp_path, epochs=10).fused_scores
    assert scores["mean_squared_error"] < 0.75 and scores["mean_absolute_error"] < 0.7


def test_mish_and_lion_train_and_pass_the_check() -> None:
    module = example("custom")
    losses, accuracy = module.train(epochs=2)
    assert losses[-1] < 0.5 * losses[0] and accuracy > 0.85
    certificate = tn.check(module.graph(), optimizer=module.lion(lr=1e-3, weight_decay=0.1))
    assert certificate.ok, certificate
    assert any(row.name.startswith("custom.lion") for row in certificate.rows)


def test_custom_code_is_under_ten_lines() -> None:
    module = example("custom")
    for made in (module.mish, module.lion):
        assert len(inspect.getsource(made.formula).splitlines()) < 10


def test_custom_kernels_speak_the_authors_names() -> None:
    module = example("custom")
    source = tn.compile_step(module.graph(), optimizer=module.lion(lr=1e-3)).source
    assert "softplus = " in source and "direction = " in source
