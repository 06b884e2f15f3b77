"""The first run on a GPU keeps its time, loses no row, and does on a CPU all that a CPU can."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fake_cuda import fake_cuda
from paths import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as benchmarks
from benchmarks.first import captures, command, gpu_tests, headline, kinds, sanitizer
from benchmarks.first.command import PARTS, SECONDS, Part
from benchmarks.first.part import Ended, run_part
from benchmarks.first.rows import MARK, Row, row, told
from benchmarks.peers import PEERS
from tritonnotes.codegen.lower.tile_ir import Kernel
from tritonnotes.codegen.program.program import Program
from tritonnotes.runtime.kernel_reports import gradient_programs

CPU = torch.device("cpu")


class Clock:
    """Time that passes when a part says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def starter(clock: Clock, taken: dict[str, float], seen: list[tuple[str, float]]) -> command.Starter:
    """Parts that take so many seconds, or as many as they are given, and tell one row."""

    def start(given: Sequence[str], seconds: float, keep: Callable[[Row], None]) -> Ended:
        name = given[2].removeprefix("benchmarks.first.")
        seen.append((name, seconds))
        keep(row(f"a row of {name}", True))
        spent = min(taken.get(name, 1.0), seconds)
        clock.now += spent
        return Ended("done" if spent < seconds else "cut", spent)

    return start


def test_each_part_has_its_seconds_and_the_last_has_what_is_left() -> None:
    clock, seen = Clock(), []
    command.run(PARTS, "cpu", True, None, start=starter(clock, {"gpu_tests": 999, "kinds": 30}, seen), clock=clock)
    assert [name for name, _ in seen] == [part.name for part in PARTS]
    budgets = dict(seen)
    assert budgets["gpu_tests"] == 40 and budgets["kinds"] == 90
    assert budgets["headline"] == SECONDS - 40 - 30 - 1 - 1
    assert sum(part.seconds for part in PARTS) <= SECONDS <= 360


def test_parts_that_all_run_out_of_time_stay_within_the_whole() -> None:
    clock, seen = Clock(), []
    slow = {part.name: 999.0 for part in PARTS}
    found = command.run(PARTS, "cpu", True, None, limit=100, start=starter(clock, slow, seen), clock=clock)
    assert clock.now <= 100
    assert found.parts["sanitizer"]["ended"] == "no time was left" and found.ok


def test_the_file_has_every_row_as_soon_as_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "first.json"
    counts = []

    def start(given: Sequence[str], seconds: float, keep: Callable[[Row], None]) -> Ended:
        for number in range(3):
            keep(row(str(number), True))
            counts.append(sum(len(p["rows"]) for p in json.loads(file.read_text())["parts"].values()))
        return Ended("done", 0.0)

    command.run([Part("a", 1, ""), Part("b", 1, "")], "cpu", True, str(file), start=start)
    assert counts == [1, 2, 3, 4, 5, 6]
    assert list(tmp_path.iterdir()) == [file]


def test_a_process_that_hangs_is_ended_with_all_it_started_and_its_rows_are_kept(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    text = f"echo '{MARK}{json.dumps(row('before', True))}'; sleep 600 & echo $! > {pid}; sleep 600"
    rows: list[Row] = []
    began = time.monotonic()
    ended = run_part(["sh", "-c", text], 1.0, rows.append)
    assert [r["what"] for r in rows] == ["before"] and ended.how == "cut after 1 s" and not ended.failed
    assert time.monotonic() - began < 60
    left = Path(f"/proc/{pid.read_text().strip()}/stat")
    for _ in range(100):
        if not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("a child of the part still runs")


def test_a_process_that_fails_is_no_success() -> None:
    ended = run_part([sys.executable, "-c", "raise SystemExit('out of luck')"], 60, lambda found: None)
    assert ended.failed and "exit code 1" in ended.how and "out of luck" in ended.how
    found = command.run(
        [Part("kinds", 1, "")], "cpu", True, None, start=lambda *given: Ended("exit code 1", 0.0, failed=True)
    )
    assert not found.ok


def test_where_no_row_ran_nothing_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def start(given: Sequence[str], seconds: float, keep: Callable[[Row], None]) -> Ended:
        keep(row("a", None, "left out"))
        return Ended("done", 0.0)

    parts = [Part("kinds", 1, "")]
    assert not command.run(parts, "cpu", True, None, start=start).ok
    nothing = command.run(parts, "cpu", True, None, start=lambda *given: Ended("cut after 1 s", 1.0))
    assert not nothing.ok
    monkeypatch.setattr(command, "run", lambda *given, **how: nothing)
    assert benchmarks.main(["first", "kinds", "--device", "cpu", "--tiny"]) == 1
    assert "no row ran" in capsys.readouterr().err


def test_without_a_gpu_parts_have_more_time() -> None:
    given: list[float] = []

    def start(asked: Sequence[str], seconds: float, keep: Callable[[Row], None]) -> Ended:
        given.append(seconds)
        return Ended("done", 0.0)

    parts = [Part("kinds", 40, ""), Part("headline", 60, "")]
    assert command.run(parts, "cpu", True, None, 100, start, lambda: 0.0, patience=10).limit == 1000
    assert given == [400, 1000]


def test_rows_are_found_whatever_is_printed_around_them(capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "import sys; sys.stdout.write('..'); from benchmarks.first.rows import *; tell(row('a', None, 'b')); print('c')"
    )
    rows: list[Row] = []
    run_part([sys.executable, "-c", text], 60, rows.append)
    assert rows == [row("a", None, "b")]
    assert told("a line of a library") is None


def test_without_a_gpu_it_is_refused_unless_tiny_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["first", "--device", "cpu"]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmarks.main(["first", "kindz", "--tiny"])
    assert "no part 'kindz'" in capsys.readouterr().err


def test_parts_run_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "first.json"
    given = ["first", "captures", "gpu_tests", "--device", "cpu", "--tiny", "--json", str(file)]
    assert benchmarks.main(given) == 0
    found = json.loads(file.read_text())
    assert not found["is_gpu"] and found["is_tiny"] and found["versions"]["torch"] == torch.__version__
    tests = found["parts"]["gpu_tests"]["rows"]
    assert len(tests) >= 2 and all(r["ok"] is None and "there is no GPU" in r["why"] for r in tests)
    assert [r["ok"] for r in found["parts"]["captures"]["rows"]] == [True, None]
    assert all(part["ended"] == "done" and not part["failed"] for part in found["parts"].values())


@pytest.mark.slow
def test_everything_runs_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "first.json"
    assert (
        benchmarks.main(["first", "kinds", "sanitizer", "headline", "--device", "cpu", "--tiny", "--json", str(file)])
        == 0
    )
    rows = {name: part["rows"] for name, part in json.loads(file.read_text())["parts"].items()}
    assert len([r for r in rows["kinds"] if r["ok"]]) == len(kinds.KINDS)
    assert rows["sanitizer"][0]["ok"] is None and all(r["ok"] for r in rows["sanitizer"][1:])
    assert {c.family for c in headline.HEADLINES} <= {r.get("family") for r in rows["headline"]}


def programs_of_kinds() -> list[Program]:
    made: list[Program] = []
    for kind in kinds.KINDS.values():
        graph = kind.graph(kind.rows, "float32")
        if kind.is_step:
            made.append(kinds.step_of(kind, graph, CPU, target="gpu").program)
        elif not kind.options:
            made += gradient_programs(graph)
        else:
            made += kinds.tn.compile(graph, device="cpu", target="gpu", **kind.options).gradient_programs
    return made


def test_kinds_have_every_kind_of_launch_and_of_traversal() -> None:
    """What a GPU is asked for has all that the compiler can make for one."""
    programs = programs_of_kinds()
    launches = {type(launch).__name__ for p in programs for launch in p.plan.launches}
    assert launches >= {"TileLaunch", "ForeachLaunch", "GroupedMatmul", "LibraryCall", "ChunkLoop"}
    kernels = [k for p in programs for k in p.kernels if isinstance(k, Kernel)]
    layouts = [k.layout for k in kernels]
    assert any(x.is_flat and not x.cols for x in layouts) and any(x.cols and not x.loops_cols for x in layouts)
    assert any(x.loops_cols for x in layouts) and any(x.traversal.is_one_row for x in layouts)
    assert any(x.traversal.is_persistent for x in layouts) and any(x.split_k for x in layouts)
    assert any(k.last_block for k in kernels) and any(k.operands for k in kernels)
    assert any(x.finalizes and x.purpose.is_launched for x in layouts)


@pytest.mark.parametrize(
    ("does", "verdict"), [("exit 0", True), ("echo '=== Invalid read'; exit 9", False), ("exit 3", False)]
)
def test_a_sanitizer_is_believed(does: str, verdict: bool, tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    inner = f"{MARK}{json.dumps(row('elementwise', True))}"
    tool.write_text(f"#!/bin/sh\necho '{inner}'\n{does}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    inside, found = sanitizer.rows_of("memcheck", str(tool), 60, ["program"])
    assert inside == row("memcheck: elementwise", True)
    assert found["what"] == "memcheck" and found["ok"] is verdict
    assert verdict or "Invalid read" in found["why"] or "exit code 3" in found["why"]


def test_a_sanitizer_that_takes_too_long_found_nothing_yet(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\nexec sleep 600\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    (found,) = sanitizer.rows_of("racecheck", str(tool), 0.3, ["program"])
    assert found["ok"] is None and "ran out" in found["why"]


def test_captures_capture_on_a_gpu_that_is_not_there() -> None:
    """What kernels compute is not known there; that steps and models are captured is."""
    with fake_cuda() as cuda:
        step, model = captures.step_row(8, torch.device("cuda", 0)), captures.model_row(8, torch.device("cuda", 0))
        assert step["is_captured"], step
        assert "graph" not in model["why"] and cuda.ran


def test_headlines_are_cases_of_the_benchmark_and_peers_are_known() -> None:
    for wanted in headline.HEADLINES:
        case = wanted.case(is_tiny=False)
        assert (case.family, case.shape, case.dtype, case.direction) == (
            wanted.family, wanted.shape, wanted.dtype, wanted.direction,
        )  # fmt: skip
    assert set(headline.PEERS) <= set(PEERS)
    assert {"tritonnotes", "eager", "compile", "Liger", "eager captured"} <= set(headline.PEERS)


def test_files_of_gpu_tests_are_those_that_have_some() -> None:
    found = {os.path.relpath(f, ROOT) for f in gpu_tests.files()}
    assert os.path.join("tests", "tritonnotes", "runtime", "test_tuning.py") in found
    assert all("pytest.mark.gpu" in (ROOT / f).read_text() for f in found)
