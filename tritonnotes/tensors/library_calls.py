"""Calls of torch that graphs name: which may be named, what they give, and what their gradients reach."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..ir.core.errors import DeclarationError, DTypeError, first_line
from ..ir.core.graph import Value
from ..ir.core.types import Dim, DimProduct, as_dtype, dims_in, show_shape, size_at
from ..ir.primitives.library import DEVICE, NONE, OF_TORCH, TENSOR, TEXT, Torch, parts_of
from .dtypes import torch_dtype

TRIED = (8, 64, 1024)
"""Sizes that `Dim`s begin at when a call is tried: some calls need more than others."""

KEPT = 4096
"""How many answers of torch are remembered."""

OFF = {"dropout_p": 0, "dropout": 0, "p": 0, "train": False, "training": False}
"""Arguments that turn off what is random in a call."""

WRITES_UNSAID = ("batch_norm", "instance_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_batch_norm")
"""Ops that write into their arguments without saying so in their schema."""


def overload(call: str) -> Any:
    """The overload of this name. Raises `DeclarationError` for one that torch does not have, or that does more than to
    compute new tensors from what it is given."""
    namespace, name, which = call.split(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), name), which)
    except AttributeError:
        raise DeclarationError(f"torch has no {call}; import the package that registers it") from None
    if not isinstance(found, torch._ops.OpOverload):
        raise DeclarationError(f"{call}: is no overload of an op of torch")
    if refused := refusal(found):
        raise DeclarationError(f"{call}: {refused}")
    return found


def refusal(found: Any) -> str:
    """Why an overload cannot be a call in a graph; empty where it can."""
    schema = found._schema
    kinds = [str(argument.type) for argument in schema.arguments]
    if schema.is_mutable or found._opname in WRITES_UNSAID:
        return "writes into its arguments; compute a new tensor instead"
    if not any("Tensor" in kind for kind in kinds) and any("str" in kind for kind in kinds):
        return "takes no tensors"
    if any(
        "Generator" in kind or "Storage" in kind or "ScriptObject" in kind for kind in kinds if "Optional" not in kind
    ):
        return "takes what is no tensor and no number"
    returned = [str(given.type).replace("Optional[", "").rstrip("]") for given in schema.returns]
    if not returned or any(kind.replace("List[", "") != "Tensor" for kind in returned):
        return "gives what is no tensor"
    return ""


def is_random(found: Any, given: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in found.tags:
        return False
    schema = found._schema.arguments
    known = {a.name: a.default_value for a in schema if a.has_default_value()} | dict(given)
    return not any(known.get(name) is not None and known[name] == quiet for name, quiet in OFF.items())


def decoded(
    part: Any, tensors: Sequence[Any], device: torch.device | str, sizes: Mapping[str, int], exact: bool
) -> Any:
    """An argument as torch takes it, once the `Dim`s have `sizes`. `exact` calls compute in float64 throughout."""
    if isinstance(part, tuple):
        return [decoded(inner, tensors, device, sizes, exact) for inner in part]
    if isinstance(part, Dim | DimProduct):
        return size_at(part, sizes)
    if not isinstance(part, str):
        return part
    if part.startswith(TEXT):
        return part[1:]
    if part.startswith(TENSOR):
        return tensors[int(part[1:])]
    if part == DEVICE:
        return torch.device(device)
    found = None if part == NONE else getattr(torch, part.removeprefix(OF_TORCH))
    return torch.float64 if exact and isinstance(found, torch.dtype) and found.is_floating_point else found


def called(
    attrs: Mapping[str, Any],
    tensors: Sequence[Any],
    device: torch.device | str,
    sizes: Mapping[str, int] | None = None,
    exact: bool = False,
) -> list[Any]:
    """The results of a call, counted through tuples and lists."""
    found, known = overload(attrs["call"]), sizes or {}
    arguments = [decoded(part, tensors, device, known, exact) for part in attrs["arguments"]]
    options = {name: decoded(part, tensors, device, known, exact) for name, part in attrs["options"]}
    if is_random(found, {**dict(zip((a.name for a in found._schema.arguments), arguments, strict=False)), **options}):
        raise DeclarationError(
            f"{attrs['call']}: draws random numbers, which a call of torch in a graph may not: its gradient would draw "
            "others. Set its dropout to 0, and use torch.nn.Dropout around it"
        )
    return pytree.tree_leaves(found(*arguments, **options), is_leaf=lambda part: part is None)


# -- what torch says of a call, tried on tensors without memory --

_known: OrderedDict[object, Any] = OrderedDict()


def check(args: Sequence[Value], attrs: Mapping[str, Any]) -> None:
    """As `Torch.check`."""
    is_gradient = "result" in attrs
    given = args[1:] if is_gradient else args
    number = attrs["result"] if is_gradient else attrs["which"]
    answer = _answer(given, attrs)
    if isinstance(answer, str):
        raise DeclarationError(answer)
    results, _, sizes = answer
    if results is None:
        return  # torch cannot tell before it runs; the run is checked
    shape, dtype = (args[0].shape, args[0].dtype) if is_gradient else (attrs["shape"], attrs["dtype"])
    if not 0 <= number < len(results) or results[number] is None:
        raise DeclarationError(f"{attrs['call']}: gives no result {number}; it gives {len(results)}")
    found = results[number]
    if (tuple(size_at(s, sizes) for s in shape), dtype) != found:
        raise DeclarationError(
            f"{attrs['call']}: result {number} is {found[1]}{list(found[0])} where {sizes or 'sizes are known'}, and "
            f"is said to be {dtype}{show_shape(shape)}"
        )


def reached(args: Sequence[Value], attrs: Mapping[str, Any]) -> frozenset[int]:
    """As `Torch.reached`."""
    answer = _answer(args, attrs)
    if isinstance(answer, str):
        raise DeclarationError(answer)
    results, gradients, _ = answer
    if results is None:
        return frozenset(number for number, arg in enumerate(args) if arg.dtype.is_float)
    found = gradients[attrs["which"]]
    if isinstance(found, str):
        raise DeclarationError(found)
    return found


def _answer(given: Sequence[Value], attrs: Mapping[str, Any]) -> Any:
    """What torch says: why not, or results, gradients and the sizes that it was tried with."""
    said = (attrs["call"], attrs["arguments"], attrs["options"])
    key = repr((said, [(v.shape, v.dtype) for v in given]))
    if key not in _known:
        _known[key] = _tried(given, attrs)
        if len(_known) > KEPT:
            _known.popitem(last=False)
    return _known[key]


def _tried(given: Sequence[Value], attrs: Mapping[str, Any]) -> Any:
    sized = [*(size for v in given for size in v.shape), *parts_of((attrs["arguments"], attrs["options"]))]
    dims = list(dict.fromkeys(dims_in(sized)))
    why = ""
    for first in TRIED if dims else TRIED[:1]:
        sizes = {dim.name: first + place for place, dim in enumerate(dims)}
        try:
            return (*_on_nothing(given, attrs, sizes), sizes)
        except NotImplementedError:
            return None, (), sizes
        except DeclarationError as error:
            return str(error)
        except Exception as error:
            why = first_line(error)
    shown = ", ".join(f"{v.name}: {v.dtype}{show_shape(v.shape)}" for v in given)
    return f"{attrs['call']} ({shown}): {why}"


def _on_nothing(given: Sequence[Value], attrs: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[Any, Any]:
    """Shapes and dtypes of all results, and the values that their gradients reach."""

    def tensors(wanted: Sequence[int]) -> list[Tensor]:
        return [
            torch.empty([size_at(s, sizes) for s in v.shape], dtype=torch_dtype(v.dtype), device="meta")
            .requires_grad_(number in wanted)
            for number, v in enumerate(given)
        ]  # fmt: skip

    def reached_of(wanted: Sequence[int]) -> list[frozenset[int] | str]:
        with torch.enable_grad():
            inputs = tensors(wanted)
            floats = {number: inputs[number] for number in wanted}
            return [_reached(attrs, result, floats) for result in called(attrs, inputs, "meta", sizes)]

    with torch.no_grad():
        results = [_kind(result) for result in called(attrs, tensors(()), "meta", sizes)]
    floats = [number for number, v in enumerate(given) if v.dtype.is_float]
    try:
        return results, reached_of(floats)
    except RuntimeError:
        # torch refuses gradients of some arguments, as of targets: each is asked for itself.
        found: list[frozenset[int] | str] = [frozenset()] * len(results)
        for number in floats:
            try:
                more = reached_of([number])
            except RuntimeError:
                continue
            found = [_both(one, other) for one, other in zip(found, more, strict=True)]
        return results, found


def _both(one: frozenset[int] | str, other: frozenset[int] | str) -> frozenset[int] | str:
    if isinstance(one, str) or isinstance(other, str):
        return one if isinstance(one, str) else other
    return one | other


def _kind(result: Any) -> Any:
    if not isinstance(result, Tensor):
        return None
    try:
        return tuple(result.shape), as_dtype(result.dtype)
    except DTypeError:
        return None


def _reached(attrs: Mapping[str, Any], result: Any, floats: Mapping[int, Tensor]) -> frozenset[int] | str:
    """The values that a result's gradient reaches, or why it reaches none. Where torch can only tell by computing it,
    all that it may be."""
    if not isinstance(result, Tensor) or not result.requires_grad:
        return frozenset()
    try:
        d = torch.empty_like(result)
        found = torch.autograd.grad(result, [*floats.values()], d, allow_unused=True, retain_graph=True)
    except RuntimeError as error:  # also what is not implemented
        missing = "derivative for" in str(error)
        return f"{attrs['call']}: {str(error).splitlines()[0]}" if missing else frozenset(floats)
    return frozenset(number for number, gradient in zip(floats, found, strict=True) if gradient is not None)


# -- in float64 --


def result_of(arrays: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    """As `Torch.result`."""
    tensors = [torch.as_tensor(array) for array in arrays]
    return called(attrs, tensors, "cpu", exact=True)[attrs["which"]].numpy()


def gradient_of(arrays: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    """As `Torch.gradient`."""
    d, *tensors = (torch.as_tensor(array) for array in arrays)
    return gradient(attrs, d, tensors, "cpu", exact=True).numpy()


def gradient(
    attrs: Mapping[str, Any], d: Tensor, tensors: Sequence[Tensor], device: torch.device | str, exact: bool = False
) -> Tensor:
    """torch's gradient of a call's result number `result` with respect to its value number `which`."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_(i == attrs["which"]) for i, tensor in enumerate(tensors)]
        result = called(attrs, inputs, device, exact=exact)[attrs["result"]]
    wanted = inputs[attrs["which"]]
    (found,) = torch.autograd.grad(result, [wanted], d.to(result.dtype), allow_unused=True)
    return torch.zeros_like(wanted) if found is None else found


_ANSWERS: Mapping[str, Callable[..., Any]] = {
    "check": check, "reached": reached, "result": result_of, "gradient": gradient_of,
}  # fmt: skip
for _name, _function in _ANSWERS.items():
    setattr(Torch, _name, staticmethod(_function))
