"""What one launch works on: parameters of a group on one device, found through tables that are made anew when a tensor
has moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import is_not
from typing import Any

import torch
from torch import Tensor

from ..codegen.optimizer.kinds import PARAMETERS, MultiTensorUpdate
from ..ir.core.errors import FeedError
from ..ir.core.optimizer import Optimizer
from ..ir.optim.update import G_NAME, MASTER, P_NAME, Extras, Kind
from ..runtime.executors.execution import Execution
from ..runtime.vetting import check_apart, vet_held
from .launching import LoadedUpdate, Recorded, load_update, run
from .tables import Blocks, block_table, dtype_of, has_layout, has_overlap, is_aligned, is_dense, upload

is_there = partial(is_not, None)

UPDATE_WORK = 16
"""Elements that are computed for one of a parameter: Adam's take a nanosecond each."""

Columns = Mapping[str, Sequence[Tensor | None]]
"""The tensors of every parameter: by name, in the order of the parameters, None where a parameter has no such tensor.
Complex ones are given as pairs of numbers."""


@dataclass(frozen=True, eq=False)
class LaunchPlan:
    """Tables for one launch. They hold as long as `key` says the same of the tensors.

    `stand_ins` take the place of tensors whose elements lie in another order than their parameter's, by name and
    parameter. No gradient is held here, lest it outlive `zero_grad`.
    """

    key: object
    loaded: LoadedUpdate
    parameters: Tensor
    blocks: Blocks
    written: tuple[str, ...]
    stand_ins: Mapping[tuple[str, int], Tensor]
    how: Execution
    recorded: Recorded

    @property
    def update(self) -> MultiTensorUpdate:
        return self.loaded.update

    def launch(self, columns: Columns, numbers: Tensor, scalars: Mapping[str, Tensor]) -> None:
        """Update every parameter once, by the rows of `numbers` that the tables name."""
        for (name, i), stand_in in self.stand_ins.items():
            stand_in.copy_(columns[name][i])  # type: ignore[arg-type]
        given = [self.parameters, self.blocks.table, numbers, *(scalars[name] for name in self.update.scalars)]
        is_judged = self.how.strict or self.how.sanitize
        reached = [*_present(columns, columns), *self.stand_ins.values()] if is_judged else []
        run(
            self.loaded.module,
            "run",
            self.parameters.device,
            given,
            {"BLOCK": self.blocks.size},
            reached,
            self.how,
            self.recorded,
        )
        for (name, i), stand_in in self.stand_ins.items():
            if name in self.written:
                columns[name][i].copy_(stand_in)  # type: ignore[union-attr]
        # A kernel writes past autograd's eyes: backward through the old weights must raise, as after torch's own step.
        torch.autograd.graph.increment_version(_present(columns, self.written))


def places(columns: Columns) -> object:
    """Where all tensors lie and how: equal for two steps only if the tables of one hold for the other."""
    parameters, gradients = _present(columns, [P_NAME]), _present(columns, [G_NAME])
    found: list[object] = [list(map(Tensor.data_ptr, _present(columns, [name]))) for name in columns]
    found += [list(map(Tensor.numel, parameters)), [g.dtype for g in gradients]]
    for tensors in (parameters, gradients):
        orders = list(map(Tensor.is_contiguous, tensors))
        found.append(orders if all(orders) else [t.stride() for t in tensors])
    return found


def make_plan(
    key: object, optimizer: Optimizer, extras: Extras, columns: Columns, rows: Sequence[int], how: Execution
) -> LaunchPlan:
    """Lay out the tables.

    Raises `FeedError` for what no launch may write: expanded parameters, tensors that share memory, state of another
    shape or device, and dtypes that kernels do not compute in.
    """
    written = tuple(name for name in columns if name != G_NAME or extras.unscales or extras.zeroes)
    stand_ins: dict[tuple[str, int], Tensor] = {}
    members: list[dict[str, Tensor]] = []
    for i in range(len(rows)):
        tensors = {name: t for name, column in columns.items() if (t := column[i]) is not None}
        p = tensors[P_NAME]
        _check_parameter(p, i)
        layout = p if is_dense(p) else torch.empty(p.shape, device=p.device)
        for name, tensor in tensors.items():
            _check_beside(tensor, p, f"{name} of parameter {i}")
            if not has_layout(tensor, layout):
                made = torch.empty_strided(p.shape, layout.stride(), dtype=tensor.dtype, device=p.device)
                stand_ins[name, i] = tensors[name] = made
        members.append(tensors)
    targets = {f"{n} of parameter {i}": m[n] for i, m in enumerate(members) for n in written if n in m}
    check_apart(targets, "give each a tensor of its own")
    kinds = [_kind(optimizer, tensors, i) for i, tensors in enumerate(members)]
    distinct = sorted(dict.fromkeys(kinds), key=str)
    loaded = load_update(optimizer, distinct, extras)
    table = []
    for tensors, kind, row in zip(members, kinds, rows, strict=True):
        addresses = [tensors[n].data_ptr() if n in tensors else 0 for n in loaded.update.tensors]
        aligned = int(is_aligned(list(tensors.values())))
        numbers = {"size": tensors[P_NAME].numel(), "numbers": row, "aligned": aligned, "kind": distinct.index(kind)}
        table.append(PARAMETERS.row(addresses, **numbers))
    device = members[0][P_NAME].device
    parameters = upload(torch.tensor(table, dtype=torch.int64, device="cpu"), device)
    sizes = [m[P_NAME].numel() for m in members]
    blocks = block_table(sizes, device, how)
    return LaunchPlan(key, loaded, parameters, blocks, written, stand_ins, how, Recorded(UPDATE_WORK * sum(sizes)))


def _present(columns: Columns, names: Mapping[str, object] | Sequence[str]) -> list[Tensor]:
    tensors: Any = chain.from_iterable(map(columns.__getitem__, names))
    return [*filter(is_there, tensors)]


def _kind(optimizer: Optimizer, tensors: Mapping[str, Tensor], index: int) -> Kind:
    dtypes = {name: dtype_of(t, f"{name} of parameter {index}") for name, t in tensors.items()}
    state = tuple(dtypes[name] for name in optimizer.state)
    return Kind(dtypes[P_NAME], dtypes[G_NAME], state, MASTER in dtypes)


def _check_parameter(p: Tensor, index: int) -> None:
    if has_overlap(p):
        raise FeedError(
            f"optimizer: parameter {index} of shape {list(p.shape)} and stride {list(p.stride())} has elements that "
            "share memory, so it cannot be updated in place; clone it first"
        )


def _check_beside(tensor: Tensor, p: Tensor, what: str) -> None:
    vet_held(tensor, f"optimizer: {what}")
    if tensor.shape != p.shape or tensor.device != p.device:
        raise FeedError(
            f"optimizer: {what} is {list(tensor.shape)} on {tensor.device}, the parameter {list(p.shape)} on "
            f"{p.device}; both must have one shape and lie on one device"
        )
