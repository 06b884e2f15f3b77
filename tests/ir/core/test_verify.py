"""Verification notices every broken invariant, names op and value, and shows the lines around it."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import pytest
from counted_work import lines_run
from graphs_for_text import digits, levels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import random_graph

from tritonnotes import cross_entropy, relu, sigmoid
from tritonnotes.ir import Dim, Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import VerificationError
from tritonnotes.ir.core.graph import Region
from tritonnotes.ir.core.op import lookup
from tritonnotes.ir.core.rewrite import copy_graph, optimize
from tritonnotes.ir.core.types import float64, int64
from tritonnotes.ir.core.verify import verify, verify_joint
from tritonnotes.ir.optim.update_rules import adam, sgd, sgd_momentum
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import gradient_graph, joint_graph

LINES_A_VALUE = 320
"""Lines of Python that verifying a value may take: what it took, and half as much again."""


def small(level: str = "primitive") -> Graph:
    """x and w, y = x · w, z = relu(y) as primitives, an output and an update."""
    g = Graph("small", level=level)
    x = g.input("x", (Dim("batch"), 4))
    w = g.parameter("w", (4,), init=0.5)
    y = x * w
    z = relu(y)
    total = P.sum(z)
    new = w - 0.1 * P.sum(y, 0)
    g.output(total=total)
    g.update(w, new)
    return g


# -- what is sound -----------------------------------------------------------------------------------------------------


def test_every_stage_of_a_model_verifies() -> None:
    for level, graph in levels().items():
        verify(graph)
        if level == "joint":
            verify_joint(graph)


@pytest.mark.parametrize("rule", [sgd(lr=0.1), sgd(lr=0.1, weight_decay=0.1), sgd_momentum(lr=0.1), adam(lr=1e-3)])
def test_joint_graphs_hold_nothing_dead_and_nothing_twice(rule: object) -> None:
    verify_joint(joint_graph(digits(), "loss", rule))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_every_stage_of_a_random_graph_verifies(data: st.DataObject) -> None:
    graph, _ = random_graph(lambda choices: data.draw(st.sampled_from(list(choices))))
    verify(graph)
    verify(decompose(graph))
    verify_joint(optimize(decompose(graph)))
    verify_joint(gradient_graph(graph, [v.name for v in graph.leaves("input", "parameter")]))


def test_one_op_with_other_attributes_is_inferred_anew() -> None:
    g = Graph("g")
    logits, target = g.input("logits", (Dim("batch"), 4)), g.input("target", (Dim("batch"),), "int64")
    shapes = [cross_entropy(logits, target, reduction=r).shape for r in ("mean", "none", "sum")]
    assert shapes == [(), (Dim("batch"),), ()]
    verify(g)


def test_verifying_takes_little_and_linear_work() -> None:
    def long(count: int) -> Graph:
        g = Graph("long")
        h = g.input("x", (Dim("batch"), 64))
        w = g.parameter("w", (64,))
        while len(g.values) < count:
            h = sigmoid(P.tanh(h * w + 1))
        g.output(h=h)
        return g

    def lines(graph: Graph, check: Callable[[Graph], None]) -> int:
        check(graph)
        return lines_run(lambda: check(graph))

    assert lines(long(300), verify) < min(3.3 * lines(long(100), verify), 300 * LINES_A_VALUE)
    joint = levels()["joint"]
    assert len(joint.values) > 200
    assert lines(joint, verify_joint) < len(joint.values) * LINES_A_VALUE


# -- what is broken ----------------------------------------------------------------------------------------------------


def put(value: Value, **fields: object) -> None:
    for field, content in fields.items():
        setattr(value, field, content)


def attrs(**given_: object) -> MappingProxyType[str, object]:
    return MappingProxyType(given_)


def _swap(g: Graph) -> None:
    a, b = g["y"].index, g["z"].index
    g.values[a], g.values[b] = g.values[b], g.values[a]


def _reorder(g: Graph) -> None:
    """y moves to the end, behind its users."""
    moved = g.values.pop(g["y"].index)
    g.values.append(moved)
    for index, value in enumerate(g.values):
        value.index = index


def _cycle(g: Graph) -> None:
    late = g["z"]
    put(g["y"], args=(late, g["w"]))


def _stranger(g: Graph) -> None:
    other = Graph("other", level="primitive")
    put(g["y"], args=(other.input("q", (Dim("batch"), 4)), g["w"]))


def _adopted(g: Graph) -> None:
    other = Graph("other", level="primitive")
    stranger = other.input("q", (3,))
    stranger.index = len(g.values)
    g.values.append(stranger)


def _dropped(g: Graph) -> None:
    dropped = g.values.pop(0)
    for index, value in enumerate(g.values):
        value.index = index
    assert dropped.index == 0


def _region(g: Graph, **fields: object) -> None:
    region = g.regions[0] if g.regions else None
    op, out = lookup("relu"), g["z"]
    args = (g["y"],)
    made = {"op": op, "args": args, "attrs": attrs(), "out": out, "scope": out.scope, **fields}
    if region is not None:
        g.regions.clear()
    g.regions.append(Region(**made))  # type: ignore[arg-type]


def _foreign() -> Value:
    return Graph("other", level="primitive").input("q", (3,))


BREAKAGES: dict[str, tuple[Callable[[Graph], object], str]] = {
    "an unknown level": (lambda g: setattr(g, "level", "kernel"), "level is 'kernel'"),
    "an index that is not the position": (_swap, "has index .*, but stands at"),
    "a user before its argument": (_reorder, "takes 'y', which comes only after it"),
    "a cycle": (
        _cycle,
        "takes 'z', which comes from it: a cycle .*z → .*y|takes 'z', which comes from it: a cycle y → .*z",
    ),
    "a value of itself": (lambda g: put(g["y"], args=(g["y"], g["w"])), "a cycle y → y"),
    "an argument of another graph": (_stranger, "takes 'q', which is no value of this graph"),
    "a value of another graph": (_adopted, "belongs to graph 'other'"),
    "an argument that was dropped": (_dropped, "takes 'x', which is no value of this graph"),
    "a name twice": (lambda g: put(g["y"], _name="x"), "has a name that value 0 has already"),
    "a name that is code": (lambda g: put(g["y"], _name="m\nPWN=1"), "names are ASCII letters"),
    "a name beyond ASCII": (lambda g: put(g["y"], _name="ﬁ"), "names are ASCII letters"),
    "an input without name": (lambda g: put(g["x"], _name=None), "is fed by name, but was given none"),
    "another shape than inferred": (
        lambda g: put(g["y"], shape=(Dim("batch"), 5)),
        r"has float32\[batch, 5\], but its op infers float32\[batch, 4\]",
    ),
    "another dtype than inferred": (lambda g: put(g["y"], dtype=float64), r"has float64\[batch, 4\], but .* float32"),
    "too few arguments": (lambda g: put(g["y"], args=(g["x"],)), "mul: takes 2 arguments"),
    "an absent argument": (lambda g: put(g["y"], args=(g["x"], None)), "argument 2 of .* is absent"),
    "dtypes that were never cast": (lambda g: put(g["x"], dtype=float64), "must have one dtype"),
    "a condition that is no bool": (lambda g: put(g["z"], args=(g["y"], *g["z"].args[1:])), "it must be bool"),
    "an unknown attribute": (lambda g: put(g["y"], attrs=attrs(fast=True)), "does not take fast"),
    "a missing attribute": (lambda g: put(g["sum"], attrs=attrs()), "lacks axes"),
    "an attribute that is a list": (lambda g: put(g["sum"], attrs=attrs(axes=[0, 1])), "axes is a list"),
    "an axis too far": (lambda g: put(g["sum"], attrs=attrs(axes=(0, 2))), "axes of a value with 2 dims"),
    "a constant of another type": (lambda g: put(g["constant"], attrs=attrs(value=1)), "value 1 is no float32"),
    "a constant with a shape": (lambda g: put(g["constant"], shape=(3,)), "it is one number"),
    "an unknown init": (lambda g: put(g["w"], attrs=attrs(init="torch.load")), "init 'torch.load'"),
    "a host number that is fed": (lambda g: put(g["x"], dtype=lookup_host()), "host is for the numbers"),
    "a Dim that nothing binds": (
        lambda g: g.append("dim_size", (), attrs(dim="length"), (), lookup_host()),
        "uses length, which is no size of any input",
    ),
    "an op among primitives": (
        lambda g: g.append(lookup("sigmoid"), (g["y"],), attrs(), g["y"].shape, g["y"].dtype),
        "is the op 'sigmoid' in a graph of primitives; decompose",
    ),
    "an output of another graph": (
        lambda g: g.outputs.update(total=_foreign()),
        "output 'total' is .*no value of this",
    ),
    "an output that is no value": (lambda g: g.outputs.update(total=3), "output 'total' is 3, no value"),
    "an output with code for a name": (lambda g: g.outputs.update({"a b": g["x"]}), "output 'a b' has no valid name"),
    "an update of another graph": (lambda g: g.updates.update(w=_foreign()), "update 'w' is .*no value of this graph"),
    "an update of an input": (lambda g: g.updates.update(x=g["x"]), "updates 'x', which is no parameter"),
    "an update of nothing": (lambda g: g.updates.update(gone=g["x"]), "updates 'gone', which is no parameter"),
    "an update that does not fit": (lambda g: g.updates.update(w=g["x"]), r"does not fit 'w', .* float32\[4\]"),
    "a region that ends elsewhere": (
        lambda g: _region(g, out=_foreign()),
        "region of 'relu': .*no value of this graph",
    ),
    "a region from elsewhere": (lambda g: _region(g, args=(_foreign(),)), "region of 'relu': .*no value of this graph"),
    "a region that ends before it begins": (lambda g: _region(g, out=g["x"]), "whose argument 'y' comes later"),
    "a region of another shape": (lambda g: _region(g, args=(g["w"],)), "ends a region of 'relu' that is wrong"),
    "a region of a primitive": (lambda g: _region(g, op=lookup("tanh")), "has no gradient of its own"),
    "a region with an argument too many": (lambda g: _region(g, args=(g["x"], g["x"])), "takes 1 arguments"),
}


def lookup_host() -> object:
    from tritonnotes.ir.core.types import host

    return host


def test_the_graph_that_is_broken_below_verifies() -> None:
    verify(small())
    _region(g := small())
    verify(g)


@pytest.mark.parametrize(("breakage", "message"), BREAKAGES.values(), ids=list(BREAKAGES))
def test_a_broken_invariant_is_noticed(breakage: Callable[[Graph], object], message: str) -> None:
    graph = small()
    breakage(graph)
    with pytest.raises(VerificationError, match=message):
        verify(graph)


def test_a_declared_graph_with_regions_is_noticed() -> None:
    graph = small("declared")
    verify(graph)
    graph.regions.append(Region(lookup("relu"), (graph["x"],), attrs(), graph["z"], graph["z"].scope))  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="a declared graph has no regions"):
        verify(graph)


def test_an_op_whose_attributes_changed_is_noticed() -> None:
    graph = digits()
    put(graph["ln2"], attrs=attrs(dims=1))
    with pytest.raises(VerificationError, match=r"layer_norm 'ln2' is wrong: layer_norm: lacks eps"):
        verify(graph)


def test_the_error_names_op_and_value_and_shows_the_lines_around() -> None:
    graph = digits()
    put(graph["fc2"], dtype=int64)
    with pytest.raises(VerificationError) as caught:
        verify(graph)
    first, *lines = str(caught.value).splitlines()
    assert first == "graph 'digits': linear 'fc2' has int64[batch, 32], but its op infers float32[batch, 32]"
    assert lines == [
        "  fc2.weight: float32[32, 32] = parameter(init='kaiming_uniform', a=2.23606797749979)",
        "  fc2.bias: float32[32] = parameter(init='bias_uniform', fan_in=32.0)",
        "> fc2: int64[batch, 32] = linear(relu, fc2.weight, fc2.bias)",
        "  ln2.weight: float32[32] = parameter(init='ones')",
        "  ln2: float32[batch, 32] = layer_norm(fc2, ln2.weight, none, dims=1, eps=1e-05)",
    ]


def test_the_lines_are_shown_even_of_what_has_no_text() -> None:
    graph = small()
    put(graph["y"], attrs=attrs(odd={1: object}), args=("not a value",))
    with pytest.raises(VerificationError, match="takes 'not a value', which is no value of this graph"):
        verify(graph)


# -- joint graphs ------------------------------------------------------------------------------------------------------


def joint() -> Graph:
    return joint_graph(digits(), "loss", sgd(lr=0.1))


def test_a_dead_value_is_noticed() -> None:
    graph = joint()
    P.tanh(graph["fc1"])
    verify(graph)
    with pytest.raises(VerificationError, match="tanh .* is dead: no output and no update needs it"):
        verify_joint(graph)


def test_a_graph_that_delivers_nothing_is_dead() -> None:
    graph = Graph("g", level="primitive")
    P.tanh(graph.input("x", (3,)))
    with pytest.raises(VerificationError, match="is dead"):
        verify_joint(graph)


def test_an_input_that_nobody_reads_may_stay() -> None:
    graph = joint()
    graph.input("unused", (3,))
    verify_joint(graph)


@pytest.mark.parametrize("twice", [lambda a, b: (a + b, b + a), lambda a, b: (P.tanh(a), P.tanh(a))])
def test_a_value_computed_twice_is_noticed(twice: Callable[[Value, Value], tuple[Value, Value]]) -> None:
    graph = joint()
    first, second = twice(graph["fc1"], graph["fc2"])
    graph.output(first=first, second=second)
    verify(graph)
    with pytest.raises(VerificationError, match="is computed twice: '.*' is the same"):
        verify_joint(graph)
    verify_joint(optimize(graph))


def test_a_declared_graph_is_no_joint_graph() -> None:
    with pytest.raises(VerificationError, match="a joint graph has level 'primitive', not 'declared'"):
        verify_joint(digits())


def test_a_joint_graph_is_verified_like_any_other() -> None:
    graph, _ = copy_graph(joint())
    verify_joint(graph)
    put(graph["fc1"], shape=(3,))
    with pytest.raises(VerificationError, match="but its op infers"):
        verify_joint(graph)


def test_numbers_that_folding_makes_are_shared() -> None:
    graph = Graph("g")
    x = graph.input("x", ())
    graph.output(a=x * (graph.constant(1.0) - 1.5), b=P.tanh(x) * (graph.constant(2.0) - 2.5))
    verify_joint(optimize(decompose(graph)))
