"""Somebody's own kernel before the judges: right ones hold, and each planted bug is found where it lies."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checked_kernels as kernels
import pytest
import torch
import torch.nn.functional as F
from paths import ROOT

import tritonnotes as tn
from tritonnotes import interpreter
from tritonnotes.ir.core.errors import DeclarationError, KernelError
from tritonnotes.kernel_check.cases import drawn_again, layout_cases, shape_cases, value_cases
from tritonnotes.kernel_check.result import FAILS, OK, REFUSED
from tritonnotes.kernel_check.running import copied, same_bits


def softmax(x):
    return torch.softmax(x, -1)


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def failing(certificate: tn.KernelCertificate) -> list[str]:
    return [case.name for case in certificate.failing]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_right_kernel_holds(dtype: torch.dtype) -> None:
    certificate = tn.check(kernels.softmax, softmax, rows(3, 20, dtype=dtype))
    assert certificate.ok, certificate
    assert {case.name for case in certificate.cases} >= {
        "tensors given",
        "size 20 as 7",
        "size 3 as 0",
        "a NaN in argument 0",
    }
    assert certificate.looks >= 10 and certificate.runs == 7
    (refused,) = [case for case in certificate.cases if case.verdict == REFUSED]
    assert refused.name == "size 20 as 0" and refused.reason.startswith("CompilationError: arange's end argument")
    assert str(certificate).endswith("plus two units in the last place") and repr(certificate).endswith(", OK)")


def test_a_kernel_that_writes_in_its_arguments_holds() -> None:
    x, y = rows(70), rows(70) + 1
    before = x.clone()
    certificate = tn.check(kernels.add_in_place, kernels.add_in_place_reference, x, y)
    assert certificate.ok, certificate
    assert torch.equal(x, before), "what the caller holds stays as it is"
    assert list(certificate.cases[0].comparisons) == ["argument 0"]


IN_PLACE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "neither returns": (kernels.relu_in_place, kernels.relu_in_place_reference),
    "the reference returns": (kernels.relu_in_place, torch.relu),
    "the reference writes and returns": (kernels.relu_in_place, lambda x: x.relu_()),
    "both write and return": (kernels.relu_in_place_returned, lambda x: x.relu_()),
    "the kernel writes and returns, the reference returns": (kernels.relu_in_place_returned, torch.relu),
    "the kernel returns, the reference writes": (lambda x: kernels.relu_in_place_returned(x.clone()), torch.relu_),
}


@pytest.mark.parametrize("x", [rows(70), rows(70).abs(), torch.zeros(70)], ids=["mixed", "positive", "zeros"])
@pytest.mark.parametrize("how", IN_PLACE)
def test_what_is_written_in_an_argument_is_compared_once(how: str, x: torch.Tensor) -> None:
    """Also where the numbers given happen not to change."""
    kernel, reference = IN_PLACE[how]
    certificate = tn.check(kernel, reference, x)
    assert certificate.ok, certificate
    assert all(len(case.comparisons) == 1 for case in certificate.cases if case.verdict == OK)


@pytest.mark.parametrize("how", IN_PLACE)
def test_a_wrong_number_in_an_argument_is_found(how: str) -> None:
    reference = IN_PLACE[how][1]
    assert failing(tn.check(kernels.relu_in_place_wrong, reference, rows(70), edge_cases=False)) == ["tensors given"]


def test_an_argument_that_the_reference_leaves_alone_must_stay() -> None:
    """Also where only some numbers change it."""

    def spoils(x: torch.Tensor) -> torch.Tensor:
        y = torch.exp(x)
        x[x.isnan()] = 0.0
        return y

    assert failing(tn.check(spoils, torch.exp, rows(70))) == ["a NaN in argument 0"]


PLANTED: dict[str, tuple[Callable[..., Any], Callable[..., Any], torch.Tensor, str, str]] = {
    "a load out of bounds": (
        kernels.double_without_mask, kernels.double, rows(128), "size 128 as 33", "out-of-bounds load"
    ),
    "a race": (kernels.sum_with_a_race, torch.sum, rows(200), "tensors given", "data race"),
    "strides taken for granted": (
        kernels.softmax_of_contiguous_rows, softmax, rows(4, 10), "argument 0 with swapped strides", ""
    ),
    "gaps taken for granted": (
        kernels.softmax_of_contiguous_rows, softmax, rows(4, 10), "argument 0 as part of a larger tensor", "strides"
    ),
    "elements left out": (kernels.double_of_a_half, kernels.double, rows(128), "tensors given", "torch.empty"),
    "elements left out where a right result lay": (
        kernels.double_of_a_half_where_a_result_lay, kernels.double, rows(128), "tensors given", "torch.empty"
    ),
    "NaN lost": (kernels.relu_that_drops_nan, F.relu, rows(70), "a NaN in argument 0", "NaN or inf misplaced"),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_where_it_lies(bug: str) -> None:
    kernel, reference, x, case, said = PLANTED[bug]
    certificate = tn.check(kernel, reference, x)
    assert not certificate.ok and case in failing(certificate), certificate
    assert said in str(certificate)
    assert "FAILS" in repr(certificate) and certificate.to_dict()["ok"] is False


def test_what_is_found_by_one_line_is_one_finding() -> None:
    certificate = tn.check(kernels.double_without_mask, kernels.double, rows(128))
    finding, _ = certificate.findings  # the other one is about strides
    assert finding.startswith("size 128 as 1, float32[1]: kernel double_kernel") and "in 4 more cases" in finding


def test_runs_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CALLS", 0)
    certificate = tn.check(kernels.counts_its_calls, F.relu, rows(70), edge_cases=False)
    assert not certificate.ok and not certificate.failing and not certificate.findings
    assert any("differs from run 1" in difference for difference in certificate.differences)


def test_sizes_that_a_launcher_refuses_are_no_failure() -> None:
    certificate = tn.check(kernels.softmax_of_up_to_16, softmax, rows(3, 10))
    refused = {case.name: case.reason for case in certificate.cases if case.verdict == REFUSED}
    assert certificate.ok and "AssertionError: rows of more than 16 are not covered" in refused["size 10 as 33"]
    with_wide_rows = tn.check(kernels.softmax_of_up_to_16, softmax, rows(3, 20))
    assert failing(with_wide_rows) == ["tensors given"], "what is given must run"


def test_a_jit_kernel_is_checked_on_its_own_arguments() -> None:
    x, y, out = rows(100), rows(100) * 3, torch.empty(100)
    launched = {"grid": (2,), "constexprs": {"BLOCK": 64}}
    certificate = tn.check(kernels.add_kernel, torch.add, x, y, out, 100, **launched)
    assert certificate.ok and list(certificate.cases[0].comparisons) == ["argument 2"], certificate
    certificate = tn.check(kernels.add_kernel, torch.sub, x, y, out, 100, outputs=(2,), **launched)
    assert failing(certificate)[0] == "tensors given"
    by_function = {"grid": lambda meta: (-(-meta["n"] // meta["BLOCK"]),), "constexprs": {"BLOCK": 32}}
    assert tn.check(kernels.add_kernel, torch.add, x, y, out, 100, **by_function).ok
    too_short = tn.check(
        kernels.double_kernel, kernels.double, x, out, grid=(2,), constexprs={"BLOCK": 64}, outputs=(1,)
    )
    assert "out-of-bounds load" in too_short.findings[0]
    with pytest.raises(KernelError, match=r"its first run, .* was stopped: .*name what it writes"):
        tn.check(kernels.double_kernel, kernels.double, x, out, **launched)


LAUNCH = (kernels.add_kernel, torch.add, rows(4), rows(4), rows(4), 4)


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        ((kernels.softmax, softmax), {}, "no tensors are given"),
        ((kernels.softmax, 3, rows(2, 2)), {}, "the reference is 3; pass a function in plain torch"),
        ((4, softmax, rows(2, 2)), {}, "the kernel is 4; pass a function that launches one"),
        ((kernels.softmax, softmax, rows(2, 2)), {"grid": (1,)}, "grid, constexprs and outputs go with a @triton.jit"),
        ((kernels.add_kernel, torch.add, rows(4)), {}, "a @triton.jit kernel needs grid="),
        ((kernels.softmax, lambda x: x @ x, rows(2, 3)), {}, "its reference fails on the tensors given"),
        ((kernels.softmax, lambda x: softmax(x.float()), rows(2, 3)), {}, "given float64, its reference gives torch."),
        ((kernels.softmax, lambda x: "s", rows(2, 3)), {}, "a result is a str"),
        ((lambda x: None, lambda x: None, rows(3)), {}, "nothing is compared: on the tensors given its"),
        ((kernels.softmax, softmax, rows(0, 4)), {}, "gives empty tensors alone; pass tensors that have elements"),
        ((torch.stack, torch.stack, [rows(3), rows(3)]), {}, "argument 0 is a list of tensors; pass them one by one"),
        ((torch.stack, torch.stack, rows(3), {"a": (1, rows(3))}), {}, "argument 1 is a dict of tensors; pass"),
        ((torch.sin, torch.sin, rows(2).cfloat()), {}, "argument 0 is torch.complex64, and complex numbers are not"),
        ((kernels.softmax,), {}, "check of softmax: a kernel alone says nothing; pass a reference and tensors"),
        ((kernels.add_kernel,), {"grid": (1,)}, "check of add_kernel: a kernel alone says nothing"),
        ((rows(2, 3), kernels.softmax, softmax), {}, "tensors are given before the kernel; the order is tn.check"),
        ((kernels.softmax, rows(2, 3), softmax), {}, "a tensor is given in place of the reference; the order is"),
        ((kernels.softmax, softmax, rows(2, 3)), {"edges": 1}, "tn.check of a kernel takes no edges; it takes grid,"),
        ((kernels.softmax, softmax, rows(2, 3)), {"deterministic": 0}, "deterministic is 0; pass True or False"),
        ((torch.nn.Linear(3, 2), rows(2, 3)), {}, "check of Linear: a module and its inputs are given, without a ref"),
        ((torch.nn.Linear(3, 2), rows(2, 3)), {"loss": torch.nn.MSELoss()}, "and tn.check(tn.compile_step(module, x"),
        ((torch.nn.Linear(3, 2),), {"loss": 1}, "wanted a tn.Graph, got Linear; import it with tn.from_torch"),
        ((tn.Graph("g"),), {"grid": (1,)}, "tn.check of a graph takes no grid; it takes sizes"),
        (LAUNCH, {"grid": 2}, "grid is 2; pass a tuple of one to three counts"),
        (LAUNCH, {"grid": ("2",)}, "grid is ('2',); pass a tuple of one to three counts"),
        (LAUNCH, {"grid": (2,), "constexprs": 64}, "constexprs is 64; pass a dict"),
        (LAUNCH, {"grid": (2,)}, "check of add_kernel: BLOCK has no value; pass constexprs={'BLOCK': ...}"),
        (LAUNCH[:-1], {"grid": (2,)}, "check of add_kernel: n has no value; pass it with the arguments behind the"),
        ((*LAUNCH, 64, 5), {"grid": (2,)}, "it takes 5 arguments (x_ptr, y_ptr, out_ptr, n, BLOCK), and 6 are given"),
        (LAUNCH, {"grid": (2,), "constexprs": {"BLOCK": 4, "n": 4}}, "n is given twice, as argument 3 and in const"),
        (LAUNCH, {"grid": (2,), "outputs": 2}, "outputs is 2; pass places of tensors among its arguments"),
        (LAUNCH, {"grid": (2,), "outputs": (7,)}, "outputs is (7,); pass places of tensors"),
        (LAUNCH, {"grid": (2,), "outputs": (3,)}, "outputs is (3,); pass places of tensors"),
        (LAUNCH, {"grid": (2,), "outputs": ()}, "outputs is (); pass places of tensors"),
        ((tn.Graph("g"), softmax, rows(2, 3)), {}, "check of a Graph takes keywords alone, not function"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(given: tuple[Any, ...], how: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(said)):
        tn.check(*given, **how)


def test_a_jit_kernel_that_reads_what_it_writes_needs_a_function_around_it() -> None:
    said = (
        r"it gets the tensors that the kernel does not write \(arguments none, without 0\).*pass a function around it"
    )
    with pytest.raises(DeclarationError, match=said):
        tn.check(kernels.relu_in_place_kernel, torch.relu, rows(60), 60, grid=(1,), constexprs={"BLOCK": 64})


def test_a_tuned_kernel_has_its_own_name() -> None:
    certificate = tn.check(
        kernels.tuned_add_kernel, torch.add, rows(60), rows(60), torch.empty(60), 60, grid=(1,), edge_cases=False
    )
    assert certificate.kernel == "add_kernel", certificate


def test_results_that_cannot_be_compared_fail() -> None:
    others = {
        "the reference gives float32[5]": lambda x: softmax(x)[0],
        "the reference gives float16[2, 5]": lambda x: softmax(x).half(),
        "it gives result, where the reference gives result[0], result[1]": lambda x: (softmax(x), x),
    }
    for said, reference in others.items():
        certificate = tn.check(kernels.softmax, reference, rows(2, 5), edge_cases=False)
        assert certificate.cases[0].verdict == FAILS and said in str(certificate)


def test_long_launches_are_left_out_of_the_strict_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonnotes.kernel_check.check_kernel.MOST_PROGRAMS", 2)
    certificate = tn.check(kernels.softmax, softmax, rows(5, 4), edge_cases=False)
    assert certificate.ok and certificate.looks == 0
    assert "a launch of 5 programs takes the interpreter long" in certificate.left_out[0]


def test_a_function_that_launches_nothing_is_said_to() -> None:
    certificate = tn.check(softmax, softmax, rows(2, 3), edge_cases=False)
    assert certificate.ok and certificate.looks == 0 and "0 of 1 run, 1 launched no program" in str(certificate)


def test_what_nothing_saw_is_not_called_right() -> None:
    """The interpreter refuses bfloat16 arithmetic; an empty grid shows it nothing."""
    certificate = tn.check(kernels.half_in_bfloat16, lambda x: x - x * 0.5, rows(70, dtype=torch.bfloat16))
    said = str(certificate)
    assert certificate.ok and certificate.looks == 0, said
    assert "masked lanes and races: not judged (strict interpreter: 0 of 17 runs, 1 launched no program)" in said
    assert len(certificate.left_out) == 1 and certificate.left_out[0].startswith(
        "strict interpreter on 16 runs (tensors given, ...): kernel half_in_bfloat16_kernel"
    )
    assert "right" not in said and said.endswith("Bounds, masked lanes and races are not judged")
    assert "OK for numbers and bits alone" in said


def test_poison_is_one_finding_that_names_load_and_store() -> None:
    certificate = tn.check(kernels.mean_without_other, torch.mean, rows(70))
    (finding,) = certificate.findings
    first = kernels.mean_without_other_kernel.fn.__code__.co_firstlineno
    assert (
        f"line {first + 4}): store of a masked lane's poison; the load (checked_kernels.py, line {first + 3})"
        in finding
    )
    assert "more cases)" in finding and "masked lanes and races: 1 finding" in str(certificate)


def test_a_store_out_of_bounds_stands_before_the_race_that_it_makes() -> None:
    """Each row's store reaches into the next one; the last one's leaves the tensor."""
    for how in ({}, {"edge_cases": False}):
        certificate = tn.check(kernels.row_copy_without_a_mask, lambda x: x.clone(), rows(5, 20), **how)
        assert len(certificate.findings) == 2, certificate
        bounds, race = certificate.findings
        assert "store out of bounds" in bounds and "data race" in race and "bounds" not in race


def normal(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, (x.shape[1],))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_variance_that_cancels_is_found_by_a_large_mean(dtype: torch.dtype) -> None:
    """E[x²] - E[x]², computed in float32, or in float64 by torch."""
    wrong: Callable[..., Any] = kernels.normalized_by_squares
    right: Callable[..., Any] = kernels.normalized
    if dtype is torch.float64:
        right = normal
        wrong = lambda x: (x - x.mean(1, True)) / ((x * x).mean(1, True) - x.mean(1, True) ** 2 + 1e-5).sqrt()  # noqa: E731
    x = rows(20, 60, dtype=dtype)
    named = {name: made for name, made in value_cases((x,)) if "with a mean" in name}
    ((name, (shifted,)),) = named.items()
    assert shifted.dtype == dtype and float(shifted.double().mean()) > 10 * float(x.double().std())
    assert tn.check(right, normal, shifted, edge_cases=False).ok
    assert failing(tn.check(wrong, normal, shifted, edge_cases=False)) == ["tensors given"], name


def test_a_mean_stays_within_the_dtype() -> None:
    (made,) = [made for name, made in value_cases((rows(9, dtype=torch.float16) * 900,)) if "with a mean" in name]
    assert made[0].isfinite().all()


def test_a_wrong_number_is_shown_with_its_place_and_what_sizes_share() -> None:
    x = rows(4, 60)
    certificate = tn.check(kernels.normalized_with_padding, normal, x)
    at = certificate.cases[0].worst["result"]
    wanted = normal(x.double())
    with interpreter.enabled():
        found = kernels.normalized_with_padding(x)
    flat = int((found - wanted).abs().argmax())
    assert at.index == (flat // 60, flat % 60) and at.expected == float(wanted[at.index])
    assert at.got == pytest.approx(float(found[at.index])) and at.eager == float(normal(x)[at.index])
    assert f"FAILS  at {list(at.index)}: got " in str(certificate)
    assert certificate.pattern == (
        "in every failing case the last axis of argument 0 is no power of two (5, 7, 33, 60, 121), in no right one "
        "(1, 2)"
    )
    assert tn.check(kernels.normalized, normal, x).pattern == ""


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_the_worst_element_is_a_misplaced_one(special: float) -> None:
    def wrong(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[0, 0] += 5.0
        y[1, 2] = special
        return y

    at = tn.check(wrong, lambda x: x * 1, rows(3, 20), edge_cases=False).cases[0].worst["result"]
    assert at.index == (1, 2) and str(at.got) == str(special)


# -- bits --------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_on_one_thread_leave_memory_unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CALLS", 0)
    certificate = tn.check(kernels.counts_its_calls, F.relu, rows(70), edge_cases=False)
    assert not any("torch.empty" in difference for difference in certificate.differences)
    assert certificate.left_out == (
        "whether results depend on what torch.empty's memory held: runs on one thread differ as it is",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_elements_that_no_program_writes_are_named(dtype: torch.dtype) -> None:
    x = torch.tensor([3.0, 1.0, 0.0, 2.0, -1.0, 5.0]).to(dtype)
    certificate = tn.check(kernels.relu_that_leaves_out_zeros, torch.relu, x, edge_cases=False)
    (said,) = certificate.differences
    assert said.startswith("result: no program writes 2 elements of 6, the first at [2]"), certificate


def test_kernels_run_under_the_interpreter_within_enabled() -> None:
    x = rows(3, 5)
    with interpreter.enabled() as launched:
        y = kernels.softmax(x)
        with pytest.raises(KernelError, match="out-of-bounds load"):
            kernels.double_without_mask(x)
    assert launched == ["softmax_kernel", "double_kernel"]
    torch.testing.assert_close(y, softmax(x))
    with pytest.raises(interpreter.TooManyProgramsError), interpreter.enabled(most_programs=2):
        kernels.softmax(x)


def test_the_example_of_the_documents_finds_what_they_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/checking.md").read_text(encoding="utf-8")
    file = tmp_path / "softmax.py"
    file.write_text(text.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    runpy.run_path(str(file))
    out = " ".join(capsys.readouterr().out.split())
    row, finding = text.partition("```text\n")[2].partition("```")[0].split("\n", 1)
    assert " ".join(row.split()) in out and " ".join(finding.split()) in out


# -- cases -------------------------------------------------------------------------------------------------------------


def test_cases_are_like_what_is_given_and_leave_it_alone() -> None:
    given = (rows(4, 6), rows(6), torch.randint(0, 5, (4,)), 3)
    before = copied(given)
    for name, made in [*shape_cases(given, 0), *layout_cases(given), *value_cases(given)]:
        x, weight, target, number = made
        assert x.shape == (target.shape[0], weight.shape[0]) and number == 3, name
        assert [t.dtype for t in made[:3]] == [t.dtype for t in given[:3]]
        assert target.numel() == 0 or int(target.min()) >= 0 and int(target.max()) < 5
    assert all(same_bits(a, b) for a, b in zip(given[:3], before[:3], strict=True))
    for name, made in layout_cases(given):
        assert all(same_bits(a, b) for a, b in zip(made[:3], given[:3], strict=True)), name
        moved = [a.stride() != b.stride() or a.storage_offset() for a, b in zip(made[:3], given[:3], strict=True)]
        assert sum(map(bool, moved)) == 1, name
    again = drawn_again(given, 1)
    assert again[0].shape == (4, 6) and not torch.equal(again[0], given[0]) and again[3] == 3
    assert set(again[0].flatten().tolist()) <= set(given[0].flatten().tolist())


def test_the_special_number_stands_once_in_every_layout() -> None:
    given = (rows(4, 6), rows(2, 3, 5), rows(7), rows(1, 1), torch.tensor(1.0))
    for first in given:
        for layout, made in [("as given", (first,)), *layout_cases((first,))]:
            cases = dict(value_cases(made))
            assert int(cases["a NaN in argument 0"][0].isnan().sum()) == 1, layout
            assert int(cases["an infinity in argument 0"][0].isinf().sum()) == 1, layout


@pytest.mark.parametrize("view", [lambda x: x[1:, 2:], lambda x: x.t(), lambda x: x.expand(4, 6, 7), lambda x: x[::2]])
def test_copies_lie_as_what_they_are_of(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    given = view(rows(6, 7))
    (made,) = copied((given,))
    assert same_bits(made, given) and made.stride() == given.stride() and made.data_ptr() != given.data_ptr()


def test_bits_are_compared_with_signs_and_nans() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert same_bits(nan, nan.clone()) and not same_bits(zero, -zero) and not same_bits(zero, nan)
    assert not same_bits(zero, zero.double()) and not same_bits(zero, zero[:0])


# -- reproductions -----------------------------------------------------------------------------------------------------


def run_alone(file: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, str(file)], capture_output=True, text=True, cwd=file.parent, env=environment)


def test_a_failing_case_is_written_as_a_script_that_shows_it_alone(tmp_path: Path) -> None:
    """One of a launcher with a lambda for its reference, one of a kernel with a function for its grid."""
    strides = tn.check(kernels.softmax_of_contiguous_rows, lambda x: torch.softmax(x, -1), rows(4, 10))
    bounds = tn.check(kernels.double_kernel, kernels.double, rows(100), torch.empty(100), grid=lambda meta: (2,),
                      constexprs={"BLOCK": 64}, outputs=(1,))  # fmt: skip
    for certificate, said in ((strides, "tensors given"), (bounds, "out-of-bounds load")):
        file = certificate.write_reproduction(tmp_path / "failures" / "one.py")
        text = file.read_text()
        assert "sum_kernel" not in text and "checked_kernels" not in text.replace("-- of checked_kernels.py --", "")
        done = run_alone(file)
        assert done.returncode == 1 and "FAILS" in done.stdout and said in done.stdout, done.stderr
        assert "runs no script" not in done.stderr


def test_a_script_holds_what_comes_from_other_files_of_the_author(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher in one file, its kernel in another, a helper in a third: they may be mended, and the script still
    fails. What is imported as a whole module is named with its hash."""
    (tmp_path / "own_helpers.py").write_text("import math\n\ndef blocks(n, block):\n    return math.ceil(n / block)\n")
    kernel = "import triton\nimport triton.language as tl\nfrom own_helpers import blocks as count\nSIZE = 64\n\n"
    kernel += "@triton.jit\ndef twice(x_ptr, out_ptr, BLOCK: tl.constexpr):\n"
    kernel += "    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
    kernel += "    tl.store(out_ptr + i, tl.load(x_ptr + i) * 2)\n"
    (tmp_path / "own_kernels.py").write_text(kernel)
    launcher = "import torch\nfrom own_kernels import *\n\ndef doubled(x):\n    out = torch.empty_like(x)\n"
    launcher += "    twice[(count(x.numel(), SIZE),)](x, out, BLOCK=SIZE)\n    return out\n"
    launcher += "\ndef reference(x):\n    import own_helpers\n    return x * 2\n"
    (tmp_path / "own_launcher.py").write_text(launcher)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("own_launcher")
    (tmp_path / "alone").mkdir()
    file = tn.check(made.doubled, made.reference, rows(100)).write_reproduction(tmp_path / "alone" / "one.py")
    text = file.read_text()
    assert "from own_" not in text and "count = blocks" in text
    digest = hashlib.sha256((tmp_path / "own_helpers.py").read_bytes()).hexdigest()
    assert f"# Imports own_helpers, which this script does not hold: own_helpers.py, sha256 {digest}." in text
    file.write_text(text.replace("    import own_helpers\n", ""))
    done = run_alone(file)
    assert done.returncode == 1 and "out-of-bounds load" in done.stdout, done.stderr


def test_what_cannot_be_written_alone_says_why(tmp_path: Path) -> None:
    right = tn.check(kernels.softmax, softmax, rows(2, 3), edge_cases=False)
    with pytest.raises(KernelError, match="nothing fails in the check of softmax; pass a case"):
        right.write_reproduction(tmp_path / "new" / "one.py")
    assert not (tmp_path / "new").exists() and "tritonnotes.check(" in right.reproduction(right.cases[0])
    shift = 1.0
    certificate = tn.check(kernels.softmax, lambda x: softmax(x) + shift, rows(2, 3), edge_cases=False)
    with pytest.raises(KernelError, match="the reference <lambda> uses shift of the function around it"):
        certificate.reproduction()
    certificate = tn.check(kernels.softmax, torch.sin, rows(300, 300), edge_cases=False)
    with pytest.raises(KernelError, match="the tensors take .* check smaller ones"):
        certificate.reproduction()
    assert "torch.sin," in tn.check(kernels.softmax, torch.sin, rows(2, 3), edge_cases=False).reproduction()
