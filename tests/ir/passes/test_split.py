"""What the forward run keeps for the backward run: outputs where they do, and never more bytes than without them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from counted_work import calls_made
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph
from tritonnotes.ir.passes.split import Split, split_gradient

BATCH = tn.Dim("batch")


def split_of(function: Callable[[tn.Value], tn.Value | dict[str, tn.Value]], dtype: str = "float32") -> Split:
    graph = tn.Graph("one")
    made = function(graph.input("x", (BATCH, 64), dtype))
    graph.output(**(made if isinstance(made, dict) else {"y": made}))
    joint = gradient_graph(graph, ["x"])
    return split_gradient(joint, list(graph.outputs), [*cotangent_names(graph, [*graph.outputs]).values()])


def read(split: Split) -> set[str]:
    """The inputs that the backward run reads, but for gradients."""
    used = {a for v in split.backward.values for a in v.inputs}
    return {v.name for v in split.backward.inputs if v in used and not v.name.startswith("gradient.")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "function",
    [lambda x: tn.softmax(x, dim=1), lambda x: tn.log_softmax(x, dim=1), tn.tanh, tn.sigmoid, tn.exp, tn.sqrt],
    ids=["softmax", "log_softmax", "tanh", "sigmoid", "exp", "sqrt"],
)
def test_derivative_in_terms_of_the_output_reads_the_output_alone(
    function: Callable[[tn.Value], tn.Value], dtype: str
) -> None:
    split = split_of(function, dtype)
    assert split.saved == {"saved.y": "y"} and read(split) == {"saved.y"}
    assert [*split.forward.outputs] == ["y"], "nothing is written beside the output"


@pytest.mark.parametrize("function", [tn.gelu, tn.silu, tn.mish, tn.relu, tn.square], ids=lambda f: f.__name__)
def test_derivative_in_terms_of_the_input_reads_no_output(function: Callable[[tn.Value], tn.Value]) -> None:
    split = split_of(function)
    assert not split.saved and read(split) == {"x"}


def test_an_output_is_not_read_where_what_it_is_made_of_is_read_anyway() -> None:
    split = split_of(lambda x: {"y": tn.tanh(x), "z": tn.gelu(x)})
    assert not split.saved and read(split) == {"x"}


def test_results_that_torch_does_not_keep_may_be_written_over() -> None:
    def layer(x: tn.Value) -> dict[str, tn.Value]:
        hidden = tn.linear(x, 32)
        return {"hidden": hidden, "y": tn.gelu(hidden), "share": x / tn.sum(x), "normalized": tn.layer_norm(x)}

    assert not {"hidden", "y", "share", "normalized"} & {*split_of(layer).saved.values()}


def test_work_of_a_split_grows_with_the_graph_alone() -> None:
    """Each output that may be read is looked at with what it alone is made of."""

    def steps(count: int) -> int:
        def layers(x: tn.Value) -> dict[str, tn.Value]:
            found = {}
            for number in range(count):
                x = found[f"y{number}"] = tn.tanh(tn.linear(x, 64))
            return found

        graph = tn.Graph("many")
        graph.output(**layers(graph.input("x", (BATCH, 64))))
        joint = gradient_graph(graph, ["x"])
        cotangents = [*cotangent_names(graph, [*graph.outputs]).values()]
        return calls_made(lambda: split_gradient(joint, list(graph.outputs), cotangents))

    assert steps(40) < 2.5 * steps(20)


def test_gradient_through_an_output_that_was_written_over_is_refused_as_torch_refuses_it() -> None:
    model = tn.compile(_softmax(), device="cpu")
    x = torch.randn(5, 64, requires_grad=True)

    def overwritten(y: Tensor) -> Tensor:
        return y.mul_(2).sum()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        overwritten(torch.softmax(x, dim=1)).backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        overwritten(model(x=x)["y"]).backward()


def layers(between: Callable[[tn.Value], tn.Value], dtype: str = "float32") -> tn.Graph:
    graph = tn.Graph("layers")
    hidden = tn.linear(graph.input("x", (BATCH, 64), dtype), 32, name="fc1")
    graph.output(y=tn.linear(between(hidden), 16, name="fc2"), hidden=hidden)
    return graph


@pytest.mark.parametrize(
    ("between", "kept"),
    [
        (lambda h: h, "saved.fc1"),
        (lambda h: tn.reshape(h, (BATCH, 4, 8)), "saved.fc1"),
        (tn.gelu, "saved.fc1.product"),
        (lambda h: h * 2.0, "saved.fc1.product"),
    ],
    ids=["linear", "view", "gelu", "scaled"],
)
def test_a_sum_with_a_bias_is_kept_where_products_read_it(between: Callable[[tn.Value], tn.Value], kept: str) -> None:
    graph = layers(between)
    joint = gradient_graph(graph, ["x", *(v.name for v in graph.parameters)])
    split = split_gradient(joint, [*graph.outputs], [*cotangent_names(graph, [*graph.outputs]).values()])
    assert read(split) & {"saved.fc1", "saved.fc1.product"} == {kept}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_layers_have_the_same_bits_and_launches_with_gradients_and_without(dtype: str) -> None:
    graph = tn.Graph("layers")
    x = graph.input("x", (BATCH, 64), dtype)
    graph.output(y=tn.linear(tn.linear(x, 32, name="fc1"), 16, name="fc2"))
    model = tn.compile(graph, products="library", device="cpu")
    given = torch.randn(33, 64, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    with torch.no_grad():
        plain = model(x=given)["y"]
    assert torch.equal(model(x=given)["y"], plain)
    forward, backward = model.gradient_programs
    assert len(forward.plan.launches) == len(model.program.plan.launches) == 2
    assert len(backward.plan.launches) == 5, "three products, and the gradients of two biases"


def test_a_sum_that_was_written_over_is_refused_as_torch_refuses_it() -> None:
    model = tn.compile(layers(lambda h: h), device="cpu")
    state, x = dict(model.named_parameters()), torch.randn(5, 64, requires_grad=True)
    hidden = torch.nn.functional.linear(x, state["fc1.weight"], state["fc1.bias"])
    eager = {"hidden": hidden, "y": torch.nn.functional.linear(hidden, state["fc2.weight"], state["fc2.bias"])}
    for made in (eager, model(x=x)):
        with torch.no_grad():
            made["hidden"].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            made["y"].sum().backward()


def _softmax() -> tn.Graph:
    graph = tn.Graph("softmax")
    graph.output(y=tn.softmax(graph.input("x", (BATCH, 64)), dim=1))
    return graph
