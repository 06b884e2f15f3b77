"""Making the modules of a model ours, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from ..ir.core.errors import DeclarationError
from ..ir.core.types import DTYPES
from . import activation, loss, normalization
from .refusals import refusal


def _counterparts() -> dict[type[nn.Module], type[nn.Module]]:
    """The classes here that derive from one of torch.nn, by that one."""
    kinds = [k for module in (activation, loss, normalization) for k in vars(module).values() if isinstance(k, type)]
    ours = [k for k in kinds if issubclass(k, nn.Module) and k.__module__.startswith(__package__)]
    return {
        k.__bases__[0]: k
        for k in ours
        if k.__bases__[0].__module__.startswith("torch.nn.") and k.__bases__[0] not in (nn.Module, nn.Linear)
    }


COUNTERPARTS: Mapping[type[nn.Module], type[nn.Module]] = _counterparts()
"""Classes of torch.nn, each with the one here that is derived from it."""

LEFT: Mapping[type[nn.Module], str] = {
    nn.Linear: "a matrix product is a call of torch's library either way",
    nn.Dropout: "its mask would be drawn from other random numbers",
    nn.Embedding: "a lookup of rows is torch's either way",
    nn.SyncBatchNorm: "its statistics are those of several processes; see tn.DataParallel(sync_batch_norm=True)",
    nn.AdaptiveLogSoftmaxWithLoss: "how many rows each of its clusters has depends on the targets",
    nn.NLLLoss2d: "torch has it for old code alone; torch.nn.NLLLoss does the same",
}
"""Classes that are left though there is an op, and why."""


@dataclass(frozen=True)
class Replacement:
    """What `replace` did: modules by their names in the model, with the class that they have now, and those that were
    left, with the reason. Containers are not listed."""

    replaced: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} modules replaced, {len(self.left)} left"]
        width = max(map(len, (*self.replaced, *self.left)), default=0)
        lines += [f"  {name:{width}}  tn.nn.{kind}" for name, kind in self.replaced.items()]
        lines += [f"  {name:{width}}  left: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def replace(model: nn.Module) -> Replacement:
    """Make every module of `model` that has a counterpart in `tn.nn` one of that class, in place.

    Each stays the object that it was: parameters, buffers, hooks, names and whatever refers to it are kept, so state
    dicts and optimizers stay valid, and one that is used twice is used twice. Left, with a reason in the result, are
    modules of other classes (subclasses have a forward of their own) and those that are set to what kernels do not do.
    Print the result to see both. Raises `DeclarationError` for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise DeclarationError(f"tn.nn.replace: takes a torch.nn.Module, got {type(model).__name__}; pass the model")
    replaced, left = {}, {}
    for name, module in model.named_modules():
        shown = name or type(module).__name__
        if type(module) in COUNTERPARTS.values() or "parametrizations" in name.split("."):
            continue
        reason = _reason(module)
        if reason is None:
            module.__class__ = COUNTERPARTS[type(module)]
            replaced[shown] = type(module).__name__
        elif parametrize.is_parametrized(module) or not any(True for _ in module.children()):
            left[shown] = reason
    return Replacement(replaced, left)


def _reason(module: nn.Module) -> str | None:
    """Why a module is left as it is; None where it has a counterpart that computes the same."""
    kind = type(module)
    if parametrize.is_parametrized(module):
        return "its parameters are parametrized"
    if issubclass(kind, LazyModuleMixin):
        return "its parameters have no shape yet; run the model once, then replace"
    if kind not in COUNTERPARTS:
        known = kind.__module__.startswith("torch.nn.")
        described = f"there is no tn.nn.{kind.__name__}" if known else f"{kind.__name__} has a forward of its own"
        return LEFT.get(kind, described)
    if "forward" in vars(module):
        return "its forward was replaced on the object"
    dtypes = [str(t.dtype).removeprefix("torch.") for t in module.parameters(recurse=False)]
    odd = [name for name in dtypes if name not in DTYPES]
    return f"kernels compute no {odd[0]}" if odd else refusal(module)
