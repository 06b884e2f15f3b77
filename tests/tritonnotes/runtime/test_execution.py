"""What runs kernels on the CPU: machine code by default, the strict interpreter where it is asked for."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from compiled import digits, draw
from devices import on_the_cpu

import tritonnotes as tn
from tritonnotes import native
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.native.llvm import engine
from tritonnotes.native.run import program
from tritonnotes.runtime.executors.execution import STRICT_VARIABLE, Execution, execution

BATCH = tn.Dim("batch")
CPU = torch.device("cpu")


def small() -> Graph:
    g = Graph("small")
    x = g.input("x", (BATCH, 24))
    g.output(y=tn.layer_norm(tn.gelu(x), name="ln"), total=tn.sum(x * x))
    return g


@pytest.mark.parametrize("said, strict, want", [
    ("", None, False), ("0", None, False), ("1", None, True), ("1", False, False), ("", True, True),
    (None, None, False),
])  # fmt: skip
def test_the_environment_decides_where_the_argument_does_not(
    said: str | None, strict: bool | None, want: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STRICT_VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(STRICT_VARIABLE, said)
    assert execution(CPU, strict).strict is want
    assert tn.compile(small(), strict=strict, device="cpu").execution == Execution(strict=want)


def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ({"strict": True}, {"sanitize": True}):
        with pytest.raises(DeclarationError, match=r"is for kernels on the CPU, not on cuda:0; pass device='cpu'"):
            execution(torch.device("cuda", 0), **asked)
    monkeypatch.setenv(STRICT_VARIABLE, "yes")
    with pytest.raises(DeclarationError, match="TRITONNOTES_STRICT is 'yes'; set it to 1"):
        execution(CPU)


@pytest.mark.parametrize("how", [{}, {"sanitize": True}, {"strict": True}], ids=["native", "sanitized", "strict"])
def test_every_way_runs_models_steps_and_optimizers(how: dict[str, Any]) -> None:
    graph = digits()
    feeds = {n: t.cpu() for n, t in draw(graph, batch=9).items()}
    model, step = (
        tn.compile(graph, device="cpu", **how),
        tn.compile_step(graph, device="cpu", optimizer=tn.adam(), **how),
    )
    want = {n: t.detach() for n, t in tn.eager(graph, feeds, graph.state(seed=0)).items()}
    torch.testing.assert_close(model(**feeds)["logits"].detach(), want["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step(**feeds)["loss"], want["loss"], rtol=1e-4, atol=1e-4)
    params = [torch.ones(5, requires_grad=True)]
    optimizer = tn.optim.Adam(params, **how)
    params[0].grad = torch.ones(5)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), torch.full((5,), 0.999))


@on_the_cpu
def test_without_llvmlite_one_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_llvm", "this_machine"):
        getattr(engine, name).cache_clear()
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    try:
        with pytest.raises(native.NativeError, match="llvmlite, which is not installed.*strict=True"):
            tn.compile(small())(x=torch.rand(2, 24))
    finally:
        monkeypatch.undo()
    strict = tn.compile(small(), strict=True)(x=torch.ones(2, 24))
    assert strict["total"] == 48


@on_the_cpu
def test_machine_code_is_compiled_while_other_threads_interpret() -> None:
    """Triton's language is redirected while a kernel is interpreted, and its compiler must not see that."""
    graphs = [Graph(f"g{i}") for i in range(6)]
    for i, graph in enumerate(graphs):
        graph.output(y=tn.exp(graph.input("x", (BATCH, 5 + i))) * (i + 0.5))
    failed: list[BaseException] = []

    def run(which: list[Graph], strict: bool) -> None:
        try:
            for graph in which:
                model = tn.compile(graph, strict=strict)
                for rows in (1, 3, 9):
                    x = torch.rand(rows, graph.inputs[0].shape[1])  # type: ignore[arg-type]
                    factor = int(graph.name[1:]) + 0.5
                    torch.testing.assert_close(model(x=x)["y"], torch.exp(x) * factor)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(graphs[i::2], bool(i % 2))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


@on_the_cpu
def test_threads_that_share_a_model_take_turns() -> None:
    model = tn.compile(small())
    wrong: list[int] = []

    def run(seed: int) -> None:
        x = torch.full((3 + seed, 24), float(seed + 1))
        for _ in range(20):
            if float(model(x=x)["total"]) != float((x * x).sum()):
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- recorded runs -----------------------------------------------------------------------------------------------------


@on_the_cpu
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_any_number_of_threads_leaves_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_SHARED", 0)
    feeds = draw(digits(), batch=150)
    found, before = [], torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            step = tn.compile_step(digits(), optimizer=tn.adam(), seed=1)
            outputs = [step(**feeds) for _ in range(2)][-1]
        finally:
            torch.set_num_threads(before)
        found.append({**outputs, **step.model.state_dict(), **step.slots})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


FIRST_RUN = """
import sys, torch, tritonnotes as tn
g = tn.Graph("small")
g.output(y=tn.gelu(g.input("x", (3, 8))))
model = tn.compile(g)
model(x=torch.ones(3, 8))
print(*sorted({name.split(".")[1] for name in sys.modules if name.startswith("torch._")}))
"""


@on_the_cpu
def test_torchs_tracer_is_not_imported_until_it_is_used() -> None:
    """Its import takes longer than to compile a program."""
    ran = subprocess.run([sys.executable, "-c", FIRST_RUN], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "_C" in ran.stdout.split() and "_dynamo" not in ran.stdout.split()


def recorded_launches(step: Any) -> list[native.Launch]:
    """The launches of a step that ran at one set of sizes."""
    (record,) = step._runner.updating._recorded._kept.values()
    return [launch for part in record._steps if isinstance(part, native.Bundle) for launch in part.launches]


@on_the_cpu
@pytest.mark.parametrize("batch, is_shared", [(16, {False}), (1024, {False, True})])
def test_the_launches_of_small_batches_run_on_one_thread(batch: int, is_shared: set[bool]) -> None:
    step = tn.compile_step(digits(), optimizer=tn.adam())
    step(**draw(digits(), batch=batch))
    assert {launch.is_shared for launch in recorded_launches(step)} == is_shared


@on_the_cpu
@pytest.mark.parametrize("how, made_for", [
    ({}, "a server's core"), ({"sanitize": True}, "a server's core"), ({"strict": True}, "an H100 SXM"),
    ({"target": "gpu"}, "an H100 SXM"), ({"strict": True, "target": "cpu"}, "a server's core"),
])  # fmt: skip
def test_plans_are_made_for_what_runs_them(how: dict[str, Any], made_for: str) -> None:
    model, step = tn.compile(digits(), **how), tn.compile_step(digits(), optimizer=tn.adam(), **how)
    for made in (model, step, step.under(Execution(strict=True))):
        assert f"It is made for {made_for}" in made.explain()


@on_the_cpu
@pytest.mark.parametrize("batch", [1, 3, 16, 40, 100])
def test_tiles_of_small_batches_are_not_twice_as_long(batch: int) -> None:
    step = tn.compile_step(digits(), optimizer=tn.adam())
    step(**draw(digits(), batch=batch))
    rows = [int(launch.values["ROWS"]) for launch in recorded_launches(step) if "ROWS" in launch.values]
    assert rows and all(r < 2 * batch or r == 8 for r in rows)


@on_the_cpu
def test_recorded_runs_follow_feeds_sizes_and_numbers() -> None:
    """One step launched afresh for each batch, the other recorded once for each of two sizes."""
    recorded, fresh = (tn.compile_step(digits(), optimizer=tn.adam(), seed=2) for _ in range(2))
    kept = []
    for turn, batch in enumerate((6, 9, 6, 6, 9)):
        fresh._runner.updating._recorded._kept.clear()  # type: ignore[union-attr]
        feeds = draw(digits(), turn, batch=batch)
        for step in (recorded, fresh):
            step.hyperparameters["lr"] = 1e-2 / (turn + 1)
        first, second = recorded(**feeds), fresh(**feeds)
        assert all(torch.equal(first[n], second[n]) for n in first), turn
        kept.append((first["logits"], second["logits"].clone()))
    assert all(torch.equal(*pair) for pair in kept), "a later step writes over no output of an earlier one"
    left = {**fresh.model.state_dict(), **fresh.slots}
    assert all(torch.equal(t, left[n]) for n, t in {**recorded.model.state_dict(), **recorded.slots}.items())


@on_the_cpu
def test_library_calls_between_launches_are_made_in_order() -> None:
    """A product that is large enough for torch's library, an embedding's gradient, and what surrounds them."""
    g = Graph("library")
    ids, y = g.input("ids", (BATCH,), "int64"), g.input("y", (BATCH,), "int64")
    h = tn.relu(tn.linear(tn.embedding(ids, 11, 48, name="table"), 4096, name="wide"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 7, name="out"), y))
    native_step, strict = (tn.compile_step(g, optimizer=tn.sgd(lr=0.1), seed=3, strict=s) for s in (False, True))
    assert len(native_step.plan.launches) > len(native_step.plan.kernels), "there are library calls"
    for turn in range(3):
        generator = torch.Generator().manual_seed(turn)
        feeds = {
            "ids": torch.randint(11, (20,), generator=generator),
            "y": torch.randint(7, (20,), generator=generator),
        }
        first, second = native_step(**feeds), strict(**feeds)
        torch.testing.assert_close(first["loss"], second["loss"], rtol=1e-5, atol=1e-6)
    for name, tensor in strict.model.state_dict().items():
        torch.testing.assert_close(native_step.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


@on_the_cpu
def test_a_run_that_fails_leaves_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tn.compile(small()).requires_grad_(False)
    x = torch.rand(4, 24)
    want = model(x=x)
    runs = model._form.runner._recorded
    assert runs is not None and len(runs._kept) == 1

    def broken(self: Any, threads: int | None = None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(native.Bundle, "run", broken)
        with pytest.raises(KeyboardInterrupt):
            model(x=x)
    assert not runs._kept
    again = model(x=x)
    assert all(torch.equal(again[n], want[n]) for n in want)
