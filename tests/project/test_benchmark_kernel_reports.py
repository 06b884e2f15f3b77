"""The benchmark's kernels, as they compile for three GPUs, are those of benchmarks/kernel_reports.md.

A change shows as a diff. `pytest --update-goldens` writes the file anew. Another version of Triton brings another
ptxas, so with another than the one that the file names the table is not compared.
"""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
from golden_files import hold
from paths import ROOT

from tritonnotes.codegen.report.accesses import UNEXPLAINED
from tritonnotes.codegen.report.kernel_reports import KernelReport
from tritonnotes.codegen.target.compile import ARCHS, triton_version

TABLE = ROOT / "benchmarks" / "kernel_reports.md"


@pytest.fixture(scope="module")
def made() -> tuple[str, list[tuple[str, KernelReport]]]:
    """The table as it is now, and every report with its case."""
    spec = importlib.util.spec_from_file_location("benchmark_kernel_reports", ROOT / "benchmarks" / "kernel_reports.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    reports: list[tuple[str, KernelReport]] = []
    text = module.table(look=lambda case, report: reports.append((case, report)))
    assert {report.gpu.arch for _, report in reports} == set(ARCHS)
    return text, reports


def test_the_table_is_the_committed_one(made: tuple[str, list], request: pytest.FixtureRequest) -> None:
    update = bool(request.config.getoption("--update-goldens"))
    (version,) = re.findall(r"Triton (\S+) for", TABLE.read_text(encoding="utf-8")) if TABLE.exists() else ("",)
    if version != triton_version() and not update:
        pytest.skip(f"{TABLE.name} is of Triton {version}, and this is {triton_version()}")
    hold(TABLE, made[0], update)


def test_no_kernel_of_the_benchmark_spills(made: tuple[str, list[tuple[str, KernelReport]]]) -> None:
    assert not [f"{c.name} on sm_{c.gpu.arch}" for _, c in made[1] if c.spilled_bytes or "spill" in c.mix]


def test_accesses_of_aligned_rows_are_128_bits_wide(made: tuple[str, list[tuple[str, KernelReport]]]) -> None:
    whole = [(case, c, a) for case, c in made[1] for a in c.accesses if a.whole]
    assert len(whole) > 100
    for case, report, access in whole:
        if case.endswith("_odd"):
            assert not access.is_wide and "769 is not divisible by" in access.reason, access
        else:
            assert not access.reason or "share one element" in access.reason, (
                f"{report.name}, sm_{report.gpu.arch}: {access}"
            )


def test_every_narrow_access_has_its_reason(made: tuple[str, list[tuple[str, KernelReport]]]) -> None:
    narrow = [a for _, c in made[1] for a in c.accesses if not a.is_wide]
    assert narrow and all(a.reason for a in narrow)
    assert not [a for a in narrow if a.reason == UNEXPLAINED]
