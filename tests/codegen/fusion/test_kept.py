"""Candidates kept on disk: the same program as without, no search where one is found, and no belief in wrong ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compiled import digits
from import_reader import all_imports, package_files, within
from paths import ROOT
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen import pipeline
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.kept import KIND, LEAST_VALUES, own_files, read, written
from tritonnotes.codegen.pipeline import canonicalize, finish, make_program, partition, schedule
from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE, KernelCache
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.optimizer import Optimizer
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

CHOICES = {
    "optimal": Fusion(),
    "greedy": Fusion("greedy"),
    "generated": Fusion(all_generated=True),
    "within memory": Fusion("greedy", memory_budget=10**6),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entries of a cache that is still empty."""
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / KIND


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that are planned from nothing."""
    found: list[Graph] = []
    greedy = pipeline.greedy
    monkeypatch.setattr(pipeline, "greedy", lambda graph, options: found.append(graph) or greedy(graph, options))
    return found


def step() -> Graph:
    """Norms, products, a loss and an update."""
    return joint_graph(digits(), "loss", tn.adam(lr=1e-3))


def regression(optimizer: Optimizer | None = None, act: str = "act") -> Graph:
    """Two products compute an activation of the input, each for itself."""
    graph = Graph("regression")
    x, y = graph.input("x", (tn.Dim("batch"), 50)), graph.input("y", (tn.Dim("batch"), 24))
    graph.output(loss=tn.mse_loss(tn.linear(tn.silu(x, name=act), 24, name="fc"), y))
    return joint_graph(graph, "loss", optimizer or tn.adam(lr=1e-3))


def replicated() -> Graph:
    """Every program counts the targets that are not ignored."""
    graph = Graph("classes")
    logits, y = graph.input("logits", (tn.Dim("batch"), 10)), graph.input("y", (tn.Dim("batch"),), "int64")
    graph.output(loss=tn.cross_entropy(logits, y, ignore_index=0))
    return gradient_graph(graph, ["logits"])


def drawn(seed: int) -> Graph:
    graph, _ = random_graph(seeded(seed))
    return gradient_graph(graph, [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float])


GRAPHS: dict[str, Callable[[], Graph]] = {"step": step, "regression": regression, "replicated": replicated}


@pytest.mark.parametrize(
    ("name", "choice"), [*((name, "optimal") for name in GRAPHS), *(("regression", choice) for choice in CHOICES)]
)
def test_a_program_is_the_same_with_what_was_kept(name: str, choice: str, folder: Path, searches: list[Graph]) -> None:
    graph, options = GRAPHS[name](), CHOICES[choice]
    alone = make_program(graph, options)
    assert not folder.exists() and len(searches) == 1
    first = make_program(graph, options, keep=True)
    assert len([*folder.iterdir()]) == 1 and len(searches) == 2
    again = make_program(GRAPHS[name](), options, keep=True)
    assert len(searches) == 2, "the second time nothing is searched"
    assert alone.source == first.source == again.source
    assert str(alone.plan) == str(again.plan) and str(alone) == str(again)


def test_parts_of_every_kind_are_written_and_read() -> None:
    parts = set()
    for make in GRAPHS.values():
        plain = canonicalize(make(), Fusion())
        found = partition(plain, Fusion())
        back = read(written(found), plain, Fusion())
        assert back is not None and str(back) == str(found)
        parts |= {u.part for u in back.units.units}
    assert parts == {"", "partial", "finalize", "replicated", "product", "operand"}


@pytest.mark.parametrize("seed", range(12))
def test_candidates_of_random_graphs_are_read_as_they_were_written(seed: int) -> None:
    plain = canonicalize(drawn(seed), Fusion())
    found = partition(plain, Fusion())
    back = read(written(found), plain, Fusion())
    assert back is not None and str(back) == str(found)
    assert finish(schedule(back)).source == finish(schedule(found)).source


def changed(said: dict[str, Any], draw: random.Random) -> str:
    """An entry of which one thing is another."""
    kernels = said["kernels"]
    kernel, other = draw.choice(kernels), draw.choice(kernels)
    match draw.choice(("moved", "other part", "order", "recomputed", "not recomputed", "dropped", "twice")):
        case "moved":
            other.append(kernel.pop(draw.randrange(len(kernel))))
        case "other part":
            draw.choice(kernel)[1] = draw.choice(("", "partial", "finalize", "product", "operand", "replicated", "x"))
        case "order":
            draw.shuffle(kernels)
        case "recomputed":
            said["recomputed"].append([draw.randrange(len(kernels)), [draw.choice(kernel)[0]]])
        case "not recomputed":
            said["recomputed"] = said["recomputed"][1:]
        case "dropped":
            kernel.pop()
        case "twice":
            other.append(draw.choice(kernel))
    said["kernels"] = [k for k in kernels if k]
    return json.dumps(said)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_changed_entry_is_refused_or_runs(name: str) -> None:
    """Whatever is read can be launched: lowering and verification find no fault in it."""
    draw = random.Random(0)
    plain = canonicalize(GRAPHS[name](), Fusion())
    text = written(partition(plain, Fusion()))
    refused = 0
    for _ in range(40):
        found = read(changed(json.loads(text), draw), plain, Fusion())
        if found is None:
            refused += 1
        else:
            assert finish(schedule(found)).source
    assert 15 < refused < 40


WRONG = {
    "nothing": lambda text: "",
    "no JSON": lambda text: "\x80\x04]",
    "another type": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
    "no kernels": lambda text: json.dumps({**json.loads(text), "kernels": []}),
    "a value that is not there": lambda text: json.dumps({**json.loads(text), "kernels": [[[10**6, ""]]]}),
    "a number that is none": lambda text: json.dumps({**json.loads(text), "kernels": [[[True, ""]]]}),
    "one kernel": lambda text: json.dumps({**json.loads(text), "kernels": [sum(json.loads(text)["kernels"], [])]}),
    "how it was found": lambda text: json.dumps({**json.loads(text), "how": 1}),
    "another graph": lambda text: written(partition(canonicalize(replicated(), Fusion()), Fusion())),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_entry_is_planned_anew_and_replaced(name: str, folder: Path, searches: list[Graph]) -> None:
    right = make_program(regression(), keep=True).source
    (entry,) = folder.iterdir()
    cache, key = KernelCache(), entry.stem
    text = (cache.get(KIND, key) or b"").decode()
    cache.put(KIND, key, WRONG[name](text).encode())
    searches.clear()
    assert make_program(regression(), keep=True).source == right
    assert any(graph.name == regression().name for graph in searches)
    assert (cache.get(KIND, key) or b"").decode() == text
    searches.clear()
    assert make_program(regression(), keep=True).source == right and not searches


@pytest.mark.parametrize("damage", ["cut short", "flipped", "writable by others", "a link"])
def test_a_damaged_entry_is_planned_anew(damage: str, folder: Path, searches: list[Graph]) -> None:
    right = make_program(regression(), keep=True).source
    (entry,) = folder.iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "cut short":
        entry.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-10] ^= 1
        entry.write_bytes(content)
    elif damage == "writable by others":
        entry.chmod(0o666)
    else:
        entry.rename(folder / "elsewhere")
        entry.symlink_to(folder / "elsewhere")
    assert make_program(regression(), keep=True).source == right and len(searches) == 2


def test_what_is_asked_for_and_the_graph_tell_entries_apart(folder: Path, searches: list[Graph]) -> None:
    """The graph is told by all that its text says: a number, the name of an op."""
    graphs = [regression(), regression(tn.sgd(lr=1e-3)), regression(act="activation")]
    asked = [(graph, Fusion("greedy")) for graph in graphs] + [(regression(), o) for o in CHOICES.values()][:1]
    for count, (graph, options) in enumerate(asked, 1):
        make_program(graph, options, keep=True)
        assert len([*folder.iterdir()]) == count == len(searches)


def test_small_graphs_and_wishes_are_planned_each_time(folder: Path) -> None:
    small = drawn(3)
    assert len(small.values) < LEAST_VALUES
    make_program(small, keep=True)
    for options in (Fusion("off"), Fusion(forbid=(("act", "fc"),)), Fusion(fuse=(("fc", "loss"),))):
        make_program(regression(), options, keep=True)
    assert not folder.exists()


def test_a_cache_that_cannot_be_used_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches: list[Graph]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "file"))
    assert make_program(regression(), keep=True).source == make_program(regression()).source
    assert len(searches) == 2


def deciding() -> Iterator[str]:
    """The modules that a candidate is found by: all that the passes up to it import."""
    imports = all_imports(ROOT)
    todo = ["tritonnotes.codegen.fusion", "tritonnotes.codegen.canonicalize"]
    names = package_files(ROOT)
    todo = [name for name in names if within(name, *todo)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [i.imported for i in imports if i.importer == name and i.imported in names]
    yield from seen


def test_the_key_holds_every_file_that_decides() -> None:
    """Else another version of the passes finds what an older one left."""
    files = package_files(ROOT)
    read_by_key = {path.resolve() for path in own_files()}
    assert len(read_by_key) > 40
    missing = {name for name in deciding() if files[name].resolve() not in read_by_key}
    assert {name for name in missing if files[name].name != "__init__.py"} == set()
