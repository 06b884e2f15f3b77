"""Calls of torch for operators of ONNX that have no formula here, by the names of torch's overloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...importer.ops.library import said
from ...ir.core.errors import DeclarationError, first_line
from ...ir.core.graph import Value
from ...ir.core.types import Dim, DType, Shape, Size, as_dtype, dims_in, product_of, show_shape, size_at
from ...ir.primitives import library
from ...ir.primitives.library import parts_of
from ...tensors.dtypes import torch_dtype
from ...tensors.library_calls import called

PRIMES = ((1009, 1013, 1019, 1021, 1031, 1033), (2003, 2011, 2017, 2027, 2029, 2039))
"""Sizes that `Dim`s are tried with: what they divide is told by its factors."""


def torch_call(call: str, *arguments: Any, **options: Any) -> Value:
    """The first result of a call of torch."""
    return torch_calls(call, *arguments, results=(0,), **options)[0]


def torch_calls(call: str, *arguments: Any, results: Sequence[int], **options: Any) -> tuple[Value, ...]:
    """The results of these numbers of a call of torch, such as `'aten.conv2d.default'`. Raises `DeclarationError` for
    what torch refuses, and for sizes of results that are no product of `Dim`s."""
    values: list[Value] = []
    placed = tuple(said(argument, values) for argument in arguments)
    named = tuple((name, said(option, values)) for name, option in options.items())
    kinds = _kinds(values, {"call": call, "arguments": placed, "options": named})
    return tuple(
        library(values[0].graph, values, call, placed, named, which, *kinds[which]) for which in results
    )  # fmt: skip


def _kinds(values: Sequence[Value], attrs: Mapping[str, Any]) -> list[tuple[Shape, DType]]:
    """Shapes and dtypes of a call's results, told from what torch gives for two choices of sizes."""
    sized = [*(size for v in values for size in v.shape), *parts_of((attrs["arguments"], attrs["options"]))]
    dims = list(dict.fromkeys(dims_in(sized)))
    if len(dims) > len(PRIMES[0]):
        raise DeclarationError(f"{attrs['call']}: {len(dims)} Dims are too many; fix some with sizes={{}}")
    tried = [dict(zip((dim.name for dim in dims), primes, strict=False)) for primes in PRIMES[: 2 if dims else 1]]
    found = [_tried(values, attrs, sizes) for sizes in tried]
    kinds = []
    for results in zip(*found, strict=True):
        shapes = [tuple(result.shape) for result in results]
        shape = tuple(_size(sizes, tried, dims, attrs["call"]) for sizes in zip(*shapes, strict=True))
        kinds.append((shape, as_dtype(results[0].dtype)))
    return kinds


def _tried(values: Sequence[Value], attrs: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Tensor]:
    tensors = [
        torch.empty([size_at(s, sizes) for s in v.shape], dtype=torch_dtype(v.dtype), device="meta") for v in values
    ]
    try:
        with torch.no_grad():
            return called(attrs, tensors, "meta", sizes)
    except DeclarationError:
        raise
    except Exception as error:
        shown = ", ".join(f"{v.name}: {v.dtype}{show_shape(v.shape)}" for v in values)
        raise DeclarationError(f"{attrs['call']} ({shown}): {first_line(error)}") from error


def _size(found: Sequence[int], tried: Sequence[Mapping[str, int]], dims: Sequence[Dim], call: str) -> Size:
    """The size that is `found` for each of the choices `tried`."""
    if len({*found}) == 1:
        return found[0]
    rest, factors = found[0], list[Dim]()
    for dim in dims:
        while rest and rest % tried[0][dim.name] == 0:
            rest //= tried[0][dim.name]
            factors.append(dim)
    size = product_of((rest, *factors))
    if [size_at(size, sizes) for sizes in tried] != [*found]:
        shown = " and ".join(f"{size} where {sizes}" for size, sizes in zip(found, tried, strict=True))
        raise DeclarationError(
            f"{call}: a size of its result, {shown}, is no product of Dims; fix it with "
            f"sizes={{}}, which takes {', '.join(map(str, dims))}"
        )
    return size
