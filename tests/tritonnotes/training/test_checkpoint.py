"""State in files: a run that is killed goes on bit for bit, and a file that does not fit changes nothing."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import SHARED
from resumed_run import step_of, train
from safetensors.torch import load_file, save_file
from torch import Tensor

from tritonnotes.ir.core.errors import FeedError

STEPS = 12


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    script = SHARED / "resumed_run.py"
    command = [sys.executable, script, tmp_path / "killed", str(STEPS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # It says when the first step is saved, and waits before the last: it is killed somewhere between.
        assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    (saved,) = (json.loads(_metadata(tmp_path / "killed")["numbers"])["steps"],)
    assert 0 < saved < STEPS
    resumed = train(tmp_path / "killed", STEPS)
    whole = train(tmp_path / "whole", STEPS)
    assert _bits(resumed.state_dict()) == _bits(whole.state_dict())


def _metadata(path: Path) -> dict[str, str]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length])["__metadata__"]


def _bits(state: object) -> object:
    if isinstance(state, dict):
        return {name: _bits(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, Tensor) else state


def changed(path: Path, how: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    tensors, metadata = load_file(path), _metadata(path)
    how(tensors, metadata)
    save_file(tensors, path, metadata)


def _drop(held: dict[str, Any], name: str) -> None:
    del held[name]


SLIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another shape": (
        lambda p: changed(p, lambda t, m: t.update({"model/fc1.weight": torch.zeros(6, 8)})),
        r"'model/fc1.weight' is F32\[6, 8\], wanted F32\[8, 6\]",
    ),
    "another dtype": (
        lambda p: changed(p, lambda t, m: t.update({"model/fc1.bias": torch.zeros(8, dtype=torch.float64)})),
        r"'model/fc1.bias' is F64\[8\], wanted F32\[8\]",
    ),
    "a tensor missing": (
        lambda p: changed(p, lambda t, m: _drop(t, "slots/fc1.bias.exp_avg")),
        "lacks .*exp_avg",
    ),
    "a tensor too many": (lambda p: changed(p, lambda t, m: t.update(more=torch.zeros(1))), "has unknown .*more"),
    "no numbers": (lambda p: changed(p, lambda t, m: _drop(m, "numbers")), "cannot be read"),
    "numbers of another kind": (lambda p: changed(p, lambda t, m: m.update(numbers="[1]")), "its numbers are list"),
    "steps below 0": (
        lambda p: changed(p, lambda t, m: m.update(numbers=m["numbers"].replace('"steps": 3', '"steps": -3'))),
        "steps is -3",
    ),
    "another program's file": (lambda p: changed(p, lambda t, m: m.update(format="pt")), "is no state of tritonnotes"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps({"model": {}})), "cannot be read"),
    "a bloated header": (lambda p: p.write_bytes((2**62).to_bytes(8, "little") + b"{}"), "cannot be read"),
    "a truncated file": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "cannot be read"),
    "nothing": (lambda p: p.write_bytes(b""), "cannot be read"),
    "no file": (lambda p: p.unlink(), "cannot be read"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state"
    train(path, 3)
    return path.read_bytes()


@pytest.mark.parametrize("slip", SLIPS)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(slip: str, trained: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(trained)
    spoil, said = SLIPS[slip]
    spoil(path)
    step = step_of()
    before = _bits(step.state_dict())
    with pytest.raises(FeedError, match=said):
        step.load(path)
    assert _bits(step.state_dict()) == before


def test_a_write_that_fails_leaves_what_was_there(
    trained: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_bytes(trained)

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("tritonnotes.training.checkpoint.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        step_of().save(path)
    assert path.read_bytes() == trained and [p.name for p in tmp_path.iterdir()] == ["state"]
