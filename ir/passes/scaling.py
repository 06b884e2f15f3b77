"""Dynamic loss scaling on the device: an overflow skips the update, and nobody waits to hear of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .. import primitives as P
from ..core.apply import pass_scope
from ..core.errors import DeclarationError
from ..core.graph import Graph, Value
from ..core.local_names import capture_names
from ..core.optimizer import Optimizer
from ..core.types import float32, float64, int32, own_name

LARGEST = 3.4028234663852886e38
"""The largest float32."""


@dataclass(frozen=True)
class GradScaler:
    """Loss scaling with the arguments and defaults of torch.amp.GradScaler, for `compile_step(..., scaler=)`.

    The loss is multiplied by a scale, so that small gradients are not rounded to 0 in float16. If a gradient is not
    finite, the update is skipped and the scale is multiplied by `backoff_factor`. After `growth_interval` successive
    updates the scale is multiplied by `growth_factor`. Raises `DeclarationError` for numbers that are not finite, for a
    `growth_factor` of 1 or less, and for a `backoff_factor` that is not between 0 and 1.
    """

    init_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        rules: dict[str, tuple[Callable[[Any], bool], type, str]] = {
            "init_scale": (lambda n: 0 < n <= LARGEST, float, "a finite number above 0"),
            "growth_factor": (lambda n: 1 < n <= LARGEST, float, "a finite number above 1"),
            "backoff_factor": (lambda n: 0 < n < 1, float, "a number between 0 and 1"),
            "growth_interval": (lambda n: n >= 1, int, "an int ≥ 1"),
        }
        for name, (holds, kind, wanted) in rules.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or not holds(value):
                usual = getattr(type(self), name)
                raise DeclarationError(f"GradScaler: {name} is {value!r}; it must be {wanted}, such as {usual!r}")


SCOPE = pass_scope("scaler", "grad_scaler")


def scale_slot(joint: Graph, scaler: GradScaler, given: Collection[str]) -> Value:
    """The slot `scaler.scale`, that the loss is multiplied by. `given` are the user's names."""
    return joint.slot(scaler_slot("scale", given), (), float32, scaler.init_scale)


def scaler_slot(name: str, given: Collection[str]) -> str:
    """What a slot of the scaler is called, among the user's names."""
    return own_name(f"scaler.{name}", given, apart=True)


def counted_on_device(joint: Graph, optimizer: Optimizer, given: Collection[str]) -> dict[str, Value]:
    """What the host cannot know where updates are skipped: slots for the number of updates and the rule's own numbers,
    float64 as they are on the host."""
    counted = {"step": 0.0, **optimizer.all_numbers}
    return {name: joint.slot(scaler_slot(name, given), (), float64, first) for name, first in counted.items()}


def unscaled(joint: Graph, gradients: Mapping[Value, Value], scale: Value) -> tuple[dict[Value, Value], Value]:
    """The gradients of the loss itself, and whether one of those scaled is not finite."""
    joint.scope = SCOPE
    with capture_names(joint, len(joint.values)):
        return _unscaled(gradients, scale)


def _unscaled(gradients: Mapping[Value, Value], scale: Value) -> tuple[dict[Value, Value], Value]:
    # In float64, then rounded, as GradScaler inverts it.
    inv_scale = P.cast(1 / P.cast(scale, float64), float32)
    first, *others = [P.sum(P.where(abs(g) < float("inf"), 0.0, 1.0)) for g in gradients.values()]
    not_finite = sum(others, start=first)
    found_inf = not_finite > 0
    made = {p: g * P.cast(inv_scale, g.dtype) for p, g in gradients.items()}
    for gradient in made.values():
        gradient.hint = "unscaled"
    return made, found_inf


def skip_where_found(joint: Graph, names: list[str], found_inf: Value) -> None:
    """Keep the parameters and slots `names` as they are where an overflow was found. A parameter comes after its state,
    as a rule leaves them; what of the device's numbers is rounded to float32 keeps its name."""
    for value in joint.values:
        if value.op.name == "cast" and value.hint is None and value.inputs[0].dtype is float64 and not value.shape:
            value.hint = value.inputs[0].hint
    for name in reversed(names):
        new = joint.updates[name]
        joint.scope = new.scope
        joint.updates[name] = P.where(found_inf, joint[name], new)


def append_next_scale(joint: Graph, scaler: GradScaler, scale: Value, found_inf: Value, given: Collection[str]) -> None:
    """What the scale becomes, and the count of updates since it changed."""
    growth_tracker = joint.slot(scaler_slot("growth_tracker", given), (), int32)
    joint.scope = SCOPE
    with capture_names(joint, len(joint.values)):
        _next_scale(joint, scaler, scale, growth_tracker, found_inf)


def _next_scale(joint: Graph, scaler: GradScaler, scale: Value, growth_tracker: Value, found_inf: Value) -> None:
    successful = growth_tracker + 1
    is_time = successful == scaler.growth_interval
    grown = scale * scaler.growth_factor
    after_growth = P.where(is_time & (grown < float("inf")), grown, scale)
    joint.update(scale, P.where(found_inf, scale * scaler.backoff_factor, after_growth))
    joint.update(growth_tracker, P.where(found_inf | is_time, 0, successful))
