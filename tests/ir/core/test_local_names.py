"""A formula's variables name its values; arguments keep the caller's names; the caller's profiler is left alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tritonnotes import layer_norm, linear, mse_loss
from tritonnotes.ir import Dim, Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.local_names import capture_names
from tritonnotes.ir.core.op import op
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.optim.update_rules import adam
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.text.parser import parse_graph

pytestmark = pytest.mark.usefixtures("no_op_stays")

Formula = Callable[..., Value]


def decomposed(formula: Formula, **attrs: object) -> Graph:
    """The primitives of one use of `formula`, in an op called `layer`, on the input `x` (and `w` if it takes two)."""
    made = op(domain=(-1, 1), custom=True)(formula)
    g = Graph("g")
    args = [g.input(name, (Dim("batch"), 4)) for name in ("x", "w")[: len(made.arg_names)]]
    g.output(out=made.apply(*args, name="layer", **attrs))
    result = decompose(g)
    verify(result)
    return result


def names(graph: Graph) -> list[str]:
    return [v.name for v in graph.values if not v.is_leaf]


def test_local_variables_name_what_they_hold() -> None:
    def formula(x: Value) -> Value:
        shifted = x + 1
        squared = shifted * shifted
        return P.tanh(squared) - shifted

    assert names(decomposed(formula)) == ["layer.shifted", "layer.squared", "layer.tanh", "layer"]


def test_what_nobody_named_bears_its_primitives_name_and_a_count() -> None:
    def formula(x: Value) -> Value:
        return P.exp(P.exp(P.exp(x))) + 1

    assert names(decomposed(formula)) == ["layer.exp", "layer.exp_1", "layer.exp_2", "layer"]


def test_the_ops_of_the_house_are_named_as_their_formulas_read() -> None:
    g = Graph("g")
    g.output(y=layer_norm(g.input("x", (Dim("batch"), 4)), name="ln"))
    assert {"ln.mean", "ln.centered", "ln.var", "ln.rstd", "ln.normalized", "ln.scaled", "ln"} <= set(
        names(decompose(g))
    )


def _standardized(value: Value) -> tuple[Value, Value]:
    mean = P.mean(value, -1, keepdim=True)
    centered = value - mean
    return centered, mean


def test_a_helper_names_its_own_and_the_callers_name_for_a_result_gives_way() -> None:
    def formula(x: Value) -> Value:
        first, _ = _standardized(x)
        second, second_mean = _standardized(first * 2)
        return first + second

    made = names(decomposed(formula))
    assert [n for n in made if "centered" in n or "mean" in n] == [
        "layer.mean",
        "layer.centered",
        "layer.mean_1",
        "layer.centered_1",
    ]
    assert not any("first" in n or "second" in n for n in made)


def test_helpers_within_helpers_and_closures_name_their_own() -> None:
    def formula(x: Value) -> Value:
        def outer(value: Value) -> Value:
            def inner(deep: Value) -> Value:
                doubled = deep * 2
                return doubled

            tripled = inner(value) * 1.5
            return tripled

        return P.tanh(outer(x))

    assert names(decomposed(formula)) == ["layer.doubled", "layer.tripled", "layer"]


def test_an_argument_is_not_renamed() -> None:
    def helper(renamed: Value, *, also_renamed: Value) -> Value:
        total = renamed + also_renamed
        return total

    def formula(x: Value, w: Value) -> Value:
        product = x * w
        return P.tanh(helper(product, also_renamed=P.exp(x)))

    graph = decomposed(formula)
    assert names(graph) == ["layer.product", "layer.exp", "layer.total", "layer"]
    assert [v.name for v in graph.inputs] == ["x", "w"]


def test_another_name_for_an_argument_does_not_rename_it_either() -> None:
    def formula(x: Value) -> Value:
        alias = x
        return P.tanh(alias)

    g = Graph("g")
    made = op(domain=(-1, 1), custom=True)(formula)
    hidden = P.exp(g.input("x", (3,)))
    g.output(out=made.apply(hidden, name="layer"))
    assert names(decompose(g)) == ["hidden", "layer"]


def test_the_name_that_came_first_stays() -> None:
    def formula(x: Value) -> Value:
        first = P.exp(x)
        second = first
        return second + first

    assert names(decomposed(formula)) == ["layer.first", "layer"]


def test_a_variable_that_is_assigned_again_names_the_last() -> None:
    def formula(x: Value) -> Value:
        y = x + 1
        y = P.tanh(y)
        return y * 2

    assert names(decomposed(formula)) == ["layer.add", "layer.y", "layer"]


def test_values_in_lists_and_comprehensions_are_left_without_a_name() -> None:
    def formula(x: Value) -> Value:
        powers = [P.exp(x * n) for n in (1, 2)]
        return powers[0] + powers[1]

    graph = decomposed(formula)
    assert names(graph)[-1] == "layer"
    assert not any("powers" in n for n in names(graph))


def test_names_beyond_ascii_never_reach_a_graph() -> None:
    def formula(x: Value) -> Value:
        σ = P.exp(x)
        ﬁ = σ * 2  # Python itself reads the ligature as fi
        return P.tanh(ﬁ)

    graph = decomposed(formula)
    assert names(graph) == ["layer.exp", "layer.fi", "layer"]
    assert str(parse_graph(str(graph))) == str(graph)


def test_the_declaring_function_names_what_it_keeps() -> None:
    g = Graph("g")
    hidden = P.exp(g.input("x", (3,)))
    μ = P.tanh(hidden)
    g.output(result=hidden * μ)
    assert names(g) == ["hidden", "tanh", "result"]
    verify(g)


def test_a_value_is_found_by_the_name_that_it_has_by_then() -> None:
    g = Graph("g")
    first = P.exp(g.input("x", (3,)))
    assert g["exp"] is first
    second = P.exp(first)
    assert g["exp"] is first and g["exp_1"] is second
    g.output(result=second)
    assert (first.name, second.name) == ("first", "result")
    assert g["first"] is first and g["result"] is second
    with pytest.raises(DeclarationError, match="no value 'exp'"):
        _ = g["exp"]


def test_names_are_made_once_for_all_that_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report asks for each edge of a plan."""
    g = Graph("g")
    value = g.input("x", (3,))
    for _ in range(20):
        value = P.exp(value)
    g.output(result=value)
    made: list[str] = []
    monkeypatch.setattr("tritonnotes.ir.core.graph.is_name", lambda name: made.append(name) or True)
    assert all(g[v.name] is v for v in g.values)
    assert len(made) == 1, "one value has a hint, and it was looked at once"


def test_the_variables_of_a_gradient_and_of_an_update_rule_name_theirs() -> None:
    g = Graph("g")
    x = g.input("x", (Dim("batch"), 4))
    loss = mse_loss(layer_norm(linear(x, 4, name="fc"), name="ln"), x)
    g.output(loss=loss)
    made = set(names(joint_graph(g, "loss", adam(lr=1e-3))))
    assert {"ln.d_normalized", "ln.projection", "fc.weight.mean_square", "ln.weight.denominator"} <= made


# -- the profiler ------------------------------------------------------------------------------------------------------


def _recorder() -> tuple[list[str], Callable[..., None]]:
    seen: list[str] = []

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    return seen, profile


def test_the_callers_profiler_is_put_back() -> None:
    def formula(x: Value) -> Value:
        return P.tanh(x)

    seen, profile = _recorder()
    sys.setprofile(profile)
    try:
        decomposed(formula)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert "decompose" in seen


@pytest.mark.parametrize("error", [ValueError("formula"), KeyboardInterrupt(), DeclarationError("formula")])
def test_the_profiler_is_put_back_when_a_formula_raises(error: BaseException) -> None:
    graph = Graph("g", level="primitive")
    _, profile = _recorder()
    for before in (None, profile):
        sys.setprofile(before)
        try:
            with pytest.raises(type(error)), capture_names(graph, 0):
                raise error
            assert sys.getprofile() is before
        finally:
            sys.setprofile(None)


def test_a_formula_that_raises_while_decomposed_leaves_no_profiler() -> None:
    calls: list[str] = []

    def formula(x: Value) -> Value:
        calls.append("formula")
        if len(calls) > 1:  # inference runs it once, decomposing again
            raise ZeroDivisionError("in the formula")
        return P.tanh(x)

    with pytest.raises(ZeroDivisionError):
        decomposed(formula)
    assert len(calls) == 2
    assert sys.getprofile() is None


def test_nested_captures_each_put_back_the_one_before() -> None:
    graph = Graph("g", level="primitive")
    with capture_names(graph, 0):
        outer = sys.getprofile()
        with capture_names(graph, 0):
            assert sys.getprofile() is not outer
        assert sys.getprofile() is outer
    assert sys.getprofile() is None


def test_only_the_graph_at_hand_and_what_is_new_in_it_get_names() -> None:
    graph, other = Graph("g", level="primitive"), Graph("other", level="primitive")
    old = P.exp(graph.input("x", (3,)))

    def body() -> tuple[Value, Value, Value]:
        kept = old
        foreign = P.tanh(other.input("x", (3,)))
        fresh = P.tanh(old)
        return kept, foreign, fresh

    with capture_names(graph, len(graph.values)):
        kept, foreign, fresh = body()
    assert (kept.hint, foreign.hint, fresh.hint) == (None, None, "fresh")
