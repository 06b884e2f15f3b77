"""The pytest plugin: light to start, its fixtures judge, and what fails is written as a script."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from paths import ROOT, SHARED

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.testing import assert_close_to_float64, assert_kernel

PLUGIN = "tritonnotes.pytest_plugin"

TESTS = """
import checked_kernels as kernels
import pytest
import torch
from tritonnotes.ir.core.errors import KernelError


def test_right(check_kernel):
    assert check_kernel(kernels.add_in_place, kernels.add_in_place_reference, torch.rand(70), torch.rand(70)).ok


def test_wrong(check_kernel):
    check_kernel(kernels.double_without_mask, kernels.double, torch.ones(65))


def test_native(native_triton, assert_close_to_float64):
    x = torch.rand(3, 5)
    assert_close_to_float64(kernels.softmax(x), lambda x: torch.softmax(x, -1), x)


def test_strict(strict_triton):
    with pytest.raises(KernelError, match="out-of-bounds"):
        kernels.double_without_mask(torch.ones(65))
    assert strict_triton == ["double_kernel"]


def test_plan(assert_fused):
    import tritonnotes as tn

    g = tn.Graph("g")
    g.output(y=tn.gelu(g.input("x", (8, 8)) + 1))
    assert_fused(g, kernels=1)
    with pytest.raises(AssertionError, match="wanted at most 0"):
        assert_fused(g, kernels=0)
"""


def test_fixtures_judge_and_a_failing_case_is_written(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SHARED}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-q", "-p", PLUGIN, "-p", "no:cacheprovider", "--tritonnotes-failures", "failed"]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    (script,) = (tmp_path / "failed").iterdir()
    assert f"written to failed/{script.name}" in done.stdout and script.name == "test_mine.py_test_wrong.py"
    assert "out-of-bounds load" in done.stdout and "def double_without_mask" in script.read_text()


def test_the_plugin_imports_nothing_heavy() -> None:
    script = f"import sys, pytest, {PLUGIN}; print([m for m in ('torch', 'triton', 'numpy') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n", done.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"tritonnotes": PLUGIN}


def test_a_result_is_compared_with_float64() -> None:
    x = torch.rand(40, 30)
    assert_close_to_float64(x.softmax(-1), lambda x: x.softmax(-1), x)
    assert_close_to_float64(lambda x: (x + 1, x * 2), lambda x: (x + 1, x * 2), x)
    with pytest.raises(AssertionError, match=r"result: FAIL .*float32\[40, 30\]"):
        assert_close_to_float64(x.softmax(-1) + 1e-5, lambda x: x.softmax(-1), x)
    with pytest.raises(AssertionError, match=r"there is result; the reference gives result\[0\], result\[1\]"):
        assert_close_to_float64(x, lambda x: (x, x), x)
    with pytest.raises(AssertionError, match="not comparable"):
        assert_close_to_float64(x.half(), lambda x: x, x)


def test_a_file_that_cannot_be_written_hides_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(AssertionError, match=r"(?s)certificate of exp.*not written: .*taken"):
        assert_kernel(torch.exp, torch.sin, torch.rand(4), edge_cases=False, write_to=tmp_path / "taken" / "one.py")


LONG = """
import torch


def {name}(check_kernel):
    check_kernel(torch.exp, torch.sin, torch.ones(2), edge_cases=False)
"""


def test_tests_of_long_names_have_files_of_their_own(tmp_path: Path) -> None:
    names = (f"test_{'x' * 300}", f"test_y{'x' * 299}", f"test_{'é' * 150}")
    (tmp_path / "test_mine.py").write_text("".join(LONG.format(name=name) for name in names), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-q", "-p", PLUGIN, "-p", "no:cacheprovider", "--tritonnotes-failures", "failed"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "3 failed" in done.stdout, done.stdout + done.stderr
    assert len(list((tmp_path / "failed").iterdir())) == 3


def test_what_one_call_writes_reaches_no_other() -> None:
    x = torch.rand(40) + 1
    before = x.clone()
    with pytest.raises(AssertionError, match="FAIL"):
        assert_close_to_float64(x, lambda x: x.mul_(1.5), x)
    with pytest.raises(AssertionError, match="FAIL"):
        assert_close_to_float64(lambda x: x.mul_(2), lambda x: x.mul_(1.5), x)
    assert_close_to_float64(lambda x: x.mul_(1.5), lambda x: x.mul_(1.5), x)
    assert_close_to_float64(x * 1.5, lambda x: x.mul_(1.5), x)
    assert torch.equal(x, before)


def test_where_nothing_is_compared_nothing_holds() -> None:
    with pytest.raises(AssertionError, match="nothing is compared: the reference returns no tensor"):
        assert_close_to_float64(None, lambda x: None, torch.ones(3))
    with pytest.raises(AssertionError, match="nothing is compared: the reference gives empty tensors alone"):
        assert_close_to_float64(torch.ones(0), lambda x: x, torch.ones(0))
    with pytest.raises(DeclarationError, match="argument 0 is a tuple of tensors; pass them one by one"):
        assert_close_to_float64(torch.ones(3), lambda given: given[0], (torch.ones(3),))


def test_a_kernel_is_asserted_without_pytest_too(tmp_path: Path) -> None:
    x = torch.rand(4, 4)
    assert isinstance(assert_kernel(torch.exp, torch.exp, x, edge_cases=False), tn.KernelCertificate)
    with pytest.raises(AssertionError, match="FAILS") as failed:
        assert_kernel(torch.exp, torch.sin, x, edge_cases=False, write_to=tmp_path / "one.py")
    assert (tmp_path / "one.py").exists() and "written to" in str(failed.value)
    with pytest.raises(AssertionError, match="reproduction: the kernel <lambda> uses x of the function around it"):
        assert_kernel(lambda y: y + x, torch.sin, x, edge_cases=False, write_to=tmp_path / "two.py")
