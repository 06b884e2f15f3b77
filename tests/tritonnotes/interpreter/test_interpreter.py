"""The strict interpreter notices each class of planted bug, accepts correct kernels, and restores Triton."""

from __future__ import annotations

import os
import subprocess
import sys

import kernels_for_interpreter as kernels
import numpy as np
import pytest
import torch
import triton.language as tl
from counted_work import lines_run
from paths import ROOT, SHARED
from triton.runtime.jit import JITFunction

from tritonnotes import native
from tritonnotes.codegen.target.compile import compile_kernel
from tritonnotes.interpreter import launch
from tritonnotes.interpreter.memory import Access, Memory
from tritonnotes.ir.core.errors import KernelError

LAYER_NORM = {
    "x_ptr": "*fp32",
    "weight_ptr": "*fp32",
    "y_ptr": "*fp32",
    "mean_ptr": "*fp32",
    "cols": "i32",
    "eps": "fp32",
}


def run_layer_norm(rows: int, cols: int, dtype: torch.dtype = torch.float32, strict: bool = True) -> None:
    x, weight = torch.randn(rows, cols, dtype=dtype), torch.randn(cols)
    y, mean = torch.empty_like(x), torch.empty(rows)
    block = max(2, 1 << (cols - 1).bit_length())
    launch(kernels.layer_norm, (rows,), x, weight, y, mean, cols, 1e-5, BLOCK=block, strict=strict)
    expected = torch.nn.functional.layer_norm(x.double(), (cols,), weight.double())
    torch.testing.assert_close(y.double(), expected, atol=2e-6 if dtype == torch.float32 else 0.02, rtol=1e-2)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cols", [1, 7, 64, 513])
def test_correct_kernel_passes(cols: int, dtype: torch.dtype, strict: bool) -> None:
    run_layer_norm(3, cols, dtype, strict)


def test_empty_grid_runs_nothing() -> None:
    y = torch.full((4,), 3.0)
    for grid in ((0,), (2, 0), (1, 1, 0)):
        launch(kernels.all_write_the_same, grid, y, BLOCK=4)
    assert (y == 3).all()


# Planted bugs

x5, y5, y8 = (lambda: torch.zeros(5)), (lambda: torch.zeros(5)), (lambda: torch.zeros(8))
PLANTED = {
    "load out of bounds": (
        kernels.load_without_mask,
        (2,),
        lambda: (x5(), y5(), 5, 4),
        ["load_without_mask", "(1, 0, 0)", "out-of-bounds load of 3 lanes", "5 to 7 of x_ptr", "[0, 5)"],
    ),
    "store out of bounds": (
        kernels.store_without_mask,
        (2,),
        lambda: (x5(), y5(), 5, 4),
        ["store_without_mask", "(1, 0, 0)", "out-of-bounds store of 3 lanes", "5 to 7 of y_ptr"],
    ),
    "atomic out of bounds": (
        kernels.atomic_past_the_end,
        (1,),
        lambda: (x5(), 5, 8),
        ["out-of-bounds atomic of 1 lanes", "5 to 5 of x_ptr"],
    ),
    "negative offset": (
        kernels.negative_offset,
        (1,),
        lambda: (y8(), y8(), 8),
        ["out-of-bounds load of 1 lanes", "-1 to -1 of x_ptr"],
    ),
    "empty tensor": (
        kernels.load_without_mask,
        (1,),
        lambda: (torch.zeros(0), torch.zeros(0), 0, 4),
        ["out-of-bounds load of 4 lanes", "x_ptr", "[0, 0)"],
    ),
    "misaligned": (
        kernels.misaligned,
        (1,),
        lambda: (y8(), y8(), 4),
        ["misaligned load of 4 lanes of x_ptr", "byte offset 2"],
    ),
    "lanes collide": (
        kernels.lanes_collide,
        (1,),
        lambda: (y8(), 8),
        ["lanes of one program store to one address of y_ptr", "offset 0"],
    ),
    "poisoned index": (
        kernels.gather_with_poisoned_index,
        (1,),
        lambda: (torch.arange(5), x5(), y8(), 5, 8),
        ["out-of-bounds load of 3 lanes"],
    ),
    "gap of a strided tensor": (
        kernels.contiguous_copy,
        (1,),
        lambda: (torch.zeros(2, 8)[:, :4], y8(), 8, 8),
        ["load of 4 lanes between the elements of x_ptr", "element offset 4"],
    ),
    "two programs write": (
        kernels.all_write_the_same,
        (2,),
        lambda: (y8(), 8),
        ["data race on 8 lanes of y_ptr", "program (1, 0, 0)", "store of program (0, 0, 0)"],
    ),
    "read after another's write": (
        kernels.read_the_neighbour,
        (3,),
        lambda: (torch.zeros(12), 4, 4),
        [
            "data race on 4 lanes of x_ptr",
            "offset 0",
            "program (1, 0, 0)",
            "this load",
            "store of program (0, 0, 0)",
        ],
    ),
    "write after another's read": (
        kernels.read_the_right_neighbour,
        (3,),
        lambda: (torch.zeros(12), 4),
        ["data race on 4 lanes of x_ptr", "program (1, 0, 0)", "this store", "load of program (0, 0, 0)"],
    ),
    "read of another's partial": (
        kernels.last_program_sums_without_asking,
        (4,),
        lambda: (torch.ones(16), torch.zeros(4), torch.zeros(1), 16, 4, 4),
        ["data race on 3 lanes of partial_ptr", "program (3, 0, 0)", "store of program (0, 0, 0)"],
    ),
    "counter before the store": (
        kernels.counts_before_it_stores,
        (4,),
        lambda: (torch.zeros(4), torch.zeros(1, dtype=torch.int32), torch.zeros(1), 4),
        ["data race on 3 lanes of partial_ptr", "program (3, 0, 0)"],
    ),
    "relaxed counter": (
        kernels.last_arriver_sums,
        (4,),
        lambda: (
            torch.ones(16),
            torch.zeros(4),
            torch.zeros(1, dtype=torch.int32),
            torch.zeros(1),
            16,
            4,
            4,
            "relaxed",
        ),
        ["data race on 3 lanes of partial_ptr"],
    ),
    "plain read of an atomic": (
        kernels.read_what_others_add_to,
        (2,),
        lambda: (torch.zeros(1, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)),
        ["data race on 1 lanes of count_ptr", "this atomic", "load of program (0, 0, 0)"],
    ),
    "failed assertion": (
        kernels.asserts,
        (1,),
        lambda: (torch.zeros(1),),
        ["asserts", "AssertionError", "x must be positive"],
    ),
    "bfloat16 arithmetic": (
        kernels.bfloat16_arithmetic,
        (1,),
        lambda: (torch.ones(8).bfloat16(), torch.ones(8).bfloat16(), 8),
        ["bfloat16_arithmetic", "`add` on bfloat16", "cast to float32"],
    ),
    "bfloat16 reduction": (
        kernels.bfloat16_sum,
        (1,),
        lambda: (torch.ones(8).bfloat16(), torch.ones(1).bfloat16(), 8),
        ["a reduction on bfloat16"],
    ),
    "chained comparison": (
        kernels.chained_comparison,
        (1,),
        lambda: (torch.zeros(1), 2),
        ["chained_comparison", "0 < n < 3"],
    ),
    "error of Triton": (
        kernels.raises,
        (1,),
        lambda: (torch.zeros(1),),
        ["kernel raises", "program (0, 0, 0) (kernels_for_interpreter.py, line"],
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_noticed_and_named(bug: str) -> None:
    kernel, grid, arguments, words = PLANTED[bug]
    with pytest.raises(KernelError) as caught:
        launch(kernel, grid, *arguments())
    for word in words:
        assert word in str(caught.value)


def test_masked_lanes_without_other_poison_the_result() -> None:
    total = torch.zeros(1)
    launch(kernels.sum_without_other, (1,), torch.ones(5), total, 5, 8)
    assert total.isnan()
    launch(kernels.sum_without_other, (1,), torch.ones(8), total, 8, 8)
    assert total == 8


@pytest.mark.parametrize("block", [1, 8])
def test_masked_lanes_take_what_the_load_names(block: int) -> None:
    total = torch.ones(1)
    launch(kernels.sum_with_other, (1,), torch.ones(0), total, 0, block)
    assert total == 0


def test_access_is_held_against_the_tensor_it_was_derived_from() -> None:
    # Both tensors lie in one storage: four lanes too many of x are in bounds of y.
    both = torch.zeros(16)
    with pytest.raises(KernelError, match="out-of-bounds load of 4 lanes .* 4 to 7 of x_ptr"):
        launch(kernels.load_without_mask, (1,), both[0:4], both[4:12], 8, 8)


def test_an_address_from_a_table_is_held_against_the_last_tensor_to_start_before_it() -> None:
    memory = torch.zeros(96, dtype=torch.uint8)
    places = [(0, 40), (8, 16), (8, 12), (20, 30), (24, 25), (50, 50), (60, 70), (64, 80)]
    named = [(f"[{start}:{stop}]", memory[start:stop]) for start, stop in places]
    seen = Memory(named, 1)
    for place in range(90):
        holding = [p for p in places if p[0] <= place < p[1]]
        lanes = np.uint64(memory.data_ptr() + place) + np.arange(96, dtype=np.uint64)
        wanted = "of [{}:{}],".format(*max(holding)) if holding else "in no tensor of the launch"
        with pytest.raises(KernelError) as error:
            seen.check(lanes, None, 1, Access.LOAD)
        assert wanted in str(error.value), place
        if holding:
            seen.check(lanes[:1], None, 1, Access.LOAD)


def test_tensors_behind_a_pointer_table_must_be_given() -> None:
    targets = [torch.zeros(3), torch.zeros(6)]
    table = torch.tensor([t.data_ptr() for t in targets])
    sizes = torch.tensor([3, 6], dtype=torch.int32)
    launch(kernels.through_a_table, (2,), table, sizes, BLOCK=8, tensors=targets)
    assert all((t == 1).all() for t in targets)
    with pytest.raises(KernelError, match="in no tensor of the launch"):
        launch(kernels.through_a_table, (2,), table, sizes, BLOCK=8)
    with pytest.raises(KernelError, match=r"1 lanes at element offsets 6 to 6 of tensors\[1\]"):
        launch(
            kernels.through_a_table,
            (2,),
            table,
            sizes + torch.tensor([0, 1]),
            BLOCK=8,
            tensors=targets,
        )


# Programs that are ordered


def test_last_arriver_may_read_what_the_others_stored() -> None:
    counter, total = torch.zeros(1, dtype=torch.int32), torch.zeros(1)
    args = (torch.arange(50.0), torch.zeros(13), counter, total, 50, 4, 16, "acq_rel")
    launch(kernels.last_arriver_sums, (13,), *args)
    assert total == 50 * 49 / 2
    assert counter == 0


@pytest.mark.parametrize(("programs", "races"), [(3, False), (4, True)])
def test_write_is_ordered_after_every_reader_or_races(programs: int, races: bool) -> None:
    args = (torch.zeros(1), torch.zeros(1, dtype=torch.int32))
    if not races:
        launch(kernels.shared_input_overwritten, (programs,), *args, GROUP=3)
        return
    with pytest.raises(KernelError, match="data race on 1 lanes of x_ptr"):
        launch(kernels.shared_input_overwritten, (programs,), *args, GROUP=3)


def test_atomics_do_not_race_among_themselves() -> None:
    x = torch.randint(0, 5, (100,))
    counts = torch.zeros(5, dtype=torch.int32)
    launch(kernels.histogram, (4,), x, counts, 100, 32)
    assert counts.tolist() == torch.bincount(x, minlength=5).tolist()


def test_inputs_may_overlap_and_be_read_by_all() -> None:
    x, y, mean = torch.randn(5, 16), torch.empty(5, 16), torch.empty(5)
    launch(kernels.layer_norm, (5,), x, x[2], y, mean, 16, 1e-5, BLOCK=16)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (16,), x[2]), atol=1e-5, rtol=1e-5)


def test_output_that_overlaps_an_input_races() -> None:
    both = torch.randn(24)
    with pytest.raises(KernelError, match="program .1, 0, 0.*data race on 8 lanes of x_ptr"):
        launch(kernels.contiguous_copy, (2,), both[:16], both[8:], 16, 8)


def test_race_detection_takes_no_line_of_python_for_an_element() -> None:
    def lines(size: int) -> int:
        x, y = torch.randn(size), torch.empty(size)
        launch(kernels.contiguous_copy, (1,), x[:64], y[:64], 64, 64)
        ran = lines_run(lambda: launch(kernels.contiguous_copy, (16,), x, y, size, size // 16))
        assert torch.equal(x, y)
        return ran

    assert lines(1 << 20) < 1.1 * lines(1 << 10)


# bfloat16


def bit_patterns() -> torch.Tensor:
    """Every bfloat16 with a random tail, every tie, and every NaN payload that could round to infinity."""
    generator = torch.Generator().manual_seed(0)
    high = torch.arange(1 << 16, dtype=torch.int64) << 16
    tails = torch.randint(0, 1 << 16, (1 << 16,), generator=generator)
    bits = torch.cat([high | tails, high | 0x8000, high | 0x7FFF, high | 0xFFFF, high])
    return bits.to(torch.uint32).view(torch.float32)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(actual.isnan(), expected.isnan())
    number = ~expected.isnan()
    assert torch.equal(actual[number].view(torch.int16), expected[number].view(torch.int16))


def test_casts_to_bfloat16_equal_torch_bit_for_bit() -> None:
    x = bit_patterns()
    y = torch.empty_like(x, dtype=torch.bfloat16)
    launch(kernels.cast_through_bfloat16, (5,), x, y, x.numel(), 1 << 16, strict=False)
    assert_same_bits(y, x.bfloat16())
    widened = torch.empty_like(x)
    launch(kernels.cast_through_bfloat16, (5,), y, widened, x.numel(), 1 << 16, strict=False)
    assert torch.equal(widened.nan_to_num(), x.bfloat16().float().nan_to_num())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]
)
def test_casts_between_bfloat16_and_others_go_through_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(4096, dtype=torch.float64) * 1000).to(dtype)
    y = torch.empty(4096, dtype=torch.bfloat16)
    launch(kernels.cast_through_bfloat16, (1,), x, y, 4096, 4096)
    assert_same_bits(y, x.float().bfloat16())
    back = torch.empty_like(x)
    launch(kernels.cast_through_bfloat16, (1,), y, back, 4096, 4096)
    in_range = y.float().abs() < 100  # a float beyond an integer type's range has no defined value
    assert torch.equal(back[in_range], y.float().to(dtype)[in_range])


def test_cast_toward_zero_cuts_off() -> None:
    x = torch.tensor([1.0 + 2**-8 + 2**-20, -1.0 - 2**-8 - 2**-20, float("inf"), float("nan")])
    y = torch.empty(4, dtype=torch.bfloat16)
    launch(kernels.cast_to_zero, (1,), x, y, 4)
    assert y[:3].tolist() == [1.0, -1.0, float("inf")]
    assert y[3].isnan()


def test_dot_of_bfloat16_multiplies_values() -> None:
    x, y = torch.randn(16, 16).bfloat16(), torch.empty(16, 16)
    launch(kernels.attention_weights, (1,), x, y, 16)
    torch.testing.assert_close(y, x.float() @ x.float().T)


# Meaning


def test_maximum_and_minimum_drop_nan_unless_told_otherwise() -> None:
    nan = float("nan")
    x, y = torch.tensor([nan, 2.0, -2.0, 0.5]), torch.empty(5, 4)
    launch(kernels.nan_rules, (1,), x, y, 4)
    expected = [[0, 2, 0, 0.5], [nan, 2, 0, 0.5], [0, 0, -2, 0], [-1, 1, -1, 0.5], [nan, 1, -1, 0.5]]
    assert torch.equal(y.isnan(), torch.tensor(expected).isnan())
    assert torch.equal(y.nan_to_num(7), torch.tensor(expected).nan_to_num(7))


def test_reductions_skip_nan() -> None:
    nan, y = float("nan"), torch.empty(4)
    launch(kernels.nan_reductions, (1,), torch.tensor([nan, 1.0, -2.0, nan]), y, 4)
    assert y.tolist() == [1.0, -2.0, 1.0, 2.0]
    launch(kernels.nan_reductions, (1,), torch.full((4,), nan), y, 4)
    assert y[:2].isnan().all()


def test_combine_function_of_the_kernel_reduces_tuples() -> None:
    x, y = torch.randn(4, 32), torch.empty(4)
    launch(kernels.variance_by_combination, (1,), x, y, 4, 32)
    torch.testing.assert_close(y, x.var(dim=1, correction=0))


def test_python_forms_mean_what_the_jit_makes_of_them() -> None:
    y = torch.empty(8)
    launch(kernels.python_forms, (1,), y, 5, 8)
    total = (0 + 2 + 4) + (0 + 1 + 2) + (0 + 1)
    torch.testing.assert_close(y, torch.tensor([total] * 2 + [-1] * 2 + [total] * 4) + 1e-5)


@pytest.mark.parametrize("number", [0, -1, 2**31, -(2**40), 2**63 + 2**20])
def test_arguments_arrive_as_the_jit_passes_them(number: int) -> None:
    y = torch.zeros(5, dtype=torch.float64)
    launch(kernels.arguments, (1,), y, number, 0.999, True, nothing=None, WORD="word", num_warps=4)
    real = np.float32(0.999)
    assert y.tolist() == [float(number), float(real), 1.0, float(np.float32(1) - real), 2.0]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing arguments y_ptr"),
        ((torch.zeros(8),), {"BLOCK": 8, "block": 8}, "no argument block"),
        ((torch.zeros(8), 8), {"BLOCK": 8}, "given twice"),
        ((torch.zeros(8), 8, 8), {}, "takes 2 arguments"),
        ((np.zeros(8), 8), {}, "argument y_ptr is a ndarray"),
        ((torch.zeros(8, device="meta"), 8), {}, "y_ptr is on meta"),
    ],
)
def test_wrong_arguments_are_refused(args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        launch(kernels.all_write_the_same, (1,), *args, **kwargs)


def test_a_grid_may_be_a_function_of_the_arguments() -> None:
    """As `native.launch` takes it."""
    x, y = torch.arange(40.0), torch.zeros(40)
    for run in (launch, native.launch):
        run(kernels.contiguous_copy, lambda given: (-(-given["n"] // given["BLOCK"]),), x, y.zero_(), 40, BLOCK=16)
        assert torch.equal(x, y)


def test_wrong_grid_and_wrong_kernel_are_refused() -> None:
    for grid in ((1, 1, 1, 1), (-1,)):
        with pytest.raises(KernelError, match="a grid has up to three sizes"):
            launch(kernels.all_write_the_same, grid, torch.zeros(8), 8)
    with pytest.raises(KernelError, match="triton.jit function is wanted"):
        launch(lambda y: y, (1,), torch.zeros(8))  # type: ignore[arg-type]


# Triton as it was


def state_of_triton() -> dict[tuple[str, str], object]:
    owners = (tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype, tl.block_type, JITFunction)
    return {(owner.__name__, name): value for owner in owners for name, value in vars(owner).items()}


def test_everything_is_restored_also_after_errors() -> None:
    run_layer_norm(2, 7)
    before = state_of_triton()
    with pytest.raises(KernelError):
        launch(kernels.raises, (1,), torch.zeros(1))
    run_layer_norm(2, 7)
    after = state_of_triton()
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] is not after[key]] == []
    assert not hasattr(kernels, "interpreter_semantic")


def test_compiles_ahead_of_time_before_and_after_interpreting() -> None:
    def compiled() -> str:
        return compile_kernel(kernels.layer_norm, LAYER_NORM, {"BLOCK": 128}, arch=80).ptx

    before = compiled()
    run_layer_norm(2, 7)
    with pytest.raises(KernelError):
        launch(kernels.raises, (1,), torch.zeros(1))
    kernels.layer_norm.hash = None  # as in a fresh process
    assert compiled() == before
    run_layer_norm(2, 7)


COMPILER_IMPORTED_IN_A_LAUNCH = """
import triton.language as tl
from tritonnotes.interpreter.patches import redirected
least = tl.core.builtin_min
with redirected:
    assert tl.core.builtin_min is not least
    from triton.compiler.code_generator import CodeGenerator
assert CodeGenerator.builtin_namespace["min"] is least
"""


def test_compiler_keeps_its_own_functions_also_when_a_launch_imports_it() -> None:
    # In a fresh process: it is the first import that copies them.
    done = subprocess.run([sys.executable, "-c", COMPILER_IMPORTED_IN_A_LAUNCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_launch_stays_cheap() -> None:
    args = (torch.randn(1, 200), torch.randn(200), torch.empty(1, 200), torch.empty(1), 200, 1e-5)
    for strict, limit in ((False, 7500), (True, 8000)):

        def once(strict: bool = strict) -> None:
            launch(kernels.layer_norm, (1,), *args, BLOCK=256, strict=strict)

        once()
        ran = lines_run(once)
        assert ran < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dot_has_the_same_bits_for_a_row_alone(dtype: torch.dtype) -> None:
    """A row of a product depends neither on the rows beside it nor on their number: kind 11."""
    torch.manual_seed(0)
    a, b = torch.randn(32, 64).to(dtype), torch.randn(64, 32).to(dtype)
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    out, alone = torch.empty(32, 32, dtype=kept), torch.empty(32, 32, dtype=kept)
    launch(kernels.dot, (1,), a, b, out, M=32, K=64, N=32)
    for rows in range(0, 32, 16):
        launch(kernels.dot, (1,), a[rows : rows + 16], b, alone[rows : rows + 16], M=16, K=64, N=32)
    assert torch.equal(out, alone)
    exact = a.double() @ b.double()
    assert (out.double() - exact).abs().max() <= torch.finfo(kept).eps * 64 * (
        a.double().abs() @ b.double().abs()
    ).max()


def test_dot_asks_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a BLAS adds up in its own order differs between processors."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a product of numpy's BLAS")

    monkeypatch.setattr(np, "matmul", refuse)
    monkeypatch.setattr(np, "dot", refuse)
    a, b, out = torch.randn(16, 32), torch.randn(32, 16), torch.empty(16, 16)
    launch(kernels.dot, (1,), a, b, out, M=16, K=32, N=16)
    torch.testing.assert_close(out, a @ b)


@pytest.mark.slow
def test_dot_has_the_same_bits_whatever_library_numpy_has_and_with_any_number_of_threads() -> None:
    script = """
import sys; sys.path[:0] = sys.argv[1:]
import hashlib, torch
import kernels_for_interpreter as kernels
from tritonnotes.interpreter import launch
torch.manual_seed(0)
a, b, out = torch.randn(64, 128), torch.randn(128, 64), torch.empty(64, 64)
launch(kernels.dot, (1,), a, b, out, M=64, K=128, N=64)
print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""
    found = set()
    for core, threads in (("Haswell", "1"), ("SkylakeX", "4"), ("Zen", "4")):
        environment = {**os.environ, "OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads}
        environment |= {"OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", script, str(ROOT), str(SHARED)]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(found) == 1
