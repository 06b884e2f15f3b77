"""How kernels run where there is no GPU: as machine code, or under the strict interpreter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import torch

from ...codegen.target.targets import CPU, GPU
from ...ir.core.errors import DeclarationError

STRICT_VARIABLE = "TRITONNOTES_STRICT"
"""Set to 1, it asks for the strict interpreter wherever `strict=` does not say."""


@dataclass(frozen=True)
class Execution:
    """How kernels run on the CPU: under the `strict` interpreter, or as machine code, where `sanitize` compiles checks
    of bounds and of masked lanes in. `split` has the interpreter share each launch out over several programs, the last
    of them ragged, however little there is to do: else one tile holds all of a small launch, and nothing can race."""

    strict: bool = False
    sanitize: bool = False
    split: bool = False

    def target(self, device: torch.device) -> str:
        """What plans are made for. The strict interpreter looks at the kernels that a GPU would get."""
        return CPU if device.type == "cpu" and not self.strict else GPU

    def describe(self, device: torch.device) -> str:
        """What runs the kernels on a device, in words."""
        if device.type != "cpu":
            return f"Triton on {device}"
        if self.strict:
            return "the strict interpreter on the CPU"
        return "machine code on the CPU" + (", its accesses checked" if self.sanitize else "")


def execution(device: torch.device, strict: bool | None = None, sanitize: bool = False) -> Execution:
    """What a caller asked for; `strict` None is what the environment says. Raises `DeclarationError` for a GPU, which
    has neither: there the checks are a debugger's."""
    return _execution(device, os.environ.get(STRICT_VARIABLE, ""), strict, sanitize)


@cache
def _execution(device: torch.device, variable: str, strict: bool | None, sanitize: bool) -> Execution:
    if device.type != "cpu" and (strict or sanitize):
        asked = "strict=True" if strict else "sanitize=True"
        raise DeclarationError(f"{asked} is for kernels on the CPU, not on {device}; pass device='cpu' as well")
    asked_for = variable.strip().lower()
    if asked_for not in ("", "0", "1"):
        raise DeclarationError(f"{STRICT_VARIABLE} is {asked_for!r}; set it to 1, or leave it unset")
    return Execution(asked_for == "1" if strict is None else bool(strict), bool(sanitize))
