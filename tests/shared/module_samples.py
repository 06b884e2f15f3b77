"""Samples of torch's own table of modules, `module_db`: each with its inputs, as a module that takes tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInfo, ModuleInput, module_db
from torch.utils import _pytree as pytree

from tritonnotes.judge.tolerance import compare, pooled

DRAWS = 12
"""Of inputs. What rounding does to a few numbers in one draw is chance."""

LR, MOMENTUM, STEPS = 1e-3, 0.9, 3
"""Of training. Small steps: large ones make errors grow from step to step, in eager too."""

Found = dict[str, Tensor]

INFOS: dict[str, ModuleInfo] = {info.name.removeprefix("nn."): info for info in module_db}
"""By the name of the class."""


class Learned(nn.Module):
    """A module with what is no tensor of its arguments fixed. It returns its results, and as loss their sum, each
    number times one of `weights`."""

    def __init__(self, module: nn.Module, arguments: Any) -> None:
        super().__init__()
        self.module = module
        leaves, self.spec = pytree.tree_flatten(arguments)
        self.fixed = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]

    def forward(self, inputs: list[Tensor], weights: list[Tensor]) -> dict[str, Any]:
        results = self.results(inputs)
        floats = [r for r in results if r.is_floating_point()]
        loss = sum((r * w).sum() for r, w in zip(floats, weights, strict=True))
        return {"results": results, "loss": loss}

    def results(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        rest = iter(inputs)
        leaves = [next(rest) if fixed is None else fixed[0] for fixed in self.fixed]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return [t for t in pytree.tree_leaves(self.module(*args, **kwargs)) if isinstance(t, Tensor)]


@dataclass(frozen=True)
class Sample:
    """One row of a module's samples, with several draws of its inputs, and of weights for its loss. `wanted` says which
    inputs have gradients."""

    module: Learned
    draws: list[tuple[list[Tensor], list[Tensor]]]
    wanted: list[bool]

    @property
    def example(self) -> tuple[list[Tensor], list[Tensor]]:
        """What an import is given. Some modules ask whether gradients are wanted."""
        inputs, weights = self.draws[0]
        return [t.clone().requires_grad_(w) for t, w in zip(inputs, self.wanted, strict=True)], weights


def rows_of(info: ModuleInfo, training: bool, seed: int = 0) -> list[ModuleInput]:
    """All samples of a module, with the same numbers at every call."""
    torch.manual_seed(seed)
    how = {"device": "cpu", "dtype": torch.float32, "requires_grad": True, "training": training}
    return [*info.module_inputs_func(info, **how)]


def sample_of(info: ModuleInfo, place: int, training: bool, draws: int = DRAWS) -> Sample:
    """The sample at a place of `rows_of`."""
    rows = [rows_of(info, training, seed)[place] for seed in range(draws)]
    made, *arguments = [rows[0].constructor_input, *((r.forward_input.args, r.forward_input.kwargs) for r in rows)]
    torch.manual_seed(1)
    module = info.module_cls(*made.args, **made.kwargs).to(torch.float32).train(training)
    learned = Learned(module, arguments[0])
    given = [[leaf for leaf in pytree.tree_leaves(a) if isinstance(leaf, Tensor)] for a in arguments]
    inputs = [[t.detach().clone() for t in draw] for draw in given]
    with torch.no_grad():
        results = deepcopy(learned).results([t.clone() for t in inputs[0]])
    given_weights = [(draw, [torch.randn_like(r) for r in results if r.is_floating_point()]) for draw in inputs]
    return Sample(learned, given_weights, [t.requires_grad for t in given[0]])


class Trained:
    """A module of a sample that torch trains in a dtype, called by `call`, which is the module itself unless given."""

    def __init__(
        self,
        sample: Sample,
        dtype: torch.dtype,
        module: Learned | None = None,
        call: Callable[..., Any] | None = None,
    ) -> None:
        self.sample, self.dtype = sample, dtype
        self.module = deepcopy(sample.module).to(dtype) if module is None else module
        self.call = self.module if call is None else call

    def runs(self) -> list[Found]:
        """For each draw the results, the gradients of inputs and parameters, and the buffers."""
        found = []
        for draw in self.sample.draws:
            self.module.zero_grad()
            inputs, weights = ([self._cast(t) for t in part] for part in draw)
            for tensor, wanted in zip(inputs, self.sample.wanted, strict=True):
                tensor.requires_grad_(wanted)
            made = self.call(inputs, weights)
            if made["loss"].requires_grad:
                made["loss"].backward()
            named = [*((f"input {i}", t) for i, t in enumerate(inputs)), *self.module.named_parameters()]
            one = {f"result {i}": t.detach() for i, t in enumerate(made["results"])}
            one |= {f"gradient of {name}": t.grad.clone() for name, t in named if t.grad is not None}
            found.append(one | {name: t.clone() for name, t in self.module.named_buffers()})
        return found

    def steps(self, update: Callable[..., Any] | None = None) -> list[Found]:
        """What is held after each of some steps. `update` is given a draw and makes a step; None where torch does."""
        optimizer = torch.optim.SGD(self.module.parameters(), lr=LR, momentum=MOMENTUM)
        found = []
        for inputs, weights in self.sample.draws[:STEPS]:
            given = [self._cast(t) for t in inputs], [self._cast(t) for t in weights]
            if update is not None:
                update(*given[0], *given[1])
            else:
                optimizer.zero_grad()
                self.call(*given)["loss"].backward()
                optimizer.step()
            found.append({name: t.detach().clone() for name, t in self.module.state_dict().items()})
        return found

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def differences(got: list[Found], eager: list[Found], exact: list[Found]) -> list[str]:
    """Where results are further from float64 than the policy allows, over all draws."""
    assert [one.keys() for one in got] == [one.keys() for one in eager]
    found = []
    for name in got[0]:
        rows = zip(got, eager, exact, strict=True)
        compared = pooled([compare(*(one[name] for one in row)) for row in rows])
        if not compared.ok:
            found.append(f"{name}: {compared}")
    return found
