"""Biases that the library adds to its products: one launch fewer, no way through memory, the same numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from counted_traffic import assert_exact

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.cost import scheduled_cost
from tritonnotes.codegen.fusion.horizontal import biases_of_products
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.launches import LibraryCall
from tritonnotes.codegen.plan.verdicts import Opposite, Verdict
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.judge.tolerance import compare

BY_LIBRARY = {"products": False}


def net(build: Callable[[Value], Any], width: int = 24, dtype: str = "float32") -> Graph:
    g = Graph("net")
    made = build(g.input("x", (tn.Dim("batch"), width), dtype))
    g.output(**(made if isinstance(made, dict) else {"y": made}))
    return g


def planned(graph: Graph, **options: Any) -> FusionPlan:
    return make_plan(optimize(decompose(graph)), Fusion(**{**BY_LIBRARY, **options}))


def biased(plan: FusionPlan) -> list[str]:
    return [k.bias.name for k in plan.launches if isinstance(k, LibraryCall) and k.bias is not None]


def heads(x: Value) -> dict[str, Value]:
    """Linear layers of the same rows, whose biases one kernel would add."""
    return {name: tn.linear(x, 40, name=name) for name in ("q", "k", "v")}


def test_a_bias_alone_costs_neither_a_launch_nor_a_way_through_memory() -> None:
    graph = net(lambda x: tn.linear(tn.relu(tn.linear(x, 32, name="fc1")), 40, name="fc2"))
    plan, apart = planned(graph), planned(graph, forbid=(("fc2.product", "fc2"),))
    assert biased(plan) == ["fc2.bias"] and biased(apart) == []
    through = 2 * 256 * 40 * 4
    assert (len(plan.launches), len(apart.launches)) == (3, 4)
    assert apart.bytes_moved() - plan.bytes_moved() == through
    verdict = next(v for v in plan.verdicts if (v.source, v.target) == ("fc2.product", "fc2"))
    assert (verdict.fused, verdict.rule, verdict.bytes) == (True, "library bias", through)
    assert (verdict.opposite.launches, verdict.opposite.bytes) == (1, through)
    text = tn.compile(graph, products="library", target="gpu").explain()
    assert "Biases that the library adds as it multiplies: fc2.bias in matmul_fc2_product." in text
    assert f"1 launch and {through:,} bytes more" in text


def test_biases_that_one_kernel_would_add_are_all_left_to_the_library() -> None:
    plan = planned(net(heads))
    assert biased(plan) == ["q.bias", "k.bias", "v.bias"]
    assert not plan.kernels and "_product" not in " ".join(v.name for k in plan.launches for v in k.stores)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 33])
def test_the_numbers_are_those_of_float64(dtype: str, rows: int) -> None:
    """On the CPU, held to what eager PyTorch has; a NaN and an infinity stay where they are."""
    graph = net(lambda x: tn.linear(tn.linear(x, 40, name="fc1"), 7, name="fc2"), dtype=dtype)
    model = tn.compile(graph, products="library")
    assert biased(model.program.plan) == ["fc1.bias", "fc2.bias"]
    x = torch.randn(rows, 24, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    x[1:2, 3], x[2:3, 5] = torch.nan, torch.inf
    state = model.state_dict()

    def reference(wide: torch.dtype) -> torch.Tensor:
        y = x.to(wide)
        for layer in ("fc1", "fc2"):
            weight, bias = (state[f"{layer}.{part}"].to(wide) for part in ("weight", "bias"))
            y = torch.nn.functional.linear(y, weight, bias)
        return y

    assert compare(model(x=x)["y"], reference(x.dtype), reference(torch.float64)).ok


def test_calls_that_add_a_bias_move_what_the_plan_says() -> None:
    graph = net(lambda x: heads(tn.relu(tn.linear(x, 20, name="fc"))))
    assert_exact(make_program(optimize(decompose(graph)), Fusion("optimal", products=False)), batch=5)


def with_weight(build: Callable[..., Any], columns: int = 40, bias: str = "float32") -> Callable[[Value], Any]:
    def made(x: Value) -> Any:
        weight = x.graph.parameter("w", (columns, x.shape[-1]))
        return build(x, weight, x.graph.parameter("b", (columns,), dtype=bias))

    return made


REFUSED: dict[str, Graph] = {
    "the product is an output": net(
        with_weight(lambda x, w, b: {"product": (product := tn.linear(x, weight=w, bias=False)), "y": product + b})
    ),
    "something else reads the product": net(
        with_weight(lambda x, w, b: {"z": tn.exp(product := tn.linear(x, weight=w, bias=False)), "y": product + b})
    ),
    "an activation follows, which torch computes otherwise": net(lambda x: tn.relu(tn.linear(x, 40))),
    "another dtype": net(
        with_weight(lambda x, w, b: tn.linear(x, weight=w, bias=False) + tn.cast(b, "float32"), bias="float16")
    ),
    "one column": net(lambda x: tn.linear(x, 1)),
    "one number in each sum": net(lambda x: tn.linear(x, 40), width=1),
    "a residual": net(with_weight(lambda x, w, b: tn.linear(x, weight=w, bias=False) + x, columns=24)),
    "a bias that is computed": net(with_weight(lambda x, w, b: tn.linear(x, weight=w, bias=False) + tn.exp(b))),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_kernel_adds_what_the_library_does_not(why: str) -> None:
    plan = planned(REFUSED[why])
    assert not biased(plan) and plan.kernels and not biases_of_products(plan.candidate)


def linear_and(after: Callable[[Value], Value]) -> Graph:
    """A layer whose result is an output, beside what is made of it."""
    return net(lambda x: {"h": (h := tn.linear(x, 12, name="fc1")), "r": after(h)}, width=8)


def verdict_of(plan: FusionPlan, source: str, target: str) -> Verdict:
    return next(v for v in plan.verdicts if (v.source, v.target) == (source, target))


@pytest.mark.parametrize("after", [tn.relu, lambda h: tn.softmax(h, -1)], ids=["relu", "softmax"])
def test_a_sum_that_is_stored_comes_of_the_library_whoever_else_reads_it(after: Callable[[Value], Value]) -> None:
    """The product is neither written nor read: the kernel reads the sum."""
    plan = planned(linear_and(after))
    assert biased(plan) == ["fc1.bias"]
    assert (len(plan.launches), plan.bytes_moved()) == (2, 45_488)
    assert verdict_of(plan, "fc1.product", "fc1").rule == "library bias"


def test_a_sum_that_two_kernels_read_is_not_computed_in_both() -> None:
    def build(x: Value) -> dict[str, Value]:
        h = tn.linear(x, 256, name="fc1")
        return {"rows": tn.softmax(h, -1, name="rows"), "columns": tn.softmax(h, 0, name="columns")}

    plan = planned(net(build))
    assert biased(plan) == ["fc1.bias"] and not any("fc1" in {v.name for v in k.recomputed} for k in plan.launches)


def test_what_one_wish_keeps_together_leaves_other_biases_to_the_library() -> None:
    graph = net(lambda x: {"h": (h := tn.linear(x, 12, name="fc1")), "r": tn.relu(h, name="act"), **heads(x)}, width=8)
    assert biased(planned(graph)) == ["fc1.bias", "q.bias", "k.bias", "v.bias"]
    assert biased(planned(graph, fuse=(("fc1", "act"),))) == ["q.bias", "k.bias", "v.bias"]


def test_a_bias_that_is_forbidden_says_so_and_what_that_costs() -> None:
    plan = planned(net(lambda x: tn.linear(x, 12, name="fc1"), width=8), forbid=(("fc1.product", "fc1"),))
    verdict = verdict_of(plan, "fc1.product", "fc1")
    assert (verdict.fused, verdict.rule) == (False, "forbidden")
    assert verdict.opposite == Opposite(-1, -24_576) and verdict.opposite_bytes_at({"batch": 512}) == -49_152


def test_a_bias_that_a_kernel_adds_for_nothing_could_be_the_library_s() -> None:
    graph = net(lambda x: tn.relu(tn.linear(x, 12, name="fc1"), name="act"), width=8)
    verdict = verdict_of(planned(graph), "fc1.product", "fc1")
    assert (verdict.fused, verdict.rule, verdict.opposite) == (False, "not selected", Opposite(0, 0))
    wished = planned(graph, fuse=(("fc1.product", "fc1"),))
    assert biased(wished) == ["fc1.bias"]
    assert scheduled_cost(wished.candidate).bytes == wished.bytes_moved() == planned(graph).bytes_moved()
    with pytest.raises(PlanError, match="no plan was found that holds all of it"):
        planned(graph, fuse=(("fc1.product", "fc1"), ("fc1", "act")))


def test_without_fusion_the_library_adds_nothing_and_says_why() -> None:
    plan = planned(graph := net(lambda x: tn.linear(x, 12, name="fc1")), mode="off")
    verdict = verdict_of(plan, "fc1.product", "fc1")
    assert verdict.rule == "library" and "fusion='off'" in verdict.opposite.reason
    with pytest.raises(PlanError, match="fusion='off'"):
        planned(graph, mode="off", fuse=(("fc1.product", "fc1"),))


def random_net(seed: int) -> Graph:
    """Layers of one to three outputs, with activations, norms, residuals and heads between them."""
    draw = random.Random(seed)

    def build(x: Value) -> dict[str, Value]:
        known = [x]
        for n in range(draw.randint(2, 5)):
            value = draw.choice(known[-2:])
            step = draw.choice(("linear", "linear", "linear", "relu", "gelu", "softmax", "add", "norm"))
            if step == "linear":
                known.append(tn.linear(value, draw.choice((1, 16, 16)), name=f"fc{n}"))
            elif step == "add":
                known.append(value + draw.choice(known) if value.shape == known[-1].shape else value * 2.0)
            elif step == "norm":
                known.append(tn.layer_norm(value, name=f"norm{n}"))
            elif step == "softmax":
                known.append(tn.softmax(value, -1))
            else:
                known.append(getattr(tn, step)(value))
        made = [v for v in known if not v.is_leaf]
        kept = {made[-1], *draw.sample(made, min(len(made), draw.randint(0, 2)))}
        return {f"y{n}": v for n, v in enumerate(made) if v in kept}

    return net(build, width=16, dtype=draw.choice(("float32", "bfloat16")))


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_that_is_called_optimal_lists_a_change_for_the_better(seed: int) -> None:
    """And what a plan has the library add, `forbid` parts and `fuse` keeps."""
    graph = random_net(seed)
    plan = planned(graph)
    for verdict in plan.verdicts if plan.fusion == "optimal" else ():
        opposite = verdict.opposite
        assert opposite.reason or opposite.bytes >= 0 or opposite.launches > 0, (str(verdict), str(opposite))
    pair = next(((v.source, v.target) for v in plan.verdicts if v.rule == "library bias"), None)
    if pair is not None:
        kept, parted = planned(graph, fuse=(pair,)), planned(graph, forbid=(pair,))
        assert biased(kept) == biased(plan) and len(biased(parted)) == len(biased(plan)) - 1
        assert verdict_of(parted, *pair).rule == "forbidden" and kept.bytes_moved() == plan.bytes_moved()
