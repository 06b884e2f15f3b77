"""One part of a graph at run time: a program of ours, or torch's calls where it cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..codegen.fusion.constraints import Fusion
from ..codegen.program.program import Program
from ..ir.core.errors import FeedError, TritonNotesError
from ..ir.core.graph import Graph
from ..ir.passes.chunks import LOGITS_BUDGET
from ..runtime.executors.execution import execution
from ..runtime.form import Form
from ..runtime.runner import pick_device
from ..runtime.turns import Turns


class Part(torch.nn.Module):
    """Calls that are one program. `inputs` are the names of its tensors in the order in which they are given, `instead`
    the same calls as torch makes them, of these tensors and of the sizes behind them.

    Tensors that kernels cannot read or keep, such as those of `torch.func` and of inference mode, and values that the
    program refuses, go to `instead`, which computes or raises what eager PyTorch does. `reason` says why the program
    cannot be had at all.
    """

    def __init__(
        self, graph: Graph, inputs: Sequence[str], ops: Sequence[str], instead: GraphModule, fusion: Fusion, device: Any
    ) -> None:
        super().__init__()
        self.graph, self.inputs, self.ops = graph, tuple(inputs), tuple(ops)
        self.reason: str | None = None
        self._instead: Callable[..., Any] = instead.forward
        self._seen: set[tuple[str, ...]] = set()
        self._turns = Turns()
        place = pick_device(device)
        self.form = Form(graph, fusion, LOGITS_BUDGET, place, execution(place, None, False))

    def forward(self, *given: Any) -> Any:
        if self.reason is None:
            try:
                return self._run(dict(zip(self.inputs, given, strict=False)))
            except FeedError:
                pass
            except TritonNotesError as error:
                self.reason = str(error)
        return self._instead(*given)

    def _run(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        form = self.form
        feeds = {name: tensors[name] for name in form.inputs}
        state = {name: tensors[name] for name in form.held_names}
        wanted = tuple(n for n, t in tensors.items() if t.requires_grad) if torch.is_grad_enabled() else ()
        if wanted and any(tensor.is_inference() for tensor in tensors.values()):
            raise FeedError(
                "a tensor of inference mode cannot be kept for a gradient, which torch's calls may not need"
            )
        with self._turns:
            if wanted in self._seen:
                return tuple(form.run(feeds, state, _no_seeds, self._turns).values())
            before = {name: state[name].clone() for name in form.updates}
            try:
                outputs = form.run(feeds, state, _no_seeds, self._turns)
            except BaseException:
                with torch.no_grad():
                    for name, tensor in before.items():
                        state[name].copy_(tensor)
                raise
            self._seen.add(wanted)
        return tuple(outputs.values())

    def programs(self) -> list[Program]:
        """The programs that were made so far: the forward run without gradients, and with them forward and backward."""
        return self.form.made()


def _no_seeds(names: Sequence[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)
