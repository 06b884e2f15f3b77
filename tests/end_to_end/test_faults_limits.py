"""A limit splits, it does not refuse: chains and widths beyond every limit of the code generator."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

import tritonnotes as tn
from tritonnotes.codegen.fusion.legality import MAX_UNITS
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph

B = tn.Dim("batch")
LINKS: dict[str, Callable[[Value], Value]] = {
    "add": lambda h: h + 0.5,
    "relu": tn.relu,
    "residual": lambda h: tn.tanh(h) + h,
    "gelu": tn.gelu,
    "softmax": lambda h: tn.softmax(h, -1),
    "norm": lambda h: tn.layer_norm(h, weight=None, bias=None),
    "column sums": lambda h: h - tn.mean(h, 0),
}


def chain(link: str, count: int, trained: bool) -> tn.Graph:
    g = tn.Graph("chain")
    h = g.input("x", (B, 6)) * (g.parameter("w", (6,), init=1.0) if trained else 1.0)
    for _ in range(count):
        h = LINKS[link](h)
    g.output(loss=tn.mean(h), y=h)
    return g


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("fusion", "trained"), [("optimal", False), ("greedy", True)], ids=["forward", "step"])
def test_a_chain_longer_than_a_kernel_is_several(link: str, fusion: str, trained: bool) -> None:
    each = {"add": 1, "relu": 1, "residual": 2, "gelu": 6, "softmax": 5, "norm": 9, "column sums": 4}[link]
    graph = chain(link, (MAX_UNITS + 5) // each + 1, trained)
    primitives = joint_graph(graph, "loss", tn.sgd(lr=0.1)) if trained else optimize(decompose(graph))
    plan = make_plan(primitives, fusion)
    for piece in (piece for kernel in plan.kernels for piece in kernel.pieces):
        assert len(piece.units) + len(piece.recomputed) <= MAX_UNITS
    covered = {u.value for k in plan.launches for u in k.units}
    assert {u.value for u in plan.units.units} == covered


@pytest.mark.parametrize("link", ["relu", "residual"])
def test_a_chain_beyond_the_limit_gives_what_torch_gives(link: str) -> None:
    graph = chain(link, MAX_UNITS + 1, trained=True)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) * 1e-3
    step = tn.compile_step(graph, optimizer=tn.sgd(lr=0.1))
    weights = {n: t.clone().requires_grad_() for n, t in step.model.state_dict().items()}
    wanted = tn.eager(graph, {"x": x}, weights)
    wanted["loss"].backward()
    found = step(x=x)
    torch.testing.assert_close(found["y"], wanted["y"].detach())
    updated = weights["w"].detach() - 0.1 * weights["w"].grad
    torch.testing.assert_close(step.model.get_parameter("w").detach(), updated)


def test_an_update_that_a_limit_cuts_in_two_joins_no_other() -> None:
    g = tn.Graph("clipped")
    h = g.input("x", (2, 2))
    for at in range(45):
        h = h * g.parameter(f"w{at}", (2,), init=1.0)
    g.output(loss=tn.mean(tn.square(h)))
    step = tn.compile_step(g, optimizer=tn.clip(tn.adam(lr=0.5, eps=1e-3), max_norm=1.0), strict=True)
    weights = [torch.ones(2, requires_grad=True) for _ in range(45)]
    optimizer = torch.optim.Adam(weights, lr=0.5, eps=1e-3)
    product = torch.tensor([[1.0, 2.0], [0.5, 1.0]])
    step(x=product)
    for weight in weights:
        product = product * weight
    product.square().mean().backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    torch.testing.assert_close(
        [step.model.get_parameter(f"w{at}").detach() for at in range(45)], [w.detach() for w in weights]
    )


# -- wider and deeper than Python's own limits -------------------------------------------------------------------------


def deep(g: tn.Graph, x: Value) -> None:
    """More ops in a row than Python lets calls nest."""
    for number in range(1100):
        x = tn.tanh(x) if number % 2 else x + 0.5
    g.output(loss=tn.mean(x))


def many_inputs(g: tn.Graph, x: Value) -> None:
    for number in range(1000):
        x = x + g.input(f"x{number}", (B, 6))
    g.output(loss=tn.mean(x))


def many_outputs(g: tn.Graph, x: Value) -> None:
    g.output(loss=tn.mean(x), **{f"y{number}": x * (number + 0.5) for number in range(300)})


def many_parameters(g: tn.Graph, x: Value) -> None:
    for number in range(300):
        x = x * g.parameter(f"w{number}", (6,), init=1.0)
    g.output(loss=tn.mean(x))


def many_parts(g: tn.Graph, x: Value) -> None:
    parts = [x, *(g.input(f"x{number}", (B, 2)) for number in range(300))]
    g.output(loss=tn.mean(tn.cat(parts, -1)))


@pytest.mark.parametrize("build", [deep, many_inputs, many_outputs, many_parameters, many_parts])
def test_what_is_deeper_or_wider_than_a_kernel_goes_all_the_way(build: Callable[[tn.Graph, Value], None]) -> None:
    g = tn.Graph("large")
    build(g, g.input("x", (B, 6)) * g.parameter("w", (6,), init=1.0))
    assert str(tn.Graph.from_text(str(g))) == str(g)
    assert tn.Graph.from_json(g.to_json()).to_json() == g.to_json()
    assert str(copy.deepcopy(g)) == str(pickle.loads(pickle.dumps(g))) == str(g)
    program = make_program(joint_graph(g, "loss", tn.sgd(lr=0.1)), "greedy")
    compile(program.source, "large", "exec")
    assert explain_plan(program.plan) and str(program)
    for piece in (piece for kernel in program.plan.kernels for piece in kernel.pieces):
        assert len(piece.units) + len(piece.recomputed) <= MAX_UNITS
