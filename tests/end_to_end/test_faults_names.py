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
from torch import Tensor

import tritonnotes as tn
from tests.judges.name_rules import name_complaints
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
