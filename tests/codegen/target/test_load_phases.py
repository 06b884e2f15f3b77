"""Loads that wait for loads, counted in machine code: by hand-written instructions, and in kernels that finish sums."""

from __future__ import annotations

import pytest
from compiled import gradient_programs

import tritonnotes as tn
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.codegen.target.load_phases import Section, sections
from tritonnotes.codegen.target.sass import instructions


def counted(*lines: str) -> tuple[Section, ...]:
    return sections(instructions("\n".join(f"        /*{i:04x}*/    {line} ;" for i, line in enumerate(lines))))


def test_loads_that_nothing_stands_between_are_one_phase() -> None:
    (whole,) = counted(
        "LDG.E.128 R4, desc[UR6][R2.64]",
        "@!P0 LDG.E.128 R8, desc[UR6][R2.64+0x1000]",
        "BAR.SYNC.DEFER_BLOCKING 0x0",
        "LDG.E R12, desc[UR6][R2.64+0x2000]",
        "FADD R4, R4, R8",
    )
    assert whole == Section(barriers=1, loads=3, phases=1, bytes_in_flight=36)


def test_a_load_after_a_use_of_another_is_the_next_phase() -> None:
    (whole,) = counted(
        "LDG.E.64 R4, desc[UR6][R2.64]",
        "FADD R6, R5, R5",
        "LDG.E.64 R4, desc[UR6][R2.64+0x8]",
        "FADD R6, R5, R6",
    )
    assert (whole.phases, whole.bytes_in_flight) == (2, 8)


def test_loads_issued_as_others_arrive_are_as_deep_as_what_they_wait_for() -> None:
    """Three loads, then one more for each that arrives: the fourth waits for the first, and so does the fifth."""
    (whole,) = counted(
        *(f"LDG.E R{r}, desc[UR6][R2.64]" for r in (4, 5, 6)),
        "FADD R10, R4, R4",
        "LDG.E R4, desc[UR6][R2.64]",
        "FADD R10, R5, R10",
        "LDG.E R5, desc[UR6][R2.64]",
        "FADD R10, R6, R10",
    )
    assert (whole.loads, whole.phases, whole.bytes_in_flight) == (5, 2, 12)


def test_the_address_of_a_load_may_be_what_another_loaded() -> None:
    (whole,) = counted("LDG.E.64 R2, desc[UR6][R2.64]", "LDG.E R2, desc[UR6][R2.64]")
    assert whole.phases == 2


def test_copies_to_shared_memory_are_on_their_way_until_they_are_waited_for() -> None:
    (whole,) = counted(
        "LDGSTS.E.BYPASS.128 [R9], desc[UR6][R2.64]",
        "LDGDEPBAR",
        "LDGSTS.E.BYPASS.128 [R9+0x10], desc[UR6][R2.64]",
        "LDGDEPBAR",
        "DEPBAR.LE SB0, 0x1",
        "LDGSTS.E.BYPASS.128 [R9], desc[UR6][R2.64]",
    )
    assert whole == Section(barriers=0, loads=3, phases=1, bytes_in_flight=32)


def test_sections_part_at_atomics() -> None:
    parts = counted(
        "BAR.SYNC 0x0", "ATOMG.E.ADD.STRONG.GPU PT, R4, desc[UR6][R2.64], R5", "BAR.SYNC 0x0", "BAR.SYNC 0x0"
    )
    assert [part.barriers for part in parts] == [1, 2]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("columns", [100, 1024])
def test_last_programs_load_at_once_what_others_left(columns: int, arch: int) -> None:
    """Both sums of a layer norm: first those of each group, then those of all groups."""
    g = tn.Graph("norm")
    g.output(y=tn.layer_norm(g.input("x", (4096, columns))))
    (report,) = compile_program(gradient_programs(g)[1], arch)
    _, of_group, of_all = sections(report.instructions)
    assert of_group.barriers <= 2 and of_all.barriers <= 2
    assert of_group.phases <= 2 and of_all.phases <= 2
    assert of_group.loads >= 32
    assert not report.spills


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_program_has_enough_on_its_way_while_it_computes(dtype: str) -> None:
    """Two programs of a multiprocessor keep 32 KiB under way, which its share of the bandwidth takes."""
    g = tn.Graph("norm")
    g.output(y=tn.layer_norm(g.input("x", (4096, 1024), dtype=dtype)))
    (report,) = compile_program(gradient_programs(g)[1], 90)
    before = sections(report.instructions)[0]
    assert 2 * before.bytes_in_flight * 32 * report.num_warps >= 32 * 1024
    assert any(i.name == "LDGSTS" for i in report.instructions) and not report.spills
