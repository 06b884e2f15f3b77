"""`tn.compile` and `tn.compile_step`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from .codegen.fusion.constraints import as_fusion
from .distributed.parallel import DataParallel
from .ir.core.errors import DeclarationError
from .ir.core.graph import Graph, check_is_graph
from .ir.core.optimizer import Optimizer
from .ir.passes.chunks import LOGITS_BUDGET
from .ir.passes.scaling import GradScaler
from .runtime.model import Model
from .training.param_groups import Groups
from .training.step import TrainingStep


def compile(
    graph: Graph,
    *example: object,
    training: bool = False,
    fusion: str = "optimal",
    fuse: Iterable[str | tuple[str, ...]] = (),
    forbid: Iterable[str | tuple[str, ...]] = (),
    products: str = "fastest",
    target: str = "gpu",
    logits_budget: int | None = LOGITS_BUDGET,
    device: torch.device | str | None = None,
    strict: bool | None = None,
    sanitize: bool = False,
    seed: int = 0,
) -> Model:
    """Compile a declared graph to a `Model`: a torch module whose forward and backward are generated kernels.

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
    products are left to the library. Either plan runs anywhere, and `explain()` says which it is.
    `logits_budget` is as for `compile_step`, for calls without autograd, which keeps the logits whole.
    """
    check_is_graph(graph)
    if example:
        raise DeclarationError("compile: takes a graph alone by position; its options are named, as in device='cpu'")
    options = as_fusion(fusion, fuse, forbid, products, target)
    where = {"device": device, "strict": strict, "sanitize": sanitize}
    return Model(graph, training=training, fusion=options, logits_budget=logits_budget, seed=seed, **where)  # type: ignore[arg-type]


def compile_step(
    graph: Graph,
    loss: str = "loss",
    optimizer: Optimizer | None = None,
    *,
    param_groups: Groups | None = None,
    accumulate: int = 1,
    scaler: GradScaler | None = None,
    data_parallel: DataParallel | bool = False,
    fusion: str = "optimal",
    fuse: Iterable[str | tuple[str, ...]] = (),
    forbid: Iterable[str | tuple[str, ...]] = (),
    memory_budget: int | None = None,
    products: str = "fastest",
    target: str = "gpu",
    logits_budget: int | None = LOGITS_BUDGET,
    device: torch.device | str | None = None,
    strict: bool | None = None,
    sanitize: bool = False,
    seed: int = 0,
) -> TrainingStep:
    """Compile forward, backward and update of a declared graph to one program, in its training form.

    `loss` names the output to minimise, a float of shape (); `optimizer` is an update rule with its numbers, such as
    `tn.adam(lr=1e-3)`. `seed` is that of the initial weights and of what random ops draw. The rest as for `compile`.

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
    check_is_graph(graph)
    wanted = as_fusion(fusion, fuse, forbid, products, target)
    wanted = wanted if memory_budget is None else replace(wanted, memory_budget=memory_budget)
    shared = {"param_groups": param_groups, "accumulate": accumulate, "scaler": scaler, "data_parallel": data_parallel}
    where = {"device": device, "strict": strict, "sanitize": sanitize}
    options = {**shared, **where, "fusion": wanted, "seed": seed, "logits_budget": logits_budget}
    return TrainingStep(graph, loss, optimizer, **options)  # type: ignore[arg-type]
