"""What measures the cost model's constants: over a GPU that is not there, and nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import fake_cuda
from paths import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import calibrate
from tritonnotes.codegen.target.compile import ARCHS, compile_kernel
from tritonnotes.codegen.target.rates import RATES


def test_without_a_gpu_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate.main([]) == 2
    assert "there is no GPU" in capsys.readouterr().err


def test_every_constant_that_names_a_measure_has_one_and_each_has_a_source() -> None:
    assert set(calibrate.MEASURES) == {name for name, rate in RATES.items() if rate.measure}
    assert all(rate.source and rate.unit and rate.value > 0 for rate in RATES.values())


def test_what_is_measured_is_written_beside_what_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are made up; what they become is not: a chain of 512 loads, a kernel with an arrival and one without."""
    file = tmp_path / "rates.json"
    times = iter([2e-6, 2e-6 + 512 * 6e-7, 2e-6, 2e-6 + 512 * 3e-7, 2e-6, 5e-6, 4e-6, 3.5e-6])

    def timed(device: torch.device) -> calibrate.Timed:
        def seconds(call: Callable[[], Any], count: int) -> float:
            call()
            assert count >= 1
            return next(times)

        return seconds

    monkeypatch.setattr(calibrate, "copy_bandwidth", lambda clock, device, size: 3.1e12)
    monkeypatch.setattr(calibrate, "clock_of", lambda device: None)
    monkeypatch.setattr(calibrate, "ring", lambda elements, device: torch.zeros(4, dtype=torch.int64, device=device))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(calibrate.MEASURES, "library_share", lambda device, seconds: 1 / 0)
    with fake_cuda() as cuda:
        assert calibrate.main(["--json", str(file)], timed) == 1
        assert cuda.ran
    found = {row["name"]: row for row in json.loads(file.read_text())["rates"]}
    assert found.keys() == calibrate.MEASURES.keys()
    assert found["launch"]["measured"] == 2e-6 and found["launch"]["in_table"] == RATES["launch"].value
    assert found["copy_share"]["measured"] == pytest.approx(3.1 / 3.35)
    assert "ZeroDivisionError" in found["library_share"]["why"] and found["library_share"]["measured"] is None


def test_a_ring_visits_every_place() -> None:
    after = calibrate.ring(100, torch.device("cpu")).tolist()
    place, seen = 0, set()
    for _ in range(100):
        place = after[place]
        seen.add(place)
    assert len(seen) == 100


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_do_what_is_measured(arch: int) -> None:
    """A chain is one load after the other, and an arrival is a fence and an atomic."""
    report = compile_kernel(
        calibrate.chain, {"next_ptr": "*i64", "last_ptr": "*i64"}, {"HOPS": 512}, arch=arch, num_warps=1
    )
    assert any(i.name == "LDG" for i in report.instructions)
    types = {"x_ptr": "*fp32", "arrivals_ptr": "*i32", "programs": "i32"}
    counted = {
        counts: {i.name for i in compile_kernel(calibrate.arrives, types, {"COUNTS": counts}, arch=arch).instructions}
        for counts in (True, False)
    }
    assert {"MEMBAR", "ATOMG"} <= counted[True] and not {"MEMBAR", "ATOMG"} & counted[False]
