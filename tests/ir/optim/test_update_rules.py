"""Update rules: the formula in numpy float64 against torch.optim itself, and against the plain torch reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from torch import Tensor

import tritonnotes as tn
from tritonnotes.ir import Graph
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.evaluate import evaluate
from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer
from tritonnotes.ir.core.types import float64
from tritonnotes.ir.ops.regression import mse_loss
from tritonnotes.ir.optim.update import next_numbers, update_graph
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.judge.update_references import reference_step
from tritonnotes.optim import optimizers
from tritonnotes.tensors.initial import initial_state

STEPS = 7
Make = Callable[..., Optimizer]

TORCH: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adamax": (torch.optim.Adamax, {}),
}
"""The torch optimizer of each function here, and what it must be told to be the same rule."""

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.4},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.0, "dampening": 0.4},
    ],
    "nesterov": [{}, {"momentum": 0.5}],
    "adagrad": [{}, {"lr_decay": 0.3}, {"initial_accumulator_value": 0.2}, {"eps": 1e-2}],
    "adadelta": [{}, {"rho": 0.5}, {"eps": 1e-2}, {"lr": 0.1}],
    "rmsprop": [{}, {"alpha": 0.5}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.5}],
    "adam": [
        {},
        {"betas": (0.0, 0.9)},
        {"betas": (0.5, 0.7)},
        {"eps": 1e-2},
        {"amsgrad": True, "betas": (0.5, 0.6)},
        {"decoupled_weight_decay": True},
        {"amsgrad": True, "decoupled_weight_decay": True},
    ],
    "adamw": [{}, {"amsgrad": True, "betas": (0.5, 0.6)}, {"weight_decay": 0.0}],
    "nadam": [{}, {"momentum_decay": 0.1}, {"decoupled_weight_decay": True}, {"betas": (0.5, 0.7)}],
    "radam": [{}, {"decoupled_weight_decay": True}, {"betas": (0.5, 0.7)}, {"betas": (0.9, 0.6)}],
    "adamax": [{}, {"betas": (0.5, 0.7)}, {"eps": 1e-2}],
}
SHARED: list[dict[str, Any]] = [{}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "maximize": True}]
CASES = [(name, how | more) for name, each in OPTIONS.items() for how in each for more in SHARED]
REPLICATED: list[tuple[str, dict[str, Any]]] = [
    *(("momentum", how) for how in SHARED),
    *(("lion", how) for how in ({}, {"weight_decay": 0.3}, {"betas": (0.5, 0.7), "maximize": True})),
]
"""Rules that torch does not have, so that the paper's formula in plain torch alone judges them."""


def name_of(case: Any) -> str:
    name, how = case
    return "-".join([name, *(f"{k}={v}" for k, v in how.items())])


against_torch = pytest.mark.parametrize("case", CASES, ids=name_of)
against_reference = pytest.mark.parametrize("case", CASES + REPLICATED, ids=name_of)


def make(case: tuple[str, dict[str, Any]]) -> Optimizer:
    return getattr(optimizers, case[0])(**case[1])


def gradients(shape: tuple[int, ...] = (3, 4)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def first_parameter(shape: tuple[int, ...] = (3, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


History = list[dict[str, Any]]


def by_formula(optimizer: Optimizer, p: Tensor, all_g: list[Tensor]) -> History:
    """Parameter and state after each step."""
    graph = update_graph(optimizer, p.shape, float64)
    current: dict[str, Any] = {"p": p.numpy(), **{n: np.full(p.shape, v) for n, v in optimizer.state.items()}}
    numbers, history = optimizer.numbers, []
    for step, g in enumerate(all_g, 1):
        given = {**optimizer.settings, **numbers, "step": step}
        scalars = {v.name: given[v.name.rpartition(".")[2]] for v in graph.leaves("scalar")}
        found = evaluate(graph, current | scalars | {"g": g.numpy()})
        current = {name: found[value] for name, value in graph.updates.items()}
        numbers = next_numbers(optimizer, given)
        history.append({**current, **numbers})
    return history


def by_reference(optimizer: Optimizer, p: Tensor, all_g: list[Tensor]) -> History:
    state = {n: torch.full_like(p, v) for n, v in optimizer.state.items()}
    numbers, history = optimizer.numbers, []
    for step, g in enumerate(all_g, 1):
        p, state, numbers = reference_step(optimizer, p, g, state, step, numbers)
        history.append({"p": p.numpy(), **{n: t.numpy() for n, t in state.items()}, **numbers})
    return history


def by_torch(case: tuple[str, dict[str, Any]], p: Tensor, all_g: list[Tensor]) -> History:
    make_theirs, fixed = TORCH[case[0]]
    p = p.clone().requires_grad_()
    torch.set_default_dtype(torch.float64)  # torch keeps counts and products in the default dtype
    try:
        optimizer = make_theirs([p], **{**fixed, **case[1]})
        history = []
        for g in all_g:
            p.grad = g.clone()
            optimizer.step()
            kept = {n: t.numpy().copy() for n, t in optimizer.state[p].items() if isinstance(t, Tensor) and n != "step"}
            history.append({"p": p.detach().numpy().copy(), **kept})
    finally:
        torch.set_default_dtype(torch.float32)
    return history


def assert_histories_agree(got: History, want: History) -> None:
    for step, (mine, theirs) in enumerate(zip(got, want, strict=True), 1):
        assert mine.keys() == theirs.keys(), f"step {step}"
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], 1e-12, 1e-14, err_msg=f"step {step}, {name}")


@against_torch
def test_formula_agrees_with_torch_optim(case: Any) -> None:
    assert_histories_agree(
        by_formula(make(case), first_parameter(), gradients()), by_torch(case, first_parameter(), gradients())
    )


@against_reference
def test_formula_agrees_with_plain_torch_reference(case: Any) -> None:
    optimizer = make(case)
    assert_histories_agree(
        by_formula(optimizer, first_parameter(), gradients()), by_reference(optimizer, first_parameter(), gradients())
    )


def test_every_rule_is_covered_here() -> None:
    covered = {part.rule.name for case in CASES + REPLICATED for part in make(case).parts} | {"ema"}
    assert covered == {n for n, rule in UPDATE_RULES.items() if not rule.custom}


@pytest.mark.parametrize("shape", [(), (1,), (0, 3)], ids=str)
@pytest.mark.parametrize("name", [*OPTIONS, "momentum", "lion"])
def test_zero_dim_and_empty_parameters_work(name: str, shape: tuple[int, ...]) -> None:
    optimizer = make((name, {}))
    mine = by_formula(optimizer, first_parameter(shape), gradients(shape))
    assert_histories_agree(mine, by_reference(optimizer, first_parameter(shape), gradients(shape)))


@pytest.mark.parametrize("name", [*OPTIONS, "momentum", "lion"])
def test_nan_stays_in_its_element(name: str) -> None:
    all_g = gradients()
    all_g[2][1, 1] = float("nan")
    want = by_reference(make((name, {})), first_parameter(), all_g)
    for step, mine in enumerate(by_formula(make((name, {})), first_parameter(), all_g), 1):
        # The sign of NaN is 0 in torch, so Lion's parameter moves on without it.
        assert np.isnan(mine["p"]).sum() == (step >= 3 and name != "lion")
        assert np.array_equal(np.isnan(mine["p"]), np.isnan(want[step - 1]["p"]))


def test_adam_with_eps_0_and_gradient_0_is_nan_as_in_torch() -> None:
    case = ("adam", {"lr": 0.1, "eps": 0.0})
    p, zero = torch.ones(2, dtype=torch.float64), [torch.zeros(2, dtype=torch.float64)]
    assert np.isnan(by_formula(make(case), p, zero)[0]["p"]).all()
    assert np.isnan(by_torch(case, p, zero)[0]["p"]).all()


def test_momentum_in_the_notes_form_is_torchs_until_the_rate_changes() -> None:
    """v ← γv + ηg against v ← γv + g: one parameter as long as η stays, two once it falls."""
    graphs = [update_graph(o, (3,), float64) for o in (tn.momentum(0.1), tn.sgd(0.1, momentum=0.9))]
    states: list[dict[str, Any]] = [
        {"p": np.ones(3), **dict.fromkeys(o.state, np.zeros(3))} for o in (tn.momentum(), tn.sgd(momentum=0.9))
    ]
    gaps = []
    for step, g in enumerate(gradients((3,)), 1):
        numbers = {"lr": 0.1 if step <= 3 else 0.01, "momentum": 0.9, "step": step}
        for i, graph in enumerate(graphs):
            scalars = {v.name: numbers[v.name.rpartition(".")[2]] for v in graph.leaves("scalar")}
            found = evaluate(graph, states[i] | scalars | {"g": g.numpy()})
            states[i] = {name: found[value] for name, value in graph.updates.items()}
        gaps.append(np.abs(states[0]["p"] - states[1]["p"]).max())
    assert max(gaps[:3]) < 1e-15 and min(gaps[3:]) > 1e-3


# -- what is added to a rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OPTIONS, "momentum", "lion"])
def test_average_follows_any_rule_as_torchs_averaged_model_does(name: str) -> None:
    p, all_g = first_parameter(), gradients()
    mine = by_formula(tn.ema(make((name, {})), decay=0.7), p, all_g)
    alone = by_formula(make((name, {})), p, all_g)
    followed = torch.nn.ParameterList([p.clone()])
    averaged = torch.optim.swa_utils.AveragedModel(
        followed, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)
    )
    for step in range(STEPS):
        np.testing.assert_allclose(mine[step]["p"], alone[step]["p"], rtol=1e-15)
        followed[0].data.copy_(torch.from_numpy(alone[step]["p"]))
        averaged.update_parameters(followed)
        np.testing.assert_allclose(mine[step]["ema"], averaged.module[0].detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("how", [{"max_norm": 0.5}, {"max_norm": 1e3}, {"max_value": 0.3}], ids=str)
def test_clipping_is_what_torchs_functions_do_before_the_step(how: dict[str, float]) -> None:
    p, all_g = first_parameter(), gradients()
    mine = by_formula(tn.clip(tn.sgd(lr=0.1, momentum=0.9, maximize=True), **how), p, all_g)
    clipped = []
    for g in all_g:
        leaf = torch.zeros_like(g, requires_grad=True)
        leaf.grad = g.clone()
        if "max_norm" in how:
            torch.nn.utils.clip_grad_norm_([leaf], how["max_norm"])
        else:
            torch.nn.utils.clip_grad_value_([leaf], how["max_value"])
        clipped.append(leaf.grad)
    assert_histories_agree(mine, by_torch(("sgd", {"lr": 0.1, "momentum": 0.9, "maximize": True}), p, clipped))


def test_names_of_two_rules_in_a_row_must_not_clash() -> None:
    with pytest.raises(DeclarationError, match="ema after adam.*both have ema, ema_decay"):
        tn.ema(tn.ema(tn.adam()))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: UPDATE_RULES["sgd"](lr=0.1, momentum=0.9), "does not take.*momentum"),
        (lambda: UPDATE_RULES["adam"](), "needs.*lr"),
        (lambda: UPDATE_RULES["sgd"](lr="0.1"), "a number or a bool"),
        (lambda: UPDATE_RULES["adam"](lr=0.1, step=3), "step"),
        (lambda: UPDATE_RULES["nadam"](lr=0.1, mu_product=1.0), "mu_product"),
        (lambda: tn.sgd(lr=-1), "lr is -1"),
        (lambda: tn.sgd(nesterov=True), "nesterov needs a momentum"),
        (lambda: tn.adadelta(rho=1.1), "rho is 1.1"),
        (lambda: tn.adam(betas=(1.0, 0.9)), r"betas\[0\] is 1.0"),
        (lambda: tn.lion(betas=(0.9, -0.1)), r"betas\[1\] is -0.1"),
        (lambda: tn.nadam(momentum_decay=-1), "momentum_decay is -1"),
        (lambda: tn.ema(tn.sgd(), decay=2), "decay is 2"),
        (lambda: tn.clip(tn.sgd(), max_norm=-1), "max_norm is -1"),
    ],
)
def test_arguments_out_of_range_are_named(declare: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare()


# -- in the training step ----------------------------------------------------------------------------------------------


def fit(dtype: str = "float64") -> Graph:
    graph = Graph("fit")
    x = graph.input("x", (5, 3), dtype)
    weight = graph.parameter("weight", (3,), init="uniform", low=-1, high=1, dtype=dtype)
    graph.output(loss=mse_loss(x * weight, graph.input("y", (5, 3), dtype)))
    return graph


@against_torch
def test_joint_graph_trains_as_torch_does(case: Any) -> None:
    """Forward, derived gradient and update in one graph, against autograd and torch.optim."""
    optimizer, graph = make(case), fit()
    joint = joint_graph(graph, "loss", optimizer)
    data = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    current: dict[str, Any] = {n: t.numpy() for n, t in initial_state(graph, 3).items()}
    current |= {v.name: np.full(v.shape, v.attrs["init"]) for v in joint.leaves("slot")}
    weight = torch.tensor(current["weight"], requires_grad=True)
    theirs = TORCH[case[0]][0]([weight], **{**TORCH[case[0]][1], **case[1]})
    numbers = optimizer.numbers
    for step in range(1, STEPS + 1):
        given = {**optimizer.settings, **numbers, "step": step}
        scalars = {v.name: given[v.name.rpartition(".")[2]] for v in joint.leaves("scalar")}
        found = evaluate(joint, current | scalars | {"x": data[0].numpy(), "y": data[1].numpy()})
        current, numbers = {n: found[v] for n, v in joint.updates.items()}, next_numbers(optimizer, given)
        theirs.zero_grad()
        torch.nn.functional.mse_loss(data[0] * weight, data[1]).backward()
        theirs.step()
        # torch keeps NAdam's product in float32.
        rtol = 1e-6 if case[0] == "nadam" else 1e-11
        np.testing.assert_allclose(current["weight"], weight.detach().numpy(), rtol=rtol, atol=1e-14)


def test_norm_of_all_gradients_together_is_clipped_in_the_step() -> None:
    graph = Graph("two")
    a, b = (graph.parameter(n, (3,), init=0.5, dtype="float64") for n in "ab")
    x = graph.input("x", (3,), "float64")
    graph.output(loss=tn.sum(a * x * 3 + b * b))
    joint = joint_graph(graph, "loss", tn.clip(tn.sgd(lr=1.0), max_norm=1.0))
    feeds = {"a": np.full(3, 0.5), "b": np.full(3, 0.5), "x": np.arange(3.0), "sgd.lr": 1.0, "clip.max_norm": 1.0}
    found = evaluate(joint, feeds)
    taken = np.concatenate([feeds[n] - found[v] for n, v in joint.updates.items()])  # type: ignore[operator]
    wanted = np.concatenate([3 * np.arange(3.0), np.ones(3)])
    np.testing.assert_allclose(taken, wanted / (np.linalg.norm(wanted) + 1e-6), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [*OPTIONS, "momentum", "lion"])
def test_kernel_of_one_parameter_keeps_the_tolerance(name: str, dtype: str) -> None:
    optimizer = tn.ema(make((name, {"weight_decay": 0.1})), decay=0.5)
    rows = [row for row in tn.check(fit(dtype), optimizer=optimizer).rows if row.what == "update"]
    assert [row.name for row in rows] == [f"{optimizer.rule.name} {n}" for n in ("p", *optimizer.state)]
    assert all(row.comparison.ok for row in rows), "\n".join(f"{row.name}: {row.comparison}" for row in rows)


def test_step_with_numbers_beside_its_state_resumes_bit_for_bit() -> None:
    data = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(4))
    feeds = {"x": data[0], "y": data[1]}
    one, two = (tn.compile_step(fit("float32"), optimizer=tn.nadam(lr=0.1)) for _ in range(2))
    for _ in range(3):
        one(**feeds)
    two.load_state_dict(one.state_dict())
    assert two.numbers == one.numbers != {"mu_product": 1.0}
    one(**feeds), two(**feeds)
    assert torch.equal(one.model.state_dict()["weight"], two.model.state_dict()["weight"])


def test_documentation_says_of_every_rule_what_its_note_says() -> None:
    rules = (ROOT / "docs" / "optimizers.md").read_text()
    ops = (ROOT / "docs" / "ops.md").read_text()
    for name, rule in UPDATE_RULES.items():
        if not rule.custom:
            assert rule.note is not None
            formula = rule.note.formula.replace("|", r"\|")
            assert f"| [{name}](ops.md#{name}) | `{formula}` |" in rules, f"{name}: {formula}"
            for line in (rule.note.formula, rule.note.strengths, rule.note.weaknesses, rule.note.use):
                assert line in ops, f"{name}: {line}"
