"""The kernel that updates a whole group: its source, its numbers, what it moves, and what compiling makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optim_cases import OPTIONS, parameters

import tritonnotes as tn
from tritonnotes import optim
from tritonnotes.codegen.emit.foreach import BLOCK
from tritonnotes.codegen.optimizer.count import device_settings
from tritonnotes.codegen.optimizer.emit import kernel_sources, render_update
from tritonnotes.codegen.optimizer.kinds import PLAIN, MultiTensorUpdate, make_multi_tensor_update
from tritonnotes.codegen.optimizer.norm import norm_kernel_source, render_norm
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.compile import compile_sources
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.compile import CompiledReport
from tritonnotes.codegen.target.load import load_source
from tritonnotes.interpreter import launch, memory
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.optimizer import Optimizer
from tritonnotes.ir.core.types import DType, bfloat16, float32, float64
from tritonnotes.ir.optim.update import Extras, Kind
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.optim import launching, optimizers
from tritonnotes.runtime.executors.execution import STRICT_VARIABLE, Execution

RULES: dict[str, Optimizer] = {
    "sgd": tn.sgd(),
    "sgd_momentum": tn.sgd(momentum=0.9),
    "nesterov": tn.nesterov(),
    "momentum": tn.momentum(),
    "adagrad": tn.adagrad(),
    "adadelta": tn.adadelta(),
    "rmsprop": tn.rmsprop(),
    "rmsprop_momentum": tn.rmsprop(momentum=0.9),
    "rmsprop_centered": tn.rmsprop(momentum=0.9, centered=True),
    "adam": tn.adam(weight_decay=0.1),
    "adamw": tn.adamw(),
    "amsgrad": tn.adam(amsgrad=True),
    "nadam": tn.nadam(),
    "radam": tn.radam(),
    "adamax": tn.adamax(),
    "lion": tn.lion(),
    "adam_ema": tn.ema(tn.adam()),
}
STATES = {
    "sgd": 0, "sgd_momentum": 1, "nesterov": 1, "momentum": 1, "adagrad": 1, "adadelta": 2, "rmsprop": 1,
    "rmsprop_momentum": 2, "rmsprop_centered": 3, "adam": 2, "adamw": 2, "amsgrad": 3, "nadam": 2, "radam": 2,
    "adamax": 2, "lion": 1, "adam_ema": 3,
}  # fmt: skip
"""How many tensors of state each keeps: what it moves at least is p and g read, p written, and each of these twice."""


def kind(optimizer: Optimizer, dtype: DType = float32, *, state: DType | None = None, master: bool = False) -> Kind:
    return Kind(dtype, dtype, (state or dtype,) * len(optimizer.state), master)


def group(name: str, dtype: DType = float32, extras: Extras = PLAIN) -> MultiTensorUpdate:
    return make_multi_tensor_update(RULES[name], [kind(RULES[name], dtype)], extras)


every_rule = pytest.mark.parametrize("name", RULES)


# -- bytes and launches ------------------------------------------------------------------------------------------------


@every_rule
def test_bytes_are_the_least_that_the_rule_can_move(name: str) -> None:
    """Parameter and gradient read, parameter written, each tensor of state read and written: nothing twice."""
    (lowered,) = group(name).kinds
    assert group(name).bytes_moved(lowered) == 4 * (3 + 2 * STATES[name])
    optimizer = RULES[name]
    mixed = make_multi_tensor_update(optimizer, [kind(optimizer, bfloat16, state=float32, master=True)])
    # A master in float32 is read and written, the parameter itself only written.
    assert mixed.bytes_moved(mixed.kinds[0]) == 2 * 2 + 8 + 8 * STATES[name]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Launches, and bytes that their programs touch, as the interpreter sees them."""
    found = {"launches": 0, "programs": 0, "bytes": 0}
    check = memory.Memory.check

    def watched(self: Any, pointers: Any, live: Any, size: int, access: Any, order: Any = None) -> Any:
        # Tables and numbers come from the kernel's arguments, whose pointers bear a tag; tensors behind tables do not.
        if pointers.size > 1:
            found["bytes"] += size * int(pointers.size if live is None else np.count_nonzero(live))
        return check(self, pointers, live, size, access, order)

    def counting(kernel: Any, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        found["launches"] += 1
        found["programs"] += grid[0]
        launch(kernel, grid, *args, **kwargs)

    monkeypatch.setattr(memory.Memory, "check", watched)
    monkeypatch.setenv(STRICT_VARIABLE, "1")
    monkeypatch.setattr(launching, "interpret", counting)
    yield found


@pytest.mark.parametrize("name", OPTIONS)
def test_bytes_that_programs_touch_are_those_that_are_said(name: str, counted: dict[str, int]) -> None:
    if torch.cuda.is_available():
        pytest.skip("the interpreter counts accesses; on a GPU there is none")
    params = parameters(torch.float32, [(1000,), (64, 5)])
    optimizer = getattr(optim, name)(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    update = optimizer._gathered[0].works[0].plan.update
    assert counted["bytes"] == 1320 * update.bytes_moved(update.kinds[0])


@pytest.mark.parametrize("count", [1, 64, 1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_one_launch_whatever_the_number_of_parameters(count: int, counted: dict[str, int]) -> None:
    params = [torch.ones(1 + i % 7).requires_grad_() for i in range(count)]
    optimizer = optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert counted["launches"] == 1 and counted["programs"] == count
    for p in params:
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.999))


def test_one_launch_for_dtypes_sizes_layouts_and_steps_of_all_sorts(counted: dict[str, int]) -> None:
    params = [t.requires_grad_() for t in (
        torch.ones(3000), torch.ones(5, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.float64),
        torch.ones((), dtype=torch.float16), torch.ones(8)[1:], torch.ones(0), torch.ones(4, 2).t(),
    )]  # fmt: skip
    optimizer = optim.Adam(params)
    for step in range(3):
        counted["launches"] = 0
        for i, p in enumerate(params):
            p.grad = torch.ones_like(p) if step or i % 2 else None
        optimizer.step()
        assert counted["launches"] == 1
    assert {int(optimizer.state[p]["step"]) for p in params} == {2, 3}


def test_one_large_parameter_is_cut_into_blocks_enough_to_fill_a_gpu() -> None:
    from tritonnotes.optim.tables import block_table

    blocks = block_table([2**20 + 1, 0, 3], torch.device("meta"), Execution())
    assert blocks.size == BLOCK and len(blocks.table) == 2**20 // BLOCK + 1 + 1


def test_a_schedule_makes_no_new_source() -> None:
    assert render_update(
        make_multi_tensor_update(tn.adam(lr=0.1, betas=(0.8, 0.9)), [kind(tn.adam())])
    ) == group_source("adam")


def group_source(name: str) -> str:
    optimizer = getattr(optimizers, name)()
    return render_update(make_multi_tensor_update(optimizer, [kind(optimizer)]))


# -- numbers -----------------------------------------------------------------------------------------------------------


@every_rule
def test_device_works_out_the_numbers_that_the_host_works_out(name: str) -> None:
    """`count_steps` against `number_row`, both in float64; the counts are left one further."""
    optimizer = RULES[name]
    update = group(name, extras=Extras(counts=True))
    module = load_source(render_update(update), KernelCache())
    counts = [torch.tensor([float(n)]) for n in (0, 1, 5, 999)]
    own = [[torch.tensor([0.25 * v]) for v in optimizer.numbers.values()] for _ in counts]
    before = [[float(t) for t in row] for row in own]
    table = torch.tensor([[c.data_ptr(), *(t.data_ptr() for t in row)] for c, row in zip(counts, own, strict=True)])
    names = device_settings(update)
    settings = torch.tensor([float(optimizer.settings[n]) for n in names], dtype=torch.float64)
    numbers = torch.zeros(len(counts), len(update.columns), dtype=torch.float64)
    reached = [*counts, *(t for row in own for t in row)]
    launch(module.count_steps, (1,), table, settings, numbers, len(counts), BLOCK=8, tensors=reached)
    assert [int(c) for c in counts] == [1, 2, 6, 1000]
    for row, count, kept, after in zip(numbers, counts, before, own, strict=True):
        given = {**optimizer.settings, "step": float(count), **dict(zip(optimizer.numbers, kept, strict=True))}
        wanted = module.number_row(*(float(given[s]) for s in update.settings))
        np.testing.assert_allclose(row.numpy(), wanted, rtol=1e-12, atol=1e-300)
        for tensor, value in zip(after, wanted[len(wanted) - len(after) :], strict=True):
            assert float(tensor) == np.float32(value)


def test_numbers_are_taken_in_float64() -> None:
    """1 − 0.999 out of float32 is off by 1.3e-5; the table holds it to the last digit."""
    module = load_source(render_update(group("adam")), KernelCache())
    names = [name for name, _ in group("adam").columns.values()]
    row = dict(zip(names, module.number_row(1e-3, 0.9, 0.999, 1e-8, 0.1, 3.0), strict=True))
    assert row["one_minus_beta2"] == 1 - 0.999
    assert row["step_size"] == 1e-3 / (1 - 0.9**3)


def test_a_copied_sum_stays_together_where_it_is_multiplied() -> None:
    """`copy(lr + 1) * 2` is 2·lr + 2: on the host for a group and for a graph's own updates, and on the device."""

    @tn.update_rule(reference=lambda p, g, *, lr: (p - (lr + 1) * 2 * g,))
    def twice(p, g, *, lr):
        """Step by twice one more than the rate."""
        return (p - P.copy(lr + 1) * 2 * g,)

    source = render_update(make_multi_tensor_update(twice(lr=0.25), [kind(twice(lr=0.25))], Extras(counts=True)))
    assert load_source(source, KernelCache()).number_row(0.25) == [2.5]
    counting = source[source.index("def count_steps(") : source.index("def run_count_steps(")]
    assert "(lr + 1.0) * 2.0" in counting
    graph = tn.Graph("squares")
    w = graph.parameter("w", (3,))
    graph.output(loss=tn.mean(w * w))
    step = make_program(joint_graph(graph, "loss", twice(lr=0.25)), declared=graph).source
    assert "(lr + 1.0) * 2.0" in step and "lr + 1.0 * 2.0" not in step


# -- source ------------------------------------------------------------------------------------------------------------


def test_source_runs_alone_under_tritons_own_interpreter(tmp_path: Path) -> None:
    optimizer = tn.ema(tn.nadam(weight_decay=0.1))
    kinds = [kind(optimizer), kind(optimizer, bfloat16, state=float32, master=True)]
    file = tmp_path / "update.py"
    file.write_text(render_update(make_multi_tensor_update(optimizer, kinds, Extras(True, True, True, True, True))))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["5", "64", "5000"] and "nan" not in done.stdout


@every_rule
def test_source_keeps_the_line_and_names_nothing_by_number(name: str) -> None:
    source = render_update(group(name, extras=Extras(True, True, True, True, True)))
    code = [line for line in source.splitlines() if not line.lstrip().startswith("#")]
    assert max(map(len, code)) <= 120, max(code, key=len)
    assert "tmp" not in source and "_no_2" not in source
    assert compile(source, name, "exec")


def test_rule_that_looks_beyond_a_single_number_is_refused() -> None:
    @tn.update_rule(reference=lambda p, g, *, lr: (p - lr * g / g.norm(),))
    def normalized(p, g, *, lr):
        """Step by a gradient of norm 1."""
        return (p - lr * g / tn.sqrt(tn.sum(g * g)),)

    optimizer = normalized(lr=0.1)
    with pytest.raises(PlanError, match="custom.normalized: its formula becomes several launches.*elementwise"):
        make_multi_tensor_update(optimizer, [kind(optimizer)])


# -- compiled ----------------------------------------------------------------------------------------------------------

ALL = Extras(unscales=True, skips=True, clips=True, zeroes=True, counts=True)


def reports(update: MultiTensorUpdate, arch: int) -> list[CompiledReport]:
    """The update's kernel first; no kernel may spill."""
    found = list(compile_sources(render_update(update), kernel_sources(update), arch))
    for report in found:
        assert not report.spills, f"{report.name} spills on sm_{arch}: {report.registers} registers, {report.spills}"
    return found


def test_adam_takes_sixteen_bytes_an_access_and_spills_nothing() -> None:
    for arch in (80, 90, 100):
        (report,) = reports(group("adam"), arch)
        # Two accesses a thread for each of four tensors read and three written; the rest is the narrow form.
        assert (report.load_widths[128], report.store_widths[128]) == (8, 6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
@every_rule
def test_every_aligned_access_of_every_rule_is_sixteen_bytes_wide(name: str, dtype: DType) -> None:
    (report,) = reports(group(name, dtype), 90)
    each = BLOCK // 128 * dtype.itemsize // 16
    read, written = 2 + STATES[name], 1 + STATES[name]
    assert (report.load_widths[128], report.store_widths[128]) == (each * read, each * written)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
@every_rule
def test_every_rule_compiles_without_spills_with_all_that_may_ride_along(name: str, arch: int) -> None:
    optimizer = RULES[name]
    kinds = [kind(optimizer), kind(optimizer, bfloat16, state=float32, master=True)]
    update, counting = reports(make_multi_tensor_update(optimizer, kinds, ALL), arch)
    assert update.load_widths[128] and update.store_widths[128] and counting.name == "count_steps"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), [("adamw", 90), ("radam", 90), ("adam_ema", 100), ("rmsprop_centered", 80)])
def test_wide_kinds_beside_narrow_ones_do_not_spill(name: str, arch: int) -> None:
    """float64 takes twice the registers, so a program of 4 warps would not do."""
    optimizer = RULES[name]
    kinds = [kind(optimizer), kind(optimizer, bfloat16, state=float32, master=True), kind(optimizer, float64)]
    assert reports(make_multi_tensor_update(optimizer, kinds, ALL), arch)[0].num_warps == 8


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_norm_compiles_without_spills_on_wide_accesses(arch: int) -> None:
    for dtypes in ((float32,), (bfloat16, float32), (float64,)):
        for unscales in (False, True):
            source = norm_kernel_source(dtypes, unscales)
            (report,) = compile_sources(render_norm(dtypes, unscales), [source], arch)
            assert not report.spills and report.load_widths[128]
