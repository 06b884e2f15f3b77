"""Images of another size, and read at other places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.ops import shapes
from ...tensors.dtypes import torch_dtype
from .package import as_tensor, onnx_package
from .rows import Array, Node, RefusedError, Row, Table, ints, listed, refuse
from .torch_call import torch_call

NAMES = {
    ("nearest", 1): "upsample_nearest1d", ("nearest", 2): "upsample_nearest2d", ("nearest", 3): "upsample_nearest3d",
    ("linear", 1): "upsample_linear1d", ("linear", 2): "upsample_bilinear2d", ("linear", 3): "upsample_trilinear3d",
    ("cubic", 2): "upsample_bicubic2d",
}  # fmt: skip
"""torch's ops by ONNX's mode and the count of positions."""

PIXELS = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
"""How corners lie, as torch's `align_corners` says it."""


def _upsample(node: Node, x: Value, scales: Array, mode: str = "nearest") -> Value:
    how = {"mode": mode, "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return _resize(node, x, None, scales, **how)


def _resize(
    node: Node, x: Value, roi: Array | None = None, scales: Array | None = None, sizes: Array | None = None,
    **how: Any,
) -> Value:  # fmt: skip
    """By torch where it has the same rule for which pixels count, and by products with weights where not."""
    scales, sizes = (None if given is None or not given.size else given for given in (scales, sizes))
    try:
        return _by_torch(x, scales, sizes, **how)
    except RefusedError:
        return _by_products(node, x, roi, scales, sizes, **how)


def _by_torch(
    x: Value, scales: Array | None = None, sizes: Array | None = None,
    coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    extrapolation_value: float = 0.0, mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
    antialias: int = 0, axes: list[int] | None = None, keep_aspect_ratio_policy: str = "stretch",
) -> Value:  # fmt: skip
    count, corners = len(x.shape) - 2, coordinate_transformation_mode
    refuse((mode, count) in NAMES, f"resizes {count} axes of positions by mode={mode!r}")
    usual = cubic_coeff_a == -0.75 and not exclude_outside and not antialias and keep_aspect_ratio_policy == "stretch"
    refuse(usual, "has cubic_coeff_a, exclude_outside, antialias or keep_aspect_ratio_policy, which are not supported")
    wanted, factors = _new_sizes(x, scales, sizes, axes)
    whole = all(float(f).is_integer() for f in factors)
    if mode == "nearest":
        floors = corners == "asymmetric" and nearest_mode == "floor"
        halves = corners in ("half_pixel", "pytorch_half_pixel") and nearest_mode.startswith("round") and whole
        refuse(floors or halves, f"takes the nearest pixel by {corners} and {nearest_mode}, which torch does not")
        return torch_call(f"aten.{NAMES[mode, count]}.default", x, wanted, *_scales(factors))
    by_scale = corners != "align_corners" or _are_whole(x, factors)
    refuse(by_scale, "aligns corners to a size that is no whole number, which torch does not; give sizes")
    refuse(corners in PIXELS, f"places pixels by {corners}, which torch does not")
    refuse(corners != "pytorch_half_pixel" or all(size > 1 for size in wanted), "gives a size of 1")
    return torch_call(f"aten.{NAMES[mode, count]}.default", x, wanted, PIXELS[corners], *_scales(factors))


def _are_whole(x: Value, factors: list[float]) -> bool:
    sizes = ints(x.shape[2:], "the shape of the positions")
    return all(abs(size * factor - round(size * factor)) < 1e-6 for size, factor in zip(sizes, factors, strict=True))


def _scales(factors: list[float]) -> list[float | None]:
    return [float(factor) if factor else None for factor in factors]


def _new_sizes(
    x: Value, scales: Array | None, sizes: Array | None, axes: list[int] | None
) -> tuple[tuple[int, ...], list[float]]:
    """The sizes of the positions, and the factors by which they grow."""
    rank = len(x.shape)
    places = [axis % rank for axis in (range(rank) if axes is None else axes)]
    positions = ints(x.shape[2:], "the shape of the positions")
    given = listed(scales) or listed(sizes) or []
    refuse(len(given) == len(places), "says neither scales nor sizes")
    said: dict[int, Any] = dict(zip(places, given, strict=True))
    by_scale = bool(listed(scales))
    outside = [said.get(axis, 1 if by_scale else x.shape[axis]) for axis in (0, 1)]
    refuse(outside == ([1, 1] if by_scale else [*x.shape[:2]]), "resizes samples or channels; resize positions alone")
    if by_scale:
        factors = [float(said.get(axis, 1.0)) for axis in range(2, rank)]
        return tuple(math.floor(size * f) for size, f in zip(positions, factors, strict=True)), factors
    wanted = ints([said.get(axis, size) for axis, size in enumerate(positions, 2)], "the new shape")
    return tuple(wanted), [new / old for new, old in zip(wanted, positions, strict=True)]


# -- by products -------------------------------------------------------------------------------------------------------


def _by_products(
    node: Node, x: Value, roi: Array | None, scales: Array | None, sizes: Array | None, axes: list[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch", extrapolation_value: float = 0.0, **how: Any,
) -> Value:  # fmt: skip
    """A resize weighs the pixels of one axis after the other. The weights are what ONNX's own implementation makes of
    pixels that are 1, each alone."""
    refuse(x.dtype.is_float, f"resizes {x.dtype}; cast it to a float first")
    refuse(keep_aspect_ratio_policy == "stretch", f"keeps the aspect ratio ({keep_aspect_ratio_policy}); give scales")
    refuse(not extrapolation_value or roi is None, "reads a number beside the image; leave extrapolation_value at 0")
    rank = len(x.shape)
    places = [axis % rank for axis in (range(rank) if axes is None else axes)]
    given = listed(scales) or listed(sizes) or []
    refuse(len(given) == len(places), "says neither scales nor sizes")
    for place, (axis, said) in enumerate(zip(places, given, strict=True)):
        part = None if roi is None or not roi.size else [roi[place], roi[place + len(places)]]
        kept = said == 1 if scales is not None else said == x.shape[axis]
        if not kept or part is not None:
            (size,) = ints(x.shape[axis : axis + 1], "an axis that is resized")
            x = _weighed(node, x, axis, _weights(size, said, scales is not None, part, how))
    return x


def _weights(size: int, said: Any, by_scale: bool, part: list[Any] | None, how: Mapping[str, Any]) -> Array:
    """(size, new size): what each pixel of an axis counts for each new one."""
    helper, reference = onnx_package("onnx.helper"), onnx_package("onnx.reference")
    node = helper.make_node("Resize", ["x", "roi", *(["scales"] if by_scale else ["", "sizes"])], ["y"], **how)
    region = [0, 1] if part is None else part
    feeds = {
        "x": np.eye(size, dtype=np.float32), "roi": np.array([0, region[0], 1, region[1]], np.float32),
        "scales": np.array([1, said], np.float32), "sizes": np.array([size, said], np.int64),
    }  # fmt: skip
    evaluator = reference.ReferenceEvaluator(node, opsets={"": 19})
    return evaluator.run(None, {name: feeds[name] for name in node.input if name})[0].astype(np.float32)


def _weighed(node: Node, x: Value, axis: int, weights: Array) -> Value:
    name = node.graph.fresh_name("resize.weights")
    node.graph.first[name] = as_tensor(weights).to(torch_dtype(x.dtype))
    held = node.graph.buffer(name, weights.shape, dtype=x.dtype)
    order = [*(a for a in range(len(x.shape)) if a != axis), axis]
    back = tuple(order.index(a) for a in range(len(order)))
    return shapes.permute(P.matmul(shapes.permute(x, tuple(order)), held), back)


# -- grids -------------------------------------------------------------------------------------------------------------

GRID_MODES = {"bilinear": 0, "linear": 0, "nearest": 1, "bicubic": 2, "cubic": 2}
GRID_PADS = {"zeros": 0, "border": 1, "reflection": 2}
"""torch's numbers of ways to read between pixels, and beside them."""


def _grid_sample(
    x: Value, grid: Value, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Value:
    how = GRID_MODES[mode], GRID_PADS[padding_mode], bool(align_corners)
    return torch_call("aten.grid_sampler.default", x, grid, *how)


IMAGES: Table = {
    "GridSample": (Row(_grid_sample, 16),),
    "Upsample": (Row(_upsample, 9, known=(1,), takes_node=True),),
    "Resize": (
        Row(_upsample, 10, known=(1,), takes_node=True),
        Row(_resize, 11, known=(1, 2, 3), takes_node=True),
    ),
}
