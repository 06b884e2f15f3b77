"""Every awkward word as every kind of name: compiled and run, it gives the bits that plain names give."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.support.names import RESERVED
from tritonnotes.ir.core.optimizer import UPDATE_RULES
from tritonnotes.ir.passes.joint import gathering_graph, gradient_graph, joint_graph
from tritonnotes.ir.passes.split import split_gradient

pytestmark = pytest.mark.usefixtures("no_op_stays")

ADAM = tn.clip(tn.adam(lr=0.5, weight_decay=0.25), max_norm=1.0)


def model(names: Sequence[str]) -> tn.Graph:
    """A product of parameters and a normalized input, with dropout."""
    g = tn.Graph("model")
    total = tn.dropout(tn.batch_norm(g.input("fed", (4, 2)), name="held"))
    for name in names:
        total = total * g.parameter(name, (2,), init=1.0)
    g.output(loss=tn.mean(tn.square(total)))
    return g


def names_of_ours() -> set[str]:
    """What we call leaves and outputs of the graphs of a model whose only parameter is `w`."""
    graph = model(["w"])
    scaled = {"scaler": tn.GradScaler()}
    graphs = [joint_graph(graph, "loss", ADAM, batches=2, **scaled)]
    graphs += [joint_graph(graph, "loss", ADAM), gathering_graph(graph, "loss", 2)]
    graphs.append(gradient_graph(graph, ["fed", "w"]))
    split = split_gradient(graphs[-1], ["loss"], ["gradient.loss"])
    graphs += [split.forward, split.backward]
    held = [v.name for v in graph.leaves("buffer", "parameter")]
    found = {v.name for g in graphs for v in g.leaves("input", "slot", "scalar", "buffer")}
    return found.union(*(g.outputs for g in graphs)) - {"w", "fed", "loss"} - set(held)


OURS = sorted({*names_of_ours(), "scaler", "clip", "gather", "parallel.world_size", "dropout", "tritonnotes"})
OURS += ["tritonnotes.adam.lr", "gradient", "w.grad.grad", "w.exp_avg.exp_avg"]
NUMBERS = {name for rule in UPDATE_RULES.values() for name in (*rule.defaults, *rule.state)}
ODD = [
    "0",
    "1",
    "0_0",
    "_0",
    "_",
    "_ptr",
    "x_ptr",
    "x_lanes",
    "inf",
    "nan",
    "end",
    "run_x",
    "a.b",
    "a_b",
    "forward.forward",
]
ODD += ["a" * 100, "w.weight", "weight", "bias", "self", "cls", "args", "kwargs", "feeds", "forward", "step", "batch"]
MODULES = [n for n in dir(torch.nn.Module()) if not n.startswith("__")]
WORDS = sorted({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), *RESERVED, *NUMBERS, *ODD, *OURS, *MODULES})
AT_ONCE = 60


def graph_of_inputs(names: Sequence[str]) -> tn.Graph:
    """Every name as an input and, of another value, an output."""
    g = tn.Graph(names[0])
    xs = [g.input(n, (2,)) for n in names]
    g.output(**{n: x * (i + 2) for i, (n, x) in enumerate(zip(names, [*xs[1:], xs[0]], strict=True))})
    return g


def graph_of_dims(names: Sequence[str]) -> tn.Graph:
    """Every name as a `Dim`, eight in each tensor."""
    g = tn.Graph("dims")
    for start in range(0, len(names), 8):
        x = g.input(f"x{start}", tuple(map(tn.Dim, names[start : start + 8])))
        g.output(**{f"y{start}": x - tn.amax(x, -1, keepdim=True)})
    return g


def graph_of_layers(names: Sequence[str]) -> tn.Graph:
    """Every name as a layer with parameters, and as the first part of the name of one."""
    g = tn.Graph(names[0])
    x = g.input("x", (2, 2))
    for name in names:
        x = tn.prelu(tn.prelu(x, name=name), name=f"{name}.inner")
    g.output(y=x)
    return g


def graph_of_parameters(names: Sequence[str]) -> tn.Graph:
    """Every name as a parameter."""
    g = tn.Graph(names[0])
    total = g.constant(1.0)
    for at, name in enumerate(names):
        total = total * 0.5 + g.parameter(name, (2,), init=at)
    g.output(y=total)
    return g


def graph_of_ops(names: Sequence[str]) -> tn.Graph:
    """Every name as that of an op of the user's, and, where Python lets it be one, of its variables."""
    g = tn.Graph("ops")
    x = g.input("x", (2,))
    for name in names:
        x = op_called(name)(x)
    g.output(y=x)
    return g


def op_called(name: str) -> Callable[..., tn.Value]:
    is_variable = name.isidentifier() and not keyword.iskeyword(name) and name != "__debug__"
    local = name if is_variable else "local"
    scope: dict[str, Any] = {}
    exec(
        f"def formula({local}):\n    made = {local} * 0.5\n    {local} = made * made\n    return {local} + made", scope
    )
    scope["formula"].__name__ = name
    return tn.op(reference=lambda x: x * 0.5 * (x * 0.5) + x * 0.5)(scope["formula"])


def plain(names: Sequence[str]) -> list[str]:
    return [f"plain{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(len(names))]


def fed(graph: tn.Graph) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [tuple(2 if isinstance(s, int) or i < 2 else 1 for i, s in enumerate(v.shape)) for v in graph.inputs]
    return {v.name: torch.randn(s, generator=generator) for v, s in zip(graph.inputs, sizes, strict=True)}


def parts(words: Sequence[str]) -> list[list[str]]:
    return [[*words[start : start + AT_ONCE]] for start in range(0, len(words), AT_ONCE)]


KINDS = {
    "input": graph_of_inputs,
    "parameter": graph_of_parameters,
    "layer": graph_of_layers,
    "op": graph_of_ops,
    "dim": graph_of_dims,
}


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", KINDS)
def test_every_word_is_a_name_of_every_kind(kind: str) -> None:
    undotted, short = [w for w in WORDS if "." not in w], [w for w in WORDS if len(w) < 80]
    words = {"op": undotted, "dim": undotted, "layer": short}.get(kind, WORDS)
    usual = {len(names): results(KINDS[kind](plain(names))) for names in parts(words)[-2:]}
    for names in parts(words):
        graph = KINDS[kind](names)
        assert str(tn.Graph.from_text(str(graph))) == str(graph)
        pairs = zip(results(graph), usual[len(names)], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), names


@torch.no_grad()
def results(graph: tn.Graph) -> list[Tensor]:
    return list(tn.compile(graph)(**fed(graph)).values())


CASES = {
    "gathered": {"optimizer": ADAM, "accumulate": 2},
    "scaled": {"optimizer": ADAM, "scaler": tn.GradScaler()},
}


@pytest.mark.interpreted
@pytest.mark.parametrize("case", CASES)
def test_names_of_ours_give_way_to_trained_parameters(case: str) -> None:
    assert trained(["w", *OURS], CASES[case]) == trained(["w", *plain(OURS)], CASES[case])


def trained(names: Sequence[str], options: dict[str, Any]) -> list[Any]:
    """What two batches leave of a model and its state, in numbers."""
    step = tn.compile_step(model(names), seed=3, **options)
    found = []
    for batch in range(2):
        found += step(fed=torch.arange(8.0).reshape(4, 2) + batch).values()
    state = step.state_dict()
    step.load_state_dict(state)
    found += [state["model"][v.name] for v in step.graph.leaves("parameter", "buffer")]
    return [str(t.tolist()) for t in (*found, *state["slots"].values())]


@pytest.mark.interpreted
@pytest.mark.parametrize("place", ["input", "output"])
def test_names_of_ours_give_way_in_gradients(place: str) -> None:
    found = []
    for names in (OURS, plain(OURS)):
        g = tn.Graph("gradients")
        x = g.input("fed", (2,))
        w = g.parameter("w", (2,), init=2.0)
        others = [g.input(n, (2,)) * x for n in names] if place == "input" else [x * i for i in range(len(names))]
        called = names if place == "output" else [f"out{i}" for i in range(len(names))]
        g.output(**{n: tn.tanh(w * o) + tn.sum(o) for n, o in zip(called, others, strict=True)})
        compiled = tn.compile(g, training=True)
        feeds = {n: t.requires_grad_() for n, t in fed(g).items()}
        sum(t.sum() for t in compiled(**feeds).values()).backward()
        found.append([compiled.get_parameter("w").grad, *(t.grad for t in feeds.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_seed_gives_way_to_what_is_declared_after_it() -> None:
    found = []
    for name in ("dropout.seed", "plain"):
        for is_first in (True, False):
            g = tn.Graph("seeded")
            x = g.input(name, (8,)) if is_first else None
            y = tn.dropout(g.input("other", (8,)))
            x = g.input(name, (8,)) if x is None else x
            g.output(y=y * x)
            assert str(tn.Graph.from_json(g.to_json())) == str(g)
            assert tn.check(g).ok
            compiled = tn.compile(g, training=True)
            torch.manual_seed(5)
            found.append(compiled(**{name: torch.ones(8), "other": torch.ones(8)})["y"])
    assert all(torch.equal(found[0], other) for other in found)


def test_an_output_may_have_the_name_of_what_is_read_and_updated() -> None:
    g = tn.Graph("outputs")
    x = g.input("x", (4, 2))
    y = tn.batch_norm(x, name="norm")
    g.output(**{"norm.running_mean": tn.sum(y * y * g.parameter("w", (2,), init=2.0)), "x": y, "w": tn.exp(y)})
    compiled = tn.compile(g, training=True)
    traced = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    fed = torch.arange(8.0).reshape(4, 2)
    found = []
    for run in (compiled, traced):
        compiled.load_state_dict(tn.compile(g).state_dict())
        compiled.zero_grad()
        outputs = run(x=fed)
        sum(t.sum() for t in outputs.values()).backward()
        found.append([*outputs.values(), compiled.get_parameter("w").grad, *compiled.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_number_may_be_called_as_one_of_a_group() -> None:
    scope: dict[str, Any] = {}
    exec("def grouped(p, g, *, lr=0.5, lr_group_1=0.25):\n    return (p - (lr + lr_group_1) * g,)", scope)
    rule = tn.update_rule(reference=scope["grouped"])(scope["grouped"])
    g = tn.Graph("groups")
    g.output(loss=tn.sum(g.input("x", (2,)) * g.parameter("a", (2,)) * 1.0 + g.parameter("b", (2,))))
    step = tn.compile_step(g, optimizer=rule(), param_groups=[{"params": ["a"], "lr": 4.0, "lr_group_1": 8.0}])
    step(x=torch.ones(2))
    assert step.model.get_parameter("a").tolist() == [-12.0, -12.0]
    assert step.model.get_parameter("b").tolist() == [-0.75, -0.75]
