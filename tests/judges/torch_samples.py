"""torch's own sample and error inputs (`op_db`), each as a graph of ours with the tensors to feed it.

An op of ours is found in `op_db` by its name, under `torch.nn.functional` or `torch`. `ADAPTERS` holds the few that are
called otherwise, `OUT_OF_SCOPE` what torch's functions do and ours do not, each with its reason; all else must run.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

import tritonnotes as tn
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import bool_

Sample = Any
"""A `SampleInput` of torch: input, args and kwargs of one call."""


@functools.cache
def op_infos(name: str) -> tuple[Any, ...]:
    """torch's entries for the op of this name, imported when they are first asked for: that takes seconds."""
    from torch.testing._internal.common_methods_invocations import op_db

    return tuple(info for info in op_db if info.name in (name, f"nn.functional.{name}"))


def sample_inputs(info: Any, dtype: torch.dtype, seed: int = 0) -> list[Sample]:
    """torch's sample inputs, the same for the same seed; tensors to be differentiated say so.

    Of a few ops torch differentiates some samples only: then all follow, without a gradient.
    """
    found = []
    for requires_grad in (True, False) if info.supports_autograd and dtype.is_floating_point else (False,):
        _seed(seed)
        # `info.sample_inputs` gives the same, and looks at the stack for each of them, which takes longer.
        found.append(list(info.sample_inputs_func(info, "cpu", dtype, requires_grad)))
    return found[0] if len(found[0]) == len(found[-1]) else [*found[0], *found[-1]]


def error_inputs(info: Any) -> list[Any]:
    """torch's inputs that must raise; none where torch lists none."""
    _seed(0)
    # As in `sample_inputs`: in a process with many modules a look at the stack takes most of the time of a test.
    return [] if info.error_inputs_func is None else list(info.error_inputs_func(info, "cpu"))


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@dataclass(frozen=True)
class Call:
    """One call of torch's function: its tensors in order, and how they go back to their places."""

    info: Any
    tensors: tuple[Tensor, ...]
    places: tuple[int, ...]
    leaves: tuple[Any, ...]
    spec: Any

    @classmethod
    def of(cls, info: Any, sample: Sample) -> Call:
        leaves, spec = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        return cls(info, tuple(leaves[i] for i in places), places, tuple(leaves), spec)

    @property
    def name(self) -> str:
        return self.info.name.removeprefix("nn.functional.")

    @property
    def differentiated(self) -> tuple[int, ...]:
        """Which of the tensors torch wants a gradient for."""
        return tuple(i for i, t in enumerate(self.tensors) if t.requires_grad)

    @property
    def held(self) -> tuple[int, ...]:
        """Which of the tensors the call may change: running statistics, buffers of ours."""
        if self.name not in HELD:
            return ()
        _, args, kwargs = self.arguments(range(len(self.tensors)))
        return tuple(index for index in HELD[self.name](args, kwargs) if index is not None)

    def arguments(self, given: Sequence[Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Input, args and kwargs with `given` in place of the tensors."""
        leaves = list(self.leaves)
        for place, each in zip(self.places, given, strict=True):
            leaves[place] = each
        found: tuple[Any, tuple[Any, ...], dict[str, Any]] = tree_unflatten(leaves, self.spec)
        return found

    def by_torch(self, tensors: Sequence[Tensor]) -> Any:
        """What torch computes of these tensors; of a result with indices, the result."""
        first, args, kwargs = self.arguments(tensors)
        result = self.info(first, *args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    def declared(self) -> Graph:
        """The call as a graph of ours: its tensors `t0`, `t1`, …, those held as buffers, its result the output `y`."""
        graph = Graph("sample")
        values = [
            graph.buffer(f"t{i}", tuple(t.shape), dtype=t.dtype)
            if i in self.held
            else graph.input(f"t{i}", tuple(t.shape), t.dtype)
            for i, t in enumerate(self.tensors)
        ]
        first, args, kwargs = self.arguments(values)
        graph.output(y=ADAPTERS.get(self.name, getattr(tn, self.name))(first, *args, **kwargs))
        return graph

    def out_of_scope(self) -> str | None:
        """Why this call is none of ours, if it is not."""
        first, args, kwargs = self.arguments(self.tensors)
        for rule in OUT_OF_SCOPE:
            if (not rule.ops or self.name in rule.ops) and rule.holds(first, args, kwargs):
                return rule.reason
        return None


def wide(call: Call) -> Call:
    """The call on the same numbers in float64."""
    return replace(call, tensors=tuple(t.double() if t.is_floating_point() else t for t in call.tensors))


HELD: dict[str, Callable[[Any, Any], Sequence[int | None]]] = {
    "batch_norm": lambda args, kwargs: args[:2],
    "instance_norm": lambda args, kwargs: (kwargs.get("running_mean"), kwargs.get("running_var")),
}
"""Where an op takes tensors that it changes."""


# -- how ours are called where that is not as torch's are --------------------------------------------------------------


def _linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    return tn.linear(x, weight=weight, bias=bias)


def _embedding(weight: Value, index: Value, **attrs: Any) -> Value:
    return tn.embedding(index, weight=weight, **attrs)


def _layer_norm(
    x: Value, shape: Any, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5
) -> Value:
    return tn.layer_norm(x, shape, weight, bias, eps)


def _rms_norm(x: Value, shape: Any, weight: Value | None = None, eps: float | None = None) -> Value:
    return tn.rms_norm(x, shape, weight, eps)


def _group_norm(
    x: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5
) -> Value:
    return tn.group_norm(x, num_groups, weight, bias, eps)


def _batch_norm(
    x: Value,
    running_mean: Value | None,
    running_var: Value | None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    return tn.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _where(a: Value, condition: Value, b: Value) -> Value:
    return tn.where(condition, a, b)


def _spread(ours: Callable[..., Value]) -> Callable[..., Value]:
    """var and std, which torch calls by `unbiased` too, and whose correction may be None."""

    def call(
        x: Value,
        dim: Any = None,
        unbiased: bool = True,
        keepdim: bool = False,
        correction: float | None = None,
    ) -> Value:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        return ours(x, dim, correction=int(unbiased) if correction is None else correction, keepdim=keepdim)

    return call


def _of_truths(ours: Callable[..., Value]) -> Callable[..., Value]:
    """torch takes any number but 0 for true."""
    return lambda *given: ours(*(x if x.dtype is bool_ else x != 0 for x in given))


ADAPTERS: dict[str, Callable[..., Value]] = {
    "linear": _linear,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "where": _where,
    "var": _spread(tn.var),
    "std": _spread(tn.std),
    "logical_and": _of_truths(tn.logical_and),
    "logical_or": _of_truths(tn.logical_or),
    "logical_not": _of_truths(tn.logical_not),
}
"""Ops that declare parameters unless they are given, have a module's defaults, or whose arguments `op_db` reorders."""


# -- what is not ours --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A call of one of `ops` (none: of any) for which `holds(input, args, kwargs)` is out of scope."""

    ops: tuple[str, ...]
    holds: Callable[[Any, tuple[Any, ...], dict[str, Any]], bool]
    reason: str


def _keyword(ops: str, name: str, reason: str) -> Rule:
    return Rule(tuple(ops.split()), lambda first, args, kwargs: kwargs.get(name) not in _UNSET, reason)


class _Unset:
    """None and False, compared by identity: a tensor has no truth."""

    def __contains__(self, value: object) -> bool:
        return value is None or value is False


_UNSET = _Unset()


def _is_random(x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return 0 < kwargs.get("p", 0.5) < 1 and kwargs.get("training", True)


OUT_OF_SCOPE: tuple[Rule, ...] = (
    _keyword("", "out", "a value is made by its op, never written into another (out=)"),
    _keyword("add sub", "alpha", "a ± alpha · b is written out (alpha=)"),
    _keyword("div", "rounding_mode", "division that rounds is floor(a / b), written out (rounding_mode=)"),
    _keyword("embedding", "max_norm", "no table is changed by reading it (max_norm=)"),
    _keyword("embedding", "scale_grad_by_freq", "gradients are not scaled by how often a row is read"),
    _keyword("embedding", "sparse", "gradients are dense (sparse=)"),
    Rule(
        ("max", "min"),
        lambda first, args, kwargs: bool(args) and isinstance(args[0], Tensor),
        "of two values the larger is maximum, the smaller minimum",
    ),
    Rule(
        ("dropout",),
        _is_random,
        "what is dropped is drawn from another generator than torch's (tests/ir/ops/test_dropout.py)",
    ),
    Rule(
        ("eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum", "logical_and", "logical_or"),
        lambda first, args, kwargs: not (isinstance(first, Tensor) and isinstance(args[0], Tensor)),
        "a number may stand on either side",
    ),
    Rule(
        ("batch_norm",),
        lambda first, args, kwargs: first.ndim < 2,
        "channels are axis 1, which a tensor of one dim does not have",
    ),
    Rule(
        ("cat",),
        lambda first, args, kwargs: {t.ndim for t in first if isinstance(t, Tensor)} == {1, 2} and not first[0].numel(),
        "torch overlooks an empty tensor of one dim among others, for old programs' sake",
    ),
    Rule(
        ("hardsigmoid",),
        lambda first, args, kwargs: first.dtype == torch.float64,
        "torch's derivative of hardsigmoid is float32's 1/6 in float64 too",
    ),
    Rule(
        ("matmul",),
        lambda first, args, kwargs: args[0].ndim != 2 or first.ndim < 1,
        "the second of a product is a matrix, (K, N)",
    ),
    Rule(
        ("narrow",),
        lambda first, args, kwargs: isinstance(args[1], Tensor),
        "start is a number, known when the graph is declared, never a tensor",
    ),
)
