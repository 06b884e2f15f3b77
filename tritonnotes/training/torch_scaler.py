"""torch.amp.GradScaler and the scaler of a step: which is made of which, and the state of one in the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..ir.core.errors import DeclarationError, FeedError
from ..ir.passes.scaling import GradScaler
from .step_state import StepState

FACTORS = ("growth_factor", "backoff_factor", "growth_interval")
"""What of a scaler is compiled."""


def as_scaler(given: object) -> GradScaler | None:
    """The scaler of a step that goes on from `given`, a scaler of torch or one of ours. None where it is disabled.
    Raises `DeclarationError` for anything else."""
    if given is None or isinstance(given, GradScaler):
        return given
    if not isinstance(given, torch.amp.GradScaler):
        raise DeclarationError(
            f"compile_step: scaler is {given!r}; pass a tn.GradScaler(), which runs on the device, a "
            "torch.amp.GradScaler that it goes on from, or None"
        )
    state = given.state_dict()
    return GradScaler(init_scale=state["scale"], **{name: state[name] for name in FACTORS}) if state else None


def scaler_state(state: StepState, scaler: GradScaler | None) -> dict[str, Any]:
    """As torch.amp.GradScaler has it, which gives nothing where it is disabled."""
    if scaler is None:
        return {}
    slots = state.state_dict()["slots"]
    return {
        "scale": float(slots[state.scaler_slot("scale")]),
        **{name: getattr(scaler, name) for name in FACTORS},
        "_growth_tracker": int(slots[state.scaler_slot("growth_tracker")]),
    }


def load_scaler_state(state: StepState, scaler: GradScaler | None, given: Mapping[str, Any]) -> None:
    """Go on from the state of a torch.amp.GradScaler. Raises `FeedError` where it does not fit."""
    mine = scaler_state(state, scaler)
    if set(given) != set(mine):
        raise FeedError(
            f"load_scaler_state_dict: holds {sorted(given)}, wanted {sorted(mine)}; pass the state_dict() of a "
            "torch.amp.GradScaler that is enabled as the step's scaler is"
        )
    differs = [name for name in FACTORS if name in mine and given[name] != mine[name]]
    if differs:
        name = differs[0]
        raise FeedError(
            f"load_scaler_state_dict: {name} is {given[name]}, and the step was compiled with {mine[name]}; compile it "
            f"with scaler=tn.GradScaler({name}={given[name]})"
        )
    if scaler is not None:
        held = state.state_dict()
        new = {state.scaler_slot(n.removeprefix("_")): given[n] for n in ("scale", "_growth_tracker")}
        slots = held["slots"] | {n: torch.full_like(held["slots"][n], value) for n, value in new.items()}
        state.load_state_dict({**held, "slots": slots})
