"""What ops on classes share: logits (N, C), (C,) or (N, C, ...) and, without the class axis, an index for each row."""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DTypeError, ShapeError
from ..core.graph import Value
from ..core.types import Shape, show_shape


def class_axis(logits: Value) -> int:
    """The axis of the classes, as torch's losses have it."""
    return 1 if len(logits.shape) > 1 else 0


def target_shape(shape: Shape) -> Shape:
    """The shape of the class indices that logits of `shape` are compared with."""
    return (*shape[:1], *shape[2:])[: max(len(shape) - 1, 0)]


def one_of_classes(logits: Value, target: Value) -> tuple[Value, Value]:
    """Where the target is among the classes, and the target with a class axis of size 1."""
    axis = class_axis(logits)
    target_column = P.reshape(target, (*target.shape[:axis], 1, *target.shape[axis:]))
    return P.index_along(logits, axis) == target_column, target_column


def along_classes(logits: Value, weight: Value) -> Value:
    """A weight for each class, (C,), along the class axis of the logits."""
    return P.reshape(weight, (*weight.shape, *(1,) * (len(logits.shape) - class_axis(logits) - 1)))


def weight_of_target(logits: Value, weight: Value, is_target: Value) -> Value:
    """The weight of each row's target, with a class axis of size 1."""
    return P.sum(P.where(is_target, along_classes(logits, weight), 0), class_axis(logits), keepdim=True)


def check_classes(what: str, logits: Value, target: Value, weight: Value | None = None) -> None:
    """Raise `DTypeError` or `ShapeError` unless `target` holds class indices for the rows of `logits`."""
    if target.dtype.kind != "int":
        raise DTypeError(
            f"{what}: target {target.name!r} is {target.dtype}; class indices are int64 (or int32), "
            "and probabilities have the shape of the logits"
        )
    check_weight(what, logits, weight)
    wanted = target_shape(logits.shape)
    if target.shape != wanted:
        raise ShapeError(
            f"{what}: logits {logits.name!r} of shape {show_shape(logits.shape)} want targets of shape "
            f"{show_shape(wanted)}, got {target.name!r} of shape {show_shape(target.shape)}"
        )


def check_weight(what: str, logits: Value, weight: Value | None) -> None:
    """Raise `ShapeError` unless `logits` have classes and `weight`, where there is one, a number for each."""
    if not logits.shape:
        raise ShapeError(f"{what}: {logits.name!r} is 0-dim; logits have shape (N, C), (C,) or (N, C, ...)")
    if weight is None:
        return
    classes = logits.shape[class_axis(logits)]
    if weight.shape != (classes,) or weight.dtype is not logits.dtype:
        raise ShapeError(
            f"{what}: weight {weight.name!r} is {weight.dtype}{show_shape(weight.shape)}; one number for each class is "
            f"{logits.dtype}[{classes}]"
        )
