"""Every op of the catalogue compiles ahead of time for every architecture, forward and backward, and nothing spills."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compiled import gradient_programs
from op_graphs import OPS, op_graph

import tritonnotes as tn
from tritonnotes.cli.demo import digits
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.ir.passes.joint import apart_graph, gathering_graph, joint_graph

KEEPS_AN_ARRAY = {"sin": 32, "cos": 32}
"""Bytes of stack for the digits of 2/π by which libdevice reduces huge angles: an array, not registers that ran out."""

DTYPES_OF_ARCHS = dict(zip(ARCHS, ("float32", "bfloat16", "float16"), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", OPS)
def test_every_op_compiles_without_spills_and_without_tf32(name: str, arch: int) -> None:
    for program in gradient_programs(op_graph(name, (tn.Dim("batch"), 200), DTYPES_OF_ARCHS[arch])):
        for report in compile_program(program, arch):
            assert f".target sm_{arch}" in report.ptx
            stack = KEEPS_AN_ARRAY.get(name, 0)
            fits = report.stack_bytes == stack and not report.local_bytes if stack else not report.spills
            assert fits, f"{report.name}: {report.registers} registers, {report.spills}"
            assert "tf32" not in report.ptx, f"{report.name} rounds to tf32 unasked"


def training_programs() -> Iterator[tuple[str, Program]]:
    """The programs of steps in mixed precision: scaled and skipped, gathered, and updated apart."""
    for dtype, scaler in (("float16", tn.GradScaler()), ("bfloat16", None)):
        graph = tn.autocast(digits(), dtype)
        optimizer = tn.clip(tn.adamw(), max_norm=1.0)
        gathering = gathering_graph(graph, "loss", 2, scaler)
        yield f"{dtype} step", make_program(joint_graph(graph, "loss", optimizer, 2, scaler), "greedy", graph)
        yield f"{dtype} gathering", make_program(gathering, "greedy", graph)
        yield f"{dtype} apart", make_program(apart_graph(gathering, optimizer, scaler), "greedy", graph)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_steps_in_mixed_precision_compile_without_spills(arch: int) -> None:
    for what, program in [*training_programs()][ARCHS.index(arch) :: len(ARCHS)]:
        for report in compile_program(program, arch):
            assert not report.spills, f"{what}, {report.name}: {report.registers} registers, {report.spills}"


def test_one_program_that_takes_powers_beside_many_sums_does_not_spill() -> None:
    program = next(program for what, program in training_programs() if what == "float16 apart")
    powers = [r for r in compile_program(program, 90) if r.name == "fc1_bias__adamw_gather_grad_scaler"]
    assert [r.spills.stack_bytes for r in powers] == [0]
