"""The examples: they import, run reduced, and are what the documents say they are."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import tritonnotes as tn
from tritonnotes.demo import digits, run_demo

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_declares_the_model_of_the_demo() -> None:
    assert str(example("digits").graph()) == str(digits())


def test_digits_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("digits")
    shown = {}

    def reduced(graph: tn.Graph, **settings: object) -> object:
        shown.update(settings)
        return run_demo(graph, epochs=1, out=tmp_path)

    monkeypatch.setattr(module, "run_demo", reduced)
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 0 and shown["console"] is not None


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
