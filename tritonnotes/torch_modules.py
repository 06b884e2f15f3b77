"""`tn.from_torch`: torch modules as graphs; models and losses of them for `tn.compile` and `tn.compile_step`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .graph import Graph
from .importer.arguments import Arguments, arguments_of_call
from .importer.examples import check_devices, check_dtypes
from .importer.export import LEAST, Dynamic, axes_of_inputs, exported, multiples, rows_of
from .importer.results import restored
from .importer.sizes import Axes
from .importer.targets import target_like
from .importer.walk import Imported, declare
from .importer.wrapped import Wrapped, reads_training
from .ir.core.errors import DeclarationError, ModelImportError
from .ir.core.types import is_name
from .ir.passes.evaluation import evaluation_form
from .runtime.model import Model

BATCH = "batch"
"""What axis 0 of a module's inputs is called unless the caller says otherwise."""

TARGET = "target"
"""The input of a training step that the loss compares the module's result with."""

Loss = Callable[..., Any]


def from_torch(
    module: torch.nn.Module,
    *example: Any,
    kwargs: Mapping[str, Any] | None = None,
    batch: str | None = BATCH,
    dynamic: Dynamic | None = None,
    loss: Loss | None = None,
    target: Any = None,
) -> Graph:
    """The graph of a torch module: the functions that it calls on the `example` inputs (keyword arguments in `kwargs`),
    as ops of tritonnotes. Tensors among the inputs are the graph's inputs. Numbers, strings, bools and None are fixed.

    Parameters and buffers keep their names. Inputs have the names of the parameters of `forward`, and layers are named
    by their path in the module. Tied weights are one parameter. Outputs have the keys of the dict that the module
    returns, or are named `output` (one tensor) or `output_0`, `output_1`, ... (a tuple).

    Axis 0 of the first input, and of each other input of that size, becomes the `Dim` that `batch` names, unless the
    module fixes the size. `batch=None` keeps all sizes. `dynamic` makes further axes symbolic:
    `{"tokens": {0: "batch", 1: "time"}}`. If the module fixes such an axis, an error is raised.

    The graph is the training form of the module, from which `tn.compile` derives the evaluation form. A module in
    training mode is imported as it is, including parts in evaluation mode. A module in evaluation mode is imported as
    after `module.train()`. With a `loss` the graph has the input `target` and the output `loss`, as `tn.compile_step`
    expects.

    Raises `ModelImportError` for what cannot be imported, with the op, the module and the line that calls it.
    """
    graph = imported(module, example, kwargs, batch=batch, dynamic=dynamic, loss=loss, target=target).graph
    assert isinstance(graph, Graph), "as it was made"
    return graph


def imported(
    module: torch.nn.Module,
    example: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    batch: str | None = BATCH,
    dynamic: Dynamic | None = None,
    loss: Loss | None = None,
    target: Any = None,
    target_given_as: str = "target",
) -> Imported:
    """As `from_torch`, with the tensors of the module and the form of its result. Errors call the example of the target
    as the caller does."""
    if not isinstance(module, torch.nn.Module):
        raise DeclarationError(
            f"from_torch: wanted a torch.nn.Module, got {type(module).__name__}; give the module, then an example of "
            "its inputs"
        )
    arguments = arguments_of_call(module, example, kwargs or {})
    names, tensors = [*arguments.form.names], [*arguments.tensors]
    check_devices(module, names, tensors)
    check_dtypes(module, arguments)
    if loss is not None:
        targets = _targets(module, arguments, loss, target, target_given_as)
        names += [TARGET] if len(targets) == 1 else [f"{TARGET}_{i}" for i in range(len(targets))]
        tensors += targets
    elif target is not None:
        raise DeclarationError("target: is what a loss compares the result with; give loss=, too")
    wrapped = Wrapped(module, loss, arguments)
    axes = axes_of_inputs(names, tensors, batch, dynamic or {})
    known = axes_of_inputs(names, tensors, batch if rows_of(tensors) >= LEAST else None, dynamic or {})

    ways: list[tuple[Sequence[Axes], Sequence[int]]] = [(axes, multiples(tensors, axes))]
    ways += [(axes, [])] if ways[0][1] else []
    ways += [(known, [])] if known != axes else []  # an example of one row, of a module that takes no other

    def form(training: bool) -> Imported:
        for way in ways[:-1]:
            try:
                return form_with(*way, training)
            except ModelImportError:
                continue
        return form_with(*ways[-1], training)

    def form_with(axes: Sequence[Axes], told: Sequence[int], training: bool) -> Imported:
        program = exported(wrapped, tensors, axes, training=training, told=told)
        graph = Graph(type(module).__name__ if is_name(type(module).__name__) else "module")
        return declare(graph, program, wrapped, names, axes)

    made = form(training=True)
    _check_dynamic(made, dynamic or {})
    if loss is not None:
        _warn_of_fixed_rows(made, axes, len(arguments.tensors), rows_of(tensors))
    if reads_training(module) and str(evaluation_form(made.graph)) != str(evaluation_form(form(training=False).graph)):
        raise ModelImportError(
            f"{type(module).__name__}: its forward computes something else in evaluation, beyond dropout and "
            "batch norm; import a module for each form, whose forward does not read self.training"
        )
    return made


def _check_dynamic(made: Imported, dynamic: Dynamic) -> None:
    """Raise `ModelImportError` where an axis that was to stay symbolic did not."""
    for name, axes in dynamic.items():
        shape = made.graph[name].shape
        fixed = [axis for axis in axes if isinstance(shape[axis], int)]
        if fixed:
            raise ModelImportError(
                f"dynamic: the module fixes axis {fixed[0]} of {name!r} to {shape[fixed[0]]}; take the size from the "
                "tensor, as in x.shape[0], or leave the axis out"
            )


def _warn_of_fixed_rows(made: Imported, axes: Sequence[Axes], count: int, rows: int) -> None:
    """Warn where a target, behind `count` inputs, has a number of rows that fixes the batch, which the last batch of an
    epoch may not have."""
    inputs = made.graph.inputs
    fixed = [v.name for v, wanted in zip(inputs, axes, strict=True) if 0 in wanted and isinstance(v.shape[0], int)]
    odd = [v for v in inputs[count:] if v.shape and v.shape[0] != rows]
    if fixed and odd:
        warnings.warn(
            f"the step takes batches of {rows} rows alone: the example of {odd[0].name!r} has {odd[0].shape[0]}, from "
            f"which the size of {fixed[0]!r} cannot be told. Give a target with as many rows as {fixed[0]!r}, and "
            "reshape it in the loss, as in loss=lambda y, t: cross_entropy(y, t.flatten())",
            stacklevel=4,
        )


def _targets(module: torch.nn.Module, arguments: Arguments, loss: Loss, target: Any, given_as: str) -> list[Tensor]:
    """What the loss takes beside the module's result: as given, or as losses of torch have it."""
    if isinstance(loss, type) or not callable(loss):
        shown = loss.__name__ if isinstance(loss, type) else repr(loss)
        made = f"an instance, loss={shown}()" if isinstance(loss, type) else "a function of the result and the target"
        raise DeclarationError(f"loss: is {'the class ' if isinstance(loss, type) else ''}{shown}; pass {made}")
    given = target_like(module, arguments, loss, given_as) if target is None else target
    targets = [*given] if isinstance(given, list | tuple) else [given]
    if not all(isinstance(t, Tensor) for t in targets):
        raise DeclarationError(f"{given_as}: is {target!r}; give an example of it, a tensor or a tuple of tensors")
    return targets


def device_of(module: torch.nn.Module, example: Any, device: torch.device | str | None) -> torch.device:
    """Where the tensors of a module lie, and of an `example`, which is where it is compiled for."""
    tensors = [*module.parameters(), *module.buffers(), *pytree.tree_leaves(example)]
    found = next((t.device for t in tensors if isinstance(t, Tensor)), torch.device("cpu"))
    wanted = found if device is None else torch.device(device)
    is_same = wanted.type == found.type and (wanted.type == "cpu" or wanted.index in (None, found.index))
    if not is_same:
        raise DeclarationError(
            f"device is {str(device)!r}, the module lies on {str(found)!r}, and they share their tensors; move it with "
            f"module.to({str(device)!r})"
        )
    return found


class ImportedModel(Model):
    """A compiled torch module. It takes what the module takes, and returns what the module returns."""

    def __init__(self, made: Imported, **options: Any) -> None:
        super().__init__(made.graph, shared=made.shared, **options)
        self.result, self.call = made.result, made.call

    def forward(self, /, *inputs: Any, **feeds: Any) -> Any:
        """The module's result: `inputs` are its arguments in order, `feeds` those by name, or tensors by the names of
        the graph. Raises `FeedError` where a call differs from the example in more than its tensors."""
        tensors = pytree.tree_leaves(inputs)
        plain = all(isinstance(t, Tensor) for t in [*tensors, *feeds.values()])
        if not plain or self.call.fixes_others:
            tensors, feeds = self.call.tensors_of(inputs, feeds), {}
        return restored(self.result, super().forward(*tensors, **feeds))
