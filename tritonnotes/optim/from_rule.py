"""The optimizer class of a user's own update rule."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ..ir.core.errors import DeclarationError
from ..ir.core.optimizer import Optimizer, UpdateRule
from .base import FUSED_NAMES, HOW_DEFAULTS, UpdateOptimizer
from .state import FusedOptions


def from_rule(rule: UpdateRule) -> type[UpdateOptimizer]:
    """A torch optimizer class for an update rule: the same kernel, groups and `state_dict` as the built-in ones have.

    `Lion = tritonnotes.optim.from_rule(lion)`, then `Lion(model.parameters(), lr=1e-4)`. It takes the rule's
    hyperparameters, `maximize`, `capturable` and what every `UpdateOptimizer` takes. Raises `DeclarationError` for
    anything else, or where one that has no default is missing.
    """
    if not isinstance(rule, UpdateRule):
        raise DeclarationError(f"from_rule: {rule!r} is no update rule; declare one with @tn.update_rule")
    name = "".join(part.capitalize() for part in rule.name.rpartition(".")[2].split("_"))
    taken = {h: rule.defaults[h] for h in rule.takes} | {"maximize": False, "capturable": False}
    kinds = inspect.Parameter
    parameters = [kinds("params", kinds.POSITIONAL_OR_KEYWORD)]
    parameters += [kinds(h, kinds.KEYWORD_ONLY, default=default) for h, default in taken.items()]
    parameters += [kinds(f.name, kinds.KEYWORD_ONLY, default=f.default) for f in fields(FusedOptions)]
    parameters += [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in HOW_DEFAULTS.items()]
    signature = inspect.Signature(parameters)

    def declare(**options: Any) -> Optimizer:
        return rule(**options)

    declare.__signature__ = inspect.Signature([p for p in parameters if p.name in rule.takes])  # type: ignore[attr-defined]

    def __init__(self: UpdateOptimizer, params: Iterable[Any], **options: Any) -> None:
        try:
            bound = signature.bind(params, **options)
        except TypeError as error:
            raise DeclarationError(f"{name}: {error}; it takes {signature}") from None
        fused = {option: options[option] for option in (*FUSED_NAMES, *HOW_DEFAULTS) if option in options}
        defaults = {h: bound.arguments.get(h, default) for h, default in taken.items()}
        super(made, self).__init__(params, defaults, **fused)

    made: type[UpdateOptimizer] = type(
        name,
        (UpdateOptimizer,),
        {
            "__doc__": (rule.formula.__doc__ or "").strip() or f"The update rule {rule.name}.",
            "__init__": __init__,
            "__signature__": signature,
            "declare": staticmethod(declare),
        },
    )
    return made
