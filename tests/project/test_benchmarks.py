"""The benchmark runs to its end without a GPU, judges before it times, and says what its numbers are not."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from paths import ROOT
from torch import Tensor

sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as command
from benchmarks import kernel_peers, kernels, optimizers, report, results, steps
from benchmarks.families import FAMILIES, Wanted, cases
from benchmarks.kernel_peers import Judge, Problem, make_subject
from benchmarks.measure import Case, Row, Subject, measure
from benchmarks.peers import GPU_ALONE, OURS, PEERS
from benchmarks.timing import Call, HostClock
from tritonnotes import optim

CPU = torch.device("cpu")
NO_GPU = "seconds here are no timings of a GPU"


@pytest.mark.slow
def test_whole_benchmark_runs_from_a_plain_checkout_and_names_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "tiny.json"
    # `-m` puts the working folder first, so it is this checkout that runs, installed or not.
    given = [sys.executable, "-m", "benchmarks", "--tiny", "--rounds", "1", "--device", "cpu", "--json", str(file)]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert NO_GPU in found["warning"] and not found["is_gpu"] and found["device"].endswith("CPU")
    assert {"torch", "triton", "tritonnotes", "python"} <= found["versions"].keys() and not found["refused"]
    assert found["copy_bandwidth"].keys() == FAMILIES.keys()
    assert all(len(looks) == 2 for looks in found["copy_bandwidth"].values())
    for row in found["rows"]:
        assert len(row["seconds"]) == 1 and row["seconds"][0] > 0 and row["bytes"] > 0 and not row["replayed"]
    timed = {(r["family"], r["peer"]) for r in found["rows"]}
    for family in FAMILIES:
        theirs = "foreach" if family == "optimizers" else "eager"
        assert {(family, "tritonnotes"), (family, theirs)} <= timed
    for family in kernels.FAMILIES:
        cells = {(r["dtype"], r["direction"]) for r in found["rows"] if r["family"] == family}
        assert cells == {(t, d) for t in kernels.DTYPES for d in kernels.DIRECTIONS}
        for peer in ("compile", "compile max-autotune", "compile reduce-overhead", "eager captured"):
            assert found["missing"][f"{peer} ({family})"] == GPU_ALONE
        assert f"Liger ({family})" in found["missing"]
    assert "## Not run" in done.stdout and NO_GPU in done.stdout and "no GPU" in done.stdout and "left" in done.stderr


def test_real_sizes_without_a_gpu_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["softmax", "--device", "cpu"]) == 2
    assert "pass --tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"), [(["sofmax"], "no family 'sofmax'"), (["--rounds", "0"], "at least one turn")]
)
def test_wrong_arguments_are_named(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([*given, "--tiny"])
    assert said in capsys.readouterr().err


def test_every_family_has_the_shapes_that_it_is_to_be_measured_at() -> None:
    everything = {name: cases(name, Wanted()) for name in FAMILIES}
    count = {name: len(found) for name, found in everything.items()}
    rows = 15 * 2 * 3
    assert count == {
        **dict.fromkeys(("softmax", "layer_norm", "rms_norm", "add_rms_norm"), rows),
        "cross_entropy": 6 * 2 * 3,
        "batch_norm": 4 * 2 * 3,
        "glu": 3 * 2 * 3,
        "gelu": 2 * 2 * 3,
        "optimizers": 9 * 6,
        "steps": 3,
    }
    assert len(cases("softmax", Wanted(dtypes=("bfloat16",), directions=("both",)))) == 15
    assert not cases("steps", Wanted(dtypes=("bfloat16",)))


# Bytes written down by hand, as multiples of the large tensor, for float32 at 4096×1024 (16.8 MB) and 4 KB vectors.
PASSES = {
    "softmax": (2, 3, 0),
    "layer_norm": (2, 3, 2),
    "rms_norm": (2, 3, 1),
    "add_rms_norm": (4, 4, 1),
    "glu": (3, 5, 0),
    "gelu": (3, 3, 2),
}


@pytest.mark.parametrize("name", PASSES)
def test_bytes_are_each_input_once_and_each_result_once(name: str) -> None:
    forward, backward, vectors = PASSES[name]
    whole, vector = 4096 * 1024 * 4, 1024 * 4
    family = kernels.FAMILIES[name]
    found = {d: family.bytes((4096, 1024), 4, d) for d in kernels.DIRECTIONS}
    assert found["forward"] == forward * whole + vectors * vector
    assert found["backward"] // whole == backward and found["backward"] % whole <= 5 * vector
    assert found["both"] == found["forward"] + found["backward"]


def test_loss_and_its_gradient_need_the_logits_once() -> None:
    family = kernels.FAMILIES["cross_entropy"]
    logits, target = 4096 * 32000 * 4, 4096 * 8
    assert family.bytes((4096, 32000), 4, "both") == 2 * logits + target
    assert family.bytes((4096, 32000), 4, "forward") == logits + target


def test_rule_moves_what_its_kernel_counts() -> None:
    assert optimizers.case("Adam", "3x64", "float32").bytes == 3 * 64 * 28
    assert optimizers.case("SGD", "gpt2", "bfloat16").bytes == 124_439_808 * 2 * 5


# What is wrong is not timed


def planted(function: Any, name: str = "layer_norm", direction: str = "both", **how: Any) -> str | None:
    """What the judge says of a function in place of a peer's."""
    family, shape = kernels.FAMILIES[name], how.pop("shape", (40, 33))
    problem = Problem(family, shape, "float32", direction, CPU)
    return Judge(problem)("peer", problem.call(function or family.torch, **how))


def biased(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (x.std(-1, keepdim=True) + 1e-5) * weight + bias  # over n − 1


def one_row_wrong(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.layer_norm(x, x.shape[-1:], weight, bias)
    return torch.cat([y[:-1], y[-1:] * 1.001])


def middle_row_forgotten(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Right forward, but no gradient of one row reaches the weight."""
    y = F.layer_norm(x, x.shape[-1:], weight, bias)
    middle = len(x) // 2 + 3
    return torch.cat(
        [y[:middle], F.layer_norm(x, x.shape[-1:], weight.detach(), bias)[middle : middle + 1], y[middle + 1 :]]
    )


@pytest.mark.parametrize("chunk", [2**22, 4 * 33])
@pytest.mark.parametrize("direction", kernels.DIRECTIONS)
@pytest.mark.parametrize("name", kernels.FAMILIES)
def test_eager_itself_is_right_in_one_chunk_and_in_many(
    name: str, direction: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_peers, "CHUNK", chunk)
    assert planted(None, name, direction, shape=(41, 33)) is None


@pytest.mark.parametrize("chunk", [2**22, 4 * 33])
@pytest.mark.parametrize("function", [biased, one_row_wrong, middle_row_forgotten])
def test_wrong_results_are_noticed(function: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_peers, "CHUNK", chunk)
    wrong = planted(function)
    assert wrong is not None and "farther from float64" in wrong
    assert ("d_weight" in wrong) == (function is middle_row_forgotten)


def test_wrong_and_failing_peers_are_refused_by_name_and_the_rest_goes_on() -> None:
    def fail() -> Call:
        raise RuntimeError("no such kernel\nat all")

    makers = {"eager": lambda: Call(lambda _: 1), "Liger": fail, "compile": lambda: Call(lambda _: 2)}
    subject = Subject(makers, {"foreach": "why"}, lambda peer, call: "off" if peer == "compile" else None)
    case = Case("family", "1x1", "float32", "both", 8, lambda device: subject)
    found = measure(case, HostClock(), CPU, 3, PEERS)
    assert [r.peer for r in found.rows] == ["eager"] and len(found.rows[0].seconds) == 3
    assert found.refused == {
        "Liger: family 1x1 float32 both": "RuntimeError: no such kernel",
        "compile: family 1x1 float32 both": "off",
    }
    assert found.missing == {"foreach (family)": "why"} and found.ok


def test_our_own_failure_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Judge, "__call__", lambda self, peer, call: "off")
    monkeypatch.setattr(command, "TINY_COPY_BYTES", 64)
    given = ["softmax", "--tiny", "--rounds", "1", "--device", "cpu", "--dtypes", "float32", "--directions", "forward"]
    assert command.main(given) == 1
    assert "tritonnotes: softmax 5x33 float32 forward: off" in capsys.readouterr().out


def test_wrong_steps_and_wrong_updates_are_noticed() -> None:
    subject = steps.make_subject((9, 8, 8, 3), 6, CPU)
    assert "losses are farther" in (subject.judge("peer", Call(lambda _: torch.tensor(1.0))) or "")
    judge = optimizers.Judge("Adam", torch.float32, CPU, {"peer": lambda p: torch.optim.AdamW(p, lr=1e-3).step})
    assert "parameters are farther" in (judge("peer", Call(lambda _: None)) or "")


@pytest.mark.parametrize("seed", [367, 883, 996])
def test_judge_allows_a_scalar_the_rounding_of_the_steps_that_cancel_it(seed: int) -> None:
    """Draws in which torch's error on the scalar parameter is nearly 0 by luck."""
    makers = {OURS: lambda params: optim.RMSprop(params).step}
    judge = optimizers.Judge("RMSprop", torch.float32, CPU, makers, seed)
    assert judge(OURS, Call(lambda _: None)) is None


# Peers that write over their inputs


def test_peer_that_overwrites_its_inputs_gets_fresh_ones_each_time() -> None:
    def greedy(gate: Tensor, value: Tensor) -> Tensor:
        y = F.silu(gate) * value
        with torch.no_grad():
            gate.data.fill_(float("nan"))
        return y

    problem = Problem(kernels.FAMILIES["glu"], (5, 7), "float32", "forward", CPU)
    call = problem.call(greedy, fresh=True)
    first, second = (call.run(call.prepare()) for _ in range(2))
    assert torch.equal(first[0], second[0]) and not problem.inputs["gate"].isnan().any()
    spoilt = problem.call(greedy)
    spoilt.run(spoilt.prepare())
    assert spoilt.run(spoilt.prepare())[0].isnan().all()


def test_rotated_calls_have_inputs_of_their_own_and_random_ones() -> None:
    subject = make_subject(kernels.FAMILIES["softmax"], (5, 7), "float32", "both", CPU)
    call = subject.makers["tritonnotes"]()
    assert call.rotated is not None
    rotated = call.rotated(3)
    found = [c.run(c.prepare())[0] for c in (call, *rotated)]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


# The report


def some_results(is_gpu: bool = True) -> results.Results:
    found = results.Results("GPU 9", is_gpu, "clock", {"torch": "2"}, {"softmax": [1e9, 2e9]})
    case = ("softmax", "8x8", "float32", "forward")
    found.rows = [
        Row(*case, "tritonnotes", 1000, [1e-6, 1.1e-6, 0.9e-6, 5e-6]),
        Row(*case, "eager", 1000, [4e-6] * 3, [2e-6, 2.1e-6, 2.2e-6]),
        Row(*case, "compile", 1000, [0.25e-6]),
    ]
    found.missing = {"Liger (softmax)": "not installed", "Liger (gelu)": "not installed"}
    found.refused = {"eager captured: softmax": "wrong"}
    return found


def test_report_shows_share_ratio_cache_errors_and_who_is_missing(tmp_path: Path) -> None:
    some_results().write(tmp_path / "found.json")
    found = results.read(tmp_path / "found.json")
    assert found == some_results()
    told = "\n".join(report.tables(found))
    ours = statistics.median([0.9e-6, 1e-6, 1.1e-6, 5e-6])
    assert f"{ours * 1e6:,.1f} µs" in told and f"{1000 / ours / 2e9:.1%}" in told
    assert f"| 8x8 float32 forward | {ours * 1e6:,.1f} µs" in told and f"| {2.1e-6 / ours:.2f} | 0.24 |" in told
    assert "- Liger: not installed (softmax, gelu)" in told and "eager captured: softmax: wrong" in told
    assert NO_GPU not in told and NO_GPU in "\n".join(report.tables(some_results(is_gpu=False)))
    (line,) = report.lines(found, found.rows[2:])
    assert "above 100 %: cache error" in line


def test_plot_is_drawn(tmp_path: Path) -> None:
    some_results().write(tmp_path / "found.json")
    assert report.main([str(tmp_path / "found.json"), "--plot", str(tmp_path / "found.png")]) == 0
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_report_refuses_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit, match="is no result of this benchmark"):
        results.read(tmp_path / "other.json")
