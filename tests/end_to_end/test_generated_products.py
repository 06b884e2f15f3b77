"""Kind 11 of faults: with `products="generated"` no bit depends on a library, or on the rows beside a row."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.fusion.constraints import PRODUCTS
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.runtime.runner import pick_device

BATCH = tn.Dim("batch")
DEVICE = pick_device()


def graph(dtype: str = "float32", widths: tuple[int, ...] = (12, 10), residual: bool = False) -> tn.Graph:
    g = tn.Graph("products")
    h, y = g.input("x", (BATCH, 20), dtype), g.input("y", (BATCH,), "int64")
    for number, width in enumerate(widths):
        made = tn.linear(h, width, bias=number % 2 == 0, name=f"fc{number}")
        made = tn.gelu(tn.layer_norm(made, name=f"ln{number}"))
        h = made + h if residual and made.shape == h.shape else made
    logits = tn.linear(h, 5, name="head")
    turned = tn.matmul(
        h, tn.transpose(g.parameter("turned", (3, widths[-1]), "normal", dtype, mean=0.0, std=1.0), 0, 1)
    )
    g.output(logits=logits, one=tn.linear(h, 1, name="one"), turned=turned, h=h)
    g.output(loss=tn.cross_entropy(logits, y) + tn.mean(turned * turned))
    return g


def feeds(rows: int, dtype: str = "float32") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x, y = torch.randn(rows, 20, generator=generator), torch.randint(0, 5, (rows,), generator=generator)
    return {"x": x.to(DEVICE, getattr(torch, dtype)), "y": y.to(DEVICE)}


ROW_BY_ROW = ("logits", "one", "turned", "h")


@pytest.mark.parametrize("fusion", ["optimal", "off"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_row_of_a_product_has_the_same_bits_whatever_stands_beside_it(dtype: str, fusion: str) -> None:
    model = tn.compile(graph(dtype), products="generated", fusion=fusion)
    assert not model.plan.library
    fed = feeds(37, dtype)
    with torch.no_grad():
        whole = model(**fed)
        for part in (slice(0, 1), slice(5, 6), slice(3, 20), slice(16, 37), slice(0, 36)):
            found = model(**{n: t[part] for n, t in fed.items()})
            assert not [n for n in ROW_BY_ROW if not torch.equal(found[n], whole[n][part])]


@settings(max_examples=4)
@given(
    st.lists(st.sampled_from([1, 2, 7, 16, 20, 33]), min_size=1, max_size=2),
    st.booleans(),
    st.sampled_from(["greedy", "off"]),
    st.integers(1, 40),
    st.data(),
)
def test_any_rows_of_any_network_have_the_same_bits_alone(
    widths: list[int], residual: bool, fusion: str, rows: int, data: Any
) -> None:
    """Property of the kind."""
    model = tn.compile(graph(widths=tuple(widths), residual=residual), products="generated", fusion=fusion)
    assert not model.plan.library
    fed = feeds(rows)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=rows)), device=DEVICE)
    with torch.no_grad():
        whole, found = model(**fed), model(**{n: t[chosen] for n, t in fed.items()})
    assert not [n for n in ROW_BY_ROW if not torch.equal(found[n], whole[n][chosen])]


@pytest.mark.parametrize("fusion", ["optimal", "off"])
def test_gradient_of_a_row_has_the_same_bits_too(fusion: str) -> None:
    model = tn.compile(graph(), products="generated", fusion=fusion)
    fed, upstream = feeds(9), torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def gradient(part: slice) -> Tensor:
        x = fed["x"][part].clone().requires_grad_()
        (found,) = torch.autograd.grad(model(x=x, y=fed["y"][part])["logits"], x, upstream[part])
        return found

    whole = gradient(slice(0, 9))
    for part in (slice(0, 1), slice(4, 5), slice(2, 9)):
        assert torch.equal(gradient(part), whole[part])


def test_step_calls_no_library_and_trains_as_with_one() -> None:
    made = {p: tn.compile_step(graph(), optimizer=tn.adam(lr=0.1), products=p) for p in PRODUCTS}
    assert not made["generated"].plan.library and made["library"].plan.library
    for number in range(3):
        losses = {p: step(**feeds(8 + number))["loss"] for p, step in made.items()}
        torch.testing.assert_close(losses["generated"], losses["library"])
        torch.testing.assert_close(losses["fastest"], losses["library"])


def test_certificate_holds_where_products_are_sums() -> None:
    """What no tile takes, float64 and one column, is added up by a kernel all the same."""
    fed, model = feeds(7, "float64"), tn.compile(graph("float64"), products="generated")
    expected = tn.eager(model.graph, fed, {n: t.detach() for n, t in model.state_dict().items()})
    for name, value in model(**fed).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_unknown_choice_of_products_is_refused() -> None:
    with pytest.raises(PlanError, match="products='own'; use one of 'fastest', 'generated', 'library'"):
        tn.compile(graph(), products="own")


SCRIPT = """
import sys; sys.path[:0] = sys.argv[2:]
import hashlib, torch
torch.set_num_threads(int(sys.argv[1]))
import tritonnotes as tn
from test_generated_products import feeds, graph
step = tn.compile_step(graph(), optimizer=tn.adam(lr=0.1), products="generated", device="cpu", fusion="greedy")
for rows in (8, 33):
    step(**{n: t.cpu() for n, t in feeds(rows).items()})
bits = b"".join(t.numpy().tobytes() for t in step.model.state_dict().values())
print(hashlib.sha256(bits).hexdigest())
"""


@pytest.mark.slow
def test_bits_of_a_step_are_the_same_with_every_library_and_any_number_of_threads() -> None:
    places = [str(ROOT), str(ROOT / "tests" / "shared"), str(ROOT / "tests" / "end_to_end")]
    found = set()
    for core, threads in (("Haswell", "1"), ("SkylakeX", "4"), ("Zen", "4")):
        environment = {**os.environ, "OPENBLAS_CORETYPE": core, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT, threads, *places]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(found) == 1
