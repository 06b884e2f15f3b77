"""Models under `torch.compile` and `torch.export`: one call of an op that torch knows as it knows its own.

`tritonnotes::forward` and `tritonnotes::backward` take tensors and the text of a form. Tracers see the shapes of their
results and how gradients come about; what runs in the end is the same kernels as without a tracer. The text holds the
whole graph, or an op and its attributes where it is a call of one, whose form follows from the tensors: so an exported
program can be loaded where nothing was compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..codegen.program.program import Program
from ..ir.core.evaluate import bind_dims, bind_sizes, concrete
from ..tensors.dtypes import torch_dtype
from ..tensors.torch_ops import DONE_BY, backward, forward
from .autograd import Differentiable
from .calls import BEGINNING, call_of
from .form import Form, form_of

P = ParamSpec("P")
R = TypeVar("R")


def results_of(form: Form, wanted: Sequence[str]) -> tuple[str, ...]:
    """What `forward` returns, by name: outputs, what backward needs of the run, then the updated buffers."""
    saved = form.differentiable(tuple(wanted)).saved.values() if wanted else ()
    return (*form.outputs, *(n for n in saved if n not in form.outputs), *map(_updated, form.updates))


def _updated(buffer: str) -> str:
    """What the new value of a buffer is called beside outputs, one of which may have the buffer's name."""
    return f"updated {buffer}"


def _form_for(spec: str, leaves: Sequence[Tensor]) -> Form:
    """The form that a text says, of a call the one for these tensors."""
    if not spec.startswith(BEGINNING):
        return form_of(spec)
    call = call_of(spec)
    given = dict(zip(call.order, leaves, strict=True))
    return call.form([given[index] for index in sorted(given)]).form


def _forward(leaves: Sequence[Tensor], seed: Tensor | None, spec: str, wanted: Sequence[bool]) -> list[Tensor]:
    form = _form_for(spec, leaves)
    given = dict(zip(form.leaves, leaves, strict=True))
    state = {v.name: given[v.name].detach().clone() if v.name in form.updates else given[v.name] for v in form.held}
    bound, sizes = form.bind({n: given[n] for n in form.inputs}, state)
    names = _named(form, wanted)
    runner = form.differentiable(names).forward if names else form.runner
    results = runner.run({n: t.detach() for n, t in bound.items()}, sizes, _numbers(form, seed))
    results |= {_updated(n): state[n] for n in form.updates}
    return _apart([results[n] for n in results_of(form, names)])


def _results_of_forward(
    leaves: Sequence[Tensor], seed: Tensor | None, spec: str, wanted: Sequence[bool]
) -> list[Tensor]:
    form = _form_for(spec, leaves)
    sizes = _sizes(form, leaves)
    names = _named(form, wanted)
    program = (form.differentiable(names).forward if names else form.runner).program
    made = _empty(program, sizes, form.device)
    made |= {_updated(n): torch.empty_like(t) for n, t in zip(form.leaves, leaves, strict=True) if n in form.updates}
    return [made[n] for n in results_of(form, names)]


def _backward(
    kept: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    sizes: Sequence[int],
    seed: Tensor | None,
    spec: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    form = form_of(spec)
    programs = form.differentiable(_named(form, wanted))
    fed = dict(zip(_kept(form, programs), kept, strict=True))
    upstream = dict(zip(programs.floats, cotangents, strict=True))
    bound = dict(zip(_dims(form), sizes, strict=True))
    return _apart([*programs.gradients(fed, upstream, bound, _numbers(form, seed)).values()])


def _results_of_backward(
    kept: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    sizes: Sequence[int],
    seed: Tensor | None,
    spec: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    form = form_of(spec)
    programs = form.differentiable(_named(form, wanted))
    made = _empty(programs.backward.program, dict(zip(_dims(form), sizes, strict=True)), form.device)
    return [made[name] for name in programs.reached.values()]


def _setup_context(ctx: Any, inputs: Any, output: Sequence[Tensor]) -> None:
    leaves, seed, spec, wanted = inputs
    form = _form_for(spec, leaves)
    names = _named(form, wanted)
    results = dict(zip(results_of(form, names), output, strict=True))
    programs = form.differentiable(names)
    kept = {fed: results[n] for fed, n in programs.saved.items()} | dict(zip(form.leaves, leaves, strict=True))
    ctx.save_for_backward(*(kept[n] for n in _kept(form, programs)))
    sizes = _sizes(form, leaves)
    ctx.sizes = [sizes[n] for n in _dims(form)]
    ctx.seed, ctx.spec, ctx.wanted = seed, form.spec, wanted


def _gradients_of_forward(ctx: Any, gradients: Sequence[Tensor]) -> Any:
    form = form_of(ctx.spec)
    names = _named(form, ctx.wanted)
    programs = form.differentiable(names)
    given = dict(zip(results_of(form, names), gradients, strict=True))
    upstream = [given[n].contiguous() for n in programs.floats]
    found = backward(list(ctx.saved_tensors), upstream, ctx.sizes, ctx.seed, ctx.spec, ctx.wanted)
    made = dict(zip(programs.reached, found, strict=True))
    return [made.get(n) for n in form.leaves], None, None, None


DONE_BY |= {
    "forward": _forward,
    "results of forward": _results_of_forward,
    "backward": _backward,
    "results of backward": _results_of_backward,
    "keep for gradients": _setup_context,
    "gradients of forward": _gradients_of_forward,
}


def run_traced(
    form: Form, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor], seed: Tensor | None
) -> dict[str, Tensor]:
    """One run of a form as tracers follow it: `forward`, then the new values of buffers are copied to them."""
    given = {**feeds, **state}
    leaves = [given[n] for n in form.leaves]
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in leaves]
    found = dict(zip(_names_of_results(form.spec, wanted), forward(leaves, seed, form.spec, wanted), strict=True))
    for name in form.updates:
        state[name].copy_(found[_updated(name)].detach())
    fixed = _fixed_outputs(form.spec, wanted)
    return {n: found[n].detach() if n in fixed else found[n] for n in form.outputs}


def constant_result(function: Callable[P, R]) -> Callable[P, R]:
    """As `torch.compiler.assume_constant_result`, which imports all of torch's tracer: half of what it takes to import
    this package."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_result
def _names_of_results(spec: str, wanted: list[bool]) -> list[str]:
    form = form_of(spec)
    return [*results_of(form, _named(form, wanted))]


@constant_result
def _fixed_outputs(spec: str, wanted: list[bool]) -> list[str]:
    """The outputs that have no gradient though they are floats."""
    form = form_of(spec)
    names = _named(form, wanted)
    return sorted(form.differentiable(names).constant) if names else []


def _named(form: Form, wanted: Sequence[bool]) -> tuple[str, ...]:
    return tuple(n for n, w in zip(form.leaves, wanted, strict=True) if w)


def _kept(form: Form, programs: Differentiable) -> list[str]:
    """What the backward run needs beside gradients: leaves, and results of the forward run."""
    return [*(n for n in form.leaves if n in programs.backward_leaves), *programs.saved]


def _dims(form: Form) -> list[str]:
    return [dim.name for dim in form.dims]


def _numbers(form: Form, seed: Tensor | None) -> dict[str, int]:
    return {} if seed is None else dict.fromkeys(form.seeds, int(seed))


def _sizes(form: Form, leaves: Sequence[Tensor]) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    fed = list(zip(form.graph.inputs, leaves, strict=False))
    bind_dims([(value.shape, tensor.shape) for value, tensor in fed], sizes)
    for value, tensor in fed:
        bind_sizes(value.shape, tuple(tensor.shape), f"input {value.name!r}", sizes)
    return sizes


def _empty(program: Program, sizes: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    outputs = program.graph.outputs
    return {
        name: torch.empty(concrete(value.shape, sizes), dtype=torch_dtype(value.dtype), device=device)
        for name, value in outputs.items()
    }


def _apart(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same, each in memory of its own, as torch wants it of an op's results."""
    seen: set[int] = set()
    made = []
    for tensor in tensors:
        place = tensor.untyped_storage().data_ptr()
        made.append(tensor.clone() if place in seen else tensor)
        seen.add(place)
    return made
