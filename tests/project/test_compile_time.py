"""Compiling stays quick: the demo's step cold and from the cache, and a training step beside Inductor's."""

from __future__ import annotations

import gc
import sys

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import compile_time
from tritonnotes.codegen.support.collector import paused_collector

WARM = 0.3
COLD = 3.0
ROOM = 1.25
"""Processor seconds that the demo's step may take beyond imports, and how much more on a slower or busier machine."""

FASTER = 20
"""How many times as long as ours Inductor's compilation to source takes at least."""


@pytest.mark.slow
def test_step_of_the_demo_is_compiled_quickly_cold_and_from_the_cache() -> None:
    found = compile_time.measure("digits", with_inductor=False, to_machine=True, best_of=2)
    first, cached = found["first"], found["cached"]
    assert first.machine is not None and cached.machine is not None and first.kernels == cached.kernels > 0
    assert cached.source + cached.machine < WARM * ROOM
    assert first.source + first.machine < COLD * ROOM
    # From the cache nothing is compiled.
    assert cached.machine < first.machine / 10


@pytest.mark.slow
def test_training_step_is_compiled_to_source_much_faster_than_by_inductor() -> None:
    found = compile_time.measure("step", with_inductor=True, to_machine=False, best_of=2)
    assert found["inductor"].source > FASTER * found["first"].source
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
