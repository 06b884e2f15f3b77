"""Dropout: the same bits from kernel, formula and torch reference, a mask that nobody stores, a seed for each run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled import DTYPES, assert_within_policy, draw, judge
from numerics import agree
from torch import Tensor
from torch.nn import functional as F

import tritonnotes as tn
from tritonnotes.codegen.emit.ops import HELPERS
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.codegen.target.load import load_source
from tritonnotes.interpreter import launch
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import (
    DeclarationError,
    DTypeError,
    FeedError,
    FormatError,
    TritonNotesError,
    VerificationError,
)
from tritonnotes.ir.core.graph import Value, is_seed
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.passes.evaluation import evaluation_form
from tritonnotes.ir.primitives import uniform as uniform_of
from tritonnotes.ir.primitives.philox import philox
from tritonnotes.judge.references import REFERENCES
from tritonnotes.runtime.runner import Runner, pick_device
from tritonnotes.tensors.seeds import fresh_seed, step_seed

BATCH = tn.Dim("batch")
SEEDS = (0, 1, 12345, 2**31, 2**32 - 1, 2**32, 0x1234567_89ABCDEF, 2**63 - 1)


def dropping(p: float = 0.5, shape: tuple[Any, ...] = (BATCH, 33), dtype: str = "float32") -> tn.Graph:
    g = tn.Graph("dropping")
    g.output(y=tn.dropout(g.input("x", shape, dtype), p, name="drop"))
    return g


def network(p: float = 0.4) -> tn.Graph:
    """Dropout behind an activation, and twice before a residual sum."""
    g = tn.Graph("network")
    x, y = g.input("x", (BATCH, 16)), g.input("y", (BATCH,), dtype="int64")
    h = tn.dropout(tn.relu(tn.linear(x, 32, name="fc1")), p, name="drop1")
    side = tn.dropout(tn.tanh(tn.linear(h, 32, name="fc2")), p, name="drop2")
    h = tn.layer_norm(tn.dropout(h, p, name="drop3") + side, name="ln")
    g.output(hidden=h, loss=tn.cross_entropy(tn.linear(h, 5, name="fc3"), y))
    return g


def fed(batch: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    x, y = torch.randn(batch, 16, generator=generator), torch.randint(0, 5, (batch,), generator=generator)
    return {"x": x.to(pick_device()), "y": y.to(pick_device())}


def uniform(seed: int, shape: tuple[int, ...], stream: int = 0) -> np.ndarray:
    return PRIMITIVES["uniform"].evaluate(seed, shape=shape, stream=stream)


def ones(*shape: int, dtype: str = "float32") -> Tensor:
    return torch.ones(shape, dtype=getattr(torch, dtype), device=pick_device())


# -- the generator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_words_are_those_that_random123_publishes(counter: Any, key: Any, words: Any) -> None:
    assert tuple(int(word) for word in philox(counter, key)) == words


@pytest.mark.parametrize("stream", [0, 1, 7, 2**31, 2**32 - 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_formula_and_reference_draw_the_same_bits(seed: int, stream: int) -> None:
    ours = uniform(seed, (5, 41), stream)
    theirs = REFERENCES["uniform"](torch.tensor(seed), shape=(5, 41), stream=stream)
    assert ours.dtype == np.float32 and torch.equal(torch.as_tensor(ours), theirs)


KERNELS = f"""\
import triton
import triton.language as tl


{HELPERS["uniform"]}

@triton.jit
def ours(out_ptr, first: tl.int64, seed: tl.int64, stream: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out_ptr + lane, uniform(seed, first + lane, stream))


@triton.jit
def tritons(out_ptr, first: tl.int64, seed: tl.int64, stream: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out_ptr + lane, tl.rand(seed, first + lane))


@triton.jit
def narrow(out_ptr, first: tl.int32, seed: tl.int64, stream: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out_ptr + lane, uniform(seed, first + lane, stream))
"""


def drawn_by(kernel: str, first: int, seed: int, stream: int) -> Tensor:
    out = torch.full((64,), -1.0)
    module: Any = load_source(KERNELS, KernelCache())
    launch(getattr(module, kernel), (1,), out, first, seed, stream=stream, BLOCK=64)
    return out


@pytest.mark.parametrize("first", [0, 1000, 2**31 - 32, 2**32 - 32, 5 * 2**32 + 17])
@pytest.mark.parametrize("seed", SEEDS)
def test_kernel_draws_by_places_of_64_bits_and_as_tl_rand_in_the_first_stream(seed: int, first: int) -> None:
    place = np.arange(first, first + 64, dtype=np.uint64)
    for stream in (0, 3):
        key = (seed & 0xFFFFFFFF, seed >> 32)
        word, *_ = philox((place & np.uint64(0xFFFFFFFF), place >> np.uint64(32), stream, 0), key)
        # Half the words stand for themselves; the others count down from the top.
        bits = np.minimum(word, np.uint64(0xFFFFFFFF) - word)
        want = torch.as_tensor(bits.astype(np.float32) * np.float32(4.6566127342e-10))
        assert torch.equal(drawn_by("ours", first, seed, stream), want)
        if first < 2**31 - 64:
            assert torch.equal(drawn_by("narrow", first, seed, stream), want)
        assert torch.equal(drawn_by("tritons", first, seed, stream), want) is (stream == 0)


def test_numbers_lie_evenly_below_1() -> None:
    count, bins = 200_000, 64
    drawn = uniform(7, (count,))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert float(np.float32(2**31 - 1) * np.float32(4.6566127342e-10)) < 1, "the largest number there is"
    found, _ = np.histogram(drawn, bins, (0, 1))
    chi_square = float(((found - count / bins) ** 2 / (count / bins)).sum())
    assert abs(chi_square - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1))


# -- distribution ------------------------------------------------------------------------------------------------------


def kept(seed: int, stream: int, p: float, count: int = 50_000) -> np.ndarray:
    return uniform(seed, (count,), stream) >= p


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_share_that_is_kept_lies_within_binomial_bounds(p: float) -> None:
    for seed in range(5):
        share = kept(step_seed(seed, 3), seed, p)
        assert abs(share.sum() - share.size * (1 - p)) < 5 * math.sqrt(share.size * p * (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_instances_and_steps_are_independent(p: float) -> None:
    first = kept(step_seed(0, 0), 0, p)
    others = [kept(step_seed(0, 0), stream, p) for stream in (1, 2)]  # other instances
    others += [kept(step_seed(0, step), 0, p) for step in (1, 2, 1000)]  # other steps
    others += [kept(step_seed(seed, 0), 0, p) for seed in (1, 2)]  # other runs
    others += [np.roll(first, 1), np.roll(first, 33)]  # other elements
    agreeing = p * p + (1 - p) * (1 - p)
    for other in others:
        off = abs((first == other).sum() - first.size * agreeing)
        assert off < 5 * math.sqrt(first.size * agreeing * (1 - agreeing))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_what_is_kept_is_scaled_so_that_the_mean_stays(p: float, dtype: str) -> None:
    model = tn.compile(dropping(p, dtype=dtype), training=True)
    model.seed = 11
    y = model(x=ones(600, 33, dtype=dtype))["y"]
    scaled = torch.tensor(1 / (1 - p), dtype=y.dtype, device=y.device)
    assert ((y == 0) | (y == scaled)).all()
    assert abs(y.double().mean() - 1) < 5 * math.sqrt(p / (1 - p) / y.numel()) + torch.finfo(y.dtype).eps


# -- kernel, formula and reference -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(BATCH, 33), (3, BATCH, 5), (BATCH,), (7, 64), (2, 3, 4, 5), (), (1, 1), (0, 4)], ids=str
)
def test_mask_is_the_references_in_forward_and_backward(shape: Any, dtype: str) -> None:
    graph = dropping(0.3, shape, dtype)
    model = tn.compile(graph, training=True)
    for seed in (0, 2**40 + 3):
        model.seed = seed
        x = ones(*(9 if isinstance(s, tn.Dim) else s for s in shape), dtype=dtype).requires_grad_()
        y = model(x=x)["y"]
        assert torch.equal(y, tn.eager(graph, {"x": x.detach()}, training=True, seed=seed)["y"])
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_network_with_dropout_holds_the_policy_in_training(dtype: str) -> None:
    g = tn.Graph("mixed")
    x = g.input("x", (BATCH, 33), dtype)
    h = tn.dropout(tn.layer_norm(tn.dropout(tn.tanh(x), 0.2)), 0.6)
    g.output(y=tn.mean(h * h, -1), h=h)
    for batch in (1, 7, 64):
        assert_within_policy(judge(g, draw(g, batch=batch), training=True, seed=batch))


def test_derived_gradient_is_autograds() -> None:
    for p in (0.0, 0.3, 1.0):
        graph = dropping(p, (4, 5), "float64")
        seeds = {v.name: torch.tensor(99) for v in graph.leaves("scalar")}
        agree(graph, x=torch.randn(4, 5), **seeds)


def test_mask_of_a_row_hangs_on_nothing_but_its_place() -> None:
    graph = dropping(0.5)
    model = tn.compile(graph, training=True)
    model.seed = 3
    whole = model(x=ones(64, 33))["y"]
    for rows in (1, 2, 31, 63):
        assert torch.equal(model(x=ones(rows, 33))["y"], whole[:rows])
    off = tn.compile(graph, training=True, fusion="off")
    off.seed = 3
    assert torch.equal(off(x=ones(64, 33))["y"], whole)
    for tile in (64, 512):
        runner = Runner(model.program, model.device, tile=tile)
        assert torch.equal(runner.run({"x": ones(64, 33)}, {"batch": 64}, {"dropout.seed": 3})["y"], whole)
    for x in (ones(33, 64).T, torch.stack([ones(64, 33)] * 2, -1)[..., 0], ones(1, 33).expand(64, 33)):
        assert torch.equal(model(x=x)["y"], whole)


def test_mask_goes_by_the_order_of_the_value_that_is_dropped() -> None:
    g = tn.Graph("turned")
    x = g.input("x", (5, 7))
    g.output(y=tn.permute(tn.dropout(tn.permute(x, 1, 0), 0.5), 1, 0))
    model = tn.compile(g, training=True)
    model.seed = 3
    want = torch.as_tensor(uniform(3, (7, 5)) >= 0.5).T * 2.0
    assert torch.equal(model(x=ones(5, 7))["y"].cpu(), want)


def test_value_that_meets_its_own_transpose_keeps_its_mask() -> None:
    g = tn.Graph("square")
    x = g.input("x", (6, 6))
    dropped = tn.dropout(x, 0.5)
    g.output(y=dropped + dropped.T)
    assert_within_policy(judge(g, draw(g), training=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_part_of_what_is_dropped_keeps_its_part_of_the_mask(dtype: str) -> None:
    g = tn.Graph("parts")
    dropped = tn.dropout(g.input("x", (BATCH, 10, 6), dtype), 0.5)
    gate, up = tn.chunk(dropped, 2, 1)
    g.output(
        gated=tn.sigmoid(gate) * up, part=tn.narrow(dropped, 2, 1, 3), joined=tn.cat([up, gate], 1), one=dropped[:, 3]
    )
    assert_within_policy(judge(g, draw(g, batch=7), training=True))
    assert_no_mask_in_memory(tn.compile(g, training=True).program)


@pytest.mark.parametrize("cols", [3000, 40_000])
def test_rows_that_are_walked_along_draw_the_same_in_each_pass(cols: int) -> None:
    g = tn.Graph("long")
    x = g.input("x", (2, cols))
    g.output(y=tn.softmax(tn.dropout(x, 0.3), -1), total=tn.sum(tn.dropout(x, 0.9), 0))
    assert_within_policy(judge(g, draw(g), training=True))


# -- limits of p, special numbers --------------------------------------------------------------------------------------

SPECIAL = [1.0, -2.0, 0.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything_dropped_is_torchs(p: float) -> None:
    graph = dropping(p, (6,))
    x = torch.tensor(SPECIAL, device=pick_device(), requires_grad=True)
    want = F.dropout(x, p, True)
    for y in (tn.compile(graph, training=True)(x=x)["y"], tn.eager(graph, {"x": x}, training=True)["y"]):
        torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
        mine, theirs = (torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in (y, want))
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    assert not dropping(0.0).leaves("scalar")
    g = tn.Graph("never")
    g.output(y=tn.dropout(g.input("x", (3,)), training=False))
    assert not g.leaves("scalar") and torch.equal(tn.compile(g, training=True)(x=ones(3))["y"], ones(3))


def test_infinity_and_nan_go_where_torchs_product_sends_them() -> None:
    x = torch.tensor(SPECIAL * 20, device=pick_device())
    graph = dropping(0.5, (120,))
    model = tn.compile(graph, training=True)
    model.seed = 1
    y = model(x=x)["y"]
    torch.testing.assert_close(y, tn.eager(graph, {"x": x}, training=True, seed=1)["y"], rtol=0, atol=0, equal_nan=True)
    # A dropped infinity is ∞ · 0 in torch too, whose mask is another.
    theirs = F.dropout(x, 0.5, True)
    for each in (y, theirs):
        infinite = each[x.isinf()]
        assert infinite.isnan().any() and infinite.isinf().any() and each[x.isnan()].isnan().all()


@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        (lambda x: tn.dropout(x, 1.5), DeclarationError, "dropout .*p is 1.5; it is the probability .* from 0 to 1"),
        (lambda x: tn.dropout(x, -0.1), DeclarationError, "p is -0.1"),
        (lambda x: tn.dropout(x, math.nan), DeclarationError, "p is nan"),
        (lambda x: tn.dropout(x, True), DeclarationError, "p is True"),
        (lambda x: tn.dropout(x, "half"), DeclarationError, "p is 'half'"),
        (lambda x: tn.dropout(x, 0.5, 1), DeclarationError, "training 1; give .* a bool"),
        (lambda x: tn.dropout(3.0), DeclarationError, "takes a Value of a graph, got 3.0"),
        (lambda x: tn.dropout(tn.cast(x, "int64")), DTypeError, "dropout .*needs a float dtype, got int64"),
    ],
)
def test_mistake_is_one_typed_error(mistake: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mistake(tn.Graph("m").input("x", (3,)))


def test_formula_cannot_hold_dropout() -> None:
    @tn.op(reference=lambda x: x, domain=(-1, 1))
    def noisy(x):
        return tn.dropout(x)

    with pytest.raises(DeclarationError, match="custom.noisy .*dropout: has a random stream of its own"):
        noisy(tn.Graph("m").input("x", (3,)))


# -- nobody stores the mask --------------------------------------------------------------------------------------------


def is_drawn(value: Value) -> bool:
    """Whether a value is made of random numbers and constants alone."""
    known: dict[Value, tuple[bool, bool]] = {}

    def look(v: Value) -> tuple[bool, bool]:
        if v not in known:
            inner = [look(a) for a in v.inputs]
            pure = v.op.name in ("uniform", "constant") or is_seed(v) or (not v.is_leaf and all(p for p, _ in inner))
            known[v] = (pure, v.op.name == "uniform" or any(r for _, r in inner))
        return known[v]

    return look(value) == (True, True)


def stored(plan: FusionPlan) -> list[Value]:
    return [v for k in plan.launches for v in (*k.stores, *k.loads)]


def assert_no_mask_in_memory(program: Program) -> None:
    assert not [v.name for v in stored(program.plan) if is_drawn(v)]
    assert not [b.name for b in program.buffers if b.dtype.name == "bool"]
    assert any(v.op.name == "uniform" for v in program.graph.values), "nothing is drawn here"


def test_no_mask_is_stored_in_a_step_nor_saved_for_backward() -> None:
    g = network()
    step = tn.compile_step(g, loss="loss", optimizer=tn.sgd(lr=0.1))
    assert_no_mask_in_memory(step.program)
    model = tn.compile(g, training=True)
    forward, backward = model.gradient_programs
    assert_no_mask_in_memory(forward)
    assert_no_mask_in_memory(backward)
    # What the forward run keeps is of the size of a product or of a row's statistic, and holds no product with a mask.
    saved = [name for name in forward.outputs if name.startswith("saved.")]
    assert saved and not [name for name in saved if "drop" in name]


def test_stored_mask_would_be_noticed() -> None:
    model = tn.compile(network(), training=True, fusion="off")  # every primitive its own kernel
    with pytest.raises(AssertionError, match="drop1"):
        assert_no_mask_in_memory(model.program)


@pytest.mark.parametrize("fusion", ["greedy", "optimal"])
def test_dropout_moves_no_bytes(fusion: str) -> None:
    def scaled(p: float) -> tn.Model:
        g = tn.Graph("scaled")
        x = g.input("x", (BATCH, 64))
        g.output(y=tn.dropout(tn.tanh(x * g.parameter("scale", (64,), "ones")), p))
        return tn.compile(g, training=True, fusion=fusion)

    without, dropping = ([m.program, *m.gradient_programs] for m in (scaled(0.0), scaled(0.5)))
    for a, b in zip(without, dropping, strict=True):
        assert a.plan.bytes_moved() == b.plan.bytes_moved() and len(a.plan.launches) == len(b.plan.launches)


# -- the evaluation form -----------------------------------------------------------------------------------------------


def test_evaluation_form_holds_neither_dropout_nor_seed() -> None:
    g = network()
    form = evaluation_form(g)
    verify(form)
    assert [v.name for v in g.leaves("scalar")] == ["dropout.seed"] and not form.leaves("scalar")
    model = tn.compile(g)
    assert "philox" not in model.source and "run(t, *, batch, programs=1, launch=launch)" in model.source
    state = model.state_dict()
    result = model(**fed())["hidden"]
    torch.testing.assert_close(result, tn.eager(g, fed(), state)["hidden"])
    model.train()
    assert "uniform(seed, cell, 0)" in model.source and not torch.equal(model(**fed())["hidden"], result)
    assert torch.equal(model.eval()(**fed())["hidden"], result)


@pytest.mark.parametrize("of", [lambda g: g, evaluation_form], ids=["training", "evaluation"])
def test_both_forms_survive_text_and_json(of: Any) -> None:
    form = of(network())
    for read in (tn.Graph.from_text(str(form)), tn.Graph.from_json(form.to_json())):
        assert same_graph(read, form) and str(read) == str(form)


def test_primitives_survive_text_and_json() -> None:
    graph = tn.compile_step(network(), loss="loss", optimizer=tn.sgd(lr=0.1)).program.graph
    for read in (tn.Graph.from_text(str(graph)), tn.Graph.from_json(graph.to_json())):
        assert same_graph(read, graph)
        verify(read)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y: float32[3] = dropout(x, seed, p=2.0, training=true, stream=0)", "p is 2.0"),
        ("y: float32[3] = dropout(x, seed, p=0.5, training=true, stream=-1)", "stream is -1; it is a word of 32 bits"),
        ("y: float32[3] = dropout(x, none, p=0.5, training=true, stream=0)", "it takes the seed of its graph"),
        ("y: float32[3] = dropout(x, x, p=0.5, training=true, stream=0)", r"the seed 'seed' is float32\[3\]"),
        ("y: float32[3] = dropout(x, seed, p=0.5, training=1, stream=0)", "training is 1"),
        ("wrong: float32[] = scalar()", "host is for the numbers that the host knows"),
        ("wrong: int64[2] = scalar()", "it is one number"),
    ],
)
def test_file_that_asks_for_what_cannot_be_is_refused(line: str, message: str) -> None:
    text = f"graph g declared\nx: float32[3] = input()\nseed: int64[] = scalar()\n{line}\noutput x = x\n"
    with pytest.raises(FormatError, match=message):
        tn.Graph.from_text(text)


def test_uniform_in_a_file_is_checked_too() -> None:
    text = "graph g primitive\nx: int64[] = input()\nseed: int64[] = scalar()\n"
    assert tn.Graph.from_text(text + "u: float32[3] = uniform(seed, shape=(3,), stream=1)\noutput u = u\n")
    for line in (
        "u: float32[3] = uniform(seed, shape=(3,), stream=4294967296)",
        "u: float32[3] = uniform(seed, shape=(3,), stream=0.5)",
        "u: float32[4] = uniform(seed, shape=(3,), stream=1)",
        "u: float32[3] = uniform(shape=(3,), stream=1)",
    ):
        with pytest.raises(FormatError):
            tn.Graph.from_text(f"{text}{line}\noutput u = u\n")


def test_model_takes_no_other_number_of_the_host() -> None:
    g = tn.Graph("numbers")
    rate = g.host_scalar("rate")
    g.output(y=g.input("x", (3,)) * rate)
    with pytest.raises(DeclarationError, match="'rate' is a number"):
        tn.compile(g)


# -- seeds of models and steps -----------------------------------------------------------------------------------------


def test_seed_of_a_call_is_torchs_generators() -> None:
    model, g, feeds = tn.compile(network(), training=True), network(), fed()
    torch.manual_seed(5)
    first, second = (model(**feeds)["hidden"] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(model(**feeds)["hidden"], first)
    assert torch.equal(model(**feeds)["hidden"], second)
    # Eager draws the same number from the same generator.
    torch.manual_seed(5)
    torch.testing.assert_close(tn.eager(g, feeds, model.state_dict(), training=True)["hidden"], first)
    torch.manual_seed(5)
    assert fresh_seed() != fresh_seed()


def test_seed_may_be_held() -> None:
    model, feeds = tn.compile(network(), training=True), fed()
    model.seed = 5
    before = torch.get_rng_state()
    first = model(**feeds)["hidden"]
    assert torch.equal(model(**feeds)["hidden"], first) and torch.equal(torch.get_rng_state(), before)
    model.seed = 6
    assert not torch.equal(model(**feeds)["hidden"], first)


def test_generator_stays_where_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    model = tn.compile(network())
    model(**fed())
    tn.eager(network(), fed(), model.state_dict())
    plain = tn.Graph("plain")
    plain.output(y=tn.relu(plain.input("x", (3,))))
    tn.compile(plain, training=True)(x=ones(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_eager_refuses_what_is_no_seed() -> None:
    for seed in (-1, 2**63, 0.5, True):
        with pytest.raises(FeedError, match="declared as an exact int of the host"):
            tn.eager(dropping(), {"x": ones(2, 33)}, training=True, seed=seed)  # type: ignore[arg-type]


def test_backward_draws_what_its_own_forward_drew() -> None:
    """Though other calls were made between the two."""
    model = tn.compile(dropping(0.5), training=True)
    x = ones(7, 33).requires_grad_()
    torch.manual_seed(0)
    first = model(x=x)["y"]
    model(x=x)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(gradient, first)


def make_step(seed: int = 0) -> tn.TrainingStep:
    return tn.compile_step(network(), loss="loss", optimizer=tn.adam(lr=0.01), seed=seed)


def hidden(step: tn.TrainingStep, times: int) -> list[Tensor]:
    return [step(**fed())["hidden"].clone() for _ in range(times)]


def test_step_draws_anew_each_time_and_the_same_for_the_same_seed() -> None:
    step = make_step()
    results = hidden(step, 3)
    still = tn.compile_step(network(), loss="loss", optimizer=tn.sgd(lr=0.0))  # only what is drawn changes
    first, second, third = hidden(still, 3)
    assert not torch.equal(first, second) and not torch.equal(second, third) and not torch.equal(first, third)
    assert all(torch.equal(a, b) for a, b in zip(results, hidden(make_step(), 3), strict=True))
    other = make_step()
    other.seed = 1
    assert not torch.equal(hidden(other, 1)[0], results[0])


def test_step_trains_as_eager_with_the_seed_of_that_step() -> None:
    step, g, feeds = make_step(seed=4), network(), fed()
    for number in range(3):
        weights = {n: t.detach().clone() for n, t in step.model.state_dict().items()}
        result = step(**feeds)
        want = tn.eager(g, feeds, weights, training=True, seed=step_seed(4, number))
        torch.testing.assert_close(result["loss"], want["loss"])
        torch.testing.assert_close(result["hidden"], want["hidden"])


def test_resumed_step_goes_on_bit_for_bit() -> None:
    step = make_step(seed=9)
    hidden(step, 2)
    state = step.state_dict()
    want = hidden(step, 3)
    resumed = make_step(seed=1)
    resumed.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(hidden(resumed, 3), want, strict=True))
    ours, theirs = step.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    with pytest.raises(FeedError, match="seed is 'x'"):
        step.load_state_dict({**state, "seed": "x"})


def test_seeds_of_steps_are_all_different() -> None:
    seeds = {step_seed(seed, step) for seed in (0, 1, -1, 2**31, 2**64 - 5) for step in range(1000)}
    assert len(seeds) == 5000 and all(0 <= s < 2**63 for s in seeds)


def test_check_judges_dropout_in_training() -> None:
    certificate = tn.check(network(), optimizer=tn.sgd(lr=0.1))
    assert certificate.ok, str(certificate)


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_new_seed_compiles_nothing() -> None:
    model = tn.compile(dropping(), training=True)
    assert 'do_not_specialize=["seed"]' in model.source
    (kernel,) = model.plan.kernels
    module: Any = load_source(model.source, KernelCache())
    (seed,) = (p for p in getattr(module, kernel.name).params if p.name == "seed")
    # Nor do 1 and multiples of 16, which Triton else compiles for, nor ints that need 64 bits.
    assert seed.do_not_specialize and seed.annotation_type == "i64"
    (source,) = model.program.kernel_sources
    assert source.signature["seed"] == "i64"


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_for_every_architecture_without_spills(arch: int) -> None:
    g = tn.Graph("both")
    x = g.input("x", (BATCH, 256), "bfloat16")
    scale = g.parameter("scale", (256,), "ones", "bfloat16")
    g.output(y=tn.dropout(tn.softmax(tn.dropout(x * scale, 0.1), -1), 0.2))
    for program in tn.compile(g, training=True).gradient_programs:
        reports = compile_program(program, arch)
        # The upper half of a product of words: what Philox is made of.
        assert any("mul.hi.u32" in report.ptx for report in reports)
        assert not [report.name for report in reports if report.spills]


def test_generated_file_runs_on_its_own(tmp_path: Path) -> None:
    file = tmp_path / "step.py"
    file.write_text(make_step().source, "utf-8")
    environment: Mapping[str, str] = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ln: (5, 32)" in done.stdout


def test_seed_that_no_host_knows_is_refused() -> None:
    g = tn.Graph("g", level="primitive")
    fed_seed = g.input("n", (), "int64")
    g.output(y=uniform_of(fed_seed, (3,), 0))
    with pytest.raises(VerificationError, match="'n', which is no number of the host"):
        verify(g)
    declared = tn.Graph("g")
    x, n = declared.input("x", (3,)), declared.input("n", (), "int64")
    declared.output(y=tn.dropout.apply(x, n, p=0.5, training=True, stream=0))
    with pytest.raises(TritonNotesError, match="'n'"):
        tn.compile(declared, training=True)
