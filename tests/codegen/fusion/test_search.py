"""The exact plan against every plan there is: enumerated here one by one, with no bound and no order of its own."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from compiled import digits
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen import pipeline
from tritonnotes.codegen.analysis.units import PARTIAL, Unit, Units, UnitSet, is_elementwise, make_units
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.fusion.candidate import Candidate
from tritonnotes.codegen.fusion.cost import cost_of, scheduled_cost
from tritonnotes.codegen.fusion.legality import Legality, Rule
from tritonnotes.codegen.fusion.partition import Partition
from tritonnotes.codegen.fusion.reduction_strategy import combinations, other_strategies
from tritonnotes.codegen.fusion.search import select
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan, verify_plan
from tritonnotes.codegen.target.targets import TARGETS
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

MOST_UNITS = 8
MOST_PLANS = 2_000


def primitives(graph: Graph) -> Graph:
    return optimize(decompose(graph))


def gradients(graph: Graph) -> Graph:
    """Forward and backward as one graph."""
    return gradient_graph(graph, [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float])


def total(plan: FusionPlan) -> int:
    return cost_of(plan.candidate).total


def as_scheduled(plan: FusionPlan) -> int:
    """The cost with what last programs and joined updates save."""
    return scheduled_cost(plan.candidate).total


# -- every plan there is --


def set_partitions(units: list[Unit]) -> Iterator[list[list[Unit]]]:
    if not units:
        yield []
        return
    first, *others = units
    for rest in set_partitions(others):
        yield [[first], *rest]
        for i, part in enumerate(rest):
            yield [*rest[:i], [first, *part], *rest[i + 1 :]]


class Enumeration:
    """All partitions of units, each with all ways of computing values again that someone needs."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self.legality = Legality(units)
        self.unfused = Candidate(self.legality, Partition(tuple(frozenset([u]) for u in units.units)))
        self.known: dict[UnitSet, list[UnitSet]] = {}
        self.partitions = [[frozenset(p) for p in parts] for parts in set_partitions(list(self.units.units))]

    def __len__(self) -> int:
        return sum(math.prod(len(self.copies(k)) for k in kernels) for kernels in self.partitions)

    def best(self) -> int:
        """The least cost."""
        return min(cost_of(made).total for k in self.partitions for made in self.plans(k))

    def plans(self, kernels: list[UnitSet]) -> Iterator[Candidate]:
        for copies in itertools.product(*(self.copies(k) for k in kernels)):
            again = {k: tuple(u.value for u in c) for k, c in zip(kernels, copies, strict=True) if c}
            made = self.unfused.with_partition(Partition(tuple(kernels), again))
            if made is not None and all(self.may_write(k, made) for k in kernels):
                assert made.refusal is None
                yield made

    def copies(self, kernel: UnitSet) -> list[UnitSet]:
        """What a kernel may compute again; nothing at all, not even an empty set, if it is no kernel."""
        if kernel not in self.known:
            others = [u for u in self.units.units if is_elementwise(u) and u not in kernel]
            others = [u for u in others if not self.legality.facts[u].written]
            sets = itertools.chain.from_iterable(itertools.combinations(others, n) for n in range(len(others) + 1))
            self.known[kernel] = [c for c in map(frozenset, sets) if self.is_kernel(kernel, c)]
        return self.known[kernel]

    def is_kernel(self, kernel: UnitSet, copies: UnitSet) -> bool:
        held = kernel | copies
        read = {s for u in held for s in self.units.sources(u)}
        if any(u.value not in read for u in copies) or (copies and any(u.is_library for u in kernel)):
            return False
        facts = self.legality.facts_of(held)
        is_shaped = not isinstance(self.legality.shape(facts), Rule)
        return is_shaped and self.legality.conflict(held, facts, held.__contains__) is None

    def may_write(self, kernel: UnitSet, made: Candidate) -> bool:
        wanted = self.units.roots.union(*map(made.memories_read, made.kernels))
        shape = self.legality.shape(self.legality.facts_of(kernel))
        assert not isinstance(shape, Rule)
        written = [u for u in kernel if u.part != PARTIAL and u.value in wanted]
        return all(self.legality.axes_of[u] in shape.may_store for u in written)


def enumerations(graph: Graph) -> list[Enumeration]:
    """One for each combination of forms of reductions; none where a graph is too large for it."""
    graph = materialize(graph)
    usual = make_units(graph)
    made = [make_units(graph, forms) for forms in combinations(other_strategies(usual))]
    if not all(3 <= len(units.units) <= MOST_UNITS for units in made):
        return []
    found = [Enumeration(units) for units in made]
    return found if sum(map(len, found)) <= MOST_PLANS else []


def small_graphs(seeds: range) -> Iterator[tuple[str, Graph, list[Enumeration]]]:
    """Random graphs of up to 8 ops, forward alone or with gradients, with few enough plans to try them all."""
    for seed in seeds:
        graph, _ = random_graph(seeded(seed), 8)
        for kind, build in (("forward", primitives), ("gradients", gradients)):
            made = build(graph)
            every = enumerations(made)
            if every:
                yield f"{kind} of seed {seed}", made, every


@pytest.fixture(autouse=True)
def products_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched for are kernels; which of them multiply too is settled afterwards."""
    monkeypatch.setattr(pipeline, "fuse_matmul_epilogues", lambda found: found)


def assert_best(seeds: range, least: int) -> None:
    tried = 0
    for name, graph, every in small_graphs(seeds):
        plan = make_plan(graph)
        assert plan.fusion == "optimal"
        assert total(plan) == min(e.best() for e in every), f"{name}\n{graph}\n{plan}"
        tried += 1
    assert tried >= least


@pytest.mark.parametrize("price", [4_000_000, 2_000])
def test_no_plan_of_a_small_graph_is_better(monkeypatch: pytest.MonkeyPatch, price: int) -> None:
    """Also where a launch is so cheap that bytes decide."""
    monkeypatch.setitem(TARGETS, "gpu", replace(TARGETS["gpu"], launch_bytes=price))
    assert_best(range(60), 15)


@pytest.mark.slow
@pytest.mark.parametrize("price", [4_000_000, 2_000])
def test_no_plan_of_many_small_graphs_is_better(monkeypatch: pytest.MonkeyPatch, price: int) -> None:
    monkeypatch.setitem(TARGETS, "gpu", replace(TARGETS["gpu"], launch_bytes=price))
    assert_best(range(24, 200), 80)


# -- larger graphs: against the greedy plan ----------------------------------------------------------------------------


def assert_never_worse(seeds: range) -> None:
    for seed in seeds:
        graph, _ = random_graph(seeded(seed), 12)
        for build in (primitives, gradients):
            made = build(graph)
            best = make_plan(made)
            verify_plan(best)
            greedy, off = make_plan(made, "greedy"), make_plan(made, "off")
            assert as_scheduled(best) <= as_scheduled(greedy) <= as_scheduled(off), f"seed {seed}"


def test_optimal_is_never_worse_than_greedy_nor_greedy_than_nothing() -> None:
    assert_never_worse(range(15))


@pytest.mark.slow
def test_optimal_is_never_worse_than_greedy_on_200_graphs() -> None:
    assert_never_worse(range(200))


def test_a_search_that_ends_at_its_budget_keeps_the_greedy_plan_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = primitives(random_graph(seeded(13), 12)[0])
    proved = make_plan(graph)
    assert proved.fusion == "optimal" and total(proved) < total(make_plan(graph, "greedy"))
    monkeypatch.setattr(select, "budget_of", lambda start: 1)
    stopped = make_plan(graph)
    assert stopped.fusion == select.NOT_PROVED and total(stopped) == total(make_plan(graph, "greedy"))


def test_a_training_step_is_searched_and_a_large_one_is_not() -> None:
    assert make_plan(joint_graph(digits(), "loss", tn.adam())).fusion == select.NOT_PROVED
    deep = tn.Graph("deep")
    h = deep.input("x", (tn.Dim("batch"), 8))
    for _ in range(20):
        h = tn.tanh(tn.layer_norm(tn.linear(h, 8)))
    deep.output(loss=tn.mean(h * h))
    assert "too large" in make_plan(joint_graph(deep, "loss", tn.sgd(lr=0.1))).fusion


def test_a_rule_once_broken_stays_broken_for_larger_sets() -> None:
    """The search cuts off what breaks a rule, which is right only if nothing mends it."""
    draw = random.Random(0)
    broken = 0
    for seed in range(30):
        units = make_units(materialize(gradients(random_graph(seeded(seed), 12)[0])))
        legality = Legality(units)
        for _ in range(100):
            order = draw.sample(units.units, min(len(units.units), 8))
            shapes = [legality.shape(legality.facts_of(order[: n + 1])) for n in range(len(order))]
            first = next((i for i, s in enumerate(shapes) if isinstance(s, Rule)), len(shapes))
            assert all(isinstance(s, Rule) for s in shapes[first:])
            broken += first < len(shapes) - 1
    assert broken > 500
