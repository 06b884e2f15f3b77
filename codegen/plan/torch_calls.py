"""Calls of torch that the graph names: all results of one call are one launch, and so are all gradients of a result."""

from __future__ import annotations

from collections.abc import Iterable

from tritonnotes.ir.primitives.library import GRADIENT, LIBRARY_OPS, call_key, same_call

from .launches import Launch, LibraryCall, TorchCall, torch_call


def join_torch_calls(launches: Iterable[Launch]) -> tuple[Launch, ...]:
    """The launches of a plan with what one call of torch gives as one launch, in the place of the first: all that it
    reads is there by then, and its results lie in memory that nothing else writes."""
    listed = list(launches)
    calls: dict[object, list[LibraryCall]] = {}
    for call in filter(None, map(_call, listed)):
        calls.setdefault(call_key(call.unit.value), []).append(call)
    first: dict[Launch, Launch] = {members[0]: torch_call(m.piece for m in members) for members in calls.values()}
    return tuple(first.get(k, k) for k in listed if k in first or _call(k) is None)


def torch_calls(launches: Iterable[Launch]) -> tuple[TorchCall, ...]:
    """The calls of torch that the graph names among some launches."""
    return tuple(k for k in launches if isinstance(k, TorchCall))


def gradients_of(launches: Iterable[Launch]) -> dict[TorchCall, tuple[TorchCall | None, list[TorchCall]]]:
    """For each call for gradients the call that it is the gradient of, if that runs before it in the same plan, and all
    that are asked of that one, in order."""
    forward: list[TorchCall] = []
    asked: dict[TorchCall | None, list[TorchCall]] = {}
    found: dict[TorchCall, tuple[TorchCall | None, list[TorchCall]]] = {}
    for call in torch_calls(launches):
        value = call.units[0].value
        if value.op.name != GRADIENT:
            forward.append(call)
            continue
        made = next((k for k in forward if same_call(k.units[0].value, value)), None)
        asked.setdefault(made, []).append(call)
        found[call] = made, asked[made]
    return found


def _call(launch: Launch) -> LibraryCall | None:
    """A launch that is one of these calls."""
    return launch if isinstance(launch, LibraryCall) and launch.unit.value.op.name in LIBRARY_OPS else None
