"""The optimizer benchmark runs to its end at tiny sizes, and the passes that the documentation shows are counted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_benchmark_runs_to_its_end_and_writes_what_a_reader_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "optimizers.json"
    given = ["--device", "cpu", "--rules", "Adam", "RMSprop", "--sizes", "3x64", "1x500", "--rounds", "2"]
    load("optimizers").main([*given, "--copy-bytes", "4096", "--json", str(file)])
    found = json.loads(file.read_text())
    assert {"torch", "triton", "tritonnotes", "python"} <= found["versions"].keys() and found["device"]
    assert len(found["copy_bandwidth"]["optimizers"]) == 2 and not found["refused"]
    rows = {(*r["shape"].split(), r["peer"]): r for r in found["rows"]}
    assert {peer for _, _, peer in rows} == {"tritonnotes", "foreach", "fused"}
    assert ("RMSprop", "3x64", "fused") not in rows
    assert rows["Adam", "3x64", "tritonnotes"]["bytes"] == 3 * 64 * 28
    assert all(len(r["seconds"]) == 2 for r in rows.values())
    missing = {name.removesuffix(" (optimizers)"): why for name, why in found["missing"].items()}
    assert missing.pop("fused") == "torch has none of Adadelta, RMSprop, NAdam, RAdam, Adamax"
    assert missing == dict.fromkeys(
        ("compiled", "tritonnotes captured", "captured foreach"), "it is timed on a GPU alone"
    )
    said = capsys.readouterr()
    assert "of copy bandwidth" not in said.out and "no GPU" in said.out and "the times below mean nothing" in said.err


def test_unknown_size_is_named() -> None:
    with pytest.raises(SystemExit, match="--sizes many: use one of"):
        load("optimizers").shapes_of("many")


def test_passes_in_the_documentation_are_the_counted_ones() -> None:
    documented = (ROOT / "docs" / "optimizers.md").read_text()
    for line in load("optimizer_passes").table():
        assert line in documented
