"""`torch.export` of a module, with the axes that change between calls symbolic."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..ir.core.errors import DeclarationError, ModelImportError
from .examples import check_is_taken, is_about_values, refused, without_torchs_log
from .regions import with_regions_inlined
from .sizes import Axes
from .wrapped import Wrapped, in_form

Dynamic = Mapping[str, Axes]
"""The symbolic axes of inputs by the input's name: `{"tokens": {0: "batch", 1: "time"}}`."""

LEAST = 2
"""What axes of fewer elements have in the export: torch takes sizes 0 and 1 for known ones."""


def axes_of_inputs(names: Sequence[str], tensors: Sequence[Tensor], batch: str | None, dynamic: Dynamic) -> list[Axes]:
    """The symbolic axes of each input: those of `dynamic`, and else axis 0 of all that have as many rows as the
    first."""
    unknown = [name for name in dynamic if name not in names]
    if unknown:
        raise DeclarationError(f"dynamic: there is no input {unknown[0]!r}; there are {', '.join(names) or 'none'}")
    for name, tensor in zip(names, tensors, strict=True):
        wrong = [axis for axis in dynamic.get(name, {}) if not 0 <= axis < tensor.ndim]
        if wrong:
            raise DeclarationError(f"dynamic: input {name!r} has {tensor.ndim} axes, and no axis {wrong[0]}")
    rows = rows_of(tensors)
    by_default = [{0: batch} if batch is not None and t.ndim and t.shape[0] == rows else {} for t in tensors]
    return [dynamic.get(name, axes) for name, axes in zip(names, by_default, strict=True)]


def rows_of(tensors: Sequence[Tensor]) -> int:
    """The size of axis 0 of the first tensor that has one, which is the batch; else 0."""
    return next((t.shape[0] for t in tensors if t.ndim), 0)


def multiples(tensors: Sequence[Tensor], axes: Sequence[Axes]) -> list[int]:
    """The places of tensors whose axis 0 has a known size, several times the rows of the first: so have the targets of
    a module that flattens a batch of sequences."""
    rows = rows_of(tensors)
    if not rows or not any(axes):
        return []
    known = {i: tensor.shape[0] for i, tensor in enumerate(tensors) if tensor.ndim and 0 not in axes[i]}
    return [i for i, size in known.items() if size > rows and size % rows == 0]


def exported(
    wrapped: Wrapped,
    tensors: Sequence[Tensor],
    axes: Sequence[Axes],
    *,
    training: bool,
    told: Collection[int] = (),
) -> ExportedProgram:
    """The exported program of a module. The sizes of the `axes` are symbolic, and those of axis 0 of the tensors at the
    places `told` where the program tells them. Raises `ModelImportError` with torch's reason and the line where it
    arose, and `DeclarationError` where the module does not take the example."""
    times = {i: -(-LEAST // rows_of(tensors)) for i in told}
    arguments = tuple(
        _widened(t, wanted, times.get(i, 1)) for i, (t, wanted) in enumerate(zip(tensors, axes, strict=True))
    )
    symbolic = [{*wanted, 0} if i in told else {*wanted} for i, wanted in enumerate(axes)]
    dynamic = tuple(dict.fromkeys(wanted, torch.export.Dim.AUTO) or None for wanted in symbolic)
    try:
        with in_form(wrapped.module, training), warnings.catch_warnings(), without_torchs_log():
            # Recurrent layers list their parameters anew while they are traced, which changes nothing.
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
            program = torch.export.export(wrapped, arguments, dynamic_shapes=(dynamic,), strict=False)
        return with_regions_inlined(program)
    except ModelImportError:
        raise
    except Exception as error:
        if not is_about_values(error):
            check_is_taken(wrapped, tensors)
        raise refused(wrapped.module, error) from error


def _widened(tensor: Tensor, axes: Axes, times: int) -> Tensor:
    """The example, with `LEAST` elements at least along symbolic axes, and so many `times` its rows; what they are says
    nothing to an export. It is a tensor of its own: an export takes inputs that are one tensor, or that are a
    parameter, for one value."""
    sizes = [max(size, LEAST) if axis in axes else size for axis, size in enumerate(tensor.shape)]
    sizes[:1] = [size * times for size in sizes[:1]]
    own = tensor.detach() if list(tensor.shape) == sizes else tensor.detach().new_zeros(sizes)
    return own.requires_grad_(tensor.requires_grad)
