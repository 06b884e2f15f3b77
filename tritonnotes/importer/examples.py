"""Whether a module and its loss take the example that they are imported with, and what comes of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.parameter import is_lazy

from ..ir.core.errors import DeclarationError, ModelImportError, first_line
from ..ir.core.types import show_shape
from .arguments import Arguments
from .places import line_of
from .wrapped import Wrapped, in_form

ABOUT_VALUES = (GuardOnDataDependentSymNode, DataDependentOutputException, DynamicOutputShapeException)
"""What torch raises where Python asks for the values of tensors that have none while a module is traced."""

LOGGERS = ("_subclasses.fake_tensor", "fx.experimental.symbolic_shapes")
"""Parts of torch that log why a trace fails."""


def is_about_values(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, says that Python asks for the values of tensors."""
    while error is not None:
        if isinstance(error, ABOUT_VALUES):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_devices(module: torch.nn.Module, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Raise `DeclarationError` where the example and the module lie on several devices."""
    held = [(f"{kind} {name!r}", tensor) for kind, name, tensor in _held(module)]
    placed = [*held, *((f"the example of {name!r}", t) for name, t in zip(names, tensors, strict=True))]
    for what, tensor in placed:
        first, known = placed[0]
        if tensor.device != known.device:
            meta = (
                "; on meta there are no numbers: module.to_empty(device='cpu')" if "meta" in str(known.device) else ""
            )
            raise DeclarationError(
                f"{type(module).__name__}: {first} lies on {str(known.device)!r} and {what} on {str(tensor.device)!r}; "
                f"move the module and its example to one device with .to(...){meta}"
            )


def check_dtypes(module: torch.nn.Module, arguments: Arguments) -> None:
    """Raise `DeclarationError` where the module does not take the example for its dtypes, which tensors without numbers
    do not show. The module runs on the example where a float of it has a dtype that no tensor of the module has."""
    given = dict(zip(arguments.form.names, arguments.tensors, strict=True))
    held = [(name, tensor) for _, name, tensor in _held(module) if tensor.is_floating_point()]
    others = {n: t for n, t in given.items() if t.is_floating_point() and t.dtype not in {h.dtype for _, h in held}}
    if not held or not others or any(t.is_meta for t in given.values()):
        return
    args, kwargs = arguments.rebuilt([tensor.detach().clone() for tensor in arguments.tensors])
    buffers = {name: tensor.clone() for name, tensor in module.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(), in_form(module, training=False):
            torch.func.functional_call(module, buffers, args, kwargs)
    except Exception as error:
        name, tensor = next(iter(others.items()))
        raise DeclarationError(
            f"{type(module).__name__} does not take its example: {_said(error)}. The example of {name!r} is "
            f"{tensor.dtype}, parameter {held[0][0]!r} {held[0][1].dtype}; convert one of them, as with "
            f".to({held[0][1].dtype})"
        ) from error


def check_is_taken(wrapped: Wrapped, tensors: Sequence[Tensor]) -> None:
    """Raise `DeclarationError` where the module, or its loss, refuses the `tensors` of the example by itself."""
    module, loss, arguments = wrapped.module, wrapped.loss, wrapped.arguments
    given = dict(zip(arguments.form.names, tensors, strict=False))
    targets = tensors[len(given) :]
    result = fake_result(module, arguments)
    if loss is None:
        return
    try:
        fake_result(module, arguments, loss, targets)
    except Exception as error:
        if is_about_values(error):
            return
        shown = {
            "result": result,
            **{"target" if len(targets) == 1 else f"target_{i}": t for i, t in enumerate(targets)},
        }
        raise DeclarationError(
            f"loss {_name(loss)} does not take its example: {_said(error)}. It has {_shown(shown)}; give an example "
            "of the target that fits"
        ) from error


def fake_result(
    module: torch.nn.Module,
    arguments: Arguments,
    loss: Callable[..., Any] | None = None,
    targets: Sequence[Tensor] = (),
) -> Any:
    """What the module, or the `loss` of its result and of targets, returns for the example: tensors without numbers.
    Raises `DeclarationError` where the module does not take the example, `ModelImportError` where it asks for values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    args, kwargs = arguments.rebuilt([mode.from_tensor(tensor) for tensor in arguments.tensors])
    unready = [name for _, name, tensor in _held(module) if is_lazy(tensor)]
    if unready:
        raise ModelImportError(
            f"{type(module).__name__}: {unready[0]!r} is an uninitialized parameter. Call `forward` with a dummy "
            "batch before the import"
        )
    # Fake ones in place of the module's own, which its forward may write into.
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    held = {name: mode.from_tensor(tensor) for name, tensor in held.items()}
    with mode, torch.no_grad(), in_form(module, training=False), without_torchs_log():
        try:
            result = torch.func.functional_call(module, held, args, kwargs)
        except Exception as error:
            if is_about_values(error):
                raise refused(module, error) from error
            given = dict(zip(arguments.form.names, arguments.tensors, strict=True))
            raise DeclarationError(
                f"{type(module).__name__} does not take its example: {_said(error)}. It has {_shown(given)}; give an "
                "example that the module takes"
            ) from error
        return result if loss is None else loss(result, *map(mode.from_tensor, targets))


def refused(module: torch.nn.Module, error: Exception) -> ModelImportError:
    """What to say of a module that cannot be traced."""
    line = line_of(error.__traceback__)
    remedy = "Leave that out, or"
    if is_about_values(error):
        remedy = "Write that line with tensors alone, as with torch.where in place of an if; or"
    return ModelImportError(
        f"{type(module).__name__}: torch.export refuses it{' at ' + line if line else ''}: {_said(error)}. {remedy} "
        "torch.compile(model, backend='tritonnotes') compiles the parts around it"
    )


@contextmanager
def without_torchs_log() -> Iterator[None]:
    """What torch logs and prints about a trace that fails is in the error that it raises."""
    loggers = [logging.getLogger(f"torch.{name}") for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was


def _held(module: torch.nn.Module) -> list[tuple[str, str, Tensor]]:
    """What a module holds: the kind, the name and the tensor."""
    parameters = [("parameter", name, tensor) for name, tensor in module.named_parameters()]
    return [*parameters, *(("buffer", name, tensor) for name, tensor in module.named_buffers())]


def _said(error: Exception) -> str:
    return f"{first_line(error)} ({type(error).__name__})"


def _name(loss: Callable[..., Any]) -> str:
    return getattr(loss, "__name__", type(loss).__name__)


def _shown(tensors: Mapping[str, Any]) -> str:
    """Dtypes and shapes by name."""
    shown = {
        n: f"{str(t.dtype).removeprefix('torch.')}{show_shape(t.shape)}"
        for n, t in tensors.items()
        if isinstance(t, Tensor)
    }
    return ", ".join(f"{name} {text}" for name, text in shown.items())
