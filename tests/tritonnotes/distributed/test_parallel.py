"""Two processes with half the batch each, over gloo, against one process with the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from parallel_run import BATCH, SHARDED, STEPS, SYNCED, SYNCED_LR, batch, compiled, graph, half, overflowing
from paths import ROOT, SHARED
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.distributed.parallel import Reducer, _bucketed, _last_use, owners
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.passes.across_ranks import across_ranks
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gathering_graph
from tritonnotes.judge.tolerance import compare


def torchrun(script: Path, *arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SHARED}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    done = torchrun(SHARED / "parallel_run.py", str(out))
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


def alone(case: str, **options: Any) -> tn.TrainingStep:
    """One process on the whole batches."""
    dtype = torch.float64 if case in ("float64", "clipped") else torch.float32
    step = compiled(case, seed=7, **options)
    for number in range(STEPS):
        step(**batch(number, dtype))
    return step


def in_halves(case: str, accumulate: int, overflow: int | None = None) -> tn.TrainingStep:
    """One process on the same halves, one after the other."""
    step = compiled(case, seed=7, accumulate=accumulate)
    order = [(number, part) for number in range(STEPS) for part in range(2)]
    for number, part in order:
        fed = half(batch(number), part)
        step(**(overflowing(fed) if (number, part) == (overflow, 1) else fed))
    return step


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(t, b[n]) for n, t in a.items())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["float64", "float32", "clipped", "accumulated", "float16"])
def test_all_processes_hold_the_same_bits(case: str, ranks: list[dict[str, Any]]) -> None:
    one, other = (rank[case] for rank in ranks)
    assert same(one["model"], other["model"]) and same(one["slots"], other["slots"])
    assert one["losses"] != other["losses"], "each has a batch of its own"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["float64", "clipped"])
def test_two_halves_are_the_whole_batch(case: str, ranks: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(ranks[0][case]["model"], dict(alone(case).model.state_dict()), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_two_halves_are_as_near_to_float64_as_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    whole, exact = alone("float32").model.state_dict(), alone("float64").model
    exact_weights = _from_float32(exact)
    for name, weight in ranks[0]["float32"]["model"].items():
        comparison = compare(weight, whole[name], exact_weights[name])
        assert comparison.ok, f"{name}: {comparison}"


def _from_float32(model: tn.Model) -> dict[str, Tensor]:
    """The float64 run, from the weights and on the batches that the float32 runs had."""
    step = tn.compile_step(graph("float64"), optimizer=tn.adam(lr=1e-2), device="cpu")
    first = compiled("float32", seed=7).model.state_dict()
    step.model.load_state_dict({n: t.double() for n, t in first.items()})
    for number in range(STEPS):
        fed = batch(number)
        step(x=fed["x"].double(), y=fed["y"])
    return dict(step.model.state_dict())


@pytest.mark.slow
def test_two_processes_are_two_batches_of_an_update_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    """Gradients of the same halves, added in the same order."""
    step = in_halves("float32", 2)
    assert same(ranks[0]["float32"]["model"], step.model.state_dict())


@pytest.mark.slow
def test_batches_and_processes_multiply(ranks: list[dict[str, Any]]) -> None:
    """Two batches on each of two processes are one update: half as many as without."""
    step = in_halves("accumulated", 4)
    for name, weight in ranks[0]["accumulated"]["model"].items():
        torch.testing.assert_close(weight, step.model.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert step.steps == 2


@pytest.mark.slow
def test_an_overflow_on_one_process_skips_the_update_on_all(ranks: list[dict[str, Any]]) -> None:
    step = in_halves("float16", 2, overflow=1)
    for rank in ranks:
        slots = rank["float16"]["slots"]
        assert float(slots["scaler.step"]) == 3 == float(step.slots["scaler.step"])
        assert float(slots["scaler.scale"]) == 2.0**9 == float(step.slots["scaler.scale"])


@pytest.mark.slow
def test_running_statistics_are_those_of_rank_0(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["batch_norm"]["model"] for rank in ranks)
    assert same(one, other) and float(one["bn.running_mean"].abs().sum()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", SYNCED)
def test_batch_norm_across_ranks_is_torchs_on_the_whole_batch(case: str, ranks: list[dict[str, Any]]) -> None:
    """Weights and running statistics of each process after four steps, however the rows are shared out; the whole
    batch in plain torch, whose loss is a sum: the mean of gradients over two processes is half of its gradient."""
    module = torch.nn.Sequential(
        OrderedDict(
            fc1=torch.nn.Linear(12, 24), bn=torch.nn.BatchNorm1d(24), relu=torch.nn.ReLU(), fc2=torch.nn.Linear(24, 5)
        )
    ).double()
    module.load_state_dict(compiled(case, seed=7).model.state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=SYNCED_LR / 2)
    for number in range(STEPS):
        fed = {n: t[: SYNCED[case][1]] for n, t in batch(number, torch.float64).items()}
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(fed["x"]), fed["y"], reduction="sum").backward()
        optimizer.step()
    for rank in ranks:
        torch.testing.assert_close(rank[case]["model"], dict(module.state_dict()), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARDED)
def test_state_that_is_shared_out_leaves_the_same_bits(case: str, ranks: list[dict[str, Any]]) -> None:
    """Weights on all processes, and the state that they hold together, as where each holds it all."""
    for rank in ranks:
        usual, found = rank[case.removeprefix("sharded_")], rank[case]
        if case == "sharded_float16":
            # A kernel that works out numbers of the scaler takes 1 − beta in float64, another one its float32: which
            # kernel updates what is another plan's choice.
            torch.testing.assert_close(found["model"], usual["model"], rtol=1e-6, atol=1e-7)
            assert same(found["model"], ranks[0][case]["model"])
            assert all(torch.equal(t, found["state"][n]) for n, t in usual["slots"].items() if n.startswith("scaler."))
            continue
        assert same(usual["model"], found["model"]) and found["state"].keys() == usual["slots"].keys()
        assert same(usual["slots"], found["state"])


@pytest.mark.slow
def test_each_process_holds_a_part_of_the_state(ranks: list[dict[str, Any]]) -> None:
    held = [{n for n in rank["sharded_float32"]["slots"] if ".exp_avg" in n} for rank in ranks]
    assert held[0] and held[1] and not held[0] & held[1]
    assert held[0] | held[1] == {n for n in ranks[0]["float32"]["slots"] if ".exp_avg" in n}
    for rank, names in zip(ranks, held, strict=True):
        slots = rank["float32"]["slots"]
        own, both = (sum(slots[n].nbytes for n in some) for some in (names, held[0] | held[1]))
        said = f"Optimizer state: {own:,} of {both:,} bytes, shared out over 2 processes"
        assert said in rank["sharded_float32"]["explained"] and own < both


@pytest.mark.slow
def test_a_run_resumes_with_its_state_shared_out_or_not(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for found in rank["resumed"]:
            assert same(found["model"], rank["float32"]["model"])
            assert all(torch.equal(t, found["state"][n]) for n, t in rank["float32"]["slots"].items() if ".exp" in n)


def test_parameters_are_shared_out_by_size() -> None:
    g = tn.Graph("many")
    for name, size in (("a", 100), ("b", 60), ("c", 50), ("d", 5), ("e", 0)):
        g.parameter(name, (size,))
    assert owners(g.parameters, 2) == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}
    with pytest.raises(DeclarationError, match="shares out 5 parameters over 6 processes, .*; start fewer of them"):
        owners(g.parameters, 6)


@pytest.mark.parametrize("given", [1, "yes", None])
def test_shard_is_a_bool(given: Any) -> None:
    with pytest.raises(DeclarationError, match="shard is .*; pass True, for optimizer state shared out"):
        tn.DataParallel(shard=given)


@pytest.mark.slow
def test_processes_drop_apart(ranks: list[dict[str, Any]]) -> None:
    """On the same rows, with the same weights."""
    assert ranks[0]["dropout"]["losses"][0] != ranks[1]["dropout"]["losses"][0]


@pytest.mark.slow
def test_gradients_travel_in_several_buckets(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["float32"]["buckets"] >= 2


@pytest.mark.slow
def test_another_graph_on_another_process_is_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "rank 1 declares another graph than rank 0" in rank["refused"]


def test_buckets_go_out_as_soon_as_the_last_launch_that_touches_them_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the backward run of earlier layers; the rest at its end, and all in one order."""
    sent: list[int] = []

    class Sent:
        def wait(self) -> None:
            sent.append(-1)

    launched: list[str] = []
    reducer = Reducer.__new__(Reducer)
    reducer.group, reducer.buckets, reducer._last_uses = None, [torch.zeros(1)] * 3, [2, 4, 9]
    reducer._places = {"forward": [0], "layer": [2, 3], "first_layer": [5]}
    in_order = ["forward", "layer", "layer", "first_layer"]

    def all_reduce(*args: Any, **kwargs: Any) -> Sent:
        sent.append(len(launched))
        return Sent()

    monkeypatch.setattr("tritonnotes.distributed.parallel.dist.all_reduce", all_reduce)
    launch = reducer.around(lambda kernel, grid, *arguments, **options: launched.append(kernel.__name__))
    reducer.begin()
    for name in in_order:
        kernel = type("Kernel", (), {"__name__": name})()
        launch(kernel, (1,))
    reducer.finish()
    assert launched == in_order and sent == [2, 3, 4, -1, -1, -1]


class Done:
    """An all-reduce that is over."""

    def wait(self) -> None:
        pass


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def reread() -> tn.Graph:
    """A later launch of its backward run reads the gradient of `p1` from the slot that an earlier one leaves it in."""
    g = tn.Graph("read_again")
    x = g.input("x", (BATCH, 8), "float64")
    z, p1 = (g.parameter(name, (8, 8), "normal", "float64", mean=0.0, std=1.0) for name in ("z", "p1"))
    w = p1 + tn.layer_norm(tn.transpose(tn.softmax(z, -1), 0, 1), name="ln")
    g.output(loss=tn.mean(tn.matmul(x, w) ** 3, (0, 1)))
    return g


def test_a_bucket_waits_for_launches_that_read_a_gradient_from_it(
    one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that are there at once: twice what torch's autograd gives, and nothing that came of a sum already taken."""
    sent = []

    def doubled(bucket: Tensor, **options: Any) -> Done:
        sent.append(bucket.mul_(2))
        return Done()

    monkeypatch.setattr("tritonnotes.distributed.parallel.dist.all_reduce", doubled)
    options = tn.DataParallel(bucket_cap_mb=1e-4)
    step = tn.compile_step(reread(), optimizer=tn.sgd(lr=0.1), data_parallel=options, device="cpu")
    assert step.gathering is not None
    assert any("p1.grad" in u.reads - u.writes for u in step.gathering.uses), "it is read where another has written it"
    held = {n: t.clone().requires_grad_() for n, t in step.model.state_dict().items()}
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normalized = torch.layer_norm(held["z"].softmax(-1).T, (8,), held["ln.weight"], held["ln.bias"])
    ((x @ (held["p1"] + normalized)) ** 3).mean().backward()
    step(x=x)
    assert len(sent) > 1
    for name, tensor in held.items():
        assert tensor.grad is not None
        torch.testing.assert_close(step.slots[f"{name}.grad"], 2 * tensor.grad, rtol=1e-10, atol=1e-12)


def test_a_library_call_that_writes_a_gradient_is_its_last_use() -> None:
    """So that its bucket goes out before the run is over."""
    program = make_program(gathering_graph(graph(), "loss", 1, None), Fusion(products=False), graph())
    last = _last_use(program, "fc2.weight.grad")
    assert last < len(program.plan.launches) - 1 and program.plan.launches[last].is_library


ALIKE: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"optimizer": tn.adam(lr=0.5)}, r"other hyperparameters than rank 0, .*0\.5.*0\.1"),
    "rule": ({"optimizer": tn.sgd(lr=0.1)}, "another update than rank 0"),
    "scaler": ({"scaler": tn.GradScaler(init_scale=4.0)}, r"another scaler than rank 0, .*4\.0.*8\.0"),
    "accumulate": ({"accumulate": 4}, "another graph than rank 0"),
    "buckets": ({"data_parallel": tn.DataParallel(bucket_cap_mb=1)}, "other options than rank 0, .*=1,.*=25"),
    "synced": ({"data_parallel": tn.DataParallel(sync_batch_norm=True)}, "other options than rank 0, .*norm=True,?.*"),
    "alike": ({}, ""),
}


@pytest.mark.parametrize("case", ALIKE)
def test_processes_that_differ_are_refused(one_rank: None, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Rank 0 declares what `usual` says, rank 1 something else."""
    usual: dict[str, Any] = {"optimizer": tn.adam(lr=0.1), "accumulate": 2, "scaler": tn.GradScaler(init_scale=8.0)}
    usual |= {"data_parallel": tn.DataParallel(), "device": "cpu"}
    other, said = ALIKE[case]
    told: list[Any] = []

    def gather(found: list[Any], mine: Any, group: Any) -> None:
        told.append(mine)
        found[:] = [told[0], mine]

    monkeypatch.setattr("tritonnotes.distributed.parallel.dist.all_gather_object", gather)
    tn.compile_step(reread(), **usual)
    if not said:
        tn.compile_step(reread(), **{**usual, **other})
        return
    with pytest.raises(DeclarationError, match=f"compile_step: rank 1 declares {said}"):
        tn.compile_step(reread(), **{**usual, **other})


def test_a_step_of_several_processes_is_not_tuned(one_rank: None) -> None:
    step = tn.compile_step(reread(), optimizer=tn.sgd(lr=0.1), data_parallel=True, device="cpu")
    with pytest.raises(DeclarationError, match=r"tune: .*several processes.*without data_parallel"):
        step.tune(batch=8, progress=False)


POSITIONS: dict[str, tuple[Any, ...]] = {"rows": (BATCH, 6), "positions": (BATCH, 6, 5), "fixed": (4, 6)}


@pytest.mark.parametrize("shape", POSITIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_process_that_asks_for_batch_norm_across_ranks_has_its_own(one_rank: None, shape: str, dtype: str) -> None:
    """Other programs, of as many exchanges as there are statistics to wait for; the same numbers as without, which
    tests of batch norm compare with torch's."""

    def made(**options: Any) -> tuple[tn.TrainingStep, Tensor]:
        g = tn.Graph("synced")
        x = g.input("x", POSITIONS[shape], dtype)
        scale = g.parameter("scale", (6, *POSITIONS[shape][2:]), 1.0, "float32")
        h = tn.batch_norm(tn.cast(x * scale, dtype), momentum=None, name="bn")
        g.output(loss=tn.mean(tn.cast(h, "float32") ** 3))
        step = tn.compile_step(g, optimizer=tn.sgd(lr=0.1), device="cpu", data_parallel=tn.DataParallel(**options))
        shown = (4, *POSITIONS[shape][1:])
        for seed in range(2):
            noise = torch.randn(shown, generator=torch.Generator().manual_seed(seed)) * 3 + 100
            loss = step(x=noise.to(getattr(torch, dtype)))["loss"]
        return step, loss

    (one, loss), (other, other_loss) = made(sync_batch_norm=True), made()
    assert one.gathering is not None and other.gathering is not None
    assert one.gathering.source.count("\n    all_reduce(") == 3 and "all_reduce" not in other.gathering.source
    torch.testing.assert_close(loss, other_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(one.model.state_dict()), dict(other.model.state_dict()), rtol=1e-5, atol=1e-5)


def test_one_row_on_one_process_is_refused_though_ranks_are_to_share(one_rank: None) -> None:
    options = tn.DataParallel(sync_batch_norm=True)
    step = tn.compile_step(graph(extra="batch_norm"), optimizer=tn.sgd(lr=0.1), data_parallel=options, device="cpu")
    with pytest.raises(FeedError, match="one value .* which is its own mean"):
        step(**{n: t[:1] for n, t in batch(0).items()})


def test_a_step_across_ranks_is_not_captured(one_rank: None) -> None:
    options = tn.DataParallel(sync_batch_norm=True)
    step = tn.compile_step(graph(extra="batch_norm"), optimizer=tn.sgd(lr=0.1), data_parallel=options, device="cpu")
    step.capture()
    assert step.graph_reason == "gradients are gathered over batches or processes before the update"


@pytest.mark.parametrize("given", [1, "yes", None])
def test_sync_batch_norm_is_a_bool(given: Any) -> None:
    with pytest.raises(DeclarationError, match="sync_batch_norm is .*; pass True, for statistics over the rows of all"):
        tn.DataParallel(sync_batch_norm=given)


def test_both_programs_are_explained_and_their_memory_counted(one_rank: None) -> None:
    step = tn.compile_step(reread(), optimizer=tn.sgd(lr=0.1), data_parallel=True, device="cpu")
    assert step.gathering is not None
    text = step.explain()
    first, second = text.index("Gathering gradients (`gathering`):"), text.index("The update (`program`):")
    assert text.index(explain_plan(step.gathering.plan)) in range(first, second)
    assert text.index(explain_plan(step.plan)) > second
    eager = step.eager_peak_bytes()
    assert f"{step.peak_bytes():,} bytes, the outputs and two arenas" in " ".join(text.split())
    assert eager is not None
    assert f"this program holds {step.peak_bytes() / eager:.2f} times that" in " ".join(text.split())


@pytest.mark.parametrize("given", [1, "yes", {"bucket_cap_mb": 25}])
def test_something_else_as_data_parallel_is_refused(given: Any) -> None:
    with pytest.raises(
        DeclarationError, match=r"compile_step: data_parallel is .*; pass True, or tn\.DataParallel\(group=…\)"
    ):
        tn.compile_step(graph(), optimizer=tn.sgd(lr=0.1), data_parallel=given)


@pytest.mark.parametrize("given", [0, -1.0, float("nan"), True, "25", None])
def test_a_bucket_of_no_size_is_refused(given: Any) -> None:
    with pytest.raises(DeclarationError, match="bucket_cap_mb is .*; it must be a number above 0, such as 25"):
        tn.DataParallel(bucket_cap_mb=given)


def test_buckets_hold_the_last_gradients_first_each_of_one_dtype() -> None:
    g = tn.Graph("many")
    for name, dtype in (("a", "float32"), ("b", "float64"), ("c", "float32"), ("d", "float32")):
        g.slot(name, (256,), dtype)
    assert _bucketed(g.leaves("slot"), 2048) == [{"c", "d"}, {"b"}, {"a"}]


def test_without_a_process_group_the_remedy_is_named() -> None:
    with pytest.raises(
        DeclarationError, match=r"data_parallel needs a process group; call .*init_process_group.*torchrun"
    ):
        tn.compile_step(graph(), optimizer=tn.sgd(lr=0.1), data_parallel=True)


@pytest.mark.slow
def test_the_example_trains_as_one_process_does() -> None:
    done = torchrun(ROOT / "examples" / "data_parallel.py", "--epochs", "1")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 processes: loss" in done.stdout and "one process on the whole batches" in done.stdout


def test_one_row_of_all_processes_leaves_the_running_variance_as_it_was() -> None:
    """A variance of one row divides by 0 where it is corrected."""
    g = tn.Graph("one_row")
    g.output(y=tn.batch_norm(g.input("x", (BATCH, 3), "float64"), name="bn"))
    form = decompose(across_ranks(g))
    feeds = {
        v.name: np.full([s for s in v.shape if isinstance(s, int)], 0.5) for v in form.leaves("parameter", "buffer")
    }
    found = evaluate(form, {**feeds, "x": np.ones((1, 3))})
    assert (found[form.updates["bn.running_var"]] == 0.5).all()
