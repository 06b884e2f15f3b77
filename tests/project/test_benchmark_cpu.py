"""The benchmark on the CPU runs to its end at a tiny size, judges before it times, and counts its goals right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

sys.path.insert(0, str(ROOT))

import tritonnotes as tn
from benchmarks import cpu
from benchmarks.measure import Row, measure
from benchmarks.on_cpu import cold, kernels, optimizers, peers, report, steps
from benchmarks.on_cpu.clock import CpuClock
from benchmarks.on_cpu.nets import NETS, TorchOps, chain
from benchmarks.on_cpu.results import GOALS, CpuResults, goal_of, read
from benchmarks.timing import Call

CPU = torch.device("cpu")
OURS_AND_EAGER = ["tritonnotes", "eager", "eager fused", "eager foreach"]


def some_results() -> CpuResults:
    found = CpuResults({"processor": "CPU 9", "cores": 2, "vector": "AVX9"}, {"torch": "2"}, "clock", {"1": 9e9})
    step = ("steps", "digits batch 16", "float32", "step")
    one, small = ("optimizers", "Adam 1x2**24", "float32", "step"), ("optimizers", "Adam 1000x1024", "float32", "step")
    found.rows["1"] = [
        Row(*step, "tritonnotes", 8, [5e-4, 6e-4, 9e-4]),
        Row(*step, "JAX", 8, [1e-3, 2e-3, 3e-3]),
        Row(*step, "eager fused", 8, [4e-3]),
        Row(*one, "tritonnotes", 8, [8e-3]),
        Row(*one, "eager fused", 8, [1e-2]),
        Row(*one, "JAX", 8, [1e-3]),
        Row(*small, "tritonnotes", 8, [8e-3]),
        Row(*small, "eager fused", 8, [1e-2]),
    ]
    found.missing = {"torch.compile (steps)": "no C++ compiler"}
    return found


@pytest.mark.parametrize("family", ["steps", "optimizers"])
def test_each_family_judges_and_times_every_peer_that_is_there(family: str) -> None:
    case = cpu.FAMILIES[family](quick=True)[-1]
    absent = peers.missing()
    wanted = [p for p in peers.PEERS if p != peers.COMPILED]
    found = measure(case, CpuClock(seconds=0.0), CPU, 2, wanted)
    assert not found.refused
    timed = {row.peer for row in found.rows}
    assert {"tritonnotes", "eager fused", "eager foreach"} <= timed
    assert ("JAX" in timed) == ("JAX" not in absent)
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in found.rows)


def test_python_around_a_step_is_timed_without_its_native_calls() -> None:
    case = steps.around(quick=True)[0]
    found = measure(case, CpuClock(seconds=0.0), CPU, 2, ["tritonnotes", peers.PYTHON])
    assert not found.refused and {row.peer for row in found.rows} == {"tritonnotes", peers.PYTHON}
    (line,) = CpuResults({}, {}, "", rows={"1": found.rows}).lines()
    assert line.ratios == {} and line.is_met == (line.least[peers.PYTHON] <= 30e-6)


def test_without_native_calls_a_step_counts_and_changes_nothing() -> None:
    net = chain(4)
    step = tn.compile_step(net.graph(), optimizer=tn.adam(), device="cpu")
    batch = dict(zip("xy", net.batch(1, torch.Generator().manual_seed(0)), strict=True))
    run = steps.without_native_calls(lambda number: step(**batch)["loss"])
    before = {name: t.clone() for name, t in step.model.state_dict().items()}
    run(2)
    assert step.steps == 3 and all(torch.equal(t, before[n]) for n, t in step.model.state_dict().items())
    step(x=batch["x"].repeat(2, 1), y=batch["y"].repeat(2))  # another size has native calls of its own
    assert not all(torch.equal(t, before[n]) for n, t in step.model.state_dict().items())


def test_a_kernel_is_judged_and_timed() -> None:
    case = kernels.cases(quick=True)[0]
    found = measure(case, CpuClock(seconds=0.0), CPU, 1, OURS_AND_EAGER)
    assert not found.refused and {row.peer for row in found.rows} == {"tritonnotes", "eager"}


@pytest.mark.parametrize("name", NETS)
def test_declared_net_is_the_written_one(name: str) -> None:
    net = NETS[name]
    x, y = net.batch(3, torch.Generator().manual_seed(1))
    weights = steps.first_weights(net)
    model = tn.compile(net.graph(), training=True, device="cpu")
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(model(x=x, y=y)["loss"], net.loss(TorchOps, weights, x, y))


def test_wrong_steps_of_anyone_are_refused() -> None:
    net = NETS["tabular"]
    generator = torch.Generator().manual_seed(1)
    batches = [net.batch(3, generator)] * 3
    judge = steps.Judge(net, steps.first_weights(net), batches)
    for peer in ("tritonnotes", "JAX"):
        assert judge(peer, Call(lambda _: torch.tensor(0.7))) is not None


def test_wrong_updates_are_refused() -> None:
    makers: dict[str, Any] = {"peer": lambda p: torch.optim.AdamW(p, lr=1e-3).step}
    assert "farther" in (optimizers.Judge("Adam", makers)("peer", Call(lambda _: None)) or "")


def test_chain_has_as_many_tensors_as_it_says() -> None:
    for tensors in steps.TENSORS:
        net = chain(tensors)
        assert len(steps.first_weights(net)) == tensors
        loss = net.loss(TorchOps, steps.first_weights(net), *net.batch(1, torch.Generator()))
        assert loss.shape == ()


def test_goals_are_counted_from_the_least_times_of_the_right_peer() -> None:
    lines = {line.shape: line for line in some_results().lines()}
    step = lines["digits batch 16"]
    assert step.best == 0.5 and step.ratios["JAX"] == 0.5 and step.is_met is True
    assert lines["Adam 1x2**24"].is_met is True, "the goal is against fused=True, not against the best"
    assert lines["Adam 1000x1024"].is_met is False and str(goal_of("optimizers", "Adam 1000x1024")) == (
        "≤ 0.3 of eager fused"
    )
    assert report.summary(some_results()) == "2 of 3 goals met"


def test_every_family_has_a_goal() -> None:
    assert {family for family, _, _ in GOALS} == {*cpu.FAMILIES, cold.FAMILY}


def test_results_are_read_back_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "cpu.json", tmp_path / "cpu.svg"
    some_results().write(file)
    assert read(file) == some_results()
    assert cpu.main(["--report", str(file), "--plot", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "CPU 9" in said and "no C++ compiler" in said and "2 of 3 goals met" in said
    assert picture.stat().st_size > 1000
    assert "| digits batch 16 | 1 | 500 µs (600 µs) | 0.12 | 0.50 |" in "\n".join(report.markdown(some_results()))


def test_missing_peers_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert "no C++ compiler" in peers.missing()["torch.compile"]
    assert peers.missing()["JAX"] == "jax and optax not installed: pip install 'tritonnotes[peers]'"


def test_wrong_arguments_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for given, said in ((["stpes"], "no family 'stpes'"), (["--threads", "0"], "at least 1")):
        with pytest.raises(SystemExit):
            cpu.main(given)
        assert said in capsys.readouterr().err
