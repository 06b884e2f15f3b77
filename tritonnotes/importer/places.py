"""Where an exported op comes from: its module, and the line that calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.fx import Node

from .wrapped import own_path

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')


@dataclass(frozen=True)
class Place:
    """The innermost `module` (its name, '' for the whole) and its `kind`, and the `line` of source that calls it."""

    module: str
    kind: str
    line: str

    def __str__(self) -> str:
        module = f"module {self.module!r}" if self.module else "the module itself"
        kind = f" ({self.kind.rpartition('.')[2]})" if self.kind else ""
        return f"in {module}{kind}{', at ' + self.line if self.line else ''}"


def place_of(node: Node) -> Place:
    """Where an op of an exported graph is called."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    path = "" if path.startswith("_empty_nn_module_stack") else own_path(path)
    return Place(path, kind, _line_in(node.meta.get("stack_trace") or ""))


def _line_in(trace: str) -> str:
    """The innermost line of a stack that is not torch's."""
    frames = [found.groupdict() for found in _FRAME.finditer(trace)]
    users = [frame for frame in frames if _is_users(frame["file"])]
    return "{file}:{line}: {code}".format(**users[-1]) if users else ""


def line_of(trace: TracebackType | None) -> str:
    """The innermost line that raised an error and is not torch's."""
    line = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _is_users(file):
            line = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _is_users(file: str) -> bool:
    return not file.startswith((_TORCH, _HERE, "<", "torch/"))


def op_name(target: Any) -> str:
    """`aten.linear.default` of an exported call."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
