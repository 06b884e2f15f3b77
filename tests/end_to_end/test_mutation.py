"""The tests' own test: code generation is broken on purpose, and a small fixed suite must notice.

Each mutant is a slip that somebody could make: a mask, a shift, a cast, a partial sum forgotten, a bound off by one.
"""

from __future__ import annotations

import math
import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from compiled import assert_within_policy, digits, draw, judge
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.emit import ops as spelling
from tritonnotes.codegen.emit.kernel import KernelSource, render_kernel
from tritonnotes.codegen.support.expressions import call
from tritonnotes.codegen.support.facets import FACETS, calls, infix
from tritonnotes.ir.core.graph import Graph
from tritonnotes.runtime.executors.execution import STRICT_VARIABLE
from tritonnotes.runtime.runner import Runner, pick_device

DEVICE = pick_device()
BATCH = tn.Dim("batch")
NOTICED = 0.95
Patch = pytest.MonkeyPatch


# -- the suite ---------------------------------------------------------------------------------------------------------


def agrees(graph: Graph, feeds: dict[str, Tensor], **how: Any) -> None:
    """The compiled graph holds the policy. Planned greedily, which takes less time, and breaks in the same ways."""
    assert_within_policy(judge(graph, feeds, model=tn.compile(graph, fusion="greedy"), **how))


def residual() -> None:
    g = Graph("residual")
    x = g.input("x", (BATCH, 33))
    g.output(y=x + tn.gelu(tn.layer_norm(x, name="ln")))
    spread = torch.randn((7, 33), generator=torch.Generator().manual_seed(0)) * 0.01 + 3
    for feeds in (draw(g, batch=7), {"x": spread.to(DEVICE)}):
        agrees(g, feeds)


def classes() -> None:
    g = Graph("classes")
    x, y = g.input("x", (BATCH, 10)), g.input("y", (BATCH,), "int64")
    g.output(loss=tn.cross_entropy(x, y), right=tn.accuracy(x, y), probabilities=tn.softmax(x, -1))
    feeds = draw(g, batch=41)
    feeds["y"][3:5] = -100
    feeds["x"][7, 2] = math.nan
    feeds["x"][9] = -math.inf
    feeds["x"][11] += 1e4
    finite = {n: t[12:] for n, t in feeds.items()}
    agrees(g, feeds, gradients=False)
    agrees(g, finite)


def sixteen_bits() -> None:
    for dtype in ("bfloat16", "float16"):
        g = Graph("sixteen_bits")
        x, b = g.input("x", (BATCH, 65), dtype), g.parameter("b", (65,), "normal", dtype, mean=0.0, std=1.0)
        h = tn.tanh(x * b + 1) / (x * x + 1)
        g.output(h=tn.where(x > 0, h, -h), total=tn.sum(tn.exp(h), 0), mean=tn.mean(h, -1))
        agrees(g, draw(g, batch=100), noisy=2)
        g = Graph("rounded_once")
        g.output(wave=tn.sin(g.input("x", (BATCH, 65), dtype)))
        agrees(g, draw(g, batch=20))


def sums() -> None:
    g = Graph("sums")
    x, w = g.input("x", (BATCH, 5, 7)), g.parameter("w", (7,), "ones")
    g.output(mean=tn.mean(x * w), columns=tn.sum(x * x, 0), largest=tn.max(x, 0), least=tn.min(x * x + 1, (0, 2)))
    for batch in (1, 90):
        agrees(g, draw(g, batch=batch))


def special_numbers() -> None:
    g = Graph("special")
    x, other = g.input("x", (BATCH, 8)), g.input("other", (BATCH, 8))
    g.output(
        relu=tn.relu(x), larger=tn.maximum(x, other), smaller=tn.minimum(x, other), sign=tn.sign(x), power=x**3,
        row_max=tn.max(x, -1), row_min=tn.min(x, -1), size=abs(x), most=tn.max(x, 0), expm1=tn.expm1(x),
    )  # fmt: skip
    numbers = torch.tensor([0.0, -0.0, 1.0, -1.0, -2.5, math.inf, -math.inf, math.nan])
    feeds = {"x": numbers.repeat(9, 1), "other": torch.stack([numbers.roll(i) for i in range(9)])}
    feeds["x"][1:] = feeds["x"][1:].clamp(-9, 9).nan_to_num()
    agrees(g, {n: t.to(DEVICE) for n, t in feeds.items()}, gradients=False)
    ties = {n: t.nan_to_num(0.5, 2, -2).to(DEVICE) for n, t in feeds.items()}
    agrees(g, ties)


def near_zero() -> None:
    g = Graph("near_zero")
    x = g.input("x", (BATCH, 9))
    g.output(a=tn.expm1(x), b=tn.log1p(x), c=tn.tanh(x), d=tn.sin(x), e=tn.erf(x))
    x_near = 1e-4 * torch.randn((20, 9), generator=torch.Generator().manual_seed(1))
    agrees(g, {"x": x_near.to(DEVICE)})


def orders() -> None:
    g = Graph("orders")
    x, row = g.input("x", (4, tn.Dim("length"), 6)), g.input("row", (tn.Dim("length"),))
    turned = tn.permute(x, (2, 0, 1)) * row
    gated = tn.glu(x, -1)
    g.output(turned=turned, flat=tn.reshape(turned, (24, tn.Dim("length"))), both=tn.cat([gated, x[:, :, 1:3]], 2))
    g.output(found=tn.argmax(x, -1), columns=tn.sum(tn.permute(x, (0, 2, 1)), 0))
    agrees(g, draw(g, length=5))


def rows_by_number() -> None:
    g = Graph("rows_by_number")
    index = g.input("index", (BATCH, 3), "int64")
    g.output(y=tn.tanh(tn.embedding(index, 11, 5, name="table")))
    agrees(g, draw(g, batch=6))


def training() -> None:
    for optimizer, make in (
        (tn.adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
        (tn.sgd(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    ):
        g = digits("float64")
        step = tn.compile_step(g, optimizer=optimizer, fusion="greedy")
        state = {n: t.detach().clone().requires_grad_() for n, t in step.model.state_dict().items()}
        theirs = make(list(state.values()))
        for seed, size in enumerate((70, 5)):
            feeds = draw(g, seed, batch=size)
            theirs.zero_grad()
            tn.eager(g, feeds, state)["loss"].backward()
            theirs.step()
            step(**feeds)
            for name, tensor in step.model.state_dict().items():
                torch.testing.assert_close(tensor, state[name].detach(), rtol=1e-8, atol=1e-10, msg=name)


def old_and_new() -> None:
    g = Graph("old_and_new")
    x, mean = g.input("x", (BATCH, 3)), g.buffer("mean", (3,), init=0.5)
    new = 0.75 * mean + 0.25 * tn.mean(x, 0)
    g.update(mean, new)
    g.output(before=mean, after=new, centered=x - mean)
    model = tn.compile(g, training=True, fusion="greedy")
    x_fed = draw(g, batch=5)["x"]
    runs = []
    for _ in range(2):
        state = {n: t.detach().clone() for n, t in model.state_dict().items()}
        runs.append((model(x=x_fed), tn.eager(g, {"x": x_fed}, state, training=True)))
        torch.testing.assert_close(model.get_buffer("mean"), runs[-1][0]["after"])
    for outputs, wanted in runs:
        for name, tensor in wanted.items():
            torch.testing.assert_close(outputs[name], tensor, msg=name)


SUITE = (
    residual,
    classes,
    sixteen_bits,
    sums,
    special_numbers,
    near_zero,
    orders,
    rows_by_number,
    training,
    old_and_new,
)


def first_complaint() -> str:
    """The first check of the suite that fails, empty if all pass."""
    for check in SUITE:
        try:
            check()
        except Exception as error:
            return f"{check.__name__}: {type(error).__name__}"
    return ""


# -- the slips ---------------------------------------------------------------------------------------------------------


def spell(name: str, build: Callable[..., Any]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        table: Any = FACETS
        patch.setitem(table, name, replace(table[name], triton=build))

    return apply


def reduce_as(name: str, function: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        table: Any = FACETS
        reduction = replace(table[name].reduction, of_floats=function)
        patch.setitem(table, name, replace(table[name], reduction=reduction))

    return apply


def helper(name: str, body: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        table: Any = spelling.HELPERS
        patch.setitem(table, name, f"@triton.jit\ndef {name}{body}\n")

    return apply


def identity(name: str, number: float) -> Callable[[Patch], None]:
    """Another number for the lanes outside, where floats are reduced."""

    def apply(patch: Patch) -> None:
        table: Any = FACETS
        usual = table[name].reduction.identity
        reduction = replace(table[name].reduction, identity=lambda dtype: number if dtype.is_float else usual(dtype))
        patch.setitem(table, name, replace(table[name], reduction=reduction))

    return apply


def text(pattern: str, to: str) -> Callable[[Patch], None]:
    """Another line in every kernel that has the line."""

    def apply(patch: Patch) -> None:
        def render(kernel: Any, numbers_in_memory: bool) -> KernelSource:
            source = render_kernel(kernel, numbers_in_memory)
            functions = tuple(replace(f, text=re.sub(pattern, to, f.text)) for f in source.functions)
            return replace(source, functions=functions)

        patch.setattr("tritonnotes.codegen.module.module.render_kernel", render)

    return apply


def method(place: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """A function of the code generator with another in its place, made of the old one."""

    def apply(patch: Patch) -> None:
        patch.setattr(f"tritonnotes.{place}", make(pkgutil.resolve_name(f"tritonnotes.{place}")))

    return apply


MUTANTS: dict[str, Callable[[Patch], None]] = {
    # masks and bounds
    "no mask on loads and stores": text(r", mask=(in_rows|in_cols|mask)\b", ""),
    "no mask on columns": text(r"mask = in_rows & in_cols", "mask = in_rows & (col >= 0)"),
    "one row too many": text(r"(row|offset) < (\w+)", r"\1 <= \2"),
    "one row too few": text(r"(row|offset) < (\w+)", r"\1 < \2 - 1"),
    "one column too few": text(r"col < COLS", "col < COLS - 1"),
    "lanes outside reach reductions": method(
        "codegen.emit.writer.Writer.masked_value", lambda old: lambda self, step, arg, inner: inner),
    "lanes outside hold anything in a sum": method(
        "codegen.lower.index_math.Indexing.filled_for", lambda old: lambda self, load: ""),
    "last tile left out": text(r"tl\.cdiv\((\w+), (ROWS|BLOCK)\)", r"(\1 // \2)"),
    # identities and reductions
    "0 for the identity of max": identity("max", 0.0),
    "0 for the identity of min": identity("min", 0.0),
    "1 for the identity of sum": identity("sum", 1.0),
    "max that skips NaN": reduce_as("max", "tl.max"),
    "min that skips NaN": reduce_as("min", "tl.min"),
    "maximum that drops NaN": spell("maximum", calls("tl.maximum")),
    "the first partial sum alone": text(r"program < programs", "program < 1"),
    "last partial sum skipped": text(r"program < programs", "program < programs - 1"),
    "all partial sums in one place": text(r"_partial_ptr \+ program\b", "_partial_ptr + 0 * program"),
    "each sum begun anew in each tile": text(r"(\w+) \+= (?!tl\.load)", r"\1 = "),
    # formulas
    "no maximum subtracted": text(r"= (\w+) - (row_max|largest)\b", r"= \1"),
    "no mean subtracted": text(r"centered = (\w+) - mean\b", r"centered = \1"),
    "another epsilon": text(r"\b1e-5\b", "1e-4"),
    "divided by one too many": text(r"/ 33\.0", "/ 34.0"),
    "no root": text(r"tl\.rsqrt\(", "1.0 / ("),
    "a derivative with the wrong sign": text(r"(pdf|cdf \+ \w+) \* ", r"\1 * -"),
    "arguments of a difference swapped": spell("sub", lambda a, b: b - a),
    "branches swapped": spell("where", lambda condition, a, b: call("tl.where", condition, b, a)),
    "below for at most": spell("le", infix("<")),
    "one comparison for the other": spell("eq", infix("!=")),
    "and for or": spell("logical_or", infix("&")),
    # helpers
    "tanh by exponentials alone": helper("tanh", "(x):\n    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)"),
    "expm1 by subtraction": helper("expm1", "(x):\n    return tl.exp(x) - 1.0"),
    "log1p by addition": helper("log1p", "(x):\n    return tl.log(1.0 + x)"),
    "sign of 0 is 1": helper("sign", "(x):\n    return (x >= 0).to(x.dtype) - (x < 0).to(x.dtype)"),
    "power of magnitudes": helper("power", "(base, exponent):\n    return tl.exp(exponent * tl.log(tl.abs(base)))"),
    # types
    "no cast after the load": method("codegen.lower.loads.compute_dtype", lambda old: lambda dtype: dtype),
    "rounded once more before the store": text(r"\.to\(tl\.float16\)", ".to(tl.bfloat16).to(tl.float16)"),
    # addresses
    "strides swapped": method("codegen.lower.builder.behind", lambda old: lambda shape, axis: old(shape[::-1], axis)),
    "parts begin at 0": method("codegen.lower.index_math.Indexing.offset", lambda old: lambda self, address: old(
        self, replace(address, dims=tuple((a, b, 0) for a, b, _ in address.dims)))),
    "one element off": text(r"tl\.load\((\w+_ptr) \+ cell", r"tl.load(\1 + cell + 1"),
    "quotient for remainder": text(r"(row|offset|col) % ", r"\1 // "),
    "index from 1": method(
        "codegen.lower.index_math.Indexing.index_along", lambda old: lambda self, step: old(self, step) + 1),
    "row numbers taken as they come": text(r"mask=\((\w+) >= 0\) & \(\1 < (\d+)\)", r"mask=(\1 > 0) & (\1 < \2)"),
    # the program
    "weight not transposed in the product": method(
        "codegen.module.memories.Memories.operand", lambda old: lambda self, value: (
            old(self, value) + (".flip(0)" if value.op.name == "parameter" else ""))),
    "step counted from 0": method("training.step_state.StepState.host_numbers", lambda old: lambda self: {
        n: v - (n == "step") for n, v in old(self).items()}),
    "rate of the last update kept": text(r"updated = (\w+) - step_size \* ", r"updated = \1 - 1.001 * step_size * "),
    "second moment from the first": text(r"(one_minus_beta2 \* \w+) \* \w+", r"\1"),
    "old value handed out late": method(
        "runtime.runner.Runner.run", lambda old: lambda self, leaves, sizes, scalars=None: {
            n: leaves.get(self.program.outputs[n][0], t)
            for n, t in old(self, leaves, sizes, scalars).items()}),
}  # fmt: skip


@pytest.fixture
def small_tiles(monkeypatch: Patch) -> Patch:
    """Several tiles to a program and several programs to a sum, as on a GPU."""
    if DEVICE.type == "cpu":
        # Machine code of a broken kernel could end the process.
        monkeypatch.setenv(STRICT_VARIABLE, "1")
        monkeypatch.setattr("tritonnotes.runtime.executors.interpreted.PROGRAMS", 3)
        monkeypatch.setitem(Runner.__init__.__kwdefaults__, "tile", 256)  # type: ignore[arg-type]
    return monkeypatch


def test_suite_passes_where_nothing_is_broken(small_tiles: Patch) -> None:
    for check in SUITE:
        check()


@pytest.mark.slow
def test_suite_notices_the_slips(small_tiles: Patch) -> None:
    noticed = {}
    for name, mutate in MUTANTS.items():
        with small_tiles.context() as patch:
            mutate(patch)
            noticed[name] = first_complaint()
    for name, by in noticed.items():
        print(f"{name:45} {by or 'NOT NOTICED'}")
    survivors = [name for name, by in noticed.items() if not by]
    assert len(noticed) >= 20
    assert len(survivors) <= (1 - NOTICED) * len(noticed), f"not noticed: {survivors}"
