"""How often a step goes over its tensors: ours, which is the least that the rule can do, beside torch's foreach.

    python benchmarks/optimizer_passes.py     # the table of docs/optimizers.md

A pass is one tensor of a parameter's size read or written once. Torch's are counted from the operations that a step
with foreach=True calls, on any device: each operation reads its arguments and writes its results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import tritonnotes as tn
from tritonnotes.codegen.optimizer.kinds import make_multi_tensor_update
from tritonnotes.ir.core.optimizer import Optimizer
from tritonnotes.ir.core.types import float32
from tritonnotes.ir.optim.update import Kind

ELEMENTS = 1000

RULES: dict[str, tuple[Optimizer, type[torch.optim.Optimizer] | None, dict[str, Any]]] = {
    "sgd": (tn.sgd(), torch.optim.SGD, {}),
    "sgd, weight decay": (tn.sgd(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd, momentum": (tn.sgd(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (tn.nesterov(), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "momentum": (tn.momentum(), None, {}),
    "adagrad": (tn.adagrad(), torch.optim.Adagrad, {}),
    "adadelta": (tn.adadelta(), torch.optim.Adadelta, {}),
    "rmsprop": (tn.rmsprop(), torch.optim.RMSprop, {}),
    "rmsprop, centered, momentum": (
        tn.rmsprop(centered=True, momentum=0.9),
        torch.optim.RMSprop,
        {"centered": True, "momentum": 0.9},
    ),
    "adam": (tn.adam(), torch.optim.Adam, {}),
    "adam, amsgrad": (tn.adam(amsgrad=True), torch.optim.Adam, {"amsgrad": True}),
    "adamw": (tn.adamw(), torch.optim.AdamW, {}),
    "nadam": (tn.nadam(), torch.optim.NAdam, {}),
    "radam": (tn.radam(), torch.optim.RAdam, {}),
    "adamax": (tn.adamax(), torch.optim.Adamax, {}),
    "lion": (tn.lion(), None, {}),
    "adam, then ema": (tn.ema(tn.adam()), None, {}),
}


def passes_of_ours(optimizer: Optimizer) -> int:
    """Tensors read and written by the kernel, for a float32 parameter."""
    update = make_multi_tensor_update(optimizer, [Kind(float32, float32, (float32,) * len(optimizer.state))])
    return update.bytes_moved(update.kinds[0]) // float32.itemsize


def passes_of_foreach(make: type[torch.optim.Optimizer], how: dict[str, Any]) -> int:
    """Tensors that torch's operations read and write in a step that is not the first."""
    p = torch.zeros(ELEMENTS, requires_grad=True)
    optimizer = make([p], foreach=True, **how)
    p.grad = torch.ones(ELEMENTS)
    optimizer.step()
    with _Counting() as counted:
        optimizer.step()
    return counted.passes


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        schema = func._schema
        given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
        written = [
            given[a.name] for a in schema.arguments if a.alias_info and a.alias_info.is_write and a.name in given
        ]
        # What is only written: the target of a copy, and `out=`.
        targets = {"self"} if func.overloadpacket.__name__ in ("copy_", "zero_", "fill_") else {"out"}
        read = [value for name, value in given.items() if name not in targets]
        is_view = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        fresh = [] if written or is_view else [result]
        self.passes += sum(_count(each) for each in (read, written, fresh))
        return result


def _count(tree: Any) -> int:
    """Distinct tensors of a parameter's size."""
    return len({id(leaf) for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor) and leaf.numel() == ELEMENTS})


def table() -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| rule | passes here | bytes an element, float32 | passes of torch's foreach |"
    yield "|---|---|---|---|"
    for name, (optimizer, make, how) in RULES.items():
        ours = passes_of_ours(optimizer)
        theirs = "not in torch" if make is None else str(passes_of_foreach(make, how))
        yield f"| {name} | {ours} | {4 * ours} | {theirs} |"


if __name__ == "__main__":
    print("\n".join(table()))
