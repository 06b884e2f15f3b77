"""Kernel reports: what is read from machine code, what follows from it by the hardware's rules, and what is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import triton
from compiled import digits, gradient_programs
from paths import JUDGES

import tritonnotes as tn
from tritonnotes.cli.commands import main
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.compile import compile_program, divisible_by_16
from tritonnotes.codegen.report.accesses import UNEXPLAINED
from tritonnotes.codegen.report.kernel_reports import INSTRUCTIONS, KernelReport, make_reports
from tritonnotes.codegen.support.sizes import Sizes
from tritonnotes.codegen.target.gpus import B200, GPUS, H100, RESERVED_SHARED, occupancy
from tritonnotes.codegen.target.rates import ARRIVAL_SECONDS, COPY_SHARE, LAUNCH_SECONDS, LOAD_LATENCY
from tritonnotes.codegen.target.sass import LOADS, instructions, mix, widths
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose

BATCH = tn.Dim("batch")
NVIDIA = JUDGES / "occupancy.txt"


def reports_of(build, *shape, dtype: str = "float32", arch: int = 90, batch: int = 256) -> tuple[KernelReport, ...]:
    """The reports of one op's forward run."""
    g = Graph("report")
    g.output(y=build(g.input("x", shape, dtype=dtype)))
    return make_reports(make_program(optimize(decompose(g))), arch, Sizes(batch))


def reasons(reports: tuple[KernelReport, ...]) -> dict[str, str]:
    return {a.argument: a.reason for c in reports for a in c.accesses}


# -- occupancy ---------------------------------------------------------------------------------------------------------


def test_occupancy_is_what_nvidias_own_calculator_says() -> None:
    rows = [line.split() for line in NVIDIA.read_text().splitlines() if not line.startswith("#")]
    assert len(rows) > 300 and {row[0] for row in rows} == {"80", "90", "100"}
    for arch, warps, registers, shared, programs, limiters in rows:
        found = occupancy(GPUS[int(arch)], int(warps), int(registers), int(shared) + RESERVED_SHARED)
        known = set(found.limiter.replace("shared memory", "shared").split(" and "))
        assert (found.programs, known) == (int(programs), set(limiters.split("+"))), (arch, warps, registers, shared)
        assert found.share == int(programs) * int(warps) / 64


def test_every_figure_of_a_gpu_has_a_source() -> None:
    for gpu in GPUS.values():
        named = {name for names in gpu.sources for name in names.split(", ")}
        assert named == {
            "multiprocessors",
            "bandwidth",
            "instructions",
            "warps",
            "programs",
            "registers",
            "shared_bytes",
        }
        assert all(gpu.sources.values())


def test_what_the_hardware_reserves_counts_once_on_every_architecture() -> None:
    shared = {arch: reports_of(lambda x: tn.softmax(x, -1), BATCH, 4096, arch=arch)[0].shared_bytes for arch in GPUS}
    assert len(set(shared.values())) == 1 and shared[90] > RESERVED_SHARED


# -- machine code ------------------------------------------------------------------------------------------------------

SASS = """
\t//## File "/cache/generated.py", line 7
        /*0000*/                   LDC R1, c[0x0][0x28] ;                        /* 0x00000a00ff017b82 */
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
\t//## File "/library/standard.py", line 263
        /*0020*/                   FADD R7, R4, R5 ;
        /*0030*/             @!UP1 USHF.L.U32 UR4, UR4, 0x3, URZ ;
        /*0040*/                   MUFU.EX2 R8, R7 ;
\t//## File "/cache/generated.py", line 9
        /*0050*/               @P1 LDG.E.U16 R9, desc[UR4][R2.64] ;
        /*0060*/                   STL [R1], R9 ;
        /*0070*/                   STG.E desc[UR4][R2.64], R8 ;
        /*0080*/                   EXIT ;
.L_x_0:
        /*0090*/                   BRA `(.L_x_0);
        /*00a0*/                   NOP;
"""


def test_instructions_have_width_kind_and_line() -> None:
    code = list(instructions(SASS))
    assert [i.name for i in code] == ["LDC", "LDG", "FADD", "USHF", "MUFU", "LDG", "STL", "STG", "EXIT"]
    assert [(i.file, i.line) for i in code[1:3]] == [("/cache/generated.py", 7), ("/library/standard.py", 263)]
    assert widths(code, LOADS) == {128: 1, 16: 1} and widths(code, ("STG",)) == {32: 1}
    assert mix(code) == {"global load": 2, "constant": 1, "float": 1, "integer": 1, "special function": 1, "spill": 1,
                         "global store": 1, "control": 1}  # fmt: skip


def test_every_access_in_the_code_is_on_the_card() -> None:
    for program in gradient_programs(digits()):
        for report, compiled in zip(make_reports(program), compile_program(program, 90), strict=True):
            for stores, found in ((False, compiled.load_widths), (True, compiled.store_widths)):
                told = [a.widths for a in report.accesses if a.is_store == stores]
                assert {b: sum(w.get(b, 0) for w in told) for b in found} == dict(found)
            assert sum(report.mix.values()) == len(compiled.instructions)
            assert not [a for a in report.accesses if a.reason == UNEXPLAINED], report.name


# -- alignment, and why an access is narrow ----------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "width"), [(256, 128), (250, 32)])
def test_sizes_are_taken_for_multiples_of_16_where_they_are(batch: int, width: int) -> None:
    (report,) = reports_of(tn.gelu, BATCH, 3, batch=batch)
    assert ("elements" in report.aligned) == (width == 128)
    assert all(min(a.widths) == width for a in report.accesses)
    told = "" if width == 128 else "length 750 is not divisible by 16"
    assert set(reasons((report,)).values()) == {told}


def test_pointers_are_aligned_and_the_number_of_programs_is_not_known() -> None:
    g = Graph("sum")
    g.output(y=g.input("x", (BATCH, 64)).sum(0))
    for source in make_program(optimize(decompose(g))).kernel_sources:
        known = divisible_by_16(source)
        assert {n for n, kind in source.signature.items() if kind.startswith("*")} <= set(known)
        assert "programs" not in known


WHY = [
    (lambda x: tn.softmax(x, -1), (BATCH, 769), "float32", "x", "row length 769 is not divisible by 4"),
    (lambda x: tn.softmax(x, -1), (BATCH, 772), "bfloat16", "x", "row length 772 is not divisible by 8"),
    (lambda x: tn.softmax(x, -1), (BATCH, 772), "float32", "x", ""),
    (lambda x: tn.relu(x[:, 2:34]), (BATCH, 64), "float32", "x", "begins at element 2, not divisible by 4"),
    (lambda x: tn.relu(x[:, 4:36]), (BATCH, 64), "float32", "x", ""),
    (lambda x: x.sum(-1), (BATCH, 1024), "float32", "sum_value", "one element per row, 2 rows per program"),
    (lambda x: x.sum(), (8, 8), "float32", "sum_value", "one element"),
]


@pytest.mark.parametrize(("build", "shape", "dtype", "argument", "reason"), WHY)
def test_a_narrow_access_says_why(build, shape, dtype: str, argument: str, reason: str) -> None:
    reports = reports_of(build, *shape, dtype=dtype)
    assert reasons(reports)[argument] == reason
    narrow = [a for c in reports for a in c.accesses if a.argument == argument and not a.is_wide]
    assert bool(narrow) == bool(reason)


def test_a_number_that_neighbours_share_and_one_that_lies_apart_say_so() -> None:
    g = Graph("channels")
    x, scale = g.input("x", (16, 8, 400)), g.input("scale", (1, 8, 1))
    g.output(y=x * scale)
    assert reasons(make_reports(make_program(optimize(decompose(g)))))["scale"] == "400 neighbours share one element"
    g = Graph("transposed")
    a, b = g.input("a", (512, 512)), g.input("b", (512, 512))
    g.output(y=a + b.transpose(0, 1))
    assert reasons(make_reports(make_program(optimize(decompose(g)))))["b"] == "neighbours lie 512 elements apart"


def test_programs_with_scattered_operands_get_twice_the_warps_and_do_not_spill() -> None:
    """Group norm reads weight and bias by the channel of each element, which stands in no order along a row."""
    (plain,) = reports_of(tn.layer_norm, BATCH, 600, dtype="float16", arch=100)
    (scattered,) = reports_of(lambda x: tn.group_norm(x, 2), BATCH, 6, 200, dtype="float16", arch=100)
    assert (plain.num_warps, scattered.num_warps) == (4, 8)
    assert not plain.spilled_bytes and not scattered.spilled_bytes


# -- bytes, operations, time -------------------------------------------------------------------------------------------


def test_a_large_copy_takes_its_bytes_at_the_bandwidth_of_a_copy() -> None:
    (report,) = reports_of(tn.abs, 2**13, 2**11, arch=100)
    bytes_moved = 2 * 4 * 2**24
    assert (report.traffic.read + report.traffic.written, report.operations) == (bytes_moved, 2**24)
    assert (report.gpu, report.bound, report.intensity) == (B200, "memory", 1 / 8)
    assert math.isclose(report.seconds, LAUNCH_SECONDS + bytes_moved / (COPY_SHARE * 8e12))
    assert math.isclose(report.copy_share, 1 - LAUNCH_SECONDS / report.seconds)


def test_a_small_launch_takes_no_less_than_a_launch_and_few_programs_draw_less() -> None:
    (small,) = reports_of(tn.relu, 4, 4)
    assert (small.bound, small.seconds, small.programs) == ("launch", LAUNCH_SECONDS + LOAD_LATENCY, 1)
    (few,) = reports_of(lambda x: tn.softmax(x, -1), 40, 2**15)
    assert few.programs == 40 and few.bound == "memory"
    moved = few.traffic.read + few.traffic.written
    assert math.isclose(
        few.seconds, LAUNCH_SECONDS + moved / min(COPY_SHARE * H100.bandwidth, 40 * 2**17 / LOAD_LATENCY)
    )


def test_few_bytes_on_their_way_draw_less_than_all_of_the_bandwidth() -> None:
    """As many bytes in the time of a load as programs can ask for in it, and no more."""
    (few,) = reports_of(lambda x: tn.softmax(x, -1), 4, 2**13)
    moved = few.traffic.read + few.traffic.written
    assert few.programs == 4 and few.programs * few.bytes_in_flight / LOAD_LATENCY < COPY_SHARE * H100.bandwidth
    assert math.isclose(few.seconds - LAUNCH_SECONDS, moved * LOAD_LATENCY / (few.programs * few.bytes_in_flight))


def test_finishing_in_a_last_program_is_charged() -> None:
    """Two counts of arrivals and their loads; more sums than can be on their way at once take longer."""
    few, many = (make_reports(gradient_programs(norm_of(columns))[1])[0] for columns in (256, 8192))
    assert 2 * ARRIVAL_SECONDS < few.finishing < many.finishing < many.seconds
    (plain,) = reports_of(tn.relu, 64, 64)
    assert plain.finishing == 0


def norm_of(columns: int) -> Graph:
    g = Graph("norm")
    g.output(y=tn.layer_norm(g.input("x", (4096, columns))))
    return g


def test_what_a_walk_computes_again_counts_again() -> None:
    held, looped = (reports_of(lambda x: tn.softmax(x, -1), 64, n)[0] for n in (8192, 65536))
    assert looped.traffic.reread and not held.traffic.reread
    assert looped.operations / 65536 > 1.3 * held.operations / 8192


def softmax_of_rows(x):
    return tn.softmax(x, -1)


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(
    ("columns", "dtype", "blocks"),
    [(3000, "float32", 3), (4096, "float32", 4), (5120, "float32", 5), (5120, "bfloat16", 3), (8192, "bfloat16", 4)],
)
def test_a_row_of_awkward_length_is_held_in_sub_blocks(columns: int, dtype: str, blocks: int, arch: int) -> None:
    """A block is what 256 threads move at once, 16 bytes each. The tile is a power of two, but blocks behind the end of
    the row take no instruction: neither a load nor anything that is computed of it."""
    (report,) = reports_of(softmax_of_rows, 4096, columns, dtype=dtype, arch=arch)
    (held,) = (a for a in report.accesses if a.argument == "x")
    assert report.num_warps == 8 and dict(held.widths) == {128: blocks}
    (whole,) = reports_of(softmax_of_rows, 4096, 1 << (columns - 1).bit_length(), dtype=dtype, arch=arch)
    if columns & (columns - 1):
        assert sum(report.mix.values()) < sum(whole.mix.values())


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "expm1", "log1p", "sin", "div", "sqrt", "floor"])
def test_operations_of_a_primitive_are_those_of_the_machine_code(name: str) -> None:
    elements = 8  # of a thread
    primitive = getattr(P, name)
    (plain,) = reports_of(lambda x: P.mul(x, 3.0), 2**20)
    (report,) = reports_of((lambda x: P.div(3.0, x)) if name == "div" else primitive, 2**20)
    taken = 1 + (sum(report.mix.values()) - sum(plain.mix.values())) / elements
    assert taken == pytest.approx(INSTRUCTIONS.get(name, 1), rel=0.3, abs=1)


# -- what a user sees --------------------------------------------------------------------------------------------------


def test_a_model_and_a_step_have_cards() -> None:
    step = tn.compile_step(digits(), "loss", tn.adam(), device="cpu")
    reports = step.reports(arch=80, batch=64)
    assert len(reports) == len(step.plan.kernels) and {c.gpu.arch for c in reports} == {80}
    text = str(reports)
    assert text.startswith("training step of digits: ") and "batch = 64" in text
    for told in ("no spills", "occupancy", "128 bits", "predicted", "multiples of 16", "Predicted times assume"):
        assert told in text
    assert len(step.model.reports(arch=80)) == len(step.model.plan.kernels)
    assert len(step.model.gradient_reports(arch=80)) == len(step.model.gradient_plan.kernels)


def test_a_step_that_is_cut_has_the_cards_of_both_programs() -> None:
    step = tn.compile_step(digits(), "loss", tn.adam(), accumulate=2, device="cpu")
    assert step.gathering is not None
    reports = step.reports(batch=64)
    first, second = reports.parts
    assert [c.name for c in first] == [k.name for k in step.gathering.plan.kernels]
    assert [c.name for c in second] == [k.name for k in step.plan.kernels]
    assert list(reports) == [*first, *second]
    text = str(reports)
    assert text.startswith("training step of digits, gathering gradients (`gathering`): ")
    assert "\n\ntraining step of digits, the last batch and the update (`program`): " in text
    assert list(reports.to_dict()["parts"].values()) == [[c.name for c in part] for part in reports.parts]
    with pytest.raises(DeclarationError, match="has no Dim rows; it has batch"):
        step.reports(rows=3)


def test_cards_refuse_what_they_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tn.compile(digits(), device="cpu")
    with pytest.raises(tn.TritonNotesError, match="no report for sm_75; there are sm_80, sm_90, sm_100"):
        model.reports(arch=75)
    with pytest.raises(tn.TritonNotesError, match="has no Dim rows; it has batch"):
        model.reports(rows=3)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    with pytest.raises(tn.TritonNotesError, match="unset TRITON_INTERPRET"):
        model.reports()


ROW = """
import tritonnotes as tn

def graph():
    g = tn.Graph("norm")
    x = g.input("x", (tn.Dim("batch"), 769))
    g.output(y=tn.layer_norm(x, name="ln"))
    return g
"""


def test_the_command_prints_cards_of_both_runs_for_each_architecture(tmp_path: Path, capsys) -> None:
    (tmp_path / "model.py").write_text(ROW)
    target = f"{tmp_path}/model.py:graph"
    assert main(["report", target, "--gradient", "--arch", "sm_80", "--arch", "100", "--batch", "32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [p["program"] for p in found["programs"]] == ["forward run of norm", "backward run of norm"]
    forward = found["programs"][0]
    assert [k["arch"] for k in forward["kernels"]] == [80, 100] and forward["sizes"] == {"batch": 32}
    assert set(forward["gpus"]) == {"sm_80", "sm_100"}
    (read,) = [a for a in forward["kernels"][0]["accesses"] if a["argument"] == "x"]
    assert read["why_narrow"] == "row length 769 is not divisible by 4"
    assert main(["report", target]) == 0
    text = capsys.readouterr().out
    assert "load of x: " in text and "(row length 769 is not divisible by 4)" in text and "H100" in text


def test_the_command_refuses_another_architecture(capsys) -> None:
    assert main(["report", "model.py:graph", "--arch", "sm_75"]) == 2
    assert "none of sm_80, sm_90, sm_100" in capsys.readouterr().err
