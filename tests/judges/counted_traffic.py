"""What each launch of a program moves, counted byte by byte from the addresses that the interpreter sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from tritonnotes.codegen.cost.traffic import Traffic
from tritonnotes.codegen.plan.launches import TileLaunch
from tritonnotes.codegen.program.program import Program
from tritonnotes.interpreter import executor
from tritonnotes.interpreter.memory import Access, Memory
from tritonnotes.ir.core.types import element_count
from tritonnotes.runtime.executors.execution import Execution
from tritonnotes.runtime.runner import Runner
from tritonnotes.tensors.dtypes import torch_dtype

PROGRAMS = 3
TILE = 512


@dataclass
class Seen:
    """The addresses, byte by byte, that one launch touched: what each program read, and what all of them wrote."""

    read: list[list[np.ndarray]] = field(default_factory=lambda: [[]])
    written: list[np.ndarray] = field(default_factory=list)

    def traffic(self, loop_reads: bool = False) -> Traffic:
        """Each byte once, and with `walks` what programs read again."""
        everywhere = [touched for program in self.read for touched in program]
        again = sum(sum(t.size for t in program) - _count(program) for program in self.read) if loop_reads else 0
        return Traffic(_count(everywhere), _count(self.written), again)


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """The launches meanwhile, in order: generated kernels, and matrix products of torch."""
    launches: list[Seen] = []

    class Watching(Memory):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            launches.append(Seen())

        def check(self, pointers: np.ndarray, live: Any, size: int, access: Access, order: Any = None) -> np.ndarray:
            addresses = super().check(pointers, live, size, access, order)
            lanes = (addresses if live is None else addresses[live]).reshape(-1)
            touched = (lanes[:, None] + np.arange(size, dtype=np.uint64)).reshape(-1)
            (launches[-1].read[-1] if access is Access.LOAD else launches[-1].written).append(np.unique(touched))
            return addresses

        def begin(self, program: tuple[int, int, int]) -> None:
            super().begin(program)
            launches[-1].read.append([])

    def product(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        launches.append(Seen([[_bytes(a), _bytes(b)]], [_bytes(out)]))
        return mm(a, b, out=out)

    def biased(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        launches.append(Seen([[_bytes(bias), _bytes(a), _bytes(b)]], [_bytes(out)]))
        return addmm(bias, a, b, out=out)

    mm, addmm = torch.mm, torch.addmm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "Memory", Watching)
        patch.setattr(torch, "mm", product)
        patch.setattr(torch, "addmm", biased)
        yield launches


def _count(touched: list[np.ndarray]) -> int:
    return np.unique(np.concatenate(touched)).size if touched else 0


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    places = np.array([tensor.data_ptr()])
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = (places[:, None] + np.arange(size) * stride * tensor.element_size()).reshape(-1)
    return (places[:, None] + np.arange(tensor.element_size())).reshape(-1)


def assert_exact(program: Program, by_number: int = 0, **sizes: int) -> None:
    """Every launch moves what the plan says, at these sizes. A plan counts what loops along a row read again, but not
    the bytes `by_number` of the elements that they load again by their number."""
    generator = torch.Generator().manual_seed(0)
    leaves = {}
    for buffer in program.buffers:
        if buffer.role == "leaf":
            shape = [element_count((s,), sizes) for s in buffer.shape]
            drawn = torch.rand(shape, generator=generator)
            leaves[buffer.name] = (drawn if buffer.dtype.is_float else drawn.round()).to(torch_dtype(buffer.dtype))
    scalars = {v.name: 0.5 for v in program.plan.graph.leaves("scalar")}
    runner = Runner(program, torch.device("cpu"), Execution(strict=True), programs=PROGRAMS, tile=TILE)
    programs = runner.programs(sizes)
    with watched() as launches:
        runner.run(leaves, sizes, scalars)
    planned = {k.name: k.traffic(programs=programs, **sizes) for k in program.plan.launches}
    assert len(launches) == len(planned)
    found = {
        k.name: seen.traffic(loop_reads=isinstance(k, TileLaunch) and k.loop_reads is not None)
        for k, seen in zip(program.plan.launches, launches, strict=True)
    }
    planned = {name: moved + Traffic(reread=by_number) for name, moved in planned.items()}
    wrong = {name: (planned[name], found[name]) for name in planned if planned[name] != found[name]}
    assert not wrong, f"planned and found differ: {wrong}\n{program.plan}"
