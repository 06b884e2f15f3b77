"""Numbers that the host works out are floats, however they come of the sizes of `Dim`s, which are ints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import Dim, host
from tritonnotes.ir.passes.decompose import decompose

BATCH, LENGTH = Dim("batch"), Dim("length")
SIZES = {"batch": 3, "length": 5}


def number(g: Graph, spelled: str) -> Value:
    batch, length = (g.append("dim_size", (), {"dim": d.name}, (), host) for d in (BATCH, LENGTH))
    found: Value = eval(spelled, {"batch": batch, "length": length, "tn": tn})
    return found


@pytest.mark.parametrize(
    "spelled",
    [
        "tn.maximum(batch, 0.0)", "tn.minimum(batch, 9.0)", "batch * length", "batch + length", "-batch",
        "abs(batch - length)", "batch ** length", "tn.floor(batch / 2)", "tn.maximum(batch * length - 1, 0.0)",
        "tn.floor(tn.sqrt(batch)) * batch", "batch / length", "batch * 0.5", "tn.maximum(batch / 2, length)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_number_made_of_sizes_reaches_kernels_as_a_float(spelled: str, in_memory: bool) -> None:
    g = Graph("numbers", level="primitive")
    x = g.input("x", (BATCH, LENGTH))
    g.output(y=x * number(g, spelled))
    program = replace(make_program(g), in_memory=in_memory)
    module = load_source(program.source, KernelCache())
    seen: list[object] = []
    if in_memory:
        seen += module.numbers_of(**program.arguments.given(SIZES, {}))
    else:
        tensors = {"x": torch.ones(3, 5), "y": torch.empty(3, 5)}
        given = program.arguments.given(SIZES, {})
        module.run(tensors, **given, launch=lambda kernel, grid, *given, **_: seen.extend(given))
        seen = [value for value in seen if isinstance(value, float)]
    assert len(seen) == 1 and isinstance(seen[0], float)


@pytest.mark.parametrize("fusion", ["optimal", "off"])
@pytest.mark.parametrize("strict", [True, False])
def test_the_variance_along_a_symbolic_axis_is_torchs(fusion: str, strict: bool) -> None:
    g = tn.Graph("variance")
    x = g.input("x", (BATCH, 2))
    g.output(biased=tn.var(x, 0, correction=0), unbiased=tn.var(x, 0))
    model = tn.compile(g, fusion=fusion, strict=strict)
    for size in (1, 2, 5, 2):
        fed = torch.randn(size, 2, generator=torch.Generator().manual_seed(size))
        found = model(x=fed)
        torch.testing.assert_close(found["biased"], fed.var(0, correction=0))
        if size > 1:
            torch.testing.assert_close(found["unbiased"], fed.var(0))


def test_sizes_in_a_formula_of_a_declared_graph_are_floats_too() -> None:
    g = tn.Graph("mean")
    g.output(y=tn.std(g.input("x", (BATCH, LENGTH)), correction=0))
    program = replace(make_program(decompose(g)), in_memory=True)
    numbers = load_source(program.source, KernelCache()).numbers_of(**program.arguments.given(SIZES, {}))
    assert numbers and all(isinstance(number, float) for number in numbers)


@pytest.mark.parametrize("fusion", ["optimal", "greedy", "off"])
def test_a_number_is_read_by_kernels_of_two_dtypes_that_one_launch_runs(fusion: str) -> None:
    """One reads it in float64 from memory, the one that finalizes its sums takes it in float32."""
    g = tn.Graph("dtypes")
    x, w = g.input("x", (BATCH, LENGTH)), g.parameter("w", (1, 1))
    g.output(wide=tn.cast(x, "float64"), loss=tn.mean(x * w))
    step = tn.compile_step(g, optimizer=tn.sgd(lr=0.5), fusion=fusion, strict=True)
    step.model.load_state_dict({"w": torch.full((1, 1), 2.0)})
    fed = torch.arange(15.0).reshape(3, 5)
    outputs = step(x=fed)
    assert torch.equal(outputs["wide"], fed.double())
    torch.testing.assert_close(outputs["loss"], torch.tensor(14.0))
    torch.testing.assert_close(step.model.state_dict()["w"], torch.full((1, 1), 2 - 0.5 * 7))
