"""What holds whatever the numbers are: same inputs same bits, rows that know nothing of each other, and identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compiled import Tensors, assert_within_policy, digits, draw, judge
from random_graphs import random_graph, seeded
from torch import Tensor

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.runtime.runner import Runner, pick_device

pytestmark = pytest.mark.interpreted

DEVICE = pick_device()
BATCH = tn.Dim("batch")
RUNS = 20


def rows_graph(dtype: str = "float32") -> Graph:
    """Everything of a row and nothing of the batch: norms, products, softmax, gates, a loss for each row."""
    g = tn.Graph("rows")
    x, y = g.input("x", (BATCH, 33), dtype), g.input("y", (BATCH,), "int64")
    h = tn.gelu(tn.layer_norm(tn.linear(x, 24, name="fc1"), name="ln"))
    h = tn.softmax(h, -1) + tn.sum(h * h, -1, keepdim=True)
    logits = tn.linear(tn.tanh(h), 7, name="fc2")
    g.output(h=h, logits=logits, each=tn.cross_entropy(logits, y, reduction="none"), guess=tn.argmax(logits, -1))
    return g


def row_local_graph(dtype: str = "float32") -> Graph:
    """As `rows_graph`, without the library calls, whose order of adding may hang on the shape."""
    g = tn.Graph("row_local")
    x, y = g.input("x", (BATCH, 33), dtype), g.input("y", (BATCH,), "int64")
    h = tn.gelu(tn.layer_norm(x, name="ln"))
    h = tn.log_softmax(h + x, -1) * tn.sum(h * h, -1, keepdim=True) + tn.max(x, -1, keepdim=True)
    g.output(h=h, each=tn.cross_entropy(h, y, reduction="none"), guess=tn.argmax(h, -1))
    return g


def leaves(tensors: Tensors) -> Tensors:
    return {n: t.clone().requires_grad_() if t.is_floating_point() else t for n, t in tensors.items()}


def run(model: tn.Model, feeds: Tensors, upstream: float = 1.0) -> Tensors:
    """Outputs, and the gradients of Σ upstream · output with respect to floating inputs and parameters."""
    fed = leaves(feeds)
    model.zero_grad()
    outputs = model(**fed)
    sum((upstream * t.sum() for t in outputs.values() if t.requires_grad), start=torch.zeros(())).backward()
    found = {n: t.detach() for n, t in outputs.items()}
    found |= {f"d_{n}": t.grad for n, t in fed.items() if t.grad is not None}
    return found | {f"d_{n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same_bits(mine: Tensors, theirs: Tensors) -> list[str]:
    """The names of what differs; NaN is the same as itself, 0 is not −0."""
    assert mine.keys() == theirs.keys()
    return [n for n, t in theirs.items() if not torch.equal(_bytes(mine[n]), _bytes(t))]


def _bytes(tensor: Tensor) -> Tensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


# -- determinism -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_gives_the_same_bits_run_after_run(dtype: str) -> None:
    model, feeds = tn.compile(rows_graph(dtype)), draw(rows_graph(dtype), batch=37)
    first = run(model, feeds)
    assert any(n.startswith("d_") for n in first)
    for _ in range(RUNS - 1):
        assert same_bits(run(model, feeds), first) == []


def test_training_gives_the_same_bits_whatever_ran_before() -> None:
    """Two steps side by side, one of them with another in between and with its buffers thrown away."""
    steps = [tn.compile_step(digits(), optimizer=tn.adam(), seed=2) for _ in range(2)]
    other = tn.compile_step(digits(), optimizer=tn.adam(), seed=3)
    for i in range(RUNS // 2):
        feeds = draw(digits(), seed=i, batch=16 if i % 3 else 5)
        results = []
        for step in steps:
            results.append({**step(**feeds), **step.model.state_dict(), **step.slots})
            other(**feeds)
        assert same_bits(*results) == [], f"step {i}"
        steps[1]._runner.updating._buffers.clear()


def test_same_seed_compiles_to_the_same_model() -> None:
    first, second = (tn.compile(rows_graph(), seed=4) for _ in range(2))
    assert first.source == second.source and first.gradient_source == second.gradient_source
    assert same_bits(run(first, draw(rows_graph(), batch=9)), run(second, draw(rows_graph(), batch=9))) == []


# -- batch invariance --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def local(request: pytest.FixtureRequest) -> tuple[tn.Model, Tensors, Tensors]:
    graph = row_local_graph(request.param)
    model, feeds = tn.compile(graph), draw(graph, batch=70)
    return model, feeds, rows_of(model, feeds)


def rows_of(model: tn.Model, feeds: Tensors) -> Tensors:
    """What belongs to a row: outputs, and the gradient of the input."""
    return {n: t for n, t in run(model, feeds).items() if not n.startswith("d_ln")}


def test_permuted_rows_give_permuted_results(local: tuple[tn.Model, Tensors, Tensors]) -> None:
    model, feeds, whole = local
    for seed in range(3):
        order = torch.randperm(70, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
        assert same_bits(rows_of(model, {n: t[order] for n, t in feeds.items()}), at(whole, order)) == []


def at(results: Tensors, rows: Any) -> Tensors:
    return {n: t[rows] for n, t in results.items()}


@pytest.mark.parametrize(
    "rows", [slice(0, 1), slice(69, 70), slice(3, 10), slice(0, 64), slice(31, 64), slice(5, 5)], ids=str
)
def test_a_slice_of_the_batch_gives_its_slice_of_the_results(rows: slice, local: Any) -> None:
    model, feeds, whole = local
    assert same_bits(rows_of(model, at(feeds, rows)), at(whole, rows)) == []


def test_batches_end_to_end_give_the_results_end_to_end(local: tuple[tn.Model, Tensors, Tensors]) -> None:
    model, feeds, whole = local
    doubled = {n: torch.cat([t, t]) for n, t in feeds.items()}
    assert same_bits(rows_of(model, doubled), {n: torch.cat([t, t]) for n, t in whole.items()}) == []


def test_a_row_beside_nan_and_infinity_is_what_it_is_alone(local: tuple[tn.Model, Tensors, Tensors]) -> None:
    model, feeds, whole = local
    poisoned = {n: t.clone() for n, t in feeds.items()}
    poisoned["x"][1::2] = float("nan")
    poisoned["x"][3::4] = float("inf")
    assert same_bits(at(rows_of(model, poisoned), slice(0, None, 2)), at(whole, slice(0, None, 2))) == []


def test_rows_behind_matrix_products_are_held_to_rounding() -> None:
    """A library may add in another order for another shape, so bits are not promised there."""
    model, feeds = tn.compile(rows_graph()), draw(rows_graph(), batch=70)
    with torch.no_grad():
        whole, part = model(**feeds), model(**at(feeds, slice(0, 9)))
    for name in ("h", "logits", "each"):
        torch.testing.assert_close(part[name], whole[name][:9])


# -- other tiles, other programs, other plans --------------------------------------------------------------------------


def programs_of(graph: Graph) -> Any:
    return make_program(optimize(decompose(graph)), declared=graph)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the tile is cut anew for the interpreter alone")
@pytest.mark.parametrize("tile", [64, 512, 2**16])
def test_rows_do_not_depend_on_the_tile(tile: int) -> None:
    graph = row_local_graph()
    feeds, weights = draw(graph, batch=70), graph.state(0)
    want = Runner(programs_of(graph), DEVICE).run({**feeds, **weights}, {"batch": 70})
    got = Runner(programs_of(graph), DEVICE, tile=tile).run({**feeds, **weights}, {"batch": 70})
    assert same_bits(got, want) == []


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the tile is cut anew for the interpreter alone")
@pytest.mark.parametrize(("programs", "tile"), [(1, 128), (2, 128), (3, 512), (7, 64), (64, 64)])
def test_sums_hold_the_policy_however_they_are_cut(programs: int, tile: int) -> None:
    """Other cuts add in another order: not the same bits, but within the policy."""
    graph = tn.Graph("sums")
    x = graph.input("x", (BATCH, 33))
    graph.output(mean=tn.mean(x), columns=tn.sum(x * x, 0), largest=tn.max(x, 0), loss=tn.mse_loss(x, 0 * x))
    model = tn.compile(graph)
    for form in model._forms.values():
        form.runner = Runner(form.runner.program, DEVICE, programs=programs, tile=tile)

    def redraw(seed: int) -> Tensors:
        return draw(graph, seed, batch=200)

    judged = judge(graph, redraw(0), model=model, gradients=False, redraw=redraw)
    assert_within_policy(judged, f"{programs} programs, tile {tile}")


@pytest.mark.parametrize("seed", range(6))
def test_fused_is_unfused_is_eager_within_policy(seed: int) -> None:
    graph, sizes = random_graph(seeded(1000 + seed), 6)
    feeds = draw(graph, seed, **sizes)

    def redraw(seed: int) -> Tensors:
        return draw(graph, seed, **sizes)

    for fusion in ("optimal", "greedy", "off"):
        judged = judge(graph, feeds, model=tn.compile(graph, fusion=fusion), noisy=3, redraw=redraw)
        assert_within_policy(judged, f"fusion {fusion}\n{graph}")


# -- identities --------------------------------------------------------------------------------------------------------


def of_rows(build: Callable[..., Any], cols: int = 33) -> tuple[tn.Model, Tensor]:
    graph = tn.Graph("identity")
    graph.output(y=build(graph.input("x", (BATCH, cols))))
    generator = torch.Generator().manual_seed(cols)
    # Whole numbers and halves, so that sums and differences round nothing away.
    x = torch.randint(-6, 7, (40, cols), generator=generator).float() / 2
    return tn.compile(graph), x.to(DEVICE)


def test_softmax_does_not_notice_a_shift() -> None:
    for build in (lambda x: tn.softmax(x, -1), lambda x: tn.log_softmax(x, -1), lambda x: tn.softmax(x, 0)):
        model, x = of_rows(build)
        want = model(x=x)["y"]
        for shift in (1.0, -64.0, 4096.0):
            assert torch.equal(model(x=x + shift)["y"], want), shift


def test_log_sum_exp_moves_with_a_shift() -> None:
    graph = tn.Graph("shifted")
    x, y = graph.input("x", (BATCH, 33)), graph.input("y", (BATCH,), "int64")
    graph.output(loss=tn.cross_entropy(x, y))
    model = tn.compile(graph)
    _, logits = of_rows(lambda x: x * 1)
    target = torch.arange(40, device=DEVICE) % 33
    assert torch.equal(model(x=logits + 512, y=target)["loss"], model(x=logits, y=target)["loss"])


def test_norms_do_not_notice_shift_and_scale() -> None:
    model, x = of_rows(lambda x: tn.layer_norm(x, weight=None, bias=None, eps=0.0), cols=32)
    want = model(x=x)["y"]
    # Shifts by whole numbers and scales by powers of two round nothing: mean and deviation follow exactly.
    assert torch.equal(model(x=x * 8)["y"], want)
    torch.testing.assert_close(model(x=x + 64)["y"], want, rtol=0, atol=4e-6)


def test_norm_is_affine_in_its_weight_and_bias() -> None:
    graph = tn.Graph("affine")
    x, w, b = graph.input("x", (BATCH, 32)), graph.parameter("w", (32,)), graph.parameter("b", (32,))
    graph.output(y=tn.layer_norm(x, weight=w, bias=b), plain=tn.layer_norm(x, weight=None, bias=None))
    model = tn.compile(graph)
    with torch.no_grad():
        model.get_parameter("w").fill_(2), model.get_parameter("b").fill_(0)
        outputs = model(x=draw(graph, batch=9)["x"])
        assert torch.equal(outputs["y"], 2 * outputs["plain"])
        model.get_parameter("w").zero_(), model.get_parameter("b").fill_(3)
        assert torch.equal(model(x=draw(graph, batch=9)["x"])["y"], torch.full((9, 32), 3.0, device=DEVICE))


LOSSES: dict[str, Callable[..., Any]] = {
    "mse": tn.mse_loss, "l1": tn.l1_loss, "huber": tn.huber_loss, "smooth_l1": tn.smooth_l1_loss,
    "log_cosh": tn.log_cosh_loss,
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_sum_of_none_is_sum_and_mean_is_sum_by_count(name: str) -> None:
    graph = tn.Graph("reduced")
    x, y = graph.input("x", (BATCH, 8), "float64"), graph.input("y", (BATCH, 8), "float64")
    graph.output(**{r: LOSSES[name](x, y, reduction=r) for r in ("none", "sum", "mean")})
    outputs = tn.compile(graph)(**draw(graph, batch=33))
    torch.testing.assert_close(outputs["none"].sum(), outputs["sum"], rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs["sum"] / (33 * 8), outputs["mean"], rtol=1e-12, atol=0)


def test_cross_entropy_of_a_batch_is_the_mean_of_its_rows() -> None:
    graph = tn.Graph("reduced")
    x, y = graph.input("x", (BATCH, 8), "float64"), graph.input("y", (BATCH,), "int64")
    graph.output(**{r: tn.cross_entropy(x, y, reduction=r) for r in ("none", "sum", "mean")})
    feeds = draw(graph, batch=33)
    feeds["y"][::5] = -100
    outputs = tn.compile(graph)(**feeds)
    counted = int((feeds["y"] != -100).sum())
    torch.testing.assert_close(outputs["none"].sum(), outputs["sum"], rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs["sum"] / counted, outputs["mean"], rtol=1e-12, atol=0)


def test_gradients_are_linear_in_the_upstream_gradient() -> None:
    """Twice the upstream gradient is twice the gradient, bit for bit, for doubling rounds nothing."""
    model, feeds = tn.compile(rows_graph()), draw(rows_graph(), batch=17)
    once, twice = run(model, feeds), run(model, feeds, upstream=2.0)
    gradients = [n for n in once if n.startswith("d_")]
    assert gradients and all(torch.equal(2 * once[n], twice[n]) for n in gradients)


def test_gradients_of_a_sum_are_the_sum_of_gradients() -> None:
    model, feeds = tn.compile(rows_graph("float64")), draw(rows_graph("float64"), batch=17)
    parameters = list(model.parameters())
    outputs = model(**feeds)
    ways = [torch.randn(outputs["logits"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
            .to(DEVICE) for i in range(2)]  # fmt: skip
    a, b, both = (
        torch.autograd.grad(outputs["logits"], parameters, d, retain_graph=True) for d in (*ways, ways[0] + ways[1])
    )
    for one, other, total in zip(a, b, both, strict=True):
        torch.testing.assert_close(one + other, total, rtol=1e-10, atol=1e-12)


def test_steps_are_saved_and_gone_on_with_at_any_point() -> None:
    """Save, load, step = step: tried after every step of five."""
    straight, twin = (tn.compile_step(digits(), optimizer=tn.adam(), seed=seed) for seed in (1, 5))
    for i in range(5):
        feeds = draw(digits(), seed=i, batch=9)
        twin.load_state_dict(straight.state_dict())
        results = [{**s(**feeds), **s.model.state_dict(), **s.slots} for s in (straight, twin)]
        assert same_bits(*results) == []
