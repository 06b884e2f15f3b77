"""The backend of `torch.compile`: from a graph of Dynamo to one whose parts are programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import _disable_current_modes

from ..codegen.fusion.constraints import Fusion, as_fusion
from ..ir.core.errors import DeclarationError, TritonNotesError
from .effects import Effects, effects
from .parts import is_free, partition
from .reading import STATE, Call, is_call, read, tensors_of
from .rebuilding import Placed, placed, rebuilt
from .report import keep
from .support import refusals

OPTIONS = ("fusion", "fuse", "forbid", "products", "target")
"""What `torch.compile(..., options=...)` may say: arguments of `tn.compile`."""

Parts = list[tuple[tuple[Node, ...], Placed]]


def tritonnotes(
    module: GraphModule, inputs: Sequence[Any], *, mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """What runs in the place of a graph of Dynamo. Nothing is refused but wrong options: what has no program is torch's
    call, and `tn.torch_compile_report()` says why."""
    fusion = _fusion(module, mode, options or {})
    try:
        return _compiled(module, fusion)
    except Exception as error:
        keep([], [("the whole graph", f"{type(error).__name__}: {error}; please report this")])
        module.recompile()
        return module.forward


def _compiled(module: GraphModule, fusion: Fusion) -> Callable[..., Any]:
    calls = read(module)
    if calls is None:
        return module.forward
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    found = effects(calls, output)
    refused = refusals(calls, found)
    with _disable_current_modes():
        while True:
            stages = partition(calls, found, refused)
            parts, failed = _placed(module, stages.parts, calls, found, fusion)
            if not failed:
                break
            refused |= failed
    made = rebuilt(module, calls, found, stages, parts, refused)
    keep([put.module for _, put in parts], _left(calls, refused))
    return made.forward


def _placed(
    module: GraphModule,
    parts: Sequence[tuple[Node, ...]],
    calls: Mapping[Node, Call],
    found: Effects,
    fusion: Fusion,
) -> tuple[Parts, dict[Node, str | None]]:
    """The programs of all parts, and the calls that are none together, with the reason."""
    made: Parts = []
    failed: dict[Node, str | None] = {}
    for count, part in enumerate(parts):
        try:
            made.append((part, placed(f"part_{count}", module, part, calls, found, fusion)))
        except TritonNotesError as error:
            failed |= dict.fromkeys(part, f"is no program with its neighbours: {error}")
    return made, failed


def _left(calls: Mapping[Node, Call], refused: Mapping[Node, str | None]) -> list[tuple[str, str]]:
    """The calls that stay torch's and compute something."""
    found = []
    for node, why in refused.items():
        call = calls[node]
        if why is not None and why != STATE and (call.refusal or not all(map(is_free, call.aten))):
            found.append((_shown(node), why))
    return found


def _shown(node: Node) -> str:
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _fusion(module: GraphModule, mode: str | None, options: Mapping[str, Any]) -> Fusion:
    if mode is not None:
        raise DeclarationError(f"mode={mode!r}: modes are Inductor's; say options={{'fusion': 'greedy'}} or another")
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise DeclarationError(f"options: there is no {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    devices = {t.device.type for node in module.graph.nodes if not is_call(node) for t in tensors_of(node)}
    given = {"target": "cpu" if devices <= {"cpu"} else "gpu", **options}
    return as_fusion(given.pop("fusion", "optimal"), **given)
