"""Fusion plans: every edge has its reason, kernels run in an order that feeds each, and broken plans are noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import networkx
import pytest
from compiled import digits
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.analysis.views import is_join, memory_of, needs_kernel
from tritonnotes.codegen.fusion.search import branch_and_bound
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan, verify_plan
from tritonnotes.codegen.plan.launches import KernelPlan, Launch, TileLaunch
from tritonnotes.ir.core.errors import PlanError, VerificationError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

MODES = ("optimal", "greedy", "off")
BATCH = tn.Dim("batch")


def step_plan(fusion: str = "optimal", optimizer: Any = None) -> FusionPlan:
    """The demo's training step."""
    return make_plan(joint_graph(digits(), "loss", optimizer or tn.adam()), fusion)


def random_plans(seed: int, fusion: str) -> list[FusionPlan]:
    """A random graph forward, and with its gradients."""
    graph, _ = random_graph(seeded(seed), 8)
    made = [make_plan(optimize(decompose(graph)), fusion)]
    wanted = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    return [*made, make_plan(gradient_graph(graph, wanted), fusion)]


def plan_of(build: Callable[..., Any], *shapes: Any, fusion: str = "optimal") -> FusionPlan:
    """The plan of one function of inputs x0, x1, … of these shapes."""
    graph = Graph("small")
    graph.output(y=build(*(graph.input(f"x{i}", shape) for i, shape in enumerate(shapes))))
    return make_plan(optimize(decompose(graph)), fusion)


def is_number(value: Value) -> bool:
    return value.dtype.name == "host" or value.op.name in ("constant", "iota")


def leaves_behind(value: Value) -> list[Value]:
    """What is in memory of all that a value is computed from, numbers apart."""
    found = [leaf for arg in value.inputs for leaf in leaves_behind(arg)]
    return [value] if value.is_leaf and not is_number(value) else found


# -- what must hold of every plan --------------------------------------------------------------------------------------


def assert_sound(plan: FusionPlan) -> None:
    """Found by walking over the graph and the launches, with nothing that the plan says of itself."""
    verify_plan(plan)
    computed = [v.index for v in plan.graph.values if needs_kernel(v)]
    placed = [u.value.index for k in plan.launches for u in k.units if u.part != "partial"]
    placed += [v.index for k in plan.launches for u in k.units for v in plan.units.inside(u)]
    assert sorted(placed) == computed, "a primitive is in no kernel, or in two"
    partials = {u.value for k in plan.launches for u in k.units if u.part == "partial"}
    assert partials == {v for k in plan.launches for v in k.finalizes}
    ready = {v for v in plan.graph.values if v.is_leaf}
    for kernel in plan.launches:
        inside, loaded = set(kernel.values), {memory_of(v) for v in kernel.loads}
        for value in kernel.loads:
            memory = memory_of(value)
            assert ready.issuperset(memory.inputs if is_join(memory) else (memory,)), f"{kernel.name}: {memory.name}"
        for value in kernel.values:
            sources = [] if value in set(kernel.finalizes) else map(memory_of, value.inputs)
            if value in plan.units.replicated:
                sources = leaves_behind(value)
            for source in sources:
                at_hand = is_number(source) or source in loaded or source in inside
                assert at_hand, f"{kernel.name}: {value.name} reads {source.name}"
        ready |= set(kernel.stores)
    for root in plan.graph.roots:
        memory = memory_of(root)
        assert ready.issuperset(memory.inputs if is_join(memory) else (memory,)), f"{root.name} reaches no memory"


@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_plan_of_the_demo_is_sound(rule: str, fusion: str) -> None:
    assert_sound(step_plan(fusion, {"adam": tn.adam(), "sgd": tn.sgd()}[rule]))


@pytest.mark.parametrize("fusion", MODES)
@pytest.mark.parametrize("first", [0, 8, 16])
def test_plans_of_random_graphs_are_sound(first: int, fusion: str) -> None:
    for seed in range(first, first + 8):
        for plan in random_plans(seed, fusion):
            assert_sound(plan)


def test_value_that_a_library_call_reads_is_never_computed_inside_it() -> None:
    """A small operand is dearer to load than to compute again, but a library call computes nothing else."""
    graph = Graph("operand")
    x = graph.input("x", (1,))
    graph.output(y=tn.linear(tn.sign(x), 8, name="fc"), z=2 / (x * x + 1))
    for fusion in MODES:
        plan = make_plan(optimize(decompose(graph)), fusion)
        assert_sound(plan)
        assert all(len(k.units) == 1 and not k.recomputed for k in plan.launches if k.is_library)


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["optimal", "greedy"])
def test_every_edge_of_the_demo_has_one_verdict_with_a_reason(fusion: str) -> None:
    assert_every_edge_has_its_verdict(step_plan(fusion))


def test_every_edge_of_a_random_graph_has_one_verdict_with_a_reason() -> None:
    for seed in range(8):
        for plan in random_plans(seed, "optimal"):
            assert_every_edge_has_its_verdict(plan)


def assert_every_edge_has_its_verdict(plan: FusionPlan) -> None:
    edges = {(a.name, v.name) for v in plan.graph.values if needs_kernel(v) for a in v.inputs}
    assert {(v.source, v.target) for v in plan.verdicts} == edges
    assert len(plan.verdicts) == len(edges)
    values = {v.name: v for v in plan.graph.values}
    # A sum over all rows is at home in two kernels: one takes it, one ends it.
    homes: dict[Value, list[Launch]] = {}
    for kernel in plan.launches:
        inside = (v for u in kernel.units for v in plan.units.inside(u))
        for value in dict.fromkeys((*(u.value for u in kernel.units), *inside)):
            homes.setdefault(value, []).append(kernel)
    for verdict in plan.verdicts:
        assert verdict.rule and len(verdict.reason) > 5 and verdict.bytes >= 0
        source, near = memory_of(values[verdict.source]), homes[values[verdict.target]]
        if verdict.fused:
            computed = {v for k in near for v in (*k.values, *(v for u in k.units for v in plan.units.inside(u)))}
            assert is_number(source) or source in computed, str(verdict)
        else:
            assert any(source in {memory_of(v) for v in k.loads} for k in near), str(verdict)
        assert (" fused, " if verdict.fused else " not fused, ") in str(verdict) and verdict.reason in str(verdict)


def test_reasons_name_what_stands_between() -> None:
    rules = {(v.source, v.target): v.rule for v in step_plan().verdicts}
    assert rules["fc1.product", "fc1"] == "same kernel" and rules["relu", "fc2.product"] == "matmul"
    assert rules["fc1.bias", "fc1"] == "leaf"
    assert rules["fc1", "ln1.sum"] == "same kernel"
    assert rules["ln1.mean", "ln1.centered"] == "same kernel"


# -- launches, bytes, shapes of plans ----------------------------------------------------------------------------------


def test_unfused_plan_has_a_kernel_for_every_primitive() -> None:
    plan = step_plan("off")
    assert plan.fusion == "off"
    assert all(len(k.units) == 1 and not k.recomputed for k in plan.launches)
    assert len(plan.launches) == len(plan.units.units) > 4 * len(step_plan().launches)


def test_fusion_is_worth_its_while() -> None:
    """Each way of planning moves no more bytes, in no more launches, than the one before."""
    plans = [step_plan(fusion) for fusion in ("off", "greedy", "optimal")]
    moved = [p.bytes_moved() for p in plans]
    assert moved == sorted(moved, reverse=True) and moved[1] < moved[0] / 2
    assert len(plans[1].launches) < len(plans[0].launches)


def test_bytes_of_a_chain_are_those_counted_by_hand() -> None:
    # x0 (batch, 40) and x1 (40,) in, y out; apart, the sum of both is written and read again.
    fused, apart = (plan_of(lambda x, b: tn.tanh(x + b), (BATCH, 40), (40,), fusion=f) for f in ("optimal", "off"))
    assert len(fused.launches) == 1 and len(apart.launches) == 2
    assert fused.bytes_moved(batch=100) == 4 * (100 * 40 + 40 + 100 * 40)
    assert apart.bytes_moved(batch=100) == fused.bytes_moved(batch=100) + 2 * 4 * 100 * 40
    assert fused.bytes_moved() == fused.bytes_moved(batch=256)


def test_bytes_of_a_norm_are_those_counted_by_hand() -> None:
    graph = Graph("norm")
    x = graph.input("x", (BATCH, 30), "bfloat16")
    graph.output(y=tn.layer_norm(x, weight=graph.parameter("weight", (30,)), bias=graph.parameter("bias", (30,))))
    (kernel,) = make_plan(optimize(decompose(graph))).launches
    assert kernel.kind == "row"
    assert kernel.bytes_moved(batch=7) == 2 * (7 * 30) + 2 * (4 * 30) + 2 * (7 * 30)


def test_bytes_of_two_dims_are_told_apart() -> None:
    plan = plan_of(lambda x: tn.exp(x), (BATCH, tn.Dim("length")))
    assert plan.bytes_moved(batch=3, length=5) == 2 * 4 * 3 * 5
    assert plan.bytes_moved(batch=3) == 2 * 4 * 3 * 3


def test_kinds_name_the_case() -> None:
    cases: dict[str, Callable[..., Any]] = {
        "elementwise": lambda x: tn.exp(x),
        "row": lambda x: tn.softmax(x, -1),
        "column": lambda x: tn.sum(x, 0),
        "row and column": lambda x: tn.sum(x - tn.mean(x, 1, keepdim=True), 0),
    }
    for kind, build in cases.items():
        (launch,) = plan_of(build, (BATCH, 33)).launches
        kinds = [piece.kind for piece in launch.pieces]
        assert kinds[0] == kind and kinds[1:] == (["finalize"] if "column" in kind else []), f"{kind}: {kinds}"


@pytest.mark.parametrize("fusion", MODES)
def test_networkx_shows_the_launches_and_who_waits_for_whom(fusion: str) -> None:
    plan = step_plan(fusion)
    shown = plan.to_networkx()
    assert list(shown) == [k.name for k in plan.launches] and len(set(shown)) == len(plan.launches)
    for kernel in plan.launches:
        data = {"kind": kernel.kind, "ops": kernel.ops, "bytes": kernel.bytes_moved()}
        assert shown.nodes[kernel.name] == data
    assert networkx.is_directed_acyclic_graph(shown)
    writer = {v: k.name for k in plan.launches for v in k.stores}
    summed = {v: k.name for k in plan.launches for v in k.partials}
    for kernel in plan.launches:
        needed = [writer[m] for v in kernel.loads if (m := memory_of(v)) in writer]
        needed += [summed[v] for v in kernel.finalizes]
        assert set(needed) - {kernel.name} <= set(shown.predecessors(kernel.name)), (
            f"{kernel.name} runs before {needed}"
        )
    position = {name: i for i, name in enumerate(shown)}
    assert all(position[a] < position[b] for a, b in shown.edges), "a launch comes before what it waits for"


def test_plan_prints_each_launch_with_what_it_reads_and_writes() -> None:
    plan = step_plan()
    text = str(plan)
    assert f"{len(plan.kernels)} kernels and 0 library calls" in text and f"{plan.bytes_moved():,} bytes" in text
    assert [line.strip().split(":")[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "] == [
        k.name for k in plan.launches
    ]


# -- faults ------------------------------------------------------------------------------------------------------------


def changed(plan: FusionPlan, index: int, **how: Any) -> FusionPlan:
    """The plan with one kernel altered."""
    launches = list(plan.launches)
    launches[index] = replace(tile_launch(plan, index), kernel=replace(kernel(plan, index), **how))
    return with_launches(plan, launches)


def turned(plan: FusionPlan, index: int) -> FusionPlan:
    """The plan with what one last program does first."""
    launches = list(plan.launches)
    old = tile_launch(plan, index)
    first, *rest = [*old.last_block, old.kernel]
    launches[index] = replace(old, kernel=first, last_block=tuple(rest))
    return with_launches(plan, launches)


def tile_launch(plan: FusionPlan, index: int) -> TileLaunch:
    found = plan.launches[index]
    assert isinstance(found, TileLaunch)
    return found


def kernel(plan: FusionPlan, index: int) -> KernelPlan:
    return tile_launch(plan, index).kernel


def with_launches(plan: FusionPlan, launches: list[Launch]) -> FusionPlan:
    partition = replace(plan.partition, kernels=tuple(frozenset(piece.units) for k in launches for piece in k.pieces))
    return replace(plan, launches=tuple(launches), candidate=replace(plan.candidate, partition=partition))


def swapped(plan: FusionPlan, a: int, b: int) -> FusionPlan:
    launches = list(plan.launches)
    launches[a], launches[b] = launches[b], launches[a]
    return with_launches(plan, launches)


def first(plan: FusionPlan, has: Callable[[Launch], object]) -> int:
    return next(i for i, k in enumerate(plan.launches) if has(k))


FAULTS: dict[str, tuple[Callable[[FusionPlan], FusionPlan], str]] = {
    "a primitive in no kernel": (lambda p: changed(p, 1, units=kernel(p, 1).units[1:]), "in no kernel, or in two"),
    "a launch left out": (lambda p: with_launches(p, [*p.launches[1:]]), "in no kernel, or in two"),
    "a primitive in two kernels": (
        lambda p: changed(p, 3, units=(*kernel(p, 3).units, kernel(p, 1).units[0])),
        "in no kernel, or in two",
    ),
    "a kernel twice": (lambda p: with_launches(p, [*p.launches, p.launches[1]]), "in no kernel, or in two"),
    "a kernel before what it reads": (lambda p: swapped(p, 0, 1), "runs before fc1_ln1_relu, which"),
    "a store left out": (lambda p: changed(p, 1, stores=kernel(p, 1).stores[:-1]), "before it is written"),
    "partial sums left out": (lambda p: changed(p, first(p, lambda k: k.partials), partials=()), "too early"),
    "sums finished before they are taken": (
        lambda p: turned(p, first(p, lambda k: len(k.stages) > 1)),
        "finalize_.* finalizes .* too early",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_noticed(fault: str) -> None:
    plan = step_plan("greedy")
    verify_plan(plan)
    plant, said = FAULTS[fault]
    with pytest.raises(VerificationError, match=f"plan of digits: .*({said})"):
        verify_plan(plant(plan))


def test_kernels_that_wait_for_each_other_are_noticed() -> None:
    """exp and its sum in one kernel, with the product between them in another."""
    graph = Graph("circle")
    x, w = graph.input("x", (4, 4)), graph.parameter("w", (4, 4))
    graph.output(y=tn.exp(tn.matmul(tn.tanh(x), w)))
    plan = make_plan(optimize(decompose(graph)), "off")
    (early, late), product = (kernel(plan, 0), kernel(plan, 2)), plan.launches[1]
    both = replace(early, units=(*early.units, *late.units), loads=(*early.loads, *late.loads), stores=late.stores)
    with pytest.raises(VerificationError, match="runs before .*, which it waits for"):
        verify_plan(with_launches(plan, [replace(tile_launch(plan, 0), kernel=both), product]))


def test_impossible_mode_names_those_there_are() -> None:
    with pytest.raises(PlanError, match="'everything'.*'greedy'"):
        step_plan("everything")


# -- work --------------------------------------------------------------------------------------------------------------


def test_planning_the_demo_takes_few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What planning does is counted, not timed: how long that takes is the machine's affair, and a benchmark's."""
    tried: list[int] = []
    search = branch_and_bound.Search.run

    def counted(self: branch_and_bound.Search, known: int, budget: int) -> branch_and_bound.Found:
        found = search(self, known, budget)
        tried.append(found.tried)
        return found

    monkeypatch.setattr(branch_and_bound.Search, "run", counted)
    make_plan(joint_graph(digits(), "loss", tn.adam()))
    assert len(tried) == 1 and 0 < tried[0] <= 120, tried
