"""Biases that the library adds to its products: one launch fewer, no way through memory, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from counted_traffic import assert_exact

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.fusion.horizontal import biases_of_products
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.launches import LibraryCall
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
    return make_plan(optimize(decompose(graph)), Fusion("optimal", **{**BY_LIBRARY, **options}))


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
