"""Faults of interruption and concurrency: a step that is interrupted says so, threads take turns, files stay whole."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor

import tritonnotes as tn
from tritonnotes import native
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.ir.core.errors import CacheError, DeclarationError, InterruptedStepError, StateFileError
from tritonnotes.runtime.runner import Runner, pick_device
from tritonnotes.tensors.allocation import AllocationError

DEVICE = pick_device()
B = tn.Dim("batch")


def graph() -> tn.Graph:
    g = tn.Graph("layers")
    x, y = g.input("x", (B, 4)), g.input("y", (B,), "int64")
    h = tn.dropout(tn.batch_norm(tn.linear(x, 6, name="fc"), name="bn"), 0.2)
    g.output(loss=tn.cross_entropy(tn.linear(tn.relu(h), 3, name="head"), y))
    return g


def feeds(seed: int = 0, batch: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(batch, 4, generator=generator), torch.randint(0, 3, (batch,), generator=generator)
    return {"x": x.to(DEVICE), "y": y.to(DEVICE)}


def make(accumulate: int = 1, **how: Any) -> Any:
    return tn.compile_step(graph(), optimizer=tn.adamw(lr=0.05), accumulate=accumulate, **how)


def flat(state: dict[str, Any]) -> dict[str, Any]:
    parts = {f"{part}/{n}": t for part in ("model", "slots") for n, t in state[part].items()}
    return {**parts, **{n: state[n] for n in ("steps", "gathered", "numbers", "seed", "hyperparameters")}}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    one, other = flat(one), flat(other)
    return one.keys() == other.keys() and all(
        torch.equal(v, other[n]) if isinstance(v, Tensor) else v == other[n] for n, v in one.items()
    )


@contextmanager
def interrupted(at: int, after: bool, kind: type[BaseException] = KeyboardInterrupt) -> Iterator[list[int]]:
    """Interrupt before or after launch number `at`; the list counts launches, which are made one by one."""
    count = [0]
    run = Runner.run

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        around = self.around

        def counting(launch: Callable[..., None]) -> Callable[..., None]:
            inner = launch if around is None else around(launch)

            def once(*given: Any, **how: Any) -> None:
                count[0] += 1
                if count[0] == at and not after:
                    raise kind("now")
                inner(*given, **how)
                if count[0] == at:
                    raise kind("now")

            return once

        self.around = counting
        try:
            return run(self, *args, **kwargs)
        finally:
            self.around = around

    Runner.run = watched  # type: ignore[method-assign]
    try:
        yield count
    finally:
        Runner.run = run  # type: ignore[method-assign]


# -- a step that is interrupted ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps() -> dict[int, Any]:
    return {accumulate: make(accumulate) for accumulate in (1, 2)}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interruption_at_any_launch_leaves_a_whole_state_or_one_that_is_refused(
    accumulate: int, after: bool, steps: dict[int, Any], tmp_path: Path
) -> None:
    step = steps[accumulate]
    for seed in range(3):
        step(**feeds(seed))
    start = copy.deepcopy(step.state_dict())
    with interrupted(-1, after) as count:
        for seed in range(accumulate):
            step(**feeds(seed))
    end = step.state_dict()
    assert count[0] >= 3
    for at in range(1, count[0] + 1):
        step.load_state_dict(start)
        with pytest.raises(KeyboardInterrupt), interrupted(at, after):
            for seed in range(accumulate):
                step(**feeds(seed))
        uses = {
            "step": lambda: step(**feeds()),
            "state_dict": step.state_dict,
            "save": lambda: step.save(tmp_path / "state"),
            "deepcopy": lambda: copy.deepcopy(step),
            "pickle": lambda: pickle.dumps(step),
        }
        for use in uses.values():
            with pytest.raises(InterruptedStepError, match=r"between its launches.*load_state_dict\(\) or load\(\)"):
                use()
        assert not (tmp_path / "state").exists()
        step.load_state_dict(start)
        assert same(step.state_dict(), start)
        for seed in range(accumulate):
            step(**feeds(seed))
        assert same(step.state_dict(), end), at


def test_an_interruption_of_the_first_run_before_anything_is_written_tears_nothing() -> None:
    """Kernels are compiled then, which takes long: that is when people lose patience."""
    step, other = make(fusion="off"), make(fusion="off")

    def impatient(*launches: Any) -> None:
        raise KeyboardInterrupt("now")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if DEVICE.type == "cpu":
            patch.setattr(native.Bundle, "__init__", impatient)
            step(**feeds())
        with interrupted(1, after=False):
            step(**feeds())
    step(**feeds())
    other(**feeds())
    assert same(step.state_dict(), other.state_dict())


def test_what_does_not_fit_the_memory_tears_nothing() -> None:
    g = tn.Graph("wide")
    x, y = g.input("x", (B, 1)), g.input("y", (1, tn.Dim("columns")))
    wide = x * y * g.parameter("w", (1,), init=1.0)
    g.output(loss=tn.mean(wide), wide=wide)
    step = tn.compile_step(g, optimizer=tn.sgd(lr=0.1))
    small = {"x": torch.ones(2, 1, device=DEVICE), "y": torch.ones(1, 3, device=DEVICE)}
    step(**small)
    with pytest.raises(AllocationError):
        step(x=torch.ones(2**22, 1, device=DEVICE), y=torch.ones(1, 2**23, device=DEVICE))
    step(**small)
    assert step.steps == 2


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, MemoryError])
def test_every_kind_of_exception_between_launches_tears_a_step(
    kind: type[BaseException], steps: dict[int, Any]
) -> None:
    step = steps[1]
    state = step.state_dict()
    with pytest.raises(kind), interrupted(2, after=True, kind=kind):
        step(**feeds())
    with pytest.raises(InterruptedStepError):
        step(**feeds())
    step.load_state_dict(state)
    step(**feeds())


def test_a_state_is_loaded_from_a_file_after_an_interruption(steps: dict[int, Any], tmp_path: Path) -> None:
    step = steps[1]
    step.save(tmp_path / "state")
    with pytest.raises(KeyboardInterrupt), interrupted(2, after=False):
        step(**feeds())
    step.load(tmp_path / "state")
    step(**feeds())


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_a_callback_that_raises_does_not_take_the_outputs_with_it() -> None:
    step, seen = make(), []

    def callback(report: Any) -> None:
        seen.append(report.batch)
        if report.batch == 2:
            raise ValueError("no room on the plot")

    progress = step.on_progress(callback)
    step.on_progress(lambda report: seen.append(-report.batch))
    step(**feeds(0))
    with pytest.warns(RuntimeWarning, match="the callback raised .*no room.* batch 2; .*outputs are returned"):
        outputs = step(**feeds(1))
    assert outputs["loss"].shape == () and step.steps == 2
    with pytest.raises(ValueError, match="no room on the plot"):
        step(**feeds(2))
    assert step.steps == 2
    step(**feeds(2))
    assert step.steps == 3 and seen == [1, -1, 2, -2, 3, -3]
    with pytest.warns(RuntimeWarning):
        progress.callback = lambda report: 1 / 0
        step(**feeds(3))
    with pytest.raises(ZeroDivisionError):
        progress.finish()


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))], ids=["copy", "pickle"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_copy_of_a_step_goes_on_bit_for_bit_and_alone(how: Callable[[Any], Any], accumulate: int) -> None:
    step = make(accumulate)
    if accumulate == 2:
        step.model.fc.bias.requires_grad_(False)
    for seed in range(3):
        step(**feeds(seed))
    made = how(step)
    assert made.source == step.source and same(made.state_dict(), step.state_dict())
    before = step.state_dict()
    mine = [made(**feeds(seed))["loss"] for seed in range(3)]
    assert same(step.state_dict(), before)
    theirs = [step(**feeds(seed))["loss"] for seed in range(3)]
    assert all(map(torch.equal, mine, theirs)) and same(made.state_dict(), step.state_dict())
    assert torch.equal(made.model(**feeds())["loss"], step.model(**feeds())["loss"])
    made.model.fc.weight.data.zero_()
    assert step.model.fc.weight.abs().sum() > 0


# -- threads -----------------------------------------------------------------------------------------------------------


def in_threads(*runs: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def guarded(run: Callable[[], object]) -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_on_one_step_and_its_model_take_turns() -> None:
    step, alone = make(), make()
    seen: list[Tensor] = []
    batches = [feeds(seed=1)] * 3

    def train() -> None:
        seen.extend(step(**batch)["loss"] for batch in batches)

    def look() -> None:
        for _ in range(3):
            with torch.no_grad():
                step.model(**feeds())
            step.state_dict()

    in_threads(train, train, look)
    wanted = [alone(**feeds(seed=1))["loss"] for _ in range(6)]
    assert same(step.state_dict(), alone.state_dict())
    assert sorted(map(float, seen)) == sorted(map(float, wanted))


def test_threads_on_one_model_take_turns() -> None:
    """Buffers, gradients and copies that share what is compiled."""
    model = tn.compile(graph(), training=True)
    model.seed = 3
    other, alone = copy.deepcopy(model), copy.deepcopy(model)
    found: list[Tensor] = []

    def run(model: Any) -> None:
        for _ in range(3):
            loss = model(**feeds())["loss"]
            found.append(loss.detach())
            torch.autograd.grad(loss, list(model.parameters()))

    in_threads(*(lambda m=m: run(m) for m in (model, model, other)))  # type: ignore[misc]
    wanted = alone(**feeds())["loss"].detach()
    assert len(found) == 9 and all(torch.equal(t, wanted) for t in found)
    assert int(model.bn.num_batches_tracked) == 6 and int(other.bn.num_batches_tracked) == 3
    for _ in range(5):
        alone(**feeds())
    assert torch.equal(alone.bn.running_mean, model.bn.running_mean)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_state_is_not_saved_where_it_cannot_be(steps: dict[int, Any], tmp_path: Path) -> None:
    step = steps[1]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link to a device").symlink_to("/dev/null")
    bad: dict[Any, str] = {
        tmp_path / "missing" / "state": "there is no folder .*missing; make it first",
        tmp_path: "is a folder; name a regular file",
        tmp_path / "pipe": "a device, a pipe or a socket; name a regular file",
        "/dev/null": "a device, a pipe or a socket",
        tmp_path / "link to a device": "a device, a pipe or a socket",
        tmp_path / ("n" * 300): "File name too long",
        3.5: "names no file",
        "a\0b": "names no file",
    }
    for path, message in bad.items():
        with pytest.raises(StateFileError, match=f"(?s)^save .*{message}"):
            step.save(path)
        if path != tmp_path / "missing" / "state" and "n" * 300 not in str(path):
            with pytest.raises(StateFileError, match=f"(?s)^load .*{message}"):
                step.load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link to a device", "pipe"]
    assert not Path("/dev/null").is_file()


def test_a_link_to_a_state_stays_a_link(steps: dict[int, Any], tmp_path: Path) -> None:
    step = steps[1]
    (tmp_path / "real").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "real" / "state")
    for _ in range(2):
        step.save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink() and (tmp_path / "real" / "state").is_file()
    step.load(tmp_path / "latest")


def test_a_full_disk_leaves_the_state_that_was_there(steps: dict[int, Any], tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk's."""
    import resource
    import signal

    step = steps[1]
    path = tmp_path / "state"
    step.save(path)
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(StateFileError, match="cannot be written: .*; what was there stays; make room"):
            step.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_folder_where_a_cached_source_should_be_is_named_with_the_remedy(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "cache")
    path = cache.source_path("x = 1\n")
    path.unlink()
    path.mkdir()
    with pytest.raises(CacheError, match=f"cannot write {path}.*directory; remove it, or set TRITONNOTES_CACHE_DIR"):
        cache.source_path("x = 1\n")
    with pytest.raises(CacheError, match="remove it"):
        cache.put("plan", "0" * 64, b"") if cache.put("plan", "0" * 64, b"").unlink() else None
        (tmp_path / "cache" / "plan" / f"{'0' * 64}.entry").mkdir()
        assert cache.get("plan", "0" * 64) is None
        cache.put("plan", "0" * 64, b"")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root becomes another user")
def test_a_user_without_a_home_or_an_entry_has_a_cache_all_the_same() -> None:
    script = (
        "import os\nfrom tritonnotes.codegen.target.cache import KernelCache\n"
        "os.setgid(54321)\nos.setuid(54321)\n"
        "cache = KernelCache()\nprint(cache.source_path('x = 1'))\n"
    )
    kept = {n: v for n, v in os.environ.items() if n not in ("HOME", "XDG_CACHE_HOME", "TRITONNOTES_CACHE_DIR", "USER")}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)
        environment = {**kept, "TMPDIR": folder, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", script]
        ran = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(f"{folder}/tritonnotes-54321/source")


def test_a_step_of_several_processes_is_not_copied() -> None:
    step: Any = make()
    step._programs.graphs.__dict__["is_apart"] = True
    for use in (copy.deepcopy, pickle.dumps):
        with pytest.raises(DeclarationError, match="several processes, which cannot be copied"):
            use(step)
