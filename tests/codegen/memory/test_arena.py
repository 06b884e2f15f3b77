"""The arena of a program: what lives at one time lies apart, other memory is shared, and nobody reads what is stale.

Lifetimes are read off the generated `run` here, by the tensors that each of its lines names.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from types import MappingProxyType
from typing import Any

import pytest
import torch
from compiled import digits
from paths import ROOT
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tritonnotes as tn
from tritonnotes.codegen.memory.arena import Arena, place, verify_arena
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.ir.core.errors import KernelError, VerificationError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.judge.eager_memory import LiveMemory, eager_peak_bytes
from tritonnotes.judge.samples import draw_feeds
from tritonnotes.runtime.executors.execution import Execution
from tritonnotes.runtime.runner import Runner

sys.path.insert(0, str(ROOT))

from benchmarks.nets import residual_net

SIZES = ({"batch": 1}, {"batch": 7}, {"batch": 256}, {"batch": 4097})


def step_of(graph: Graph, loss: str = "loss") -> Program:
    return make_program(joint_graph(graph, loss, tn.adam()), declared=graph)


def programs() -> dict[str, Program]:
    return {"digits": step_of(digits()), "residual": step_of(residual_net(40))}


def written_out(lines: Sequence[ast.stmt], known: Mapping[str, int] = MappingProxyType({})) -> Iterator[ast.stmt]:
    """Statements as if no loop over numbers stood for several of them."""
    for line in lines:
        if isinstance(line, ast.For):
            assert isinstance(line.target, ast.Name) and isinstance(line.iter, ast.Call)
            for number in range(*(ast.literal_eval(bound) for bound in line.iter.args)):
                yield from written_out(line.body, {**known, line.target.id: number})
        else:
            yield _Numbered(known).visit(deepcopy(line))


class _Numbered(ast.NodeTransformer):
    """Puts the numbers of loops into names such as f"fc{n}"."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = dict(known)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
        return ast.Constant(eval(ast.unparse(node), {}, self.known))


def mentions(program: Program) -> list[set[str]]:
    """The tensors that each launch of the generated `run` names."""
    module = ast.parse(program.source)
    (run,) = (n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "run")
    tables: dict[str, set[str]] = {}
    found = []
    for line in written_out(run.body):
        names = {
            n.slice.value
            for n in ast.walk(line)
            if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Constant) and isinstance(n.slice.value, str)
        }
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and names:
            tables[line.targets[0].id] = names
        elif isinstance(line, ast.Expr) and isinstance(line.value, ast.Call):
            words = {n.id for n in ast.walk(line) if isinstance(n, ast.Name)}
            found.append(names.union(*(tables[w] for w in words if w in tables)))
    return found


@pytest.mark.parametrize("name", programs())
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_buffers_that_live_at_one_time_lie_apart(name: str, sizes: Mapping[str, int]) -> None:
    program = programs()[name]
    launches = mentions(program)
    assert len(launches) == len(program.plan.launches)
    for shared in (1, 5):
        placed = program.arena.placement(sizes, shared)
        spans: dict[str, tuple[int, int]] = {}
        lives: dict[str, set[int]] = {}
        for buffer in program.buffers:
            if buffer.role in ("leaf", "output"):
                assert buffer.name not in placed.offsets
                continue
            start = placed.offsets[buffer.name]
            # As wide accesses as memory of its own has, and never across more lines of the cache than it fills.
            size = buffer.bytes(sizes, shared)
            assert start % 256 == 0 or (start % 16 == 0 and size <= 128 and start // 256 == (start + size - 1) // 256)
            spans[buffer.name] = start, start + buffer.bytes(sizes, shared)
            used = [i for i, names in enumerate(launches) if buffer.name in names]
            whole = buffer.role == "arrivals"
            lives[buffer.name] = set(range(len(launches))) if whole else set(range(used[0], used[-1] + 1))
        for one, other in combinations(spans, 2):
            if lives[one] & lives[other]:
                assert spans[one][1] <= spans[other][0] or spans[other][1] <= spans[one][0], (one, other)
        alive = [sum(b - a for n, (a, b) in spans.items() if i in lives[n]) for i in range(len(launches))]
        assert placed.bytes == max(stop for _, stop in spans.values())
        # What lives at one time has to fit; alignment and gaps cost little on top.
        assert max(alive) <= placed.bytes <= 1.1 * max(alive) + 256 * len(spans)


def test_the_largest_go_first_and_the_rest_into_the_smallest_gap() -> None:
    spans = {"a": (1024, 0, 1), "b": (256, 1, 2), "c": (512, 2, 3), "d": (100, 0, 3), "e": (0, 0, 3)}
    offsets, total = place(spans)
    assert offsets["a"] == 0 and offsets["c"] == 0
    assert offsets["b"] == 1024 and offsets["d"] not in (0, 1024) and total <= 1536
    assert place(spans) == (offsets, total)
    assert place({}) == ({}, 0)


def test_a_step_of_many_layers_needs_no_more_than_a_fraction_of_its_buffers() -> None:
    program = step_of(residual_net(100))
    assert program.peak_bytes(batch=512, programs=1) < 0.6 * program.buffer_bytes(batch=512, programs=1)


def shortened(program: Program, name: str) -> Program:
    """The program with the life of one buffer over a launch too early."""
    lives = tuple(replace(x, last=x.first) if x.buffer.name == name else x for x in program.arena.lives)
    assert lives != program.arena.lives
    planted = replace(program)
    planted.__dict__["arena"] = Arena(lives)
    return planted


def run_step(program: Program) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    leaves = {}
    for buffer in program.buffers:
        if buffer.role == "leaf":
            shape = [8 if not isinstance(s, int) else s for s in buffer.shape]
            leaves[buffer.name] = torch.rand(shape) if buffer.dtype.is_float else torch.zeros(shape, dtype=torch.int64)
    numbers = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 1.0}
    scalars = {v.name: numbers[v.name.rpartition(".")[2]] for v in program.graph.leaves("scalar")}
    return Runner(program, torch.device("cpu"), Execution(strict=True)).run(leaves, {"batch": 8}, scalars)


@pytest.mark.parametrize("name", ["h", "relu", "fc1.product", "ln2.d_x"])
def test_a_read_of_what_another_buffer_left_is_noticed(name: str) -> None:
    program = step_of(digits())
    assert all(t.isfinite().all() for t in run_step(program).values())
    with pytest.raises(VerificationError, match=f"touches {name}"):
        verify_arena(shortened(program, name).arena, program.uses)
    with pytest.raises(KernelError, match="nothing has written since its life began"):
        run_step(shortened(program, name))


def test_a_read_before_anything_is_written_is_noticed() -> None:
    """The first launch reads what the last one of the run before left."""
    program = make_program(joint_graph(digits(), "loss", tn.adam()), "off")
    planted = replace(program)
    text = program.source.replace('torch.mm(t["x"], t["fc1.weight"].T, out=t["fc1.product"])', "pass")
    assert text != program.source
    planted.__dict__["_rendered"] = text, program.kernel_sources
    planted.__dict__["uses"] = (replace(program.uses[0], writes=frozenset()), *program.uses[1:])
    planted.__dict__["arena"] = program.arena
    with pytest.raises(KernelError, match=r"memory of fc1\.product"):
        run_step(planted)


class Made(TorchDispatchMode):
    """The memory that torch makes, by the op that made it, and how often a number is read off a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...]]] = []
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        given |= {a.untyped_storage().data_ptr() for a in (kwargs or {}).values() if isinstance(a, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        self.read += func is torch.ops.aten._local_scalar_dense.default
        if isinstance(out, torch.Tensor) and out.numel() and out.untyped_storage().data_ptr() not in given:
            self.found.append((str(func), tuple(out.shape)))
        return out


def test_a_step_makes_nothing_but_its_outputs_after_the_first() -> None:
    step = tn.compile_step(digits(), optimizer=tn.adam())
    feeds = draw_feeds(digits(), {"batch": 16})
    step._runner.targets = ()  # class indices are looked at on the CPU, where the host sees them, with its own tensors
    made = {}
    for turn in range(3):
        with Made() as mode:
            outputs = step(**feeds)
        made[turn] = sorted(shape for _, shape in mode.found)
        assert mode.read == 0, "on a GPU the host would wait for each number that it reads"
    assert made[1] == made[2] == sorted(tuple(t.shape) for t in outputs.values())
    assert len(made[0]) == len(made[1]) + 1, "the first step makes the arena too"


def table_case() -> Graph:
    """The first case of the benchmark's table of launches and bytes."""
    g = Graph("step")
    x, y = g.input("x", (tn.Dim("batch"), 64)), g.input("y", (tn.Dim("batch"),), dtype="int64")
    h = tn.prelu(tn.batch_norm(tn.linear(x, 128, name="fc1"), name="bn1"), name="act1")
    h = tn.elu(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2"))
    g.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc3"), y))
    return g


def test_eager_is_counted_as_torch_modules_on_the_cpu_hold_it() -> None:
    """The count on the meta device, against storages that live in a run of torch's own modules."""
    layers = (nn.Linear(64, 128), nn.BatchNorm1d(128), nn.PReLU(), nn.Linear(128, 128), nn.LayerNorm(128), nn.ELU())
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    x, y = torch.rand(256, 64), torch.zeros(256, dtype=torch.int64)
    memory = LiveMemory()
    memory.leave_out({"x": x, "y": y, **model.state_dict(keep_vars=True)})
    with memory:
        nn.functional.cross_entropy(model(x), y).backward()
    assert eager_peak_bytes(table_case(), "loss", {"batch": 256}) == memory.peak
    held = sum(p.grad.untyped_storage().nbytes() for p in model.parameters() if p.grad is not None)
    gc.collect()
    assert memory.live == held, "all else is freed, and seen to be"


def test_a_step_tells_what_it_needs_before_it_runs_beside_eager() -> None:
    step = tn.compile_step(table_case(), optimizer=tn.adam())
    text = " ".join(step.explain().split())
    peak, eager = step.peak_bytes(256), step.eager_peak_bytes(256)
    assert f"at batch 256: {peak:,} bytes" in text and f"holds {eager:,} bytes at its peak" in text
    assert eager is not None and f"this program holds {peak / eager:.2f} times that" in text
    assert step.peak_bytes(512) > peak and not step._runner.updating._buffers


def test_peak_bytes_is_what_a_run_holds() -> None:
    step = tn.compile_step(digits(), optimizer=tn.adam())
    outputs = step(**draw_feeds(digits(), {"batch": 40}))
    (held,) = step._runner.updating._buffers.values()
    arena = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held.values()}
    made = sum(arena.values()) + sum(t.untyped_storage().nbytes() for t in outputs.values())
    assert len(arena) == 1 and made == step.program.peak_bytes(40, programs=1)


def test_peak_bytes_of_accumulated_batches_is_what_both_programs_hold() -> None:
    step = tn.compile_step(digits(), optimizer=tn.adam(), accumulate=2)
    outputs = [step(**draw_feeds(digits(), {"batch": 40})) for _ in range(2)]
    assert step._runner.gathering is not None
    arenas = {}
    for runner in (step._runner.updating, step._runner.gathering):
        (held,) = runner._buffers.values()
        arenas |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held.values()}
    made = max(sum(t.untyped_storage().nbytes() for t in found.values()) for found in outputs)
    assert len(arenas) == 2 and step.peak_bytes(40, programs=1) == sum(arenas.values()) + made
    text = " ".join(step.explain().split())
    assert f"at batch 256: {step.peak_bytes(256):,} bytes, the outputs and two arenas" in text
    assert text.index("Gathering gradients") < text.index("The last batch and the update")
