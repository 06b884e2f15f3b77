"""What a step does besides the rule: clipping, averaging, zeroing, unscaling, float32 beside 16-bit parameters, steps
counted on the device; and the classes that torch does not have."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from optim_cases import OPTIONS, gradients, parameters
from paths import ROOT
from torch import Tensor

import tritonnotes as tn
from tritonnotes import native, optim
from tritonnotes.ir.core.errors import DeclarationError, FeedError
from tritonnotes.ir.core.optimizer import UPDATE_RULES
from tritonnotes.judge import references as R
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
SHAPES = ((3, 5), (7,), (), (33, 31))
every_class = pytest.mark.parametrize("name", OPTIONS)
on_the_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted under the interpreter")


def both(name: str, fused: dict[str, Any], dtype: torch.dtype = torch.float32, **how: Any) -> list[Any]:
    """Ours with what is fused, and torch's without."""
    mine, theirs = parameters(dtype, SHAPES), parameters(dtype, SHAPES)
    return [(mine, getattr(optim, name)(mine, **how, **fused)), (theirs, getattr(torch.optim, name)(theirs, **how))]


def give(params: list[Tensor], step: int, scale: float = 1.0) -> None:
    for p, g in zip(params, gradients(step, params, params[0].dtype), strict=True):
        p.grad = g * scale


def assert_near(mine: list[Tensor], theirs: list[Tensor], ulps: float = 16) -> None:
    """Float32 results of two ways to compute the same."""
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=ulps * 1.2e-7, atol=ulps * 1.2e-7)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    run = native.Bundle.run

    def counting(self: native.Bundle, threads: int | None = None) -> None:
        found.extend(launch.kernel.__name__ for launch in self.launches)
        run(self, threads)

    monkeypatch.setattr(native.Bundle, "run", counting)
    return found


# -- clipping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 1e4])
@every_class
def test_norm_of_all_gradients_is_clipped_as_by_torchs_function(name: str, max_norm: float) -> None:
    (mine, my_optimizer), (theirs, their_optimizer) = both(name, {"max_norm": max_norm})
    for step in range(3):
        give(mine, step)
        give(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
        their_optimizer.step()
        my_optimizer.step()
        torch.testing.assert_close(my_optimizer.total_norm, norm, rtol=1e-6, atol=0.0)
        assert_near(mine, theirs)


@on_the_cpu
def test_norm_spans_groups_and_dtypes_and_costs_one_launch(launches: list[str]) -> None:
    params = [*parameters(torch.float32), *parameters(torch.bfloat16, seed=1), *parameters(torch.float64, seed=2)]
    groups = [{"params": params[:4]}, {"params": params[4:], "lr": 0.1}]
    optimizer = optim.SGD(groups, max_norm=1.0)
    for p in params:
        p.grad = torch.randn(p.shape).to(p.dtype)
    optimizer.step()
    assert launches == ["gradient_norm", "update_sgd", "update_sgd"]
    wanted = torch.linalg.vector_norm(torch.cat([p.grad.double().flatten() for p in params]))  # type: ignore[union-attr]
    torch.testing.assert_close(optimizer.total_norm.double(), wanted, rtol=1e-6, atol=0.0)


def test_norm_adds_up_in_one_order_whatever_the_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonnotes.optim import tables

    monkeypatch.setattr(tables, "NATIVE_BLOCKS", (64,))
    norms = []
    for _ in range(3):
        params = parameters(torch.float32)
        optimizer = optim.SGD(params, max_norm=1.0)
        give(params, 0)
        optimizer.step()
        norms.append(optimizer.total_norm)
    assert norms[0] == norms[1] == norms[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_norm_that_is_not_finite_reaches_every_parameter_as_in_torch(bad: float) -> None:
    (mine, my_optimizer), (theirs, their_optimizer) = both("SGD", {"max_norm": 1.0}, lr=0.1)
    for params in (mine, theirs):
        give(params, 0)
        params[0].grad[0, 0] = bad  # type: ignore[index]
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    my_optimizer.step(), their_optimizer.step()
    for p, q in zip(mine, theirs, strict=True):
        assert torch.equal(p.isnan(), q.isnan())


def test_norm_of_nothing_clips_nothing() -> None:
    empty = torch.zeros(0, requires_grad=True)
    optimizer = optim.SGD([empty], max_norm=1.0)
    empty.grad = torch.zeros(0)
    optimizer.step()
    empty.grad = None
    optimizer.step()
    beside = torch.ones(3, requires_grad=True)
    beside.grad = torch.zeros(3)
    optim.SGD([empty, beside], max_norm=1.0, weight_decay=0.0).step()
    assert empty.shape == (0,) and torch.equal(beside, torch.ones(3)), "a norm of 0 divides nothing"


@every_class
def test_values_are_clipped_as_by_torchs_function(name: str) -> None:
    (mine, my_optimizer), (theirs, their_optimizer) = both(name, {"max_value": 0.3}, weight_decay=0.1)
    for step in range(3):
        give(mine, step), give(theirs, step)
        torch.nn.utils.clip_grad_value_(theirs, 0.3)
        my_optimizer.step(), their_optimizer.step()
    assert_near(mine, theirs)


# -- averaging and zeroing ---------------------------------------------------------------------------------------------


@every_class
def test_mean_of_the_parameters_is_that_of_torchs_averaged_model(name: str) -> None:
    (mine, my_optimizer), (theirs, their_optimizer) = both(name, {"ema_decay": 0.9})
    module = torch.nn.ParameterList(theirs)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    averaged = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=average)
    for step in range(4):
        give(mine, step), give(theirs, step)
        my_optimizer.step(), their_optimizer.step()
        averaged.update_parameters(module)
    assert_near(mine, theirs)
    assert_near([my_optimizer.state[p]["ema"] for p in mine], list(averaged.module.parameters()))


@every_class
def test_gradients_are_left_at_zero_where_asked(name: str) -> None:
    (mine, my_optimizer), (theirs, their_optimizer) = both(name, {"zero_grads": True})
    for step in range(2):
        give(mine, step), give(theirs, step)
        version = mine[0].grad._version  # type: ignore[union-attr]
        my_optimizer.step(), their_optimizer.step()
        assert all(not p.grad.any() for p in mine)  # type: ignore[union-attr]
        assert mine[0].grad._version > version  # type: ignore[union-attr]
    assert_near(mine, theirs)


# -- 16-bit parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_class
def test_master_weights_follow_torch_in_float32_and_parameters_are_their_rounding(
    name: str, dtype: torch.dtype
) -> None:
    mine = parameters(dtype, SHAPES)
    optimizer = getattr(optim, name)(mine, master_weights=True, weight_decay=0.1)
    theirs = [p.detach().float().requires_grad_() for p in mine]
    wide = [p.detach().double().requires_grad_() for p in mine]
    judges = [getattr(torch.optim, name)(params, weight_decay=0.1) for params in (theirs, wide)]
    for step in range(20):
        give(mine, step)
        for params in (theirs, wide):
            for p, q in zip(params, mine, strict=True):
                p.grad = q.grad.to(p.dtype)  # type: ignore[union-attr]
        for each in (optimizer, *judges):
            each.step()
    flat = [torch.cat([t.detach().flatten() for t in each]) for each in (
        [optimizer.state[p]["master"] for p in mine], theirs, wide)]  # fmt: skip
    assert (found := compare(*flat)).ok, found
    for p in mine:
        assert torch.equal(p.detach(), optimizer.state[p]["master"].to(dtype))
        assert all(t.dtype == torch.float32 for k, t in optimizer.state[p].items() if k != "step")


@every_class
def test_float32_state_is_kept_through_a_state_dict(name: str) -> None:
    how = {"momentum": 0.9} if name == "SGD" else {}
    for fused in ({"state_dtype": torch.float32}, {"master_weights": True, "ema_decay": 0.5}):
        params = parameters(torch.bfloat16, SHAPES)
        optimizer = getattr(optim, name)(params, **how, **fused)
        for step in range(3):
            give(params, step)
            optimizer.step()
        again = [p.detach().clone().requires_grad_() for p in params]
        loaded = getattr(optim, name)(again, **how, **fused)
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for step in range(3, 6):
            for each, its in ((params, optimizer), (again, loaded)):
                give(each, step)
                its.step()
        for p, q in zip(params, again, strict=True):
            assert torch.equal(p, q)
            for key, value in optimizer.state[p].items():
                assert value.dtype == loaded.state[q][key].dtype == (torch.float32)
                assert torch.equal(value, loaded.state[q][key])


# -- gradient scaling, and steps counted on the device -----------------------------------------------------------------


def scaled_training(module: Any, name: str, **how: Any) -> tuple[list[Tensor], Any, list[float]]:
    """Four steps under a GradScaler, the second with an infinite gradient, which it skips."""
    params = [p.detach().requires_grad_() for p in parameters(torch.float32, SHAPES)]
    optimizer = getattr(module, name)(params, **how)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    scales = []
    for step in range(4):
        optimizer.zero_grad()
        drawn = gradients(step, params, torch.float32)
        loss = sum((p * g).sum() for p, g in zip(params, drawn, strict=True))
        scaler.scale(loss).backward()
        if step == 1:
            params[0].grad[0, 0] = float("inf")  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return params, optimizer, scales


@every_class
def test_grad_scaler_skips_and_scales_as_with_torch(name: str) -> None:
    mine, my_optimizer, my_scales = scaled_training(optim, name)
    theirs, their_optimizer, their_scales = scaled_training(torch.optim, name)
    assert my_scales == their_scales == [1024.0, 512.0, 512.0, 512.0]
    assert_near(mine, theirs)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])  # those that torch has a fused step of
def test_fused_step_unscales_and_skips_in_the_kernel_as_torchs_does(name: str) -> None:
    how = {"momentum": 0.9} if name == "SGD" else {}
    mine, my_optimizer, my_scales = scaled_training(optim, name, fused=True, **how)
    theirs, their_optimizer, their_scales = scaled_training(torch.optim, name, fused=True, **how)
    assert my_scales == their_scales
    assert_near(mine, theirs)
    assert_near([p.grad for p in mine], [p.grad for p in theirs])  # type: ignore[misc]
    for p, q in zip(mine, theirs, strict=True):
        if name != "SGD":
            assert my_optimizer.state[p]["step"] == their_optimizer.state[q]["step"] == 3


@on_the_cpu
@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"SGD", "Adagrad"}))  # which torch has no capturable form of
def test_capturable_counts_on_the_device_and_waits_for_nothing(
    name: str, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, others = parameters(torch.float32, SHAPES), parameters(torch.float32, SHAPES)
    lr, betas = torch.tensor(0.05), (torch.tensor(0.8), torch.tensor(0.9))
    how: dict[str, Any] = {"betas": betas} if name in ("Adam", "AdamW") else {}
    optimizer = getattr(optim, name)(params, lr=lr, capturable=True, **how)
    theirs = getattr(torch.optim, name)(others, lr=lr.clone(), **how)

    def waits(self: Tensor) -> None:
        raise AssertionError("the host asked the device for a number")

    for step in range(4):
        give(params, step)
        with monkeypatch.context() as patch:
            for ask in ("item", "tolist", "__bool__"):
                patch.setattr(Tensor, ask, waits)
            optimizer.step()
        give(others, step)
        theirs.param_groups[0]["lr"].copy_(lr)
        theirs.step()
        lr.mul_(0.5)
    assert launches[:2] == ["count_steps", f"update_{name.lower()}"] and len(launches) == 8
    assert_near(params, others)
    for p, q in zip(params, others, strict=True):
        assert optimizer.state[p]["step"] == theirs.state[q]["step"] == 4
        assert optimizer.state[p]["step"].device == p.device


def test_everything_at_once_is_what_its_parts_do_one_after_another() -> None:
    """Unscaled, clipped, turned round, decayed, averaged, zeroed, with master weights."""
    params = parameters(torch.bfloat16, SHAPES)
    fused = {"max_norm": 2.0, "max_value": 0.2, "ema_decay": 0.5, "zero_grads": True, "master_weights": True}
    optimizer = optim.AdamW(params, lr=0.01, maximize=True, amsgrad=True, **fused)
    optimizer.grad_scale = torch.tensor(8.0, device=DEVICE)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.tensor(0.0, device=DEVICE)  # type: ignore[attr-defined]
    others = [p.detach().float().requires_grad_() for p in params]
    theirs = torch.optim.AdamW(others, lr=0.01, maximize=True, amsgrad=True)
    means = []
    for step in range(3):
        give(params, step, 8.0)
        for p, q in zip(others, params, strict=True):
            p.grad = q.grad.float() / 8  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(others, 2.0)
        torch.nn.utils.clip_grad_value_(others, 0.2)
        theirs.step()
        means = [
            p.detach().clone() if not step else m.lerp(p.detach(), 0.5)
            for p, m in zip(others, means or others, strict=True)
        ]
        optimizer.step()
        assert all(not p.grad.any() for p in params)  # type: ignore[union-attr]
    assert_near([optimizer.state[p]["master"] for p in params], others)
    assert_near([optimizer.state[p]["ema"] for p in params], means)


# -- classes that torch does not have ----------------------------------------------------------------------------------


@pytest.fixture
def _own_registries() -> Iterator[None]:
    before = dict(UPDATE_RULES), dict(R.UPDATE_REFERENCES)
    yield
    for live, kept in zip((UPDATE_RULES, R.UPDATE_REFERENCES), before, strict=True):
        live.clear()
        live.update(kept)  # type: ignore[arg-type]


def plain_lion(
    p: Tensor, g: Tensor, m: Tensor, lr: float, beta1: float, beta2: float, decay: float
) -> tuple[Tensor, Tensor]:
    """The algorithm of the paper, as its authors write it."""
    update = m.mul(beta1).add(g, alpha=1 - beta1).sign()
    return p.mul(1 - lr * decay).add(update, alpha=-lr), m.mul(beta2).add(g, alpha=1 - beta2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lion_is_that_of_its_paper(dtype: torch.dtype) -> None:
    params = parameters(dtype, SHAPES)
    optimizer = optim.Lion(params, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    runs = [[(p.detach().to(t), torch.zeros_like(p, dtype=t)) for p in params] for t in (dtype, torch.float64)]
    for step in range(20):
        give(params, step)
        for i, run in enumerate(runs):
            runs[i] = [
                plain_lion(p, q.grad.to(p.dtype), m, 0.01, 0.8, 0.9, 0.1) for (p, m), q in zip(run, params, strict=True)
            ]  # type: ignore[union-attr]
        optimizer.step()
    means = [optimizer.state[p]["exp_avg"] for p in params]
    for place, mine in enumerate((params, means)):
        flat = [
            torch.cat([t.detach().flatten() for t in each])
            for each in (mine, *([r[place] for r in run] for run in runs))
        ]
        assert (found := compare(*flat)).ok, found


@pytest.mark.usefixtures("_own_registries")
def test_rule_of_five_lines_gets_kernel_class_and_state_dict(tmp_path: Any) -> None:
    @tn.update_rule(
        state=("m",), reference=lambda p, g, m, *, lr, beta=0.9: (p - lr * torch.tanh(beta * m + g), beta * m + g)
    )
    def soft_sign(p, g, m, *, lr, beta=0.9):
        """Step by the tanh of a momentum."""
        momentum = beta * m + g
        return p - lr * tn.tanh(momentum), momentum

    SoftSign = optim.from_rule(soft_sign)

    assert SoftSign.__name__ == "SoftSign" and issubclass(SoftSign, torch.optim.Optimizer)
    assert list(inspect.signature(SoftSign).parameters)[:4] == ["params", "lr", "beta", "maximize"]
    params = parameters(torch.float32, SHAPES)
    optimizer = SoftSign([{"params": params[:2]}, {"params": params[2:], "beta": 0.5}], lr=0.1, ema_decay=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    plain = [(p.detach().clone(), torch.zeros_like(p)) for p in params]
    for step in range(4):
        give(params, step)
        for i, (p, m) in enumerate(plain):
            plain[i] = soft_sign_reference(p, params[i].grad, m, 0.1 * 0.5**step, 0.9 if i < 2 else 0.5)
        optimizer.step()
        schedule.step()
    assert_near(params, [p for p, _ in plain])
    assert {*optimizer.state[params[0]]} == {"step", "m", "ema"}
    torch.save(optimizer.state_dict(), tmp_path / "own.pt")
    again = [p.detach().clone().requires_grad_() for p in params]
    loaded = SoftSign([{"params": again[:2]}, {"params": again[2:]}], lr=1.0, ema_decay=0.9)
    loaded.load_state_dict(torch.load(tmp_path / "own.pt", weights_only=True))
    for each, its in ((params, optimizer), (again, loaded)):
        give(each, 9)
        its.step()
    assert all(torch.equal(p, q) for p, q in zip(params, again, strict=True))
    assert "momentum = beta * m + g" in optimizer.source
    with pytest.raises(DeclarationError, match="SoftSign: .*nesterov.*it takes"):
        SoftSign(params, lr=0.1, nesterov=True)
    with pytest.raises(DeclarationError, match="missing a required argument: 'lr'; it takes"):
        SoftSign(params)


def soft_sign_reference(p: Tensor, g: Tensor | None, m: Tensor, lr: float, beta: float) -> tuple[Tensor, Tensor]:
    m = beta * m + g  # type: ignore[operator]
    return p - lr * torch.tanh(m), m


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"max_norm": -1.0}, "SGD: max_norm is -1.0"),
        ({"ema_decay": -0.1}, "SGD: ema_decay is -0.1"),
        ({"max_value": float("nan")}, "SGD: max_value is nan"),
        ({"master_weights": True, "state_dtype": torch.bfloat16}, "master_weights keep float32 state"),
    ],
)
def test_options_out_of_range_are_named(how: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        optim.SGD([torch.zeros(1, requires_grad=True)], **how)


def test_sparse_gradients_go_with_none_of_what_is_fused() -> None:
    p = torch.zeros(3, requires_grad=True)
    optimizer = optim.SGD([p], max_value=1.0)
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(FeedError, match="sparse gradients are left to torch"):
        optimizer.step()


def test_state_of_another_shape_is_refused_before_anything_is_written() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([p])
    p.grad = torch.ones(3)
    optimizer.step()
    before = p.detach().clone()
    optimizer.state[p]["exp_avg"] = torch.zeros(4)
    with pytest.raises(FeedError, match=r"exp_avg of parameter 0 is \[4\] on cpu, the parameter \[3\]"):
        optimizer.step()
    assert torch.equal(p, before)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(DeclarationError, match="is no update rule"):
        optim.from_rule(torch.optim.Adam)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_own_registries")
def test_python_of_the_documentation_runs() -> None:
    text = (ROOT / "docs" / "optimizers.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    run: dict[str, Any] = {}
    exec(compile(code, "docs/optimizers.md", "exec"), run)
    assert run["SoftSign"].__name__ == "SoftSign" and run["optimizer"].param_groups[0]["lr"] == 1e-2
