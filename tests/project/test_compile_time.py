"""What is compiled comes from the cache the next time, and the benchmark of compile times runs to its end."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled import digits
from paths import ROOT

sys.path.insert(0, str(ROOT))

import tritonnotes as tn
from benchmarks import compile_time
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.support.collector import paused_collector
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.ir.passes.joint import joint_graph


@pytest.mark.slow
def test_what_was_compiled_once_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = make_program(joint_graph(digits(), "loss", tn.adam()))
    first = compile_program(program, 90, KernelCache(tmp_path))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a kernel is compiled again")

    monkeypatch.setattr("tritonnotes.codegen.program.compile.compile_kernel", refuse)
    again = compile_program(program, 90, KernelCache(tmp_path))
    assert again == first and len(first) == len(program.kernels) > 0


@pytest.mark.slow
def test_both_compilers_are_timed() -> None:
    """The benchmark runs beside Inductor; what it measures is told, and no test's affair."""
    found = compile_time.measure("step", with_inductor=True, to_machine=False, best_of=1)
    assert found["inductor"].source > 0 and found["first"].source > 0
    told = "\n".join(compile_time.lines("step", found))
    assert "Inductor     to source" in told and "times as long as ours" in told


def test_every_stage_is_told_the_least_of_several_processes() -> None:
    runs = [compile_time.Times(1.0, 0.5, 3.0, 2), compile_time.Times(2.0, 0.25, 2.0, 2)]
    assert compile_time._best(runs) == compile_time.Times(1.0, 0.25, 2.0, 2)
    told = "\n".join(compile_time.lines("step", {"first": runs[0], "cached": runs[1], "inductor": runs[1]}))
    assert "to machine code, 2 kernels: 4.000 s, from the cache 4.000 s" in told
    assert "2.0 times as long as ours, again 0.5 times" in told


def test_collector_is_left_as_it_was() -> None:
    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            with pytest.raises(ValueError), paused_collector():
                assert not gc.isenabled()
                raise ValueError
            assert gc.isenabled() == before
        finally:
            gc.enable()
