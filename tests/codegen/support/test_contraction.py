"""Nodes that become one: refused just where networkx finds a circle, and the order holds from then on."""

from __future__ import annotations

import gc
from random import Random

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonnotes.codegen.support.contraction import Node, contract, dissolve, nodes_between


def linked(graph: nx.DiGraph, order: list[int]) -> dict[int, Node]:
    nodes = {name: Node() for name in order}
    for position, name in enumerate(order):
        nodes[name].position = position
    for one, other in graph.edges:
        nodes[one].after.add(nodes[other])
        nodes[other].before.add(nodes[one])
    return nodes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 16), st.floats(0.05, 0.5))
def test_two_become_one_where_that_makes_no_circle(seed: int, count: int, density: float) -> None:
    random = Random(seed)
    graph = nx.DiGraph((i, j) for j in range(count) for i in range(j) if random.random() < density)
    graph.add_nodes_from(range(count))
    nodes = linked(graph, list(nx.topological_sort(graph)))
    refused = joined = 0
    for _ in range(2 * count):
        if len(nodes) < 2:
            break
        one, other = sorted(random.sample(sorted(nodes), 2), key=lambda name: nodes[name].position)
        contracted = nx.contracted_nodes(graph, one, other, self_loops=False, store_contraction_as=None)
        between = nodes_between(nodes[one], nodes[other])
        assert (between is None) == (not nx.is_directed_acyclic_graph(contracted))
        if between is None:
            refused += 1
            continue
        contract(nodes[one], nodes.pop(other), between)
        graph, joined = contracted, joined + 1
        assert len({node.position for node in nodes.values()}) == len(nodes)
        names = {node: name for name, node in nodes.items()}
        assert {(name, names[n]) for name, node in nodes.items() for n in node.after} == set(graph.edges)
        assert {(names[n], name) for name, node in nodes.items() for n in node.before} == set(graph.edges)
        assert all(nodes[a].position < nodes[b].position for a, b in graph.edges)
    assert refused + joined > 0


def test_dissolved_nodes_need_no_collector() -> None:
    nodes = linked(nx.DiGraph([(0, 1), (1, 2), (0, 3)]), [0, 1, 3, 2])
    between = nodes_between(nodes[0], nodes[1])
    assert between is not None
    contract(nodes[0], nodes.pop(1), between)
    del between
    gc.collect()
    dissolve(nodes.values())
    del nodes
    assert gc.collect() == 0
