"""Kernels whose numbers lie in memory. A CUDA graph keeps the arguments of its launches, so that a learning rate among
them could never change; what it launches reads them from a tensor instead, which is written before each replay."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import Parameter
from ..support.text import call_lines, jit_function
from .kernel import KernelSource

SUFFIX = "_in_memory"


def numbers_in_memory(kernel: GeneratedKernel, source: KernelSource) -> KernelSource:
    """A kernel that reads numbers and calls the given one, which stays above it; the same where that takes none."""
    numbers = {name: p for name, p in kernel.arguments if p.role == "scalar" and not p.is_pointer}
    if not numbers:
        return source
    taken = [(a.arg, ast.unparse(a.annotation) if a.annotation else "") for a in _arguments(kernel.name, source.text)]
    arguments = [f"{n}_ptr" if n in numbers else f"{n}: {kind}" if kind else n for n, kind in taken]
    passed = [_read(name, numbers[name]) if name in numbers else name for name, _ in taken]
    about = f"As {kernel.name}, with numbers from memory."
    text = jit_function(f"{kernel.name}{SUFFIX}", arguments, about, call_lines(f"{kernel.name}(", passed, ")"))
    launcher = re.sub(rf"\blaunch\((\s*){kernel.name}\b", rf"launch(\1{kernel.name}{SUFFIX}", source.launcher)
    signature = {
        (f"{n}_ptr" if n in numbers else n): ("*i64" if numbers[n].is_exact else "*fp64") if n in numbers else kind
        for n, kind in source.signature.items()
    }
    whole = f"{source.text}\n\n{text}"
    return replace(source, name=f"{kernel.name}{SUFFIX}", text=whole, launcher=launcher, signature=signature)


def _read(name: str, parameter: Parameter) -> str:
    # The host works numbers out in float64; as an argument each would arrive rounded like this.
    return f"tl.load({name}_ptr)" if parameter.is_exact else f"tl.load({name}_ptr).to(tl.float32)"


def _arguments(name: str, text: str) -> list[ast.arg]:
    found = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    return next(found).args.args
