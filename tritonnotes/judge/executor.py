"""The torch executor: a declared graph in plain eager PyTorch, one call per op.

It is the judge of every kernel, so it shares no code with formulas, gradients or code generation: it knows what a graph
is, and what `references` says each op means.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ir.core.errors import DeclarationError, FeedError, VerificationError
from ..ir.core.graph import Graph, Value, check_is_graph
from ..ir.core.op import lookup
from ..ir.core.types import Dim, DimProduct, bind_dims, host, show_shape, size_at, unbound
from ..tensors.dtypes import torch_dtype
from ..tensors.seeds import fresh_seed
from .references import REFERENCES

STATE = ("parameter", "buffer", "slot")


def eager(
    graph: Graph,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    *,
    training: bool = False,
    seed: int | None = None,
) -> dict[str, Tensor]:
    """The outputs of `graph` by name, from tensors for its inputs (`feeds`) and its parameters and buffers (`state`).

    Every tensor has the declared dtype and shape (a `Dim` takes one size throughout) and lies on one device. Results
    have the declared dtypes, and autograd reaches every tensor that requires a gradient. `training` says in which form
    ops such as batch norm run; no tensor is changed in either, and `eager_updates` says what training would leave in
    the buffers. Random ops draw from `seed`, or if that is None from a new one of torch's default generator, as a model
    does. Raises `FeedError` for tensors that do not fit, `VerificationError` where an op's reference and its
    formula differ in shape or dtype.
    """
    check_is_graph(graph)
    return _run(graph, graph.outputs, feeds, state or {}, training, seed, exact=False)


def eager_updates(
    graph: Graph, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor] | None = None, *, seed: int | None = None
) -> dict[str, Tensor]:
    """What one run in training leaves in the buffers of `graph`, by name: new tensors, the given ones stay.

    Feeds, state and errors as for `eager`.
    """
    return _run(graph, graph.updates, feeds, state or {}, True, seed, exact=False)


def oracle(
    graph: Graph,
    feeds: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    *,
    training: bool = False,
    seed: int | None = None,
) -> dict[str, Tensor]:
    """What `eager` gives, computed in float64 from the same, already rounded, tensors: floating results are float64.

    What the graph says is rounded is rounded here too: a cast gives numbers of its dtype, and its gradient those of
    what was cast; other ops read an output of 16 bits as it is given out, while the output itself is exact. The feeds
    have the declared dtypes, or float64 in place of a floating one.
    """
    check_is_graph(graph)
    return _run(graph, graph.outputs, feeds, state or {}, training, seed, exact=True)


def oracle_updates(
    graph: Graph, feeds: Mapping[str, Tensor], state: Mapping[str, Tensor] | None = None, *, seed: int | None = None
) -> dict[str, Tensor]:
    """What `eager_updates` gives, computed in float64 as `oracle` does."""
    return _run(graph, graph.updates, feeds, state or {}, True, seed, exact=True)


def _run(
    graph: Graph,
    roots: Mapping[str, Value],
    feeds: Mapping[str, Any],
    state: Mapping[str, Any],
    training: bool,
    seed: int | None,
    *,
    exact: bool,
) -> dict[str, Tensor]:
    sizes: dict[str, int] = {}
    feeds = {**_seeds(graph, training, seed), **feeds}
    known = _bind(graph, feeds, ("input", "scalar"), "feed", "feeds", sizes, exact)
    known |= _bind(graph, state, STATE, "state", "state", sizes, exact)
    device = _one_device(known)
    needed = {*roots.values()}
    for value in reversed(graph.values):
        if value in needed:
            needed.update(value.inputs)
    given_out = {v for v in (*graph.outputs.values(), *graph.updates.values()) if exact and _is_narrow(v)}
    exactly: dict[Value, Tensor] = {}
    for value in graph.values:
        if value.op.name == "constant":
            known[value] = value.attrs["value"]
        elif value.op.name == "dim_size":
            known[value] = float(sizes[value.attrs["dim"]])
        elif value in needed and value not in known:
            known[value] = _call(value, known, sizes, device, training, exact)
            if value in given_out:
                exactly[value] = known[value]
                known[value] = _Rounded.apply(known[value], torch_dtype(value.dtype), torch.float64)
    return {name: _tensor(exactly.get(v, known[v]), v, device, exact) for name, v in roots.items()}


def _is_narrow(value: Value) -> bool:
    return value.dtype.is_float and value.dtype.itemsize == 2 and not value.is_leaf


class _Rounded(torch.autograd.Function):
    """float64 numbers at the nearest ones of `dtype`, and their gradient at those of `source`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, source: torch.dtype) -> Tensor:
        ctx.dtype, ctx.source = dtype, source
        return x.to(dtype).to(torch.float64)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Rounded.apply(gradients[0], ctx.source, ctx.dtype), None, None


def _seeds(graph: Graph, training: bool, seed: int | None) -> dict[str, int]:
    """A number for each that random ops draw from; in evaluation nothing is drawn."""
    names = [value.name for value in graph.leaves("scalar") if value.dtype is not host]
    if not names:
        return {}
    drawn = seed if seed is not None else fresh_seed() if training else 0
    return dict.fromkeys(names, drawn)


def _bind(
    graph: Graph,
    given: Mapping[str, Any],
    kinds: tuple[str, ...],
    what: str,
    where: str,
    sizes: dict[str, int],
    exact: bool,
) -> dict[Value, Any]:
    leaves = {value.name: value for value in graph.leaves(*kinds)}
    for name in given:
        if name not in leaves:
            near = difflib.get_close_matches(str(name), leaves, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(leaves) or 'none'}"
            raise FeedError(f"{what} {name!r}: graph {graph.name!r} declares no such {' or '.join(kinds)}{meant}")
    missing = [name for name in leaves if name not in given]
    if missing:
        first = leaves[missing[0]]
        remedy = "pass state=g.state(seed=0) or a model's state_dict()" if where == "state" else "add it to the feeds"
        raise FeedError(
            f"{first.op.name} {first.name!r} ({first.dtype}{show_shape(first.shape)}) is missing"
            + (f", with {len(missing) - 1} more" if len(missing) > 1 else "")
            + f"; {remedy}"
        )
    shapes = {value: given[name].shape for name, value in leaves.items() if isinstance(given[name], Tensor)}
    bind_dims([(value.shape, shape) for value, shape in shapes.items()], sizes)
    return {value: _checked(value, given[name], sizes, exact) for name, value in leaves.items()}


def _checked(value: Value, given: Any, sizes: dict[str, int], exact: bool) -> Any:
    what = f"{value.op.name} {value.name!r}"
    declared = f"declared {value.dtype}{show_shape(value.shape)}"
    if value.dtype is host:
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise FeedError(
                f"{what}: declared as a number of the host, got {type(given).__name__}; pass a Python number"
            )
        return float(given)
    if value.op.name == "scalar":
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
            raise FeedError(
                f"{what}: declared as an exact int of the host, got {given!r}; pass an int from 0 to 2**63 − 1"
            )
        return given
    if not isinstance(given, Tensor):
        raise FeedError(
            f"{what}: {declared}, got {type(given).__name__}; pass a torch.Tensor, as torch.as_tensor makes one"
        )
    got = f"got {str(given.dtype).removeprefix('torch.')}{list(given.shape)}"
    dtype = torch_dtype(value.dtype)
    if given.dtype != dtype and not (exact and value.dtype.is_float and given.dtype == torch.float64):
        raise FeedError(f"{what}: {declared}, {got}; convert it with .to({dtype}), or declare it with another dtype")
    if len(given.shape) != len(value.shape):
        raise FeedError(f"{what}: {declared}, {got}; feed a tensor of {len(value.shape)} dims")
    for axis, (want, size) in enumerate(zip(value.shape, given.shape, strict=True)):
        if untold := unbound(want, sizes):
            raise FeedError(f"{what}: {declared}, {got}; {untold}")
        expected = size_at(want, sizes)
        if expected != size:
            bound = "" if isinstance(want, int) else f" ({want} is {expected} in the tensors before it)"
            raise FeedError(f"{what}: {declared}, {got}; axis {axis} must be {expected}{bound}")
    return given.to(torch.float64) if exact and value.dtype.is_float else given


def _one_device(known: Mapping[Value, Any]) -> torch.device:
    devices: dict[torch.device, Value] = {}
    for value, tensor in known.items():
        if isinstance(tensor, Tensor):
            devices.setdefault(tensor.device, value)
    if len(devices) > 1:
        shown = ", ".join(f"{value.name!r} on {device}" for device, value in devices.items())
        raise FeedError(f"the tensors lie on different devices ({shown}); move them to one with .to(device)")
    return next(iter(devices), torch.device("cpu"))


def _call(
    value: Value,
    known: Mapping[Value, Any],
    sizes: Mapping[str, int],
    device: torch.device,
    training: bool,
    exact: bool,
) -> Any:
    op = value.op
    reference = REFERENCES.get(op.name)
    if reference is None or lookup(op.name) is not op:
        why = "has no torch reference" if reference is None else "was declared again after this graph was"
        raise DeclarationError(f"{op.name}: {why}; declare it with @tn.op(reference=...), then the graph")
    args = _arguments(value, known, device, exact)
    attrs = {name: concrete(attr, sizes) for name, attr in value.attrs.items()}
    if "training" in attrs:
        attrs["training"] = training and attrs["training"]
    casts = op.name in ("cast", "round_to")
    if casts and value.inputs[0].op.name == "constant":
        # A number is as exact as it was written, whatever it is cast to.
        number = torch.tensor(known[value.inputs[0]], dtype=torch_dtype(value.dtype), device=device)
        return number.to(torch.float64) if exact and value.dtype.is_float else number
    if exact and casts and value.dtype.is_float:
        source = value.inputs[0].dtype
        wide = args[0].to(torch.float64)
        return _Rounded.apply(wide, torch_dtype(value.dtype), torch_dtype(source) if source.is_float else wide.dtype)
    result = reference(*args, **attrs)
    if op.name in ("iota", "library"):
        result = result.to(device)
    if value.dtype is host:
        return result.item()
    return _verified(value, result, sizes, exact)


def _arguments(value: Value, known: Mapping[Value, Any], device: torch.device, exact: bool) -> list[Any]:
    """A number beside a tensor stays a number, as `x * 0.5` has one: torch then rounds it no further than it must."""
    args: list[Any] = [None if a is None else known[a] for a in value.args]
    operands = args[1:] if value.op.name == "where" else args
    compares = value.op.name in ("eq", "ne", "lt", "le", "gt", "ge")
    if value.op.kind == "elementwise" and any(isinstance(a, Tensor) for a in operands) and not (exact and compares):
        return args
    return [a if v is None else _tensor(a, v, device, exact) for a, v in zip(args, value.args, strict=True)]


def _tensor(result: Any, value: Value, device: torch.device, exact: bool) -> Tensor:
    if isinstance(result, Tensor):
        return result
    if not (exact and value.dtype.is_float):
        return torch.tensor(result, dtype=torch_dtype(value.dtype), device=device)
    # What a tensor of 16 bits holds of a number is what there is of it.
    held = torch.tensor(result, dtype=torch.float64, device=device)
    return held.to(torch_dtype(value.dtype)).double() if value.dtype.itemsize == 2 else held


def concrete(attr: Any, sizes: Mapping[str, int]) -> Any:
    """A size, a shape or another attribute with the `Dim`s replaced by their sizes."""
    if isinstance(attr, tuple):
        return tuple(concrete(a, sizes) for a in attr)
    return size_at(attr, sizes) if isinstance(attr, Dim | DimProduct) else attr


def _verified(value: Value, result: Any, sizes: Mapping[str, int], exact: bool) -> Tensor:
    shape = concrete(value.shape, sizes)
    dtype = torch_dtype(value.dtype)
    if isinstance(result, Tensor) and tuple(result.shape) == shape:
        if result.dtype == dtype:
            return result.to(torch.float64) if exact and value.dtype.is_float else result
        if exact and value.dtype.is_float and result.dtype.is_floating_point:
            return result.to(torch.float64)
    got = f"{result.dtype}{list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
    raise VerificationError(
        f"{value.op.name} {value.name!r}: its formula gives {value.dtype}{list(shape)}, its torch reference "
        f"{got.removeprefix('torch.')}; make the two agree"
    )
