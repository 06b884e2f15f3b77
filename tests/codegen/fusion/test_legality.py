"""What the rules are remembered to have said is what they say when they are asked anew."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest
from compiled import digits
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.analysis.axes import Space
from tritonnotes.codegen.analysis.units import Unit, UnitSet, make_units
from tritonnotes.codegen.analysis.views import memory_of
from tritonnotes.codegen.canonicalize.materialize import materialize
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.facts import FactsOfUnits
from tritonnotes.codegen.fusion.legality import Legality, Refusal
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

Answers = dict[tuple[Legality, UnitSet, UnitSet], Space | Refusal]


def answers_while_planning(graph: Graph, options: Fusion) -> Answers:
    """What a plan asked of the spaces of kernels: whom, for which units and which of their results; and the answers."""
    found: Answers = {}
    ask = Legality.space

    def listen(self: Legality, members: UnitSet, stored: Collection[Unit] | None = None) -> Space | Refusal:
        written = [u for u in members if self.is_stored(u, members.__contains__)] if stored is None else stored
        found[self, members, frozenset(written)] = answer = ask(self, members, stored)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Legality, "space", listen)
        make_plan(graph, options)
    return found


def anew(legality: Legality) -> Legality:
    """The same rules for the same units, of which nothing is known."""
    pairs = ((one, other) for one, others in legality.apart.items() for other in others)
    return Legality(legality.units, pairs)


def asked() -> Iterator[tuple[Graph, Fusion]]:
    for seed in range(8):
        graph, _ = random_graph(seeded(seed), 8)
        yield gradient_graph(graph, [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]), Fusion()
    step = joint_graph(digits(), "loss", tn.adam())
    yield step, Fusion("greedy")
    yield step, Fusion("greedy", forbid=(("fc1", "relu1"),), is_strict=False)


def test_spaces_are_what_they_would_be_if_nothing_were_remembered() -> None:
    """Candidates under other strategies, and those with products in kernels, go on with what earlier ones found out."""
    handed_on = 0
    for graph, options in asked():
        answers = answers_while_planning(graph, options)
        for (legality, members, stored), answer in list(answers.items())[:: max(1, len(answers) // 60)]:
            fresh = anew(legality)
            assert answer == fresh.space(members, stored), f"{graph.name}: {sorted(map(str, members))}"
            assert legality.facts_of(members) == fresh.facts_of(members)
            assert legality.loads(members) == fresh.loads(members)
            # The same units, of which other results are stored.
            some = frozenset(list(members)[::2])
            assert legality.space(members, some) == anew(legality).space(members, some)
        handed_on += len({legality for legality, *_ in answers}) > 1
    assert handed_on >= 5


def test_facts_of_units_that_are_alike_are_those_of_each() -> None:
    """Units with equal axes share facts: of each asked alone, of rules that know nothing, come the same."""
    alike = 0
    for graph, _ in asked():
        plain = materialize(graph)
        units = make_units(plain)
        legality = Legality(units)
        updated = {memory_of(new): plain[name] for name, new in plain.updates.items() if not new.is_leaf}
        written_as = {leaf: units.axes.iterated(units.axes.labels[v]) for v, leaf in updated.items()}
        for unit in units.units[:: max(1, len(units.units) // 40)]:
            of_one = FactsOfUnits(units.axes, updated, written_as)
            assert legality.facts[unit] == of_one.of(unit, legality.sources[unit]), str(unit)
        alike += len(units.units) - len({id(legality.facts[u]) for u in units.units})
    assert alike > 200
