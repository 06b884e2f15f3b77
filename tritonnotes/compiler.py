"""`tn.compile` and `tn.compile_step`, of graphs and of torch modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

import torch

from .codegen.fusion.constraints import as_fusion
from .distributed.parallel import DataParallel
from .importer.export import Dynamic
from .importer.wrapped import LOSS
from .ir.core.errors import DeclarationError
from .ir.core.graph import Graph, check_is_graph
from .ir.core.optimizer import Optimizer
from .ir.passes.chunks import LOGITS_BUDGET
from .ir.passes.scaling import GradScaler
from .runtime.model import Model
from .torch_modules import BATCH, ImportedModel, Loss, device_of, imported
from .training.param_groups import Groups
from .training.step import TrainingStep


def compile(
    graph: Graph | torch.nn.Module,
    *example: object,
    kwargs: Mapping[str, Any] | None = None,
    training: bool = False,
    batch: str | None = BATCH,
    dynamic: Dynamic | None = None,
    fusion: str = "optimal",
    fuse: Iterable[str | tuple[str, ...]] = (),
    forbid: Iterable[str | tuple[str, ...]] = (),
    products: str = "fastest",
    target: str | None = None,
    logits_budget: int | None = LOGITS_BUDGET,
    device: torch.device | str | None = None,
    strict: bool | None = None,
    sanitize: bool = False,
    seed: int = 0,
) -> Model:
    """Compile a declared graph to a `Model`: a torch module whose forward and backward are generated kernels.

    A torch module is imported first, as `tn.from_torch(module, *example, batch=..., dynamic=...)` does. The model then
    computes with the module's own parameters and buffers, on their device, takes what the module takes and returns what
    the module returns. `kwargs` are the example's arguments by name. What is no tensor is fixed as in the example.

    `training=False` compiles the evaluation form: batch norm uses its running statistics, dropout keeps everything,
    buffers stay. `training=True` compiles the graph as declared, and a call updates the buffers in place.
    `fusion` is 'optimal' (searched for within a budget; the plan says what came of it), 'greedy' or 'off'. `fuse` and
    `forbid` hold names of ops or values, or tuples of them: what passes between the names of a tuple in `fuse` stays
    inside a kernel, and no kernel holds two names of a tuple in `forbid` (a name alone there shares with nothing). What
    cannot be had raises `PlanError` with the reason. `seed` is that of the initial weights (what random ops draw: see
    `Model`).

    `device` None picks the GPU where there is one. Else the same kernels run on the CPU as machine code
    (`docs/native.md`), whose accesses `sanitize=True` checks. `strict=True` runs them under the strict interpreter
    instead, a thousand times as slowly, which also finds data races and reads of uninitialized memory; where `strict`
    is None the environment decides, by `TRITONNOTES_STRICT=1`.
    `products` says what computes matrix products: 'fastest' is whichever the cost model takes to be faster, 'library'
    is torch. What a library adds up depends on the processor and, on many, on how many rows there are; with 'generated'
    each row of a result has the same bits whatever rows stand beside it, and no library is called.
    `target` is what the cost model plans for: 'gpu' (an H100), or 'cpu', where a launch costs little and larger
    products are left to the library. None is what the kernels run on; the strict interpreter looks at those of a GPU.
    Either plan runs anywhere, and `explain()` says which it is.
    `logits_budget` is as for `compile_step`, for calls without autograd, which keeps the logits whole.
    """
    options = as_fusion(fusion, fuse, forbid, products, target)
    how: dict[str, Any] = {"strict": strict, "sanitize": sanitize, "logits_budget": logits_budget, "seed": seed}
    how |= {"training": training, "fusion": options}
    if _is_imported(graph, example or kwargs):
        place = device_of(graph, (example, kwargs), device)
        return ImportedModel(imported(graph, example, kwargs, batch=batch, dynamic=dynamic), device=place, **how)
    check_is_graph(graph)
    assert isinstance(graph, Graph)
    if example:
        raise DeclarationError("compile: takes a graph alone by position; its options are named, as in device='cpu'")
    _check_not_imported("compile", batch=batch, dynamic=dynamic, kwargs=kwargs)
    return Model(graph, device=device, **how)


def compile_step(
    graph: Graph | torch.nn.Module,
    *given: Any,
    kwargs: Mapping[str, Any] | None = None,
    loss: str | Loss | None = None,
    optimizer: Optimizer | None = None,
    batch: str | None = BATCH,
    dynamic: Dynamic | None = None,
    target_example: Any = None,
    param_groups: Groups | None = None,
    accumulate: int = 1,
    scaler: GradScaler | torch.amp.GradScaler | None = None,
    data_parallel: DataParallel | bool = False,
    fusion: str = "optimal",
    fuse: Iterable[str | tuple[str, ...]] = (),
    forbid: Iterable[str | tuple[str, ...]] = (),
    memory_budget: int | None = None,
    products: str = "fastest",
    target: str | None = None,
    logits_budget: int | None = LOGITS_BUDGET,
    device: torch.device | str | None = None,
    strict: bool | None = None,
    sanitize: bool = False,
    seed: int = 0,
) -> TrainingStep:
    """Compile forward, backward and update of a declared graph to one program, in its training form.

    `loss` names the output to minimise, a float of shape (); `optimizer` is an update rule with its numbers, such as
    `tn.adam(lr=1e-3)`; of a graph both may be given by position. `seed` is that of the initial weights and of what
    random ops draw. The rest as for `compile`.

    Of a torch module an example of its inputs is given by position, or by name in `kwargs`, and `loss` is a function of
    its result and of a target, such as `torch.nn.functional.cross_entropy`: `step(x, y)` feeds the tensors among the
    inputs, then the target. Losses of torch tell what their target looks like; for any other function `target_example`
    is an example, or a tuple of them. Where the module computes its loss itself, `loss` names that output. The step
    trains the module's own parameters.

    `param_groups` give some parameters other numbers, as torch.optim's do: a list of dicts such as
    `{"params": ["*.bias", "ln*"], "weight_decay": 0.0}`, whose `params` are names, patterns or a function of a name; or
    a function from a parameter's name to its options. What none names has the optimizer's own. They may be set between
    steps: `step.param_groups[1]["lr"] = 1e-4`.

    `accumulate` batches share one update, each call being one of them. As in torch's usual loop, each counts for
    `loss / accumulate`: with equal batches and a mean loss, that is the step of the whole batch. (Where it is a sum,
    multiply it by `accumulate`.) Gradients are added up in the kernels that finish them.

    `scaler` scales the loss, for graphs in float16 (`tn.autocast(g, "float16")`): see `tn.GradScaler`.

    `memory_budget` is how many bytes a program of the step may hold beside weights, optimizer state and inputs
    (`step.peak_bytes()`, with every `Dim` at 256; a step that gathers gradients is two programs). Where the plan that
    costs least holds more, it is changed until it is within, or nothing that is tried lowers it further; `explain()`
    says by how much. Each change is a plan made anew, which may take many times as long as one.

    `logits_budget` is how many bytes a linear layer's result over many classes may take, in the dtype it is stored in.
    Where it would take more (for a `Dim` of rows, at 16,384 of them), the layer, what is local to a row of its result
    (loss, gradient, metrics) and the sums over rows are computed for as many rows at a time as fit, a power of two and
    16 at least: the whole never exists, and weight gradients are added up in float32. `explain()` says so, or why not,
    as where the logits are an output. None computes them whole.

    `data_parallel` makes the step one of several processes, which torch.distributed knows: each is fed its own part of
    a batch, and all update by the mean of their gradients. True, or a `tn.DataParallel`.
    """
    wanted = as_fusion(fusion, fuse, forbid, products, target)
    wanted = wanted if memory_budget is None else replace(wanted, memory_budget=memory_budget)
    options: dict[str, Any] = {
        "param_groups": param_groups, "accumulate": accumulate, "scaler": scaler, "data_parallel": data_parallel,
        "strict": strict, "sanitize": sanitize, "fusion": wanted, "seed": seed, "logits_budget": logits_budget,
    }  # fmt: skip
    if _is_imported(graph, given or kwargs):
        function = None if loss is None or isinstance(loss, str) else loss
        how: dict[str, Any] = {"batch": batch, "dynamic": dynamic, "loss": function, "target": target_example}
        made = imported(graph, given, kwargs, **how)
        name = loss if isinstance(loss, str) else LOSS
        options |= {"shared": made.shared, "device": device_of(graph, (given, kwargs), device)}
        return TrainingStep(made.graph, name, optimizer, **options)  # type: ignore[arg-type]
    check_is_graph(graph)
    _check_not_imported("compile_step", batch=batch, dynamic=dynamic, target_example=target_example, kwargs=kwargs)
    name, rule = _by_position(given, loss, optimizer)
    return TrainingStep(graph, name, rule, device=device, **options)  # type: ignore[arg-type]


def _is_imported(given: object, example: object) -> TypeGuard[torch.nn.Module]:
    """Whether a torch module and an example of its inputs were given, and nothing that is compiled already."""
    return isinstance(given, torch.nn.Module) and not isinstance(given, Model) and bool(example)


def _by_position(given: tuple[Any, ...], loss: Any, optimizer: Any) -> tuple[Any, Any]:
    """The loss and the optimizer of a graph's step, which may be given by position."""
    names = ("loss", "optimizer")
    named = {name: value for name, value in zip(names, (loss, optimizer), strict=True) if value is not None}
    placed = dict(zip(names, given, strict=False))
    twice = [name for name in placed if name in named]
    if twice or len(given) > len(names):
        raise DeclarationError(
            f"compile_step: {twice[0] + ' is given twice' if twice else f'{len(given)} arguments follow the graph'}; "
            "a graph takes loss and optimizer"
        )
    found = {"loss": LOSS, "optimizer": None, **named, **placed}
    return found["loss"], found["optimizer"]


def _check_not_imported(what: str, *, batch: str | None, **others: Any) -> None:
    """Raise `DeclarationError` where a graph is given what says how a torch module is imported."""
    said = [name for name, value in others.items() if value is not None] + (["batch"] if batch != BATCH else [])
    if said:
        raise DeclarationError(f"{what}: {said[0]}= says how a torch module is imported; a graph is declared with Dims")
