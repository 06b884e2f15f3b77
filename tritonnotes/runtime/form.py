"""One form of a graph, for training or evaluation, compiled: what models share, copy and trace."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..codegen.fusion.constraints import Fusion
from ..codegen.pipeline import make_program
from ..codegen.program.program import Program
from ..ir.core.graph import Graph, is_seed
from ..ir.core.rewrite import optimize
from ..ir.core.types import dims_in
from ..ir.core.verify import verify
from ..ir.passes.chunks import Chunking, in_chunks
from ..ir.passes.decompose import decompose
from ..judge.indices import IndexCheck
from .autograd import Differentiable
from .executors.execution import Execution
from .feeds import FeedBinder, check_apart, check_held, check_indices, check_sizes, sized_ops
from .held import Written
from .runner import Runner
from .turns import Turns

KEPT = 16
"""Forms that are compiled for the text of an exported program, and kept: those used longest ago go first."""


class Form:
    """The forward run of a graph, and with autograd what it needs. It is the same for the same arguments: copies of a
    model share it, and a pickle holds the arguments. `spec` is all that it is made of, as text."""

    def __init__(
        self, graph: Graph, fusion: Fusion, logits_budget: int | None, device: torch.device, how: Execution
    ) -> None:
        verify(graph)
        self.graph = graph
        self.options = fusion, logits_budget, device, how
        self.inputs = tuple(v.name for v in graph.inputs)
        self.held = tuple(graph.leaves("parameter", "buffer"))
        self.held_names = tuple(v.name for v in self.held)
        self.leaves = (*self.inputs, *self.held_names)
        self.updates = tuple(graph.updates)
        self.outputs = tuple(graph.outputs)
        self.dims = tuple(dict.fromkeys(dims_in(s for v in graph.inputs for s in v.shape)))
        self.seeds = tuple(v.name for v in graph.leaves("scalar") if is_seed(v))
        self._binder = FeedBinder(graph, device)
        self._indices, self._sized = IndexCheck(graph), sized_ops(graph)
        self._differentiable: dict[tuple[str, ...], Differentiable] = {}
        self._specify()

    def _specify(self) -> None:
        fusion, logits_budget, device, how = self.options
        said = {"fusion": asdict(fusion), "logits_budget": logits_budget, "device": str(device), "how": asdict(how)}
        self.spec = json.dumps({"graph": self.graph.to_json(), **said})
        _forms[self.spec] = self

    @cached_property
    def _planned(self) -> tuple[Graph, tuple[Chunking, ...]]:
        forward, chunkings = in_chunks(optimize(decompose(self.graph)), self.options[1])
        verify(forward)
        return forward, chunkings

    @property
    def chunkings(self) -> tuple[Chunking, ...]:
        """The layers of the forward run that are computed for some rows at a time."""
        return self._planned[1]

    @cached_property
    def runner(self) -> Runner:
        """The forward run, planned and generated when it is first asked for."""
        fusion, _, device, how = self.options
        return Runner(make_program(self._planned[0], fusion, self.graph, keep=True), device, how)

    @property
    def device(self) -> torch.device:
        return self.options[2]

    def differentiable(self, wanted: tuple[str, ...]) -> Differentiable:
        """The programs for the case that the leaves named in `wanted` want a gradient."""
        if wanted not in self._differentiable:
            fusion, _, device, how = self.options
            self._differentiable[wanted] = Differentiable(self.graph, wanted, fusion.lenient(), device, how)
        return self._differentiable[wanted]

    def bind(
        self, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor], is_checked: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Tensors that kernels can read for all leaves by name, and the size of each `Dim`. Raises `FeedError` for
        feeds that do not fit, and unless the state `is_checked` for such state."""
        bound: Mapping[str, Tensor]
        bound, sizes = self._binder.bind(feeds)
        check_sizes(self._sized, sizes)
        if not is_checked:
            check_held(self.held, state, self.device)
            if self.updates:
                check_apart(state, self.updates)
        check_indices(self._indices, bound, state, sizes)
        if self.updates:
            bound = Written({n: state[n] for n in self.updates}).apart(bound)
        return {**bound, **state}, sizes

    def run(
        self,
        feeds: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        draw: Callable[[Sequence[str]], dict[str, int]],
        turns: Turns,
        is_checked: bool = False,
    ) -> dict[str, Tensor]:
        """The outputs by name, differentiable where leaves want it. `draw` gives the seeds of these names, after what
        is fed was found to fit; backward takes `turns` with those who change weights. The rest as for `bind`."""
        leaves, sizes = self.bind(feeds, state, is_checked)
        numbers = draw(self.seeds)
        wanted = tuple([n for n, t in leaves.items() if t.requires_grad])
        if wanted and torch.is_grad_enabled():
            outputs = self.differentiable(wanted)(leaves, sizes, numbers, turns)
        else:
            outputs = self.runner.run(leaves, sizes, numbers)
        if self.updates:
            # A kernel writes past autograd's eyes: what was saved of the old buffers must not pass for the new ones.
            torch.autograd.graph.increment_version([state[n] for n in self.updates])
        return outputs

    def made(self) -> list[Program]:
        """The programs that were made so far: the forward run, and for autograd forward and backward."""
        alone = [self.runner.program] if "runner" in self.__dict__ else []
        return alone + [run.program for d in self._differentiable.values() for run in (d.forward, d.backward)]

    def tuned(self, program: Program) -> Self:
        """The same with another program for the forward run."""
        return self._but(runner=Runner(program, self.device, self.options[3]))

    def under(self, how: Execution) -> Self:
        """The same programs, which run another way."""
        made = self._but(options=(*self.options[:3], how))
        made._differentiable = {wanted: d.under(how) for wanted, d in self._differentiable.items()}
        if "runner" in self.__dict__:
            made.__dict__["runner"] = Runner(self.runner.program, self.device, how)
        made._specify()
        return made

    def _but(self, **others: Any) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **others)
        return made

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> Any:
        return Form, (self.graph, *self.options)


_forms: WeakValueDictionary[str, Form] = WeakValueDictionary()
_rebuilt: OrderedDict[str, Form] = OrderedDict()


def form_of(spec: str) -> Form:
    """The form of a `spec`, compiled anew where no model has it, as in a process that loads an exported program."""
    found = _forms.get(spec)
    if found is None:
        said = json.loads(spec)
        names = {
            key: tuple(tuple(n) if isinstance(n, list) else n for n in said["fusion"][key])
            for key in ("fuse", "forbid")
        }
        fusion = Fusion(**{**said["fusion"], **names})
        graph, device, how = Graph.from_json(said["graph"]), torch.device(said["device"]), Execution(**said["how"])
        _rebuilt[spec] = found = Form(graph, fusion, said["logits_budget"], device, how)
    if spec in _rebuilt:
        _rebuilt.move_to_end(spec)
        if len(_rebuilt) > KEPT:
            _rebuilt.popitem(last=False)
    return found
