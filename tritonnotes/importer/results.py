"""What a module returns, as named outputs of a graph and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from ..ir.core.types import is_name
from .arguments import step_name
from .wrapped import LOSS


@dataclass(frozen=True)
class Output:
    """In what a module returns, the place of the output `name` of its graph."""

    name: str


def output_names(result: Any, *, with_loss: bool) -> list[str]:
    """A name for each leaf of what a module returns: the keys that lead to it, `output` where there are none."""
    names: list[str] = []
    for path, _ in pytree.tree_flatten_with_path(result)[0]:
        steps = [step_name(key) for key in path]
        if with_loss:
            first, *steps = steps
            if first == "1":
                names.append("_".join([LOSS, *steps]))
                continue
        joined = "_".join(steps)
        names.append(joined if is_name(joined) and not joined[0].isdigit() else "_".join(["output", *steps]))
    return names


def restored(result: Any, outputs: Mapping[str, Tensor]) -> Any:
    """What the module would return."""
    return pytree.tree_map(lambda leaf: outputs[leaf.name] if isinstance(leaf, Output) else leaf, result)
