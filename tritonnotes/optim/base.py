"""`UpdateOptimizer`: a torch optimizer whose step is one launch, generated from an update rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..codegen.optimizer.emit import render_update
from ..ir.core.errors import DeclarationError, FeedError, InterruptedStepError
from ..ir.core.optimizer import Optimizer
from ..ir.optim.update import CLIP_COEFFICIENT, FOUND_INF, G_NAME, GRAD_SCALE, Extras
from ..runtime.executors.execution import Execution, execution
from . import optimizers
from .counting import make_count_plan
from .launching import formula_of
from .norm import NormPlan, make_norm_plan, norm_key
from .plan import make_plan, places
from .state import FusedOptions, complete_state, restore_dtypes
from .tables import is_dense, real
from .work import Gathered, Work, gather

SETTINGS_OF = {"betas": ("beta1", "beta2")}
"""Options that hold several of a rule's hyperparameters; all others bear their names."""

PLACEHOLDER = 0.5
"""Stands for a number that only the device knows, wherever one is asked for."""

FUSED_NAMES = tuple(f.name for f in fields(FusedOptions))

HOW_DEFAULTS: dict[str, Any] = {"strict": None, "sanitize": False}
"""Options that say what runs kernels on the CPU."""


class UpdateOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose step updates every parameter of a group in one launch.

    A subclass says by `declare` which rule a group's options mean. Argument names, param groups, closures, hooks and
    the keys of `state_dict` are torch's. Beyond torch's arguments it takes, by keyword:

    - `max_norm`: scale all gradients down together to this norm first; `total_norm` then holds the norm
    - `max_value`: hold each number of a gradient within ±max_value
    - `ema_decay`: keep a decaying mean of each parameter, in its state under `ema`
    - `zero_grads`: leave 0 in the gradients
    - `state_dtype`: keep the state of 16-bit parameters in this dtype (torch keeps theirs)
    - `master_weights`: update a float32 copy of each 16-bit parameter, in its state under `master`, and keep the state
      in float32
    - `strict`, `sanitize`: what runs kernels on the CPU, as for `tn.compile`

    With `capturable` or `fused` the steps are counted on the device, by one more small launch, and nothing waits for
    the host. Without a GPU, kernels run as machine code. In what `torch.compile` makes of a function, a step is a graph
    break. Raises `FeedError` for parameters that cannot be updated in place, `InterruptedStepError` after a step that
    was interrupted between its launches, until `load_state_dict`, and what torch raises otherwise.
    """

    declare: ClassVar[Callable[..., Optimizer]]
    counts_steps: ClassVar[bool] = True
    """Whether each parameter's state has a `step`: all of torch's have, but for SGD."""
    refuses_sparse: ClassVar[str] = "{name} does not support sparse gradients"
    """What is raised for a sparse gradient, in torch's words; empty where torch has a step for it."""

    def __init__(self, params: Iterable[Any], *args: Any, **kwargs: Any) -> None:
        fused = {name: kwargs.pop(name) for name in FUSED_NAMES if name in kwargs}
        self._fused_options = _checked(type(self).__name__, FusedOptions(**fused))
        self._how = {name: kwargs.pop(name) for name in HOW_DEFAULTS if name in kwargs}
        self._norm: NormPlan | None = None
        self._forget()
        super().__init__(params, *args, **kwargs)
        self._restore_dtypes({p: dict(state) for p, state in self.state.items()})
        if self.defaults.get("capturable"):
            self._step_supports_amp_scaling = True

    # Tracers see one call: what they would follow are the addresses of tensors.
    @torch._disable_dynamo
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. `closure` evaluates the model again and returns the loss."""
        self._check_whole("step")
        if self.defaults.get("differentiable"):
            return self._torch_step(closure)
        self._check_capture()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._update()
        return loss

    def execution(self, device: torch.device) -> Execution:
        """What runs the kernels of parameters on a device, if that is the CPU."""
        return execution(device, **self._how)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's. State that is kept in float32 beside 16-bit parameters stays float32."""
        super().load_state_dict(state_dict)
        self._is_torn = False
        ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        saved = {p: state_dict["state"].get(i, {}) for i, p in zip(ids, params, strict=True)}
        self._restore_dtypes(saved)

    def state_dict(self) -> dict[str, Any]:
        """As torch's. Counts that share memory here are given one by one."""
        self._check_whole("state_dict")
        made = super().state_dict()
        for i, state in made["state"].items():
            counts = {n: t.clone() for n, t in state.items() if isinstance(t, Tensor) and t._base is not None}
            made["state"][i] = {**state, **{n: t for n, t in counts.items() if t.ndim == 0}}
        return made

    def __getstate__(self) -> dict[str, Any]:
        self._check_whole("copying or pickling")
        kept = ("_fused_options", "_how", "_step_supports_amp_scaling")
        return {**super().__getstate__(), **{n: vars(self)[n] for n in kept if n in vars(self)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self._how = {}
        super().__setstate__(state)

    # -- one step --

    def _update(self) -> None:
        grad_scale, found_inf = getattr(self, GRAD_SCALE, None), getattr(self, FOUND_INF, None)
        if found_inf is not None and self.counts_steps and not all(map(_is_on_device, self.param_groups)):
            # The host counts the steps, so the host has to know.
            if found_inf.item():
                return
            found_inf = None
        gathered = [self._gather(i, group) for i, group in enumerate(self.param_groups)]
        works = [work for each in gathered for work in each.works]
        scalars = {GRAD_SCALE: grad_scale, FOUND_INF: found_inf, CLIP_COEFFICIENT: self._clip(works, grad_scale)}
        sparse = [(group, each.sparse) for group, each in zip(self.param_groups, gathered, strict=True) if each.sparse]
        if sparse:
            self._check_sparse()
        for work in works:
            self._launch(work, {name: t.to(work.device) for name, t in scalars.items() if t is not None})
            work.forget_gradients(were_written=work.plan is not None and G_NAME in work.plan.written)
        if sparse:
            self._is_torn = True
            self._sparse_step(sparse)
        self._is_torn = False

    def _gather(self, index: int, group: dict[str, Any]) -> Gathered:
        """The work in a group: that of the last step where nothing has changed."""
        optimizer, on_device, formula = self._declared(index, group)
        fused, counts = self._fused_options, self.counts_steps and _is_on_device(group)
        found = self._gathered.get(index)
        if found is None or not found.holds((formula, counts), group["params"], self.state):

            def complete(p: Tensor) -> tuple[dict[str, Any], bool]:
                # Torch's SGD leaves no trace of a parameter without momentum, and so does this one.
                state = self.state[p] if self.counts_steps or optimizer.state or fused.has_master(p) else {}
                is_fresh = complete_state(state, p, optimizer, fused, counts=self.counts_steps, on_device=counts)
                return state, is_fresh

            if self.refuses_sparse and any(p.grad is not None and p.grad.is_sparse for p in group["params"]):
                raise RuntimeError(self.refuses_sparse.format(name=type(self).__name__))
            found = gather(group["params"], (formula, counts), lambda: Work(optimizer, counts), complete)
            self._gathered[index] = found
        for work in found.works:
            work.optimizer, work.on_device = optimizer, on_device
        return found

    def _clip(self, works: list[Work], grad_scale: Tensor | None) -> Tensor | None:
        """What brings the norm of all gradients down to `max_norm`; None where that is not asked for."""
        max_norm = self._fused_options.max_norm
        if max_norm is None or not works:
            return None
        gradients = [real(g) for work in works for g in work.gradients]
        gradients = [g if is_dense(g) else g.contiguous() for g in gradients]
        key = norm_key(gradients, grad_scale is not None)
        if self._norm is None or self._norm.key != key:
            self._norm = make_norm_plan(key, gradients, grad_scale is not None, self.execution(gradients[0].device))
        self._norm.launch(gradients, max_norm, grad_scale)
        self.total_norm = self._norm.norm.reshape(())
        return self._norm.coefficient

    def _launch(self, work: Work, scalars: Mapping[str, Tensor]) -> None:
        extras = Extras(
            unscales=GRAD_SCALE in scalars,
            skips=FOUND_INF in scalars,
            clips=CLIP_COEFFICIENT in scalars,
            zeroes=self._fused_options.zero_grads,
            counts=work.counts,
        )
        columns = work.columns()
        how = self.execution(work.device)
        was_torn, self._is_torn = self._is_torn, True  # until all of the step is done
        rows, distinct = work.rows()
        plan = work.plan
        if plan is None or not work.is_known(extras, rows):
            key = (extras, rows, places(columns))
            try:
                if plan is None or plan.key != key:
                    work.plan = plan = make_plan(key, work.optimizer, extras, columns, rows, how)
                work.remember(extras, rows)
            except BaseException:
                work.take_back()
                self._is_torn = was_torn
                raise
        if work.counts:
            if work.counting is None or work.counting.loaded is not plan.loaded:
                work.counting = make_count_plan(plan.loaded, work.states, how)
            numbers = work.counting.launch(work.optimizer.settings, work.on_device, scalars.get(FOUND_INF))
        else:
            numbers = work.host_numbers(plan.loaded, rows, distinct)
        plan.launch(columns, numbers, scalars)

    # -- what a group means --

    def _declared(self, index: int, group: dict[str, Any]) -> tuple[Optimizer, dict[str, Tensor], Hashable]:
        """The rule of a group with its numbers, the hyperparameters that only the device knows, and what of the rule is
        part of the formula."""
        stays = self.counts_steps and _is_on_device(group)
        options: dict[str, Any] = {}
        on_device: dict[str, Tensor] = {}
        for option in _options_of(type(self).declare):
            if option not in group:
                continue
            settings = SETTINGS_OF.get(option, (option,))
            values = group[option] if option in SETTINGS_OF else [group[option]]
            known = []
            for setting, value in zip(settings, values, strict=True):
                if isinstance(value, Tensor) and stays and value.device == group["params"][0].device:
                    on_device[setting] = value
                    value = PLACEHOLDER
                known.append(value if isinstance(value, bool) else float(value))
            options[option] = tuple(known) if option in SETTINGS_OF else known[0]
        key = tuple(options.items())
        found = self._rules.get(index)
        if found is None or found[0] != key:
            optimizer = self._with_extras(type(self).declare(**options))
            self._rules[index] = found = (key, optimizer, formula_of(optimizer))
        return found[1], on_device, found[2]

    def _with_extras(self, optimizer: Optimizer) -> Optimizer:
        fused = self._fused_options
        if fused.max_value is not None:
            optimizer = optimizers.clip(optimizer, max_value=fused.max_value)
        return optimizer if fused.ema_decay is None else optimizers.ema(optimizer, fused.ema_decay)

    # -- what torch does --

    def _torch_step(self, closure: Callable[[], Any] | None) -> Any:
        """The step of the torch optimizer that this one stands for, past the hooks, which have run."""
        own: Any = next(c for c in type(self).__mro__ if c.__module__.startswith("torch.optim."))
        step = own.step
        return (step.__wrapped__ if getattr(step, "hooked", False) else step)(self, closure)

    def _check_sparse(self) -> None:
        """Raise `FeedError` where sparse gradients are given with options that torch's step does not take."""
        if self._fused_options != FusedOptions():
            raise FeedError(
                f"{type(self).__name__}: sparse gradients are left to torch, which knows none of "
                f"{', '.join(FUSED_NAMES)}; leave these out, or make the gradients dense"
            )

    def _sparse_step(self, sparse: list[tuple[dict[str, Any], tuple[Tensor, ...]]]) -> None:
        groups = self.param_groups
        self.param_groups = [{**group, "params": list(params)} for group, params in sparse]
        try:
            self._torch_step(None)
        finally:
            self.param_groups = groups

    def _check_capture(self) -> None:
        # Named after CUDA in earlier versions of torch.
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(torch.optim.Optimizer, name):
                getattr(self, name)()
                return

    @property
    def source(self) -> str:
        """The Triton source of what the last step launched for its groups, each once."""
        plans = [work.plan for each in self._gathered.values() for work in each.works if work.plan is not None]
        return "\n\n".join(dict.fromkeys(render_update(plan.update) for plan in plans))

    # -- inside --

    def _check_whole(self, doing: str) -> None:
        """Raise `InterruptedStepError` where a step began to change weights or state and did not end."""
        if self._is_torn:
            raise InterruptedStepError(
                f"{type(self).__name__}: {doing}: a step was interrupted between its launches, so that some weights "
                "are those before the interruption and some those after it; load the model's weights, and then the "
                "state that belongs to them, with load_state_dict()"
            )

    def _forget(self) -> None:
        """Drop every table: they are made anew by the next step."""
        self._is_torn = False
        self._gathered: dict[int, Gathered] = {}
        self._rules: dict[int, tuple[object, Optimizer, Hashable]] = {}
        self._norm = None

    def _restore_dtypes(self, saved: Mapping[Tensor, Mapping[str, Any]]) -> None:
        for i, group in enumerate(self.param_groups):
            optimizer, _, _ = self._declared(i, group)
            states = [(p, self.state[p], saved.get(p, {})) for p in group["params"] if p in self.state]
            restore_dtypes(states, optimizer, self._fused_options)


@lru_cache(maxsize=64)
def _options_of(declare: Callable[..., Optimizer]) -> tuple[str, ...]:
    return tuple(inspect.signature(declare).parameters)


def _is_on_device(group: Mapping[str, Any]) -> bool:
    """Whether the steps of a group are counted on the device, as torch does for these two options."""
    return bool(group.get("capturable") or group.get("fused"))


def _checked(name: str, fused: FusedOptions) -> FusedOptions:
    for option in ("max_norm", "max_value", "ema_decay"):
        size = getattr(fused, option)
        if size is not None and not size >= 0:
            raise DeclarationError(f"{name}: {option} is {size}; it must be 0 or more")
    if fused.master_weights and fused.state_dtype not in (None, torch.float32):
        raise DeclarationError(f"{name}: master_weights keep float32 state, not {fused.state_dtype}; leave it out")
    return fused
