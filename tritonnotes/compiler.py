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

    A torch module is first imported as by `tn.from_torch(module, *example, batch=..., dynamic=...)`. The model uses the
    module's own parameters and buffers, on their device. It takes the arguments and returns the results of the module.
    `kwargs` are keyword arguments of the example. Arguments that are not tensors are fixed to those of the example.

    `training=False` compiles the evaluation form: batch norm uses its running statistics, dropout is off, and buffers
    are not updated. `training=True` compiles the graph as declared, and a call updates the buffers in place.
    `fusion` is 'optimal' (a search within a budget; the plan states the outcome), 'greedy' or 'off'. `fuse` and
    `forbid` are lists of names of ops or values, or of tuples of names. Values between the names of a tuple in `fuse`
    stay inside a kernel. No kernel contains two names of a tuple in `forbid`; a single name there shares a kernel with
    nothing else. If this is impossible, `PlanError` is raised with the reason. `seed` is the seed of the initial
    weights (for random ops see `Model`).

    `device=None` uses a GPU if there is one. On the CPU, the same kernels run as machine code (`docs/native.md`), and
    `sanitize=True` checks their memory accesses. `strict=True` runs them in the strict interpreter, which also finds
    data races and reads of uninitialized memory and is a thousand times slower. With `strict=None`, the environment
    variable `TRITONNOTES_STRICT=1` selects it.
    `products` selects what computes matrix products: 'fastest' (what the cost model estimates to be faster), 'library'
    (torch), or 'generated' (generated kernels only). The bits of a library's results depend on the processor and often
    on the number of rows. With 'generated' each row of a result has the same bits for any number of rows.
    `target` is what the cost model plans for: 'gpu' (an H100) or 'cpu', where launches are cheap and larger products
    are library calls. The default is the device that the kernels run on, and 'gpu' for the strict interpreter. Every
    plan runs on every device; `explain()` states its target.
    `logits_budget` is described at `compile_step`; it applies to calls without autograd.
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

    `loss` is the name of the output to minimise, a float of shape (). `optimizer` is an update rule with its
    hyperparameters, such as `tn.adam(lr=1e-3)`. For a graph, both may be given by position. `seed` is the seed of the
    initial weights and of random ops. Other options are those of `compile`.

    For a torch module, an example of its inputs is given by position or in `kwargs`. `loss` is then a function of the
    module's result and a target, such as `torch.nn.functional.cross_entropy`, and `step(x, y)` takes the tensors among
    the inputs, then the target of the loss. Its form is known for the losses of torch; for other functions
    `target_example` is an example, or a tuple of them. If the module computes its loss itself, `loss` names that
    output. The step trains the module's own parameters.

    `param_groups` gives some parameters other hyperparameters, like the groups of torch.optim. It is a list of dicts
    such as `{"params": ["*.bias", "ln*"], "weight_decay": 0.0}`, whose `params` are names, patterns or a function of a
    name, or it is a function from a parameter's name to its options. All other parameters use the optimizer's
    hyperparameters. They may be changed between steps: `step.param_groups[1]["lr"] = 1e-4`.

    `accumulate` is the number of batches (calls) per update. As in the usual loop of torch, each batch contributes
    `loss / accumulate`. With equal batches and a mean loss, the update is that of the whole batch. (If the loss is a
    sum, multiply it by `accumulate`.) The kernels that compute the gradients also add them up.

    `scaler` scales the loss, for graphs in float16 (`tn.autocast(g, "float16")`): see `tn.GradScaler`.

    `memory_budget` limits the bytes that a program of the step needs in addition to weights, optimizer state and inputs
    (`step.peak_bytes()`, with every `Dim` at 256; a step that accumulates gradients has two programs). If the plan of
    the lowest cost needs more, it is changed until it is within the budget or no further change lowers it. `explain()`
    states by how much the budget is missed. Each change needs a new plan, so planning may take many times as long.

    `logits_budget` limits the bytes of the result of a linear layer over many classes, in the dtype in which it is
    stored. If the result is larger (for a `Dim` of rows, at 16,384 rows), the layer is computed in chunks of rows,
    together with everything that depends on single rows (loss, gradient, metrics) and with sums over rows. A chunk has
    as many rows as fit, a power of two and at least 16. The whole result is never materialized, and weight gradients
    are accumulated in float32. `explain()` states whether this is done, or why not, for example because the logits are
    an output. None never uses chunks.

    `data_parallel` makes the step one of several processes of torch.distributed: each gets its own part of a batch, and
    all update with the mean of their gradients. True, or a `tn.DataParallel`.
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
        how |= {"target_given_as": "target_example"}
        made = imported(graph, given, kwargs, **how)
        name = loss if isinstance(loss, str) else LOSS
        if name not in made.graph.outputs:
            said = "no loss is given" if loss is None else f"loss is {loss!r}"
            raise DeclarationError(
                f"compile_step: {said}, and {type(graph).__name__} returns no {name!r} (it returns "
                f"{', '.join(made.graph.outputs)}); pass a function of its result and the target, as in "
                "loss=torch.nn.functional.cross_entropy, or the name of the output that is the loss"
            )
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
