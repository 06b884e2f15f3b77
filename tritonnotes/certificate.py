"""The numerics certificate: fused kernels, eager PyTorch and float64 side by side."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from .codegen.pipeline import make_program
from .codegen.program.program import Program
from .codegen.support.text import counted
from .ir.core.errors import DeclarationError
from .ir.core.graph import Graph, check_is_graph
from .ir.core.optimizer import Optimizer
from .ir.core.types import Dim, DType, dims_in
from .ir.optim.update import update_graph
from .judge.executor import eager, eager_updates, oracle, oracle_updates
from .judge.samples import draw_feeds
from .judge.tolerance import Comparison, compare, pooled
from .judge.update_references import reference_step
from .kernel_check.check_kernel import check_kernel
from .kernel_check.entry import check_order, name_of
from .kernel_check.result import KernelCertificate
from .kernel_check.running import is_kernel
from .runtime.model import Model, outputs_by_name
from .runtime.runner import Runner
from .step_check import compared_step
from .strict_look import StrictLook, run_of_update, runs_of_model, runs_of_step, strict_look
from .tensors.dtypes import torch_dtype
from .tensors.initial import initial_state
from .training.step import TrainingStep
from .views.html import block, table, tag


@dataclass(frozen=True)
class Row:
    """One result: `what` is 'output', 'gradient', 'buffer' (as a run leaves it) or 'update'; `comparison` how far the
    kernels are from float64."""

    what: str
    name: str
    comparison: Comparison


@dataclass(frozen=True, repr=False)
class Certificate:
    """The errors of every output, gradient and update against float64, of kernels and of eager PyTorch, and what the
    `strict` interpreter found in kernels that ran as machine code. `ok`: all errors are within the policy, and there is
    no finding."""

    graph: str
    sizes: Mapping[str, int]
    rows: tuple[Row, ...]
    strict: StrictLook

    @property
    def ok(self) -> bool:
        return self.strict.ok and all(row.comparison.ok for row in self.rows)

    def __repr__(self) -> str:
        sizes = "".join(f", {n}={s}" for n, s in self.sizes.items())
        bad = sum(not row.comparison.ok for row in self.rows)
        held = "OK" if self.ok else f"FAILS: {counted(bad, 'result')}, {counted(len(self.strict.findings), 'finding')}"
        return f"Certificate({self.graph!r}{sizes}: {counted(len(self.rows), 'result')}, {held})"

    def _repr_html_(self) -> str:
        rows = []
        for row in self.rows:
            c = row.comparison
            errors = [f"{error:.2e}" for error in (c.max_error, c.eager_max_error, c.max_allowed)]
            rows.append((f"{row.what} {row.name}", *errors, "ok" if c.ok else "FAILS"))
        heads = ("result", "fused error", "eager error", "allowed", "")
        looked = tag("ul", *(tag("li", line) for line in self.strict.lines()))
        return block(repr(self), table(heads, rows, right=(1, 2, 3)), looked)

    def __str__(self) -> str:
        sizes = ", ".join(f"{n}={s}" for n, s in self.sizes.items())
        lines = [f"certificate of {self.graph}" + (f" at {sizes}" if sizes else "")]
        lines.append(f"  {'':24} {'fused error':>12} {'eager error':>12} {'allowed':>12}")
        for row in self.rows:
            c = row.comparison
            verdict = "ok" if c.ok else "FAILS"
            name = f"{row.what} {row.name}"
            lines.append(f"  {name:24} {c.max_error:12.3e} {c.eager_max_error:12.3e} {c.max_allowed:12.3e}  {verdict}")
        lines += [f"  {line}" for line in self.strict.lines()]
        held = "every result errs at most twice as much as eager, plus two units in the last place"
        lines.append(f"  {'OK: ' + held if self.ok else 'FAILS: see what fails above'}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """For programs: graph, sizes, ok, the errors of each row, and the strict look."""
        rows = [
            {
                "what": r.what,
                "name": r.name,
                "ok": r.comparison.ok,
                "max_error": r.comparison.max_error,
                "eager_max_error": r.comparison.eager_max_error,
                "allowed": r.comparison.max_allowed,
            }
            for r in self.rows
        ]
        said = {"graph": self.graph, "sizes": dict(self.sizes), "ok": self.ok}
        return {**said, "rows": rows, "strict": self.strict.to_dict()}


@overload
def check(
    subject: Graph | Model | TrainingStep,
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
    fusion: str = "optimal",
    device: torch.device | str | None = None,
    strict: bool | None = None,
    sanitize: bool = False,
    seed: int = 0,
) -> Certificate: ...


@overload
def check(
    subject: Callable[..., Any],
    reference: Callable[..., Any],
    *tensors: Any,
    grid: Any = None,
    constexprs: Mapping[str, Any] | None = None,
    outputs: Sequence[int] | None = None,
    edge_cases: bool = True,
    deterministic: bool = True,
    seed: int = 0,
) -> KernelCertificate: ...


def check(subject: Any, *given: Any, **how: Any) -> Certificate | KernelCertificate:
    """Check the compiled kernels of a graph, or any Triton kernel.

    `tn.check(graph)`, `tn.check(model)` and `tn.check(step)` compare kernels with eager PyTorch and with float64:
    outputs and the gradients of parameters and floating inputs, and of a step one update. A torch module is checked as
    `tn.check(tn.from_torch(module, x))`. Keywords:

    - `feeds`: the inputs, `{"x": tensor}`. Default: random tensors within the domains of the ops that read them.
    - `sizes`: a size for each `Dim`, `{"batch": 64}`. Default: the sizes of the `feeds`, or 33.
    - `state`: the parameters and buffers, `{"fc.weight": tensor}`. Default: the initial ones.
    - `optimizer`: an update rule, as `tn.adam(lr=1e-3)`. The training form is then checked, and three updates too.
    - `fusion`, `device`, `strict`, `sanitize`: as for `tn.compile`, which kernels are made and what runs them.
    - `seed`: of all that is random.

    A compiled model or step takes `sizes`, `feeds` and `seed`; the rest is settled in it.

    `tn.check(kernel, reference, *tensors)` checks a kernel of your own. `kernel` is a function that takes the tensors
    (and scalars), launches Triton kernels, and returns tensors or writes to its arguments. `reference` computes the
    same in plain torch. `kernel` may also be a `@triton.jit` kernel, with `grid=`, `constexprs={...}` and all its other
    arguments in order. Its results are then the arguments at the positions in `outputs` (by default those that it
    changes), and the reference takes the other tensors.

    The error against float64 is compared with that of eager PyTorch, on the given tensors and, unless
    `edge_cases=False`, on variants of them (other sizes, strides and values; NaN, infinity, no elements). The strict
    interpreter looks for accesses out of bounds, uninitialized memory and data races. Repeated runs, on one thread and
    on several, and with other contents of uninitialized memory, must give the same bits. With `deterministic=False` the
    runs on several threads may differ in rounding, as sums by `tl.atomic_add` do: each of them is compared with float64
    instead. Without a GPU everything runs on the CPU (docs/checking.md).

    Returns a certificate: `print` it, or use `.ok` and `.to_dict()`; that of a kernel also has
    `.write_reproduction(file)`.
    """
    if isinstance(subject, Graph | Model | TrainingStep) and given:
        raise DeclarationError(
            f"check of a {type(subject).__name__} takes keywords alone, not {type(given[0]).__name__}"
        )
    if not given and (is_kernel(subject) or inspect.isroutine(subject)):
        raise DeclarationError(
            f"check of {name_of(subject)}: a kernel alone says nothing; pass a reference and tensors, as in "
            "tn.check(kernel, reference, *tensors)"
        )
    if not given:
        if not isinstance(subject, Model | TrainingStep):
            check_is_graph(subject)
        _check_keywords("a graph", check_graph, how)
        return check_graph(subject, **how)
    reference, *arguments = given
    check_order(subject, reference)  # a module with its inputs may have keywords of a step
    _check_keywords("a kernel", check_kernel, how)
    return check_kernel(subject, reference, tuple(arguments), **how)


def _check_keywords(what: str, function: Callable[..., Any], how: Mapping[str, Any]) -> None:
    kinds = inspect.signature(function).parameters.values()
    taken = [p.name for p in kinds if p.kind is inspect.Parameter.KEYWORD_ONLY]
    strangers = sorted(set(how) - set(taken))
    if strangers:
        raise DeclarationError(f"tn.check of {what} takes no {', '.join(strangers)}; it takes {', '.join(taken)}")


def check_graph(
    subject: Graph | Model | TrainingStep,
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
    optimizer: Optimizer | None = None,
    fusion: str = "optimal",
    device: torch.device | str | None = None,
    strict: bool | None = None,
    sanitize: bool = False,
    seed: int = 0,
) -> Certificate:
    """Compare compiled kernels with eager PyTorch and with float64: outputs, and gradients of all parameters and
    floating inputs, in the evaluation form. Given an `optimizer`, these are those of the training form, and the buffers
    that a run leaves and three updates by the optimizer's rule are compared as well.

    A compiled model or step is checked as it is: with its own plans, chunks, memory budget and device, its form and its
    weights, which stay as they are. Of a step that is one update, with the hyperparameters that it has by now: outputs,
    buffers, parameters, their state, and what a scaler makes of it. Calls of a model without autograd run another
    program, and are compared, too.

    `sizes` gives each `Dim` a size (default: that of the `feeds`, or 33, which is awkward on purpose). `feeds` and
    `state` default to random tensors within the domains of the ops that read them, and to the initial weights; unless
    both are given, results of few elements are compared over several draws as one result, so that no seed decides.
    `device`, `strict` and `sanitize` say what runs the kernels, as for `tn.compile`.

    Where they run as machine code, the strict interpreter runs the same kernels once as well, at a few rows: what it
    finds (bounds, uninitialized memory, races) fails the check. It leaves out what would take it minutes, and says so.
    """
    if isinstance(subject, Model | TrainingStep):
        asked = {"state": state, "optimizer": optimizer, "device": device, "strict": strict}
        given = [name for name, value in asked.items() if value is not None]
        if given or fusion != "optimal" or sanitize:
            raise DeclarationError(
                f"check: {(given or ['fusion or sanitize'])[0]} is settled in what is compiled; check its .graph to "
                "have it otherwise"
            )
        return _check_compiled(subject, _checked_sizes(subject.graph, sizes or {}, feeds or {}), feeds, seed)
    graph = subject
    check_is_graph(graph)
    bound = _checked_sizes(graph, sizes or {}, feeds or {})
    training = optimizer is not None
    model = Model(graph, training=training, fusion=fusion, device=device, strict=strict, sanitize=sanitize, seed=seed)

    def drawn(seed: int) -> list[Row]:
        weights = state if state is not None else initial_state(graph, seed)
        given = feeds if feeds is not None else draw_feeds(graph, bound, seed, state=weights)
        return _compared(graph, model, given, weights, seed)

    rows = drawn(seed)
    if (feeds is None or state is None) and any(map(_is_few, rows)):
        others = [drawn(seed + i) for i in range(1, DRAWS)]
        rows = [_over_draws(row, [rows[i] for rows in others]) for i, row in enumerate(rows)]
    runs = runs_of_model(model, seed, without_autograd=False)
    if optimizer is not None:
        dtypes = dict.fromkeys(v.dtype for v in graph.parameters)
        for dtype in dtypes:
            program = make_program(update_graph(optimizer, (Dim("elements"),), dtype), model.fusion)
            rows += _updates(optimizer, dtype, program, model, seed)
            runs.append(run_of_update(program, _numbers(program, optimizer, optimizer.numbers, 1)))
    look = strict_look(graph, runs, model, sizes=bound, feeds=feeds, seed=seed)
    return Certificate(graph.name, bound, tuple(rows), look)


def _check_compiled(
    subject: Model | TrainingStep, bound: dict[str, int], feeds: Mapping[str, Tensor] | None, seed: int
) -> Certificate:
    graph, model = subject.graph, subject.model if isinstance(subject, TrainingStep) else subject

    def given(seed: int) -> dict[str, Tensor]:
        drawn = dict(feeds) if feeds is not None else draw_feeds(graph, bound, seed, state=model.tensors())
        return {n: t.to(subject.device) for n, t in drawn.items()}

    def compared(seeds: Sequence[int]) -> list[list[Row]]:
        if isinstance(subject, TrainingStep):
            return [[Row(*row) for row in rows] for rows in compared_step(subject, [given(s) for s in seeds])]
        weights = {n: t.clone() for n, t in subject.tensors().items()}
        return [
            _without_autograd(subject, fed, s) + _compared(graph, deepcopy(subject), fed, weights, s)
            for s, fed in ((s, given(s)) for s in seeds)
        ]

    (rows,) = compared([seed])
    if feeds is None and any(map(_is_few, rows)):
        first, *others = compared(range(seed, seed + DRAWS))
        rows = [_over_draws(row, [rows[i] for rows in others]) for i, row in enumerate(first)]
    if isinstance(subject, TrainingStep):
        runs = runs_of_step(subject)
    else:
        runs = runs_of_model(subject, seed, without_autograd=True)
    look = strict_look(graph, runs, model, sizes=bound, feeds=feeds, seed=seed)
    return Certificate(graph.name, bound, tuple(rows), look)


def _without_autograd(subject: Model, feeds: dict[str, Tensor], seed: int) -> list[Row]:
    """The outputs of the program that runs where nobody asks for gradients."""
    model = deepcopy(subject)
    model.seed = seed
    held = {n: t.detach().clone() for n, t in model.tensors().items()}
    with torch.no_grad():
        fused = outputs_by_name(model, feeds)
    judged = [run(model.graph, feeds, held, training=model.training, seed=seed) for run in (eager, oracle)]
    return [Row("output without autograd", n, compare(t, *(j[n] for j in judged))) for n, t in fused.items()]


def _checked_sizes(graph: Graph, sizes: Mapping[str, int], feeds: Mapping[str, Tensor]) -> dict[str, int]:
    """The size of each `Dim`: as fed, or as asked for, or 33. Raises `DeclarationError` for sizes at which nothing is
    compared, for others than those of the feeds, and for strangers."""
    dims = {dim.name: 33 for v in graph.values for dim in dims_in(v.shape)}
    strangers = sorted(set(sizes) - set(dims))
    if strangers:
        raise DeclarationError(
            f"check: graph {graph.name!r} has no Dim {', '.join(strangers)}; it has {', '.join(dims) or 'none'}"
        )
    fed = ((v.shape, feeds[v.name].shape) for v in graph.inputs if v.name in feeds)
    given = {s.name: n for shape, sizes in fed for s, n in zip(shape, sizes, strict=False) if isinstance(s, Dim)}
    apart = [name for name, size in given.items() if sizes.get(name, size) != size]
    if apart:
        raise DeclarationError(
            f"check: Dim {apart[0]} is {sizes[apart[0]]} in sizes and {given[apart[0]]} in feeds; leave it out of sizes"
        )
    bound = {**dims, **sizes, **given}
    for name, size in bound.items():
        if size < 1:
            raise DeclarationError(f"check: Dim {name} is {size}, so nothing is compared; give it a size of 1 or more")
    return bound


DRAWS = 16
"""How often results of few numbers are drawn: of one or two of them eager may have rounded all luckily."""

_FEW = 16


def _is_few(row: Row) -> bool:
    """Whether a result has so few numbers that one draw says little. Integers are eager's in every draw."""
    return math.prod(row.comparison.shape) < _FEW and row.comparison.dtype.startswith(("float", "bfloat"))


def _over_draws(row: Row, others: Sequence[Row]) -> Row:
    return replace(row, comparison=pooled([row.comparison, *(o.comparison for o in others)])) if _is_few(row) else row


def _compared(
    graph: Graph, model: Model, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor], seed: int
) -> list[Row]:
    """Outputs and gradients on one draw, and in the training form what a run leaves in the buffers."""
    given, weights = ({n: t.to(model.device) for n, t in tensors.items()} for tensors in (feeds, state))
    model.load_state_dict(weights)
    model.seed = seed
    rows = _outputs_and_gradients(graph, model, given, weights, seed)
    if model.training:
        new = [run(graph, given, weights, seed=seed) for run in (eager_updates, oracle_updates)]
        rows += [Row("buffer", n, compare(model.tensors()[n], *(state[n] for state in new))) for n in graph.updates]
    return rows


def _outputs_and_gradients(
    graph: Graph, model: Model, feeds: dict[str, Tensor], weights: dict[str, Tensor], seed: int
) -> list[Row]:
    trained = [v.name for v in graph.parameters if model.tensors()[v.name].requires_grad]
    inputs = [v.name for v in graph.inputs if v.dtype.is_float]

    def leaves(tensors: Mapping[str, Tensor], names: list[str], exact: bool) -> dict[str, Tensor]:
        wide = {n: t.double() if exact and t.is_floating_point() else t.clone() for n, t in tensors.items()}
        return {n: t.detach().requires_grad_(n in names) for n, t in wide.items()}

    fed = leaves(feeds, inputs, False)
    fused = outputs_by_name(model, fed)  # first, as it says of feeds that do not fit what is wrong
    results = [(fused, {**fed, **model.tensors()})]
    for run, exact in ((eager, False), (oracle, True)):
        fed, held = leaves(feeds, inputs, exact), leaves(weights, trained, exact)
        results.append((run(graph, fed, held, training=model.training, seed=seed), {**fed, **held}))
    rows = [Row("output", n, compare(*(r[n].detach() for r, _ in results))) for n in graph.outputs]
    # Only the outputs that something trained or fed reaches have a gradient.
    eagerly = results[1][0]
    floats = [n for n in graph.outputs if eagerly[n].requires_grad]
    if not floats:
        return rows
    generator = torch.Generator().manual_seed(seed)
    directions = {n: torch.randn(eagerly[n].shape, generator=generator, device="cpu").to(eagerly[n]) for n in floats}
    gradients = []
    for outputs, tensors in results:
        wanted = {n: tensors[n] for n in (*inputs, *trained)}
        given = [directions[n].to(outputs[n].dtype) for n in floats]
        found = torch.autograd.grad([outputs[n] for n in floats], list(wanted.values()), given, allow_unused=True)
        gradients.append(dict(zip(wanted, found, strict=True)))
    for name in (*inputs, *trained):
        parts = [g[name] for g in gradients]
        if parts[1] is None and parts[0] is None:
            continue
        like = feeds[name] if name in feeds else weights[name]
        fused_part, eager_part, exact_part = (torch.zeros_like(like) if p is None else p for p in parts)
        rows.append(Row("gradient", name, compare(fused_part, eager_part, exact_part)))
    return rows


def _updates(optimizer: Optimizer, dtype: DType, program: Program, model: Model, seed: int) -> list[Row]:
    """Three updates of one made-up parameter by made-up gradients, by the rule's kernel and by its torch reference.

    A rule is judged on given gradients: where it divides by their size, as Adam does, the rounding of a gradient near 0
    decides the sign of a whole step, in eager PyTorch as well.
    """
    (count,) = program.dims
    device = model.device
    runner = Runner(program, device, model.execution)
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randn(1000, generator=generator, device="cpu", dtype=torch.float64).to(torch_dtype(dtype))
        for _ in range(4)
    ]
    start = {
        n: torch.full((1000,), first, dtype=torch_dtype(dtype), device="cpu") for n, first in optimizer.state.items()
    }
    fused = {n: t.clone().to(device) for n, t in {"p": drawn[0], **start}.items()}
    judges = [(drawn[0].to(t), {n: s.to(t) for n, s in start.items()}) for t in (drawn[0].dtype, torch.float64)]
    numbers = optimizer.numbers
    for step, gradient in enumerate(drawn[1:], 1):
        scalars = _numbers(program, optimizer, numbers, step)
        runner.run({**fused, "g": gradient.to(device)}, {count.name: 1000}, scalars)
        judged = [reference_step(optimizer, p, gradient.to(p), state, step, numbers) for p, state in judges]
        judges = [(p, state) for p, state, _ in judged]
        numbers = judged[-1][2]
    (eager_p, eager_state), (exact_p, exact_state) = judges
    eager_results, exact_results = {"p": eager_p, **eager_state}, {"p": exact_p, **exact_state}
    return [
        Row("update", f"{optimizer.rule.name} {n}", compare(t.cpu(), eager_results[n], exact_results[n]))
        for n, t in fused.items()
    ]


def _numbers(program: Program, optimizer: Optimizer, numbers: Mapping[str, float], step: int) -> dict[str, float]:
    """The host's numbers of an update, by the program's names for them."""
    given = {**optimizer.settings, **numbers, "step": step}
    return {v.name: float(given[v.name.rpartition(".")[2]]) for v in program.graph.leaves("scalar")}
