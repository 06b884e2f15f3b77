"""What `tn.check(kernel, reference, *tensors)` refuses before anything runs, each with its remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor
from torch.nn import Module
from triton.runtime.jit import JITFunction

from ..ir.core.errors import DeclarationError
from .running import is_kernel

ORDER = "tn.check(kernel, reference, *tensors)"


def name_of(kernel: Any) -> str:
    """The name of a function or kernel; of the kernel itself where something tunes it."""
    while not hasattr(kernel, "__name__") and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return str(getattr(kernel, "__name__", None) or type(kernel).__name__)


def check_order(kernel: Any, reference: Any) -> None:
    """Raises `DeclarationError` for what is no kernel and its reference, in this order."""
    if isinstance(kernel, Tensor):
        raise DeclarationError(f"check: tensors are given before the kernel; the order is {ORDER}")
    if not is_kernel(kernel) and not callable(kernel):
        raise DeclarationError(
            f"check: the kernel is {kernel!r}; pass a function that launches one, or a @triton.jit kernel and grid="
        )
    what = f"check of {name_of(kernel)}"
    if isinstance(reference, Tensor) and isinstance(kernel, Module):
        raise DeclarationError(
            f"{what}: a module and its inputs are given, without a reference; tn.check(tn.from_torch(module, x)) "
            "checks the kernels that are generated for it, and tn.check(tn.compile_step(module, x, loss=...)) those of "
            f"a training step; a module that launches kernels of its own needs a reference: {ORDER}"
        )
    if isinstance(reference, Tensor):
        raise DeclarationError(f"{what}: a tensor is given in place of the reference; the order is {ORDER}")
    if is_kernel(reference) or not callable(reference):
        raise DeclarationError(f"{what}: the reference is {reference!r}; pass a function in plain torch")


def check_call(
    kernel: Any,
    reference: Any,
    arguments: tuple[Any, ...],
    *,
    grid: Any,
    constexprs: Any,
    outputs: Any,
    deterministic: Any,
) -> None:
    """Raises `DeclarationError` for what cannot be judged."""
    check_order(kernel, reference)
    what = f"check of {name_of(kernel)}"
    if not isinstance(deterministic, bool):
        raise DeclarationError(f"{what}: deterministic is {deterministic!r}; pass True or False")
    check_arguments(what, arguments)
    devices = {a.device for a in arguments if isinstance(a, Tensor)}
    if not devices:
        raise DeclarationError(f"{what}: no tensors are given; pass those that kernel and reference take")
    if len(devices) > 1:
        where = " and ".join(sorted(map(str, devices)))
        raise DeclarationError(f"{what}: tensors lie on {where}; move them to one device")
    if is_kernel(kernel):
        _check_launch(what, arguments, grid, constexprs, outputs)
        _check_parameters(what, kernel, len(arguments), constexprs or {})
    elif grid is not None or constexprs is not None or outputs is not None:
        raise DeclarationError(
            f"{what}: grid, constexprs and outputs go with a @triton.jit kernel; {name_of(kernel)} launches its own"
        )


def check_arguments(what: str, arguments: tuple[Any, ...]) -> None:
    """Raises `DeclarationError` for tensors within a list, tuple or dict, which would not be copied, and for complex
    ones, whose errors are not measured."""
    for place, argument in enumerate(arguments):
        if not isinstance(argument, Tensor) and _holds_tensors(argument):
            raise DeclarationError(
                f"{what}: argument {place} is a {type(argument).__name__} of tensors; pass them one by one, in a "
                "function around the kernel"
            )
        if isinstance(argument, Tensor) and argument.is_complex():
            raise DeclarationError(
                f"{what}: argument {place} is {argument.dtype}, and complex numbers are not compared; pass real ones, "
                "as torch.view_as_real gives them"
            )


def _holds_tensors(thing: Any) -> bool:
    parts = thing.values() if isinstance(thing, Mapping) else thing if isinstance(thing, list | tuple | set) else ()
    return isinstance(thing, Tensor) or any(map(_holds_tensors, parts))


def _check_launch(what: str, arguments: tuple[Any, ...], grid: Any, constexprs: Any, outputs: Any) -> None:
    """A `@triton.jit` kernel is launched from what is given beside its arguments."""
    if grid is None:
        raise DeclarationError(
            f"{what}: a @triton.jit kernel needs grid=, as in grid=(triton.cdiv(n, 256),); or pass a function that "
            "takes tensors and launches it"
        )
    is_sizes = isinstance(grid, tuple | list) and 1 <= len(grid) <= 3 and all(map(_is_count, grid))
    if not callable(grid) and not is_sizes:
        raise DeclarationError(
            f"{what}: grid is {grid!r}; pass a tuple of one to three counts of programs, as in grid=(2,), or a "
            "function of the constants"
        )
    if constexprs is not None and not isinstance(constexprs, Mapping):
        raise DeclarationError(f"{what}: constexprs is {constexprs!r}; pass a dict, as in constexprs={{'BLOCK': 256}}")
    if outputs is None:
        return
    places = [i for i, a in enumerate(arguments) if isinstance(a, Tensor)]
    is_list = isinstance(outputs, Sequence | set | frozenset) and not isinstance(outputs, str) and len(outputs) > 0
    if not is_list or any(isinstance(o, bool) or o not in places for o in outputs):
        shown = ", ".join(map(str, places))
        raise DeclarationError(
            f"{what}: outputs is {outputs!r}; pass places of tensors among its arguments, as in "
            f"outputs=({places[-1]},); tensors are at {shown}"
        )


def _check_parameters(what: str, kernel: Any, given: int, constexprs: Mapping[str, Any]) -> None:
    """Each parameter of a `@triton.jit` kernel has one value: an argument, a constant, its default, or what something
    that tunes the kernel gives it."""
    tuned: set[str] = set()
    while not isinstance(kernel, JITFunction):
        tuned |= set(getattr(kernel, "values", ())) | {n for c in getattr(kernel, "configs", ()) for n in c.kwargs}
        kernel = kernel.fn
    names = [p.name for p in kernel.params]
    if given > len(names):
        raise DeclarationError(f"{what}: it takes {len(names)} arguments ({', '.join(names)}), and {given} are given")
    twice = [name for name in names[:given] if name in constexprs]
    if twice:
        raise DeclarationError(
            f"{what}: {twice[0]} is given twice, as argument {names.index(twice[0])} and in constexprs"
        )
    free = [p for p in kernel.params[given:] if p.name not in constexprs and p.name not in tuned and not p.has_default]
    constants = [p.name for p in free if p.is_constexpr]
    others = [p.name for p in free if not p.is_constexpr]
    if others:
        raise DeclarationError(
            f"{what}: {', '.join(others)} {'has' if len(others) == 1 else 'have'} no value; pass it with the arguments "
            f"behind the reference, in the order {', '.join(names)}"
        )
    if constants:
        shown = ", ".join(f"'{name}': ..." for name in constants)
        raise DeclarationError(
            f"{what}: {', '.join(constants)} {'has' if len(constants) == 1 else 'have'} no value; pass "
            f"constexprs={{{shown}}}"
        )


def _is_count(size: Any) -> bool:
    return isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 0
