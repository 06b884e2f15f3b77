"""What `benchmarks/plans.py` prints of each case: no more launches and bytes than these."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def plans() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_plans", ROOT / "benchmarks" / "plans.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MOST = {
    "step": (7, 2.97e6),
    "ln_gelu": (2, 84.0e6),
    "cross_entropy": (1, 1048.7e6),
    "batch_norm": (3, 45.0e6),
    "softmax": (2, 134.4e6),
    "swiglu": (2, 1442.9e6),
    "adam": (1, 11.0e6),
}


@pytest.mark.parametrize("name", MOST)
def test_case_is_planned_for_no_more_launches_and_bytes(plans: ModuleType, name: str) -> None:
    found = plans.CASES[name][1]("optimal")
    launches, moved = MOST[name]
    assert found.launches <= launches and found.bytes <= moved, str(found)


def test_every_case_has_its_bound_and_its_model_for_inductor(plans: ModuleType) -> None:
    assert set(plans.CASES) == set(MOST)
    source = (ROOT / "benchmarks" / "inductor.py").read_text(encoding="utf-8")
    assert all(f"def {name}()" in source for name in MOST)


def test_greedy_is_between_nothing_and_the_search(plans: ModuleType) -> None:
    off, greedy, optimal = (plans.CASES["batch_norm"][1](mode) for mode in ("off", "greedy", "optimal"))
    assert optimal.launches < greedy.launches < off.launches and optimal.bytes < greedy.bytes < off.bytes
