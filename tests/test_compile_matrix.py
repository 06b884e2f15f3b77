"""Every op of the catalogue compiles ahead of time for every architecture, forward and backward, and nothing spills."""

from __future__ import annotations

import pytest
from compiled import gradient_programs
from test_kernels import OPS, op_graph

import tritonnotes as tn
from tritonnotes.codegen.ahead import compile_program
from tritonnotes.codegen.compile import ARCHS

KEEPS_AN_ARRAY = {"sin": 32, "cos": 32}
"""Bytes of stack for the digits of 2/π by which libdevice reduces huge angles: an array, not registers that ran out."""

DTYPES_OF_ARCHS = dict(zip(ARCHS, ("float32", "bfloat16", "float16"), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", OPS)
def test_every_op_compiles_without_spills_and_without_tf32(name: str, arch: int) -> None:
    for program in gradient_programs(op_graph(name, (tn.Dim("batch"), 200), DTYPES_OF_ARCHS[arch])):
        for card in compile_program(program, arch):
            assert f".target sm_{arch}" in card.ptx
            stack = KEEPS_AN_ARRAY.get(name, 0)
            fits = card.stack_bytes == stack and not card.local_bytes if stack else not card.spills
            assert fits, f"{card.name}: {card.registers} registers, {card.spills}"
            assert "tf32" not in card.ptx, f"{card.name} rounds to tf32 unasked"
