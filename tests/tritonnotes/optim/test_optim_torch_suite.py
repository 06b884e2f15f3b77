"""Torch's own suite for its optimizers, run against the drop-ins: the inputs and error inputs of `optim_db`, and the
behaviours that torch's test_optim.py holds, each compared with what torch's class does."""

from __future__ import annotations

import copy
import pickle
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch_judges import OptimizerErrorEnum, OptimizerInfo, optim_db

from tritonnotes import optim
from tritonnotes.codegen.optimizer.kinds import PARAMETERS
from tritonnotes.ir.core.errors import TritonNotesError
from tritonnotes.runtime.runner import pick_device

DEVICE = pick_device()
INFOS: dict[str, OptimizerInfo] = {info.name: info for info in optim_db if hasattr(optim, info.name)}
DTYPES = [
    torch.float32,
    torch.bfloat16,
    pytest.param(torch.float64, marks=pytest.mark.slow),
    pytest.param(torch.float16, marks=pytest.mark.slow),
]
every_class = pytest.mark.parametrize("name", INFOS)


def test_all_of_torchs_that_are_rules_for_single_numbers_are_here() -> None:
    assert set(INFOS) == {"SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adamax"}


@every_class
def test_drop_in_is_torchs_class_with_its_signature_and_group_keys(name: str) -> None:
    mine, theirs = getattr(optim, name), getattr(torch.optim, name)
    assert issubclass(mine, theirs) and mine.__name__ == theirs.__name__
    params = [torch.zeros(1, requires_grad=True)]
    assert mine(params).state_dict()["param_groups"] == theirs(params).state_dict()["param_groups"]
    assert mine(params).defaults == theirs(params).defaults


def inputs(name: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    return [each.kwargs for each in INFOS[name].optim_inputs_func(device=DEVICE, dtype=dtype)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_class
def test_inputs_of_optim_db_give_torchs_parameters_and_state(name: str, dtype: torch.dtype) -> None:
    for how in inputs(name, dtype):
        models = []
        for module in (optim, torch.optim):
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(10, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False)
            ).to(device=DEVICE, dtype=dtype)
            models.append((model, getattr(module, name)(model.parameters(), **copy.deepcopy(how))))
        for step in range(7):
            torch.manual_seed(100 + step)
            grads = [torch.randn(p.shape, dtype=torch.float32).to(p) for p in models[0][0].parameters()]
            for model, optimizer in models:
                for i, (p, g) in enumerate(zip(model.parameters(), grads, strict=True)):
                    is_missing = step == 2 and i == 0 or step in (3, 4) and i == 2
                    p.grad = None if is_missing else g.clone()
                optimizer.step()
        (mine, my_optimizer), (theirs, their_optimizer) = models
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            close(p, q, f"{name} {how}")
            assert my_optimizer.state[p].keys() == their_optimizer.state[q].keys()
            for key, value in my_optimizer.state[p].items():
                close(value, their_optimizer.state[q][key], f"{name} {how} {key}")


def close(mine: Tensor, theirs: Tensor, what: str) -> None:
    """As close as torch's suite wants its own implementations to be among themselves; the tolerance against float64 is
    held in test_optim_parity."""
    sizes = {torch.float64: 1e-7, torch.float32: 1.3e-6, torch.float16: 1e-3, torch.bfloat16: 1.6e-2}
    rtol = max(sizes.get(t, 0.0) for t in (mine.dtype, theirs.dtype))
    # Several steps, in which eager rounds after every operation and a kernel once.
    atol = {torch.float16: 5e-3, torch.bfloat16: 5e-2}.get(mine.dtype, 1e-5)
    torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=4 * rtol, atol=atol, msg=lambda m: f"{what}\n{m}")


@every_class
def test_error_inputs_of_optim_db_raise_what_torch_raises(name: str) -> None:
    found = INFOS[name].optim_error_inputs_func(device=DEVICE, dtype=torch.float32)
    assert found
    for error in found:
        given = error.optimizer_error_input
        params = [torch.ones(1, 1, requires_grad=True)] if given.params is None else given.params
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                getattr(optim, name)(params, **given.kwargs)
        elif error.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                getattr(optim, name)(params, **given.kwargs)
        else:
            optimizer = getattr(optim, name)(params, **given.kwargs)
            with pytest.raises(error.error_type, match=error.error_regex):
                optimizer.step()


def pair(name: str, make: Any, **how: Any) -> list[tuple[list[Tensor], torch.optim.Optimizer]]:
    """Parameters of the same values, ours and torch's optimizer on them."""
    made = []
    for module in (optim, torch.optim):
        params = make()
        made.append((params, getattr(module, name)(params, **how)))
    return made


def run(optimizers: list[tuple[list[Tensor], torch.optim.Optimizer]], steps: int = 4, seed: int = 0) -> None:
    """The same gradients for all of them."""
    for step in range(steps):
        for params, optimizer in optimizers:
            generator = torch.Generator().manual_seed(seed + step)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
            optimizer.step()


def agree(optimizers: list[tuple[list[Tensor], torch.optim.Optimizer]], what: str = "") -> None:
    (mine, my_optimizer), (theirs, their_optimizer) = optimizers
    for p, q in zip(mine, theirs, strict=True):
        close(p, q, what)
        for key, value in their_optimizer.state[q].items():
            close(my_optimizer.state[p][key], value, f"{what} {key}")


def simple() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((4, 3), (5,), ())]


# -- parameters of all sorts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@every_class
def test_complex_parameters_step_as_pairs_of_real_ones(name: str, dtype: torch.dtype) -> None:
    def make() -> list[Tensor]:
        torch.manual_seed(1)
        return [torch.randn(shape, dtype=dtype, device=DEVICE).requires_grad_() for shape in ((4, 3), ())]

    for how in inputs(name, torch.float32):
        made = pair(name, make, **copy.deepcopy(how))
        run(made)
        agree(made, f"{name} {how}")


@every_class
def test_layouts_other_than_contiguous(name: str) -> None:
    """Transposed, sliced, offset, channels-last; gradients in another order than their parameters, or expanded."""

    def make() -> list[Tensor]:
        torch.manual_seed(1)
        whole = torch.randn(12, 10, device=DEVICE)
        images = torch.randn(2, 3, 4, 4, device=DEVICE).to(memory_format=torch.channels_last)
        return [t.detach().requires_grad_() for t in (whole[:4].t(), whole[4:8, ::2], whole[8:].view(-1)[1:], images)]

    made = pair(name, make)
    for step in range(4):
        for params, optimizer in made:
            generator = torch.Generator().manual_seed(step)
            for p in params:
                drawn = torch.randn(p.shape, generator=generator).to(p.device)
                p.grad = drawn if step % 2 else torch.ones(p.shape[-1], device=p.device).expand(p.shape)
            optimizer.step()
    agree(made)


@every_class
def test_frozen_modules_are_left_alone(name: str) -> None:
    """No gradient: no step, no state, no decay."""
    for how in ({}, {"weight_decay": 0.5}):
        (params, optimizer), _ = pair(name, simple, **how)
        before = [p.detach().clone() for p in params]
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
        assert not torch.equal(params[0], before[0])
        for p, was in zip(params[1:], before[1:], strict=True):
            assert torch.equal(p, was)
            assert name == "Adagrad" or not optimizer.state.get(p)


@every_class
def test_nothing_to_do_is_fine(name: str) -> None:
    params = simple()
    optimizer = getattr(optim, name)(params)
    optimizer.step()
    empty = torch.zeros(0, 3, device=DEVICE, requires_grad=True)
    optimizer = getattr(optim, name)([empty])
    empty.grad = torch.zeros_like(empty)
    optimizer.step()
    assert name in ("SGD",) or optimizer.state[empty]["step"] == 1


@every_class
def test_gradients_are_never_written(name: str) -> None:
    for how in inputs(name, torch.float32):
        params = simple()
        optimizer = getattr(optim, name)(params, **copy.deepcopy(how))
        for p in params:
            p.grad = torch.randn_like(p)
        before = [(p.grad.clone(), p.grad._version) for p in params]
        optimizer.step()
        for p, (value, version) in zip(params, before, strict=True):
            assert torch.equal(p.grad, value) and p.grad._version == version


@every_class
def test_backward_through_weights_of_before_the_step_raises(name: str) -> None:
    params = simple()[:1]
    optimizer = getattr(optim, name)(params)
    loss = (params[0] ** 2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- groups, closures, hooks, schedulers -------------------------------------------------------------------------------


@every_class
def test_groups_have_options_of_their_own_and_may_be_added(name: str) -> None:
    def make(module: Any) -> tuple[list[Tensor], torch.optim.Optimizer]:
        params = simple()
        optimizer = getattr(module, name)(
            [{"params": params[:1], "lr": 0.1, "weight_decay": 0.2}, {"params": params[1:2]}]
        )
        optimizer.add_param_group({"params": params[2:], "lr": 0.3})
        return params, optimizer

    made = [make(optim), make(torch.optim)]
    run(made)
    agree(made)


@every_class
def test_closure_is_run_with_gradients_on_and_its_loss_returned(name: str) -> None:
    params = simple()
    optimizer = getattr(optim, name)(params)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert isinstance(first, Tensor) and optimizer.step(closure) < first


@every_class
def test_hooks_run_before_and_after_and_may_change_the_arguments(name: str) -> None:
    params = simple()
    optimizer = getattr(optim, name)(params)
    seen: list[Any] = []
    before = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    everywhere = register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append("anywhere"))
    optimizer.step()
    before.remove()
    everywhere.remove()
    optimizer.step()
    assert seen == ["before", "after", "anywhere", "after"]


@every_class
def test_schedules_of_torch_drive_the_rate_and_compile_nothing_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonnotes.optim import launching

    for schedules in INFOS[name].scheduler_inputs:
        made = pair(name, simple, lr=0.01)
        many = [[make(optimizer) for make in schedules] for _, optimizer in made]
        run(made, 2)
        modules = dict(launching._updates)
        for step in range(6):
            run(made, 1, seed=10 + step)
            for each in many:
                for schedule in each:
                    plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    schedule.step(1.0) if plateau else schedule.step()
        assert launching._updates == modules
        agree(made)


@pytest.mark.parametrize(
    "name", sorted(INFOS.keys() - {"Adagrad", "Adadelta"})
)  # which have neither momentum nor betas
def test_momentum_cycled_by_a_schedule(name: str) -> None:
    made = pair(name, simple, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {}))
    schedules = [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10) for _, optimizer in made]
    for step in range(6):
        run(made, 1, seed=step)
        for schedule in schedules:
            schedule.step()
    agree(made)


@every_class
def test_rate_may_be_a_tensor(name: str) -> None:
    rates = [torch.tensor(0.05), torch.tensor(0.05)]
    made = [
        (p, getattr(module, name)(p, lr=lr))
        for module, lr, p in zip((optim, torch.optim), rates, (simple(), simple()), strict=True)
    ]
    run(made, 2)
    for lr in rates:
        lr.fill_(0.01)
    run(made, 2, seed=5)
    agree(made)


@every_class
def test_sparse_gradients_work_or_raise_as_in_torch(name: str) -> None:
    def step(module: Any) -> list[Tensor] | str:
        weight, bias = (
            torch.ones(6, 3, device=DEVICE, requires_grad=True),
            torch.ones(3, device=DEVICE, requires_grad=True),
        )
        optimizer = getattr(module, name)([weight, bias], lr=0.1)
        try:
            for step in range(3):
                rows = torch.tensor([[1, 4, 1]], device=DEVICE)
                values = torch.full((3, 3), 1.0 + step, device=DEVICE)
                weight.grad = torch.sparse_coo_tensor(rows, values, (6, 3), check_invariants=True)
                bias.grad = torch.ones_like(bias)
                optimizer.step()
        except RuntimeError as error:
            return str(error)
        return [weight, bias]

    mine, theirs = step(optim), step(torch.optim)
    assert INFOS[name].supports_sparse == isinstance(mine, list)
    if isinstance(mine, str):
        assert mine == theirs
    else:
        for p, q in zip(mine, theirs, strict=True):
            close(p, q, name)  # type: ignore[arg-type]


@every_class
def test_differentiable_is_left_to_torch(name: str) -> None:
    def meta_gradient(module: Any) -> Tensor:
        weight = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
        p = weight * 2
        p.grad = weight**2
        optimizer = getattr(module, name)([torch.zeros(1, requires_grad=True)], lr=0.1, differentiable=True)
        optimizer.param_groups[0]["params"] = [p]
        if name == "Adagrad":
            optimizer.state[p] = {"step": torch.tensor(0.0), "sum": torch.zeros_like(p)}
        optimizer.step()
        return torch.autograd.grad(p.sum(), weight)[0]

    assert torch.equal(meta_gradient(optim), meta_gradient(torch.optim))


# -- state_dict --------------------------------------------------------------------------------------------------------


@every_class
def test_trajectory_goes_on_through_state_dicts_both_ways(name: str) -> None:
    """torch, then here, then torch again; and here, then torch, then here: what torch alone would have done."""
    for how in inputs(name, torch.float32):
        for order in ((torch.optim, optim, torch.optim), (optim, torch.optim, optim)):
            alone = [(p := simple(), getattr(torch.optim, name)(p, **copy.deepcopy(how)))]
            params, optimizer = simple(), None
            for part, module in enumerate(order):
                fresh = getattr(module, name)(params, **copy.deepcopy(how))
                if optimizer is not None:
                    fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
                optimizer = fresh
                run([(params, optimizer), *alone], 3, seed=10 * part)
                agree([(params, optimizer), *alone], f"{name} {how} {order}")
            assert optimizer.state_dict()["param_groups"] == alone[0][1].state_dict()["param_groups"]


@every_class
def test_state_dict_survives_torch_save_and_a_deep_copy(name: str, tmp_path: Any) -> None:
    (params, optimizer), _ = pair(name, simple)
    run([(params, optimizer)])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copied = copy.deepcopy((params, optimizer))
    again = [p.detach().clone().requires_grad_() for p in params]
    loaded = getattr(optim, name)(again)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    pickled = pickle.loads(pickle.dumps((params, optimizer)))
    three = [(params, optimizer), copied, (again, loaded), pickled]
    run(three, seed=9)
    for others, _ in three[1:]:
        for p, q in zip(params, others, strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("name", sorted(INFOS.keys() - {"SGD"}))  # which counts none
def test_steps_that_old_files_keep_as_numbers_are_read(name: str) -> None:
    made = pair(name, simple)
    run(made)
    for _, optimizer in made:
        state = copy.deepcopy(optimizer.state_dict())
        for each in state["state"].values():
            each["step"] = each["step"].item()
        optimizer.load_state_dict(state)
    run(made, seed=7)
    agree(made)


@every_class
def test_options_that_old_files_lack_take_their_defaults(name: str) -> None:
    made = pair(name, simple)
    run(made)
    for _, optimizer in made:
        state = copy.deepcopy(optimizer.state_dict())
        for flag in INFOS[name].not_og_supported_flags:
            for group in state["param_groups"]:
                group.pop(flag, None)
        optimizer.load_state_dict(state)
    run(made, seed=7)
    agree(made)


# -- what torch does not do --------------------------------------------------------------------------------------------


@every_class
def test_parameters_that_share_memory_are_refused_before_anything_is_written(name: str) -> None:
    whole = torch.zeros(10, device=DEVICE)
    params = [whole[:6].detach().requires_grad_(), whole[4:].detach().requires_grad_()]
    optimizer = getattr(optim, name)(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(TritonNotesError, match="p of parameter 0 and p of parameter 1 share memory"):
        optimizer.step()
    assert not whole.any()
    assert all(state.get("step", 0) == 0 for state in optimizer.state.values())


@every_class
def test_expanded_parameters_are_refused(name: str) -> None:
    expanded = torch.zeros(1, device=DEVICE).expand(3).detach().requires_grad_()
    optimizer = getattr(optim, name)([expanded])
    expanded.grad = torch.ones(3, device=DEVICE)
    with pytest.raises(TritonNotesError, match="parameter 0 .* share memory"):
        optimizer.step()


@every_class
def test_tensors_that_moved_are_found_again(name: str) -> None:
    """Tables of addresses are held against the tensors at every step: storage swapped, state and gradients replaced."""
    made = pair(name, simple)
    run(made)
    for params, optimizer in made:
        with torch.no_grad():
            params[0].data = params[0].detach().t().contiguous().t()
            params[1].data = params[1].detach().clone()
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    state[key] = value.clone()
    run(made, seed=9)
    agree(made)


@every_class
def test_state_that_a_user_resets_or_rewinds_is_noticed(name: str) -> None:
    made = pair(name, simple, **({"momentum": 0.9} if name == "SGD" else {}))
    run(made)
    for params, optimizer in made:
        if name != "Adagrad":  # whose first state is made with the optimizer
            del optimizer.state[params[0]]
        for key, value in optimizer.state[params[1]].items():
            value.fill_(3.0 if key == "step" else 0.5)
    run(made, seed=5)
    agree(made)
    for _, optimizer in made:
        optimizer.state.clear()
    run(made, seed=9)
    agree(made)


@every_class
def test_layout_that_changes_at_one_address_is_noticed(name: str) -> None:
    """The square parameter is turned round in place, and a gradient comes back transposed in the same memory."""

    def make() -> list[Tensor]:
        torch.manual_seed(1)
        return [
            torch.randn(4, 4, device=DEVICE, requires_grad=True),
            torch.randn(4, 4, device=DEVICE, requires_grad=True),
        ]

    made = pair(name, make)
    memory = [torch.zeros(2, 4, 4, device=DEVICE) for _ in made]
    for step in range(4):
        for (params, optimizer), held in zip(made, memory, strict=True):
            held.copy_(torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(step)))
            if step == 2:
                params[1].data = params[1].detach().t()
                for key, value in optimizer.state[params[1]].items():
                    if key != "step" and value.ndim == 2:
                        optimizer.state[params[1]][key] = value.t()
            for p, g in zip(params, held, strict=True):
                p.grad = g.t() if step % 2 else g
            optimizer.step()
    agree(made)


@every_class
def test_gradients_are_not_kept_alive(name: str) -> None:
    params = simple()
    optimizer = getattr(optim, name)(params, max_norm=1.0)
    for p in params:
        p.grad = torch.ones_like(p)
    held = [weakref.ref(p.grad) for p in params]
    optimizer.step()
    optimizer.zero_grad()
    assert not any(ref() is not None for ref in held)


@every_class
def test_parameters_in_lists_of_their_own_and_in_one_step_to_the_same_bits(name: str) -> None:
    together, apart = simple(), simple()
    optimizers = [getattr(optim, name)(together), *(getattr(optim, name)([p]) for p in apart)]
    for step in range(3):
        for p, q in zip(together, apart, strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(p.device)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(together, apart, strict=True))


def test_only_parameters_that_start_at_multiples_of_sixteen_move_sixteen_bytes_at_once() -> None:
    whole = torch.zeros(32, device=DEVICE)
    params = [whole[:9].detach(), whole[9:13].detach(), whole[16:].detach()]
    optimizer = optim.SGD([p.requires_grad_() for p in params], momentum=0.9)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    plan = optimizer._gathered[0].works[0].plan
    assert plan is not None
    aligned = [all(t.data_ptr() % 16 == 0 for t in (p, p.grad, optimizer.state[p]["momentum_buffer"])) for p in params]
    assert plan.parameters[:, PARAMETERS.place("aligned")].bool().tolist() == aligned and not aligned[1]


def test_dtype_without_kernels_is_named() -> None:
    p = torch.zeros(3).to(torch.float8_e4m3fn).requires_grad_()
    optimizer = optim.SGD([p])
    p.grad = torch.zeros(3).to(torch.float8_e4m3fn)
    with pytest.raises(TritonNotesError, match="p of parameter 0 is float8_e4m3fn"):
        optimizer.step()


def test_no_class_warns_at_a_step() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in INFOS:
            run(pair(name, simple)[:1], 1)
