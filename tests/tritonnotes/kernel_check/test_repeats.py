"""Runs that differ by the order of atomic sums: named, or allowed on request as long as each is close to float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import checked_kernels as kernels
import pytest
import torch
from torch import Tensor

import tritonnotes as tn
from tritonnotes import interpreter


@pytest.fixture
def several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def column_sum(x: Tensor) -> Tensor:
    return x.sum(0)


def on_one_thread(kernel: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The result of programs that run in a fixed order, whatever number of threads is set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return kernel(x)
    finally:
        torch.set_num_threads(threads)


def disturbed(by: float, calls: Iterator[int], kernel: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """In runs on several threads, other bits by plan and never by luck."""

    def run(x: Tensor) -> Tensor:
        return on_one_thread(kernel, x) * (1 + (next(calls) % 3 * by if torch.get_num_threads() > 1 else 0.0))

    return run


LINE = kernels.column_sum_kernel.fn.__code__.co_firstlineno + 4


def test_the_line_of_an_atomic_sum_is_named(several_threads: None) -> None:
    certificate = tn.check(disturbed(1e-7, count(), kernels.column_sum), column_sum, rows(40, 30), edge_cases=False)
    assert not certificate.ok and not certificate.failing and "torch.empty" not in str(certificate)
    assert all("differs from run 1" in said and ", first at [0]: " in said for said in certificate.differences)
    assert all(
        f"; kernel column_sum_kernel (checked_kernels.py, line {LINE}) adds floats by atomic operations" in said
        and "deterministic=False allows that" in said
        for said in certificate.differences
    )
    without = tn.check(disturbed(1e-7, count(), kernels.softmax), lambda x: x.softmax(1), rows(4, 30), edge_cases=False)
    assert without.differences and "atomic" not in str(without)


@pytest.mark.parametrize("shape", [(40, 30), (40, 1)])
def test_rounding_may_differ_between_runs_on_request(several_threads: None, shape: tuple[int, int]) -> None:
    for seed in range(3):
        kernel = disturbed(1e-7, count(seed), kernels.column_sum)
        certificate = tn.check(kernel, column_sum, rows(*shape), edge_cases=False, deterministic=False)
        assert certificate.ok, certificate
        assert "runs of the tensors given: right, and the same bits on one thread" in str(certificate)


def test_each_run_is_close_to_float64_all_the_same(several_threads: None) -> None:
    """One run of several is wrong, as a race that is seldom lost; the case itself holds."""
    calls = count()

    def seldom(x: Tensor) -> Tensor:
        return on_one_thread(kernels.column_sum, x) + (1e-3 if next(calls) == 6 else 0.0)

    certificate = tn.check(seldom, column_sum, rows(40, 40), edge_cases=False, deterministic=False)
    (said,) = certificate.differences
    assert said.startswith("run ") and ": result: error 1.00e-03, allowed" in said and "at [" in said, certificate
    assert not certificate.ok and not certificate.failing


def test_memory_is_judged_all_the_same(several_threads: None) -> None:
    x = torch.tensor([3.0, 1.0, 0.0, 2.0, -1.0, 5.0])
    wrong = tn.check(kernels.relu_that_leaves_out_zeros, torch.relu, x, edge_cases=False, deterministic=False)
    assert any("no program writes 2 elements of 6" in said for said in wrong.differences)
    race = tn.check(kernels.sum_with_a_race, torch.sum, rows(200), edge_cases=False, deterministic=False)
    assert "data race" in race.findings[0]


def test_integers_in_any_order_have_one_sum_and_are_no_atomic_sums() -> None:
    with interpreter.enabled(), interpreter.atomic_sums() as found:
        kernels.column_sum(torch.ones(3, 4, dtype=torch.int32))
        assert not found
        kernels.column_sum(torch.ones(3, 4))
    assert list(found) == [f"kernel column_sum_kernel (checked_kernels.py, line {LINE})"]


def test_a_script_asks_for_what_was_asked_for() -> None:
    certificate = tn.check(kernels.softmax, torch.sin, rows(2, 3), edge_cases=False, deterministic=False)
    assert "    deterministic=False,\n" in certificate.reproduction()
