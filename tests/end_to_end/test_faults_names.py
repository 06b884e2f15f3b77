"""What a user may call a thing does not depend on what we, Python, torch or Triton call ours.

The oracle of most tests is the same graph with plain names: the bits must be the same.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from name_rules import name_complaints
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.support.names import RESERVED, Names
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose

MODULE_ATTRIBUTES = sorted(set(dir(torch.nn.Module())) | set(dir(tn.Model)) | set(dir(tn.TrainingStep)))
ODD = [
    "0",
    "1",
    "0_weight",
    "_0",
    "_",
    "x_ptr",
    "x_lanes",
    "x",
    "__import__",
    "1e5",
    "inf",
    "nan",
    "none",
    "end",
    "run_x",
]
WORDS = sorted({*RESERVED, *keyword.kwlist, *keyword.softkwlist, *ODD, "lr", "step", "beta1", "eps", "batch"})
TAKEN = ["t", "programs", "class", "None", "True", "lambda", "lr", "step", "beta1", "eps", "math", "self", "launch"]
TAKEN += ["numbers", "torch", "triton", "tl", "device", "forward", "run", "0", "main", "type", "float", "training"]


def plain(count: int) -> list[str]:
    return [f"plain{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(count)]


# -- source --


@pytest.mark.parametrize("word", ["dim", "layer"])
def test_every_word_of_generated_source_is_a_name_that_hides_nothing(word: str) -> None:
    build, many = {"dim": (named_dims, 10), "layer": (named_layers, 60)}[word]
    for start in range(0, len(WORDS), many):
        names = WORDS[start : start + many]
        graph = build(names)
        program = make_program(optimize(decompose(graph)), "greedy", declared=graph)
        for made in (program, replace(program, in_memory=True)):
            assert name_complaints(made.source) == [], names
        assert str(tn.Graph.from_text(str(graph))) == str(graph)
        assert tn.Graph.from_json(graph.to_json()).to_json() == graph.to_json()


def named_layers(names: Sequence[str]) -> tn.Graph:
    g = tn.Graph(names[0])
    xs = [g.input(n, (6,)) for n in names]
    g.output(**{n: tn.prelu(x * g.parameter(f"{n}.p", (6,)), name=f"{n}.act") for n, x in zip(names, xs, strict=True)})
    return g


def named_dims(names: Sequence[str]) -> tn.Graph:
    g = tn.Graph("dims")
    x = g.input("x", tuple(map(tn.Dim, names)))
    g.output(y=x * tn.sum(x), z=tn.softmax(x + 1, -1))
    return g


def test_the_allocator_hands_out_each_name_once_and_none_of_ours() -> None:
    names = Names()
    asked = [*WORDS, *dir(builtins), *MODULE_ATTRIBUTES, *WORDS, "fi", "ﬁ", "a.b", "a_b"]
    given = [names.claim(n) for n in asked]
    assert len(set(given)) == len(given)
    assert all(n.isidentifier() and not keyword.iskeyword(n) and n not in RESERVED for n in given)
    assert not any(f"{a}_ptr" in given for a in given)


@pytest.mark.parametrize(
    "attack",
    [
        "x=globals().__setitem__('PWN',1)",
        "m\nPWN=1",
        "a b",
        "x#",
        "",
        "a..b",
        ".a",
        "a.",
        "ﬁ",
        "x'",
        "п",
        "a" * 101,
        "a-b",
    ],
)
def test_attacks_are_no_names_of_anything(attack: str) -> None:
    g = tn.Graph("g")
    x = g.input("x", (4,))
    made: list[Callable[[], Any]] = [
        lambda: tn.Graph(attack),
        lambda: tn.Dim(attack),
        lambda: g.input(attack, (4,)),
        lambda: g.parameter(attack, (4,)),
        lambda: tn.linear(x, 3, name=attack),
        lambda: g.output(**{attack: x}),
    ]
    for make in made:
        with pytest.raises(tn.TritonNotesError):
            make()


# -- the same bits --


def trained(names: Sequence[str]) -> tn.Graph:
    """A model in which each name is that of a Dim, an input, a parameter, a layer or an output."""
    g = tn.Graph(names[0])
    total = None
    for at in range(0, len(names), 4):
        dim, fed, layer, held = (names[at:] + names)[:4]
        x = g.input(fed, (tn.Dim(dim), 3))
        y = tn.layer_norm(tn.linear(x, 4, name=layer) * g.parameter(held, (4,), init=1.5), name=f"{held}.{layer}")
        loss = tn.mean(tn.square(tn.tanh(y)))
        total = loss if total is None else total + loss
        g.output(**{dim: y, fed: loss})
    g.output(loss=total)
    return g


def feeds_of(graph: tn.Graph) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {v.name: torch.randn(5, 3, generator=generator) for v in graph.inputs}


def results(names: list[str]) -> list[Tensor]:
    """What a model gives with its gradients, and what two steps leave of it, in the order of declaration."""
    graph = trained(names)
    feeds = feeds_of(graph)
    model = tn.compile(graph, training=True)
    found = list(model(**feeds).values())
    found[-1].backward()
    found += [p.grad for p in model.parameters() if p.grad is not None]
    step = tn.compile_step(graph, optimizer=tn.adamw(lr=0.1, weight_decay=0.1))
    for _ in range(2):
        found += step(**feeds).values()
    state = step.state_dict()
    assert list(step.model.state_dict()) == list(model.state_dict())
    assert set(step.model.state_dict()) == {v.name for v in graph.parameters}
    return [*found, *state["model"].values(), *state["slots"].values()]


@pytest.mark.parametrize("start", range(0, len(TAKEN) - 3, 12))
def test_words_that_are_taken_elsewhere_give_the_bits_of_plain_names(start: int) -> None:
    names = TAKEN[start : start + 12]
    odd, usual = results(names), results(plain(len(names)))
    assert len(odd) == len(usual)
    assert all(torch.equal(a, b) for a, b in zip(odd, usual, strict=True))


@pytest.mark.parametrize("name", ["self", "forward", "feeds", "inputs", "args", "kwargs", "class", "graph"])
def test_an_input_may_be_called_as_an_argument_of_ours(name: str) -> None:
    g = tn.Graph("fed")
    x = g.input(name, (3,))
    g.output(**{name: tn.sum(x * g.parameter("w", (3,), init=2.0))})
    model, step = tn.compile(g), tn.compile_step(g, loss=name, optimizer=tn.sgd(lr=1.0))
    feeds = {name: torch.tensor([1.0, 2.0, 3.0])}
    assert model(**feeds)[name].item() == 12.0
    assert step(**feeds)[name].item() == 12.0
    assert step.model.get_parameter("w").tolist() == [1.0, 0.0, -1.0]
    assert tn.check(g).ok


def test_every_attribute_of_torchs_modules_is_a_layers_and_a_parameters_name() -> None:
    g = tn.Graph("attributes")
    total = g.input("x", (2,))
    for attribute in MODULE_ATTRIBUTES:
        for name in (attribute, f"{attribute}.{attribute}", f"layer.{attribute}"):
            total = total + g.parameter(name, (2,), init=1.0)
        total = total + g.buffer(f"{attribute}.held", (2,), init=1.0)
    g.output(y=total)
    model = tn.compile(g)
    assert set(model.state_dict()) == {v.name for v in g.leaves("parameter", "buffer")}
    assert model(x=torch.zeros(2))["y"].tolist() == [4.0 * len(MODULE_ATTRIBUTES)] * 2
    model.load_state_dict({n: t * 2 for n, t in model.state_dict().items()})
    for again in (model, model.eval(), model.train(), model.requires_grad_(False), model.to("cpu"), model.float()):
        assert again(x=torch.zeros(2))["y"].tolist() == [8.0 * len(MODULE_ATTRIBUTES)] * 2
    model.load_state_dict({n: t / 2 for n, t in model.state_dict().items()}, assign=True)
    assert model(x=torch.zeros(2))["y"].tolist() == [4.0 * len(MODULE_ATTRIBUTES)] * 2
    for attribute in MODULE_ATTRIBUTES:
        assert isinstance(model.get_parameter(f"{attribute}.{attribute}"), torch.nn.Parameter)
        assert model.get_submodule(attribute).get_buffer("held").shape == (2,)
        assert model.training is True


def test_the_state_of_a_sequential_loads_by_its_own_names() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.GELU(), torch.nn.Linear(6, 2))
    g = tn.Graph("sequential")
    h = tn.linear(g.input("x", (tn.Dim("batch"), 4)), 6, name="0")
    h = tn.gelu(tn.layer_norm(h, name="1"), name="2")
    g.output(**{"3": tn.linear(h, 2, name="3")})
    model = tn.compile(g)
    model.load_state_dict(net.state_dict())
    assert list(model.state_dict()) == list(net.state_dict())
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(**{"x": x})["3"], net(x))
    assert str(tn.Graph.from_text(str(g))) == str(g)


HYPERPARAMETERS = ["t", "programs", "math", "torch", "tl", "device", "launch", "self", "numbers", "row", "is_first"]
HYPERPARAMETERS += ["world_size", "max_norm", "seed", "batch", "run", "p", "g", "size"]


def rule_of(names: Sequence[str]) -> Any:
    """p ← p − (Σ numbers) · g, with numbers of these names."""
    numbers = ", ".join(f"{n}=0.25" for n in names)
    source = f"def rule(param, grad, *, {numbers}):\n    return (param - ({' + '.join(names)}) * grad,)\n"
    scope: dict[str, Any] = {}
    exec(source, scope)  # a formula's parameters are named in its source
    return tn.update_rule(reference=scope["rule"])(scope["rule"])


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}], ids=["plain", "accumulate"])
def test_numbers_of_update_rules_may_be_called_as_ours(options: dict[str, Any]) -> None:
    found = []
    for names in (HYPERPARAMETERS, plain(len(HYPERPARAMETERS))):
        g = tn.Graph("rule")
        g.output(loss=tn.mean(tn.square(g.input("x", (tn.Dim("batch"), 3)) * g.parameter("w", (3,), init=2.0))))
        step = tn.compile_step(g, optimizer=rule_of(names)(**dict.fromkeys(names, 0.125)), **options)
        for seed in range(4):
            step.hyperparameters[names[0]] = 0.5 * seed
            step(x=torch.full((seed + 1, 3), 0.5))
        found.append(step.model.get_parameter("w").detach())
    assert torch.equal(*found)
