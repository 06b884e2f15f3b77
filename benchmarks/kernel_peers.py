"""A family at one shape, dtype and direction: random tensors, a call for every peer, a judge of what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.ir.passes.joint import cotangent_names, loss_gradient_graph
from tritonnotes.judge.tolerance import compare
from tritonnotes.runtime.runner import Runner

from . import shapes
from .kernels import DIRECTIONS, DTYPES, FAMILIES, Family, declare
from .measure import Case, Subject
from .peers import CAPTURED, EAGER, GPU_ALONE, LIGER, MODES, OURS, begin, compiled, liger_missing
from .shapes import Shape
from .timing import Call, captured

CHUNK = 2**22
"""How many elements the float64 oracle works on at once; of more rows the first, a middle and the last such chunk are
compared, and all of them summed."""


class Problem:
    """Random tensors of a family. `results` of a run are its outputs, then its gradients, as the direction has them."""

    def __init__(
        self, family: Family, shape: Shape, dtype: str, direction: str, device: torch.device, seed: int = 0
    ) -> None:
        self.family, self.shape, self.direction = family, shape, direction
        generator = torch.Generator(device).manual_seed(seed)
        kind = getattr(torch, dtype)

        def draw(size: Sequence[int]) -> Tensor:
            return torch.randn(size, generator=generator, dtype=kind, device=device)

        differentiated = direction != "forward"
        self.inputs = {n: draw(s).requires_grad_(differentiated) for n, s in family.tensors(shape).items()}
        self.trained = list(self.inputs)
        if family.is_loss:
            self.inputs["target"] = torch.randint(shape[1], shape[:1], generator=generator, device=device)
        self.upstream = [] if family.is_loss else [draw(shape) for _ in family.outputs]

    @property
    def names(self) -> list[str]:
        """What a run's results are called."""
        outputs = [] if self.direction == "backward" else list(self.family.outputs)
        return outputs + ([] if self.direction == "forward" else [f"d_{n}" for n in self.trained])

    def call(
        self, function: Callable[..., Any], *, fresh: bool = False, before: Callable[[], None] | None = None
    ) -> Call:
        """A function of these inputs as a call; with `fresh` it gets copies, as it writes over what it is given."""

        def prepare() -> tuple[list[Tensor], list[Tensor], Any]:
            if before is not None:
                before()
            given, upstream = list(self.inputs.values()), self.upstream
            if fresh:
                given = [t.detach().clone().requires_grad_(t.requires_grad) for t in given]
                upstream = [t.clone() for t in upstream]
            return given, upstream, self._forward(function, given) if self.direction == "backward" else None

        def run(prologue: tuple[list[Tensor], list[Tensor], Any]) -> list[Tensor]:
            given, upstream, outputs = prologue
            outputs = self._forward(function, given) if outputs is None else outputs
            if self.direction == "forward":
                return list(outputs)
            if self.family.is_loss:
                gradients = torch.autograd.grad(outputs[0], given[: len(self.trained)])
            else:
                gradients = torch.autograd.grad(outputs, given[: len(self.trained)], upstream)
            return [*([] if self.direction == "backward" else outputs), *gradients]

        return Call(run, prepare)

    def _forward(self, function: Callable[..., Any], given: list[Tensor]) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(self.direction != "forward"):
            made = function(*given)
        return made if isinstance(made, tuple) else (made,)


def cases(name: str, tiny: bool, dtypes: Sequence[str] = DTYPES, directions: Sequence[str] = DIRECTIONS) -> list[Case]:
    """Every shape of a family, in every dtype and direction."""
    family = FAMILIES[name]
    return list(_cases(name, family, shapes.TINY[family.shapes] if tiny else family.shapes, dtypes, directions))


def _cases(
    name: str, family: Family, sizes: Sequence[Shape], dtypes: Sequence[str], directions: Sequence[str]
) -> Iterator[Case]:
    for shape in sizes:
        for dtype in dtypes:
            for direction in directions:
                moved = family.bytes(shape, getattr(torch, dtype).itemsize, direction)
                make = partial(make_subject, family, shape, dtype, direction)
                yield Case(name, shapes.text(shape), dtype, direction, moved, make)


def make_subject(family: Family, shape: Shape, dtype: str, direction: str, device: torch.device) -> Subject:
    """All peers of one case."""
    problem = Problem(family, shape, dtype, direction, device)
    judge = Judge(problem)

    def plain(function: Callable[..., Any], *, fresh: bool = False) -> Call:
        def rotated(count: int) -> list[Call]:
            others = [Problem(family, shape, dtype, direction, device, seed) for seed in range(1, count + 1)]
            return [other.call(function, fresh=fresh) for other in others]

        call = problem.call(function, fresh=fresh)
        return Call(call.run, call.prepare, rotated)

    def replayed(function: Callable[..., Any]) -> Call:
        replay = captured([problem.call(function)])
        return Call(lambda _: replay()[0], why_not="it is a graph over inputs of its own")

    def by_mode(peer: str, mode: str) -> Call:
        function = compiled(family.torch, mode)
        if mode != "reduce-overhead":
            return plain(function)
        call = problem.call(function, before=partial(begin, peer))
        return Call(call.run, call.prepare, why_not="it is a graph over inputs of its own")

    ours = _Ours(family, shape, dtype, device)
    makers: dict[str, Callable[[], Call]] = {OURS: lambda: plain(ours.function), EAGER: lambda: plain(family.torch)}
    missing: dict[str, str] = {}
    if family.is_loss and direction == "both":
        makers["tritonnotes joint"] = lambda: ours.joint(problem)
    on_gpu: dict[str, Callable[[], Call]] = {"tritonnotes captured": lambda: replayed(ours.function)}
    on_gpu |= {peer: partial(by_mode, peer, mode) for peer, mode in MODES.items()}
    on_gpu[CAPTURED] = lambda: replayed(family.torch)
    if device.type == "cuda":
        makers |= on_gpu
    else:
        missing |= dict.fromkeys(on_gpu, GPU_ALONE)
    why_no_liger = "it has no such kernel" if family.liger is None else liger_missing(device)
    if why_no_liger is None:
        makers[LIGER] = lambda: plain(_liger(family), fresh=True)
    else:
        missing[LIGER] = why_no_liger
    return Subject(makers, missing, judge)


class _Ours:
    """The family declared, compiled on first use."""

    def __init__(self, family: Family, shape: Shape, dtype: str, device: torch.device) -> None:
        self.graph = declare(family, shape, dtype)
        self.device = device

    @cached_property
    def _model(self) -> tn.Model:
        return tn.compile(self.graph, training=True, device=self.device)

    def function(self, *given: Tensor) -> tuple[Tensor, ...]:
        fed = zip((v.name for v in self.graph.inputs), given, strict=True)
        return tuple(self._model(**dict(fed)).values())

    def joint(self, problem: Problem) -> Call:
        """Loss and gradient as one program, for a loss whose own gradient is known to be 1."""
        wanted = problem.trained
        program = make_program(loss_gradient_graph(self.graph, "loss", wanted), "optimal", self.graph)
        runner = Runner(program, self.device)
        gradients = [*cotangent_names(self.graph, wanted).values()]

        def of(other: Problem) -> Call:
            leaves = {n: t.detach() for n, t in other.inputs.items()}

            def run(_: Any) -> list[Tensor]:
                found = runner.run(leaves, {})
                return [found["loss"], *(found[name] for name in gradients)]

            return Call(run)

        def rotated(count: int) -> list[Call]:
            how = (problem.family, problem.shape, str(program.graph[wanted[0]].dtype), problem.direction, self.device)
            return [of(Problem(*how, seed)) for seed in range(1, count + 1)]

        return Call(of(problem).run, rotated=rotated)


def _liger(family: Family) -> Callable[..., Any]:
    from liger_kernel.transformers import functional  # type: ignore[import-not-found, import-untyped, unused-ignore]

    assert family.liger is not None
    return family.liger(functional)


class Judge:
    """Holds results to eager PyTorch and to float64, by the policy of `tritonnotes.judge.tolerance`.

    Large cases whose rows know nothing of each other are judged in chunks of rows: what lies by rows in three chunks,
    sums over rows as a whole.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        rows = problem.shape[0]
        size = max(1, CHUNK * rows // max(1, torch.Size(problem.shape).numel())) if problem.family.by_rows else rows
        self.chunks = [slice(start, min(rows, start + size)) for start in range(0, rows, size)]
        last = len(self.chunks) - 1
        self.compared = sorted({0, last // 2, last})

    def __call__(self, peer: str, call: Call) -> str | None:
        """What is wrong with the results of a call, or None."""
        results = dict(zip(self.problem.names, call.run(call.prepare()), strict=True))
        for name, got, eager, exact in self._triples(results):
            comparison = compare(got, eager, exact)
            if not comparison.ok:
                return f"{name} is farther from float64 than eager PyTorch allows: {comparison}"
        return None

    def _triples(self, results: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        for name, got in results.items():
            if self._lies_by_rows(name):
                for place, i in enumerate(self.compared):
                    yield name, got[self.chunks[i]], self._eager[name][place], self._exact[name][place]
            else:
                yield name, got, self._eager[name][0], self._exact[name][0]

    def _lies_by_rows(self, name: str) -> bool:
        shape = self.problem.family.tensors(self.problem.shape).get(name.removeprefix("d_"))
        return not self.problem.family.is_loss if shape is None else shape == self.problem.shape

    @cached_property
    def _eager(self) -> dict[str, list[Tensor]]:
        """Results of eager PyTorch, of each the parts that are compared."""
        call = self.problem.call(self.problem.family.torch)
        found = dict(zip(self.problem.names, call.run(call.prepare()), strict=True))
        return {n: self._parts(n, t) for n, t in found.items()}

    def _parts(self, name: str, whole: Tensor) -> list[Tensor]:
        chunks = [self.chunks[i] for i in self.compared] if self._lies_by_rows(name) else [...]
        return [whole.detach()[chunk].clone() for chunk in chunks]

    @cached_property
    def _exact(self) -> dict[str, list[Tensor]]:
        """The same in float64, on the same rounded inputs."""
        exact: dict[str, list[Tensor]] = {n: [] for n in self.problem.names}
        sums = [n for n in exact if not self._lies_by_rows(n)]
        for i, chunk in enumerate(self.chunks):
            if i not in self.compared and not sums:
                continue
            for name, part in zip(exact, self._oracle(chunk), strict=True):
                if name not in sums:
                    exact[name] += [part.detach()] if i in self.compared else []
                elif exact[name]:
                    exact[name][0] += part.detach()
                else:
                    exact[name].append(part.detach())
        return exact

    def _oracle(self, chunk: slice) -> list[Tensor]:
        """The results on some rows, whose share of a mean over all rows is theirs."""
        problem, family = self.problem, self.problem.family
        given = []
        for name, tensor in problem.inputs.items():
            whole = name in problem.trained and tensor.shape != problem.shape
            part = tensor.detach() if whole else tensor.detach()[chunk]
            given.append(part.double().requires_grad_(True) if part.is_floating_point() else part)
        made = family.torch(*given)
        outputs = made if isinstance(made, tuple) else (made,)
        if family.is_loss:
            outputs = (outputs[0] * ((chunk.stop - chunk.start) / problem.shape[0]),)
        if problem.direction == "forward":
            return list(outputs)
        upstream = [t[chunk].double() for t in problem.upstream] or None
        gradients = torch.autograd.grad(outputs, given[: len(problem.trained)], upstream)
        return [*([] if problem.direction == "backward" else outputs), *gradients]
