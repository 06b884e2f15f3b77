"""Matrix products in the tiles of generated kernels: which are, and that they are right."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from compiled import DTYPES, assert_within_policy, digits, draw, judge

import tritonnotes as tn
from tritonnotes.codegen.analysis.axes import label_axes
from tritonnotes.codegen.analysis.matmul import is_generable
from tritonnotes.codegen.cost import matmul as products
from tritonnotes.codegen.emit.prelude import PRECISION
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.lower.grouped_matmul import GroupedMatmulKernel
from tritonnotes.codegen.pipeline import make_plan, make_program
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.launches import GroupedMatmul, TileLaunch
from tritonnotes.codegen.program.compile import compile_program
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.target.compile import ARCHS
from tritonnotes.interpreter import executor
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.primitives import matmul
from tritonnotes.judge.executor import eager
from tritonnotes.runtime.runner import Runner
from tritonnotes.tensors.initial import initial_state

CPU = torch.device("cpu")
BATCH = tn.Dim("batch")

MODELS: dict[str, tuple[tuple[int, ...], Callable[[Value], Value]]] = {
    "bias and activation": ((33,), lambda x: tn.gelu(tn.linear(x, 70, name="fc"))),
    "layer norm of whole rows": ((64,), lambda x: tn.relu(tn.layer_norm(tn.linear(x, 96, name="fc"), name="ln"))),
    "statistics of columns": ((20,), lambda x: tn.relu(tn.batch_norm(tn.linear(x, 48, name="fc"), name="bn"))),
    "softmax of 300": ((17,), lambda x: tn.softmax(tn.linear(x, 300, name="fc"), -1)),
    "two products in one tile": (
        (40,),
        lambda x: tn.silu(tn.linear(x, 24, bias=False, name="gate")) * tn.linear(x, 24, bias=False, name="up"),
    ),
    "leading axes": ((5, 24), lambda x: tn.rms_norm(tn.linear(x, 40, name="fc"), name="rms")),
    "residual": ((64,), lambda x: tn.relu(tn.linear(x, 64, name="fc")) + x),
    "operand of an activation": (
        (50,),
        lambda x: tn.linear(tn.silu(x) * 2.0, 72, name="fc"),
    ),
    "operand over leading axes": ((5, 24), lambda x: tn.linear(tn.silu(x) * 2.0, 40, name="fc")),
    "normalized operand": (
        (24,),
        lambda x: tn.relu(tn.linear(tn.elu(tn.batch_norm(x, name="bn")), 40, name="fc")),
    ),
    "both operands prepared": (
        (50,),
        lambda x: tn.relu(
            matmul(x * 2.0, x.graph.parameter("w", (50, 24), "uniform", dtype=x.dtype.name, low=-1.0, high=1.0) * 3.0)
        ),
    ),
    "one after the other": ((16,), lambda x: tn.linear(tn.tanh(tn.linear(x, 32, name="fc1")), 16, name="fc2")),
}


def model(name: str, dtype: str = "float32", rows: int | tn.Dim = BATCH) -> Graph:
    shape, build = MODELS[name]
    graph = Graph("products")
    graph.output(y=build(graph.input("x", (rows, *shape), dtype=dtype)))
    return graph


def multiplied(plan: FusionPlan) -> list[str]:
    return [v.name for k in plan.launches for v in k.products]


def library(plan: FusionPlan) -> list[str]:
    return [k.units[0].value.name for k in plan.launches if k.is_library]


# -- right -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 37, 300])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_results_and_gradients_are_within_the_policy(name: str, dtype: str, rows: int) -> None:
    graph = model(name, dtype)
    compiled = tn.compile(graph)
    assert bool(multiplied(compiled.plan)) == (dtype != "float64")
    judged = judge(
        graph, draw(graph, batch=rows), model=compiled, redraw=lambda seed: draw(graph, seed, batch=rows), noisy=2
    )
    assert_within_policy(judged)


OVER_LEADING_AXES: dict[str, Callable[[Value], Value]] = {
    "rows and columns": lambda h: h @ tn.transpose(h, 0, 1),
    "what is summed": lambda h: tn.transpose(h, 0, 1) @ h,
    "columns": lambda h: (h.graph.parameter("w", (12, 8), "uniform", low=-1.0, high=1.0) * 2.0) @ tn.transpose(h, 0, 1),
}


@pytest.mark.parametrize("name", OVER_LEADING_AXES)
def test_computed_operands_know_how_many_rows_several_axes_have(name: str) -> None:
    graph = Graph("g")
    h = tn.reshape(tn.silu(graph.input("x", (BATCH, 5, 8))) * 2.0, (BATCH * 5, 8))
    graph.output(y=tn.sigmoid(OVER_LEADING_AXES[name](h)))
    model = tn.compile(graph, products="generated")
    assert "def tile_" in model.source
    assert_within_policy(judge(graph, draw(graph, batch=3), model=model))


@pytest.mark.parametrize("rows", [5, 255, 700])
@pytest.mark.parametrize("tile", [256, 4096])
def test_small_tiles_give_what_large_ones_do(tile: int, rows: int) -> None:
    """Many programs, ragged at both ends, beside one program for all."""
    program = make_program(joint_graph(digits(), "loss", tn.sgd(lr=0.1)))
    assert not library(program.plan)
    feeds = draw(digits(), batch=rows)
    state = initial_state(digits())
    results = []
    for runner in (Runner(program, CPU, programs=3, tile=tile), Runner(program, CPU)):
        leaves = {**feeds, **{n: t.clone() for n, t in state.items()}}
        outputs = runner.run(leaves, {"batch": rows}, {"sgd.lr": 0.1})
        results.append({**outputs, **{n: leaves[n] for n in state}})
    for name, found in results[0].items():
        torch.testing.assert_close(found, results[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_shared_sums_have_the_same_bits_in_whatever_order_programs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = draw(digits(), batch=1200)
    found = []
    for backwards in (False, True):
        if backwards:
            turned = SimpleNamespace(
                product=lambda *ranges: reversed(list(itertools.product(*ranges))), count=itertools.count
            )
            monkeypatch.setattr(executor, "itertools", turned)
        step = tn.compile_step(digits(), loss="loss", optimizer=tn.adam(lr=1e-2))
        for _ in range(2):
            step(**feeds)
        found.append(step.state_dict()["model"])
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    """Tiles of one size, as on a GPU: a row's product is summed in one order."""
    graph = model("layer norm of whole rows")
    program = make_program(tn.compile(graph).program.graph)
    x, state = draw(graph, batch=300)["x"], initial_state(graph)
    runner = Runner(program, CPU, tile=1024)
    whole, part = (runner.run({"x": some, **state}, {"batch": len(some)})["y"] for some in (x, x[:7].contiguous()))
    assert torch.equal(whole[:7], part)


# -- which -------------------------------------------------------------------------------------------------------------


def test_the_first_case_is_six_launches() -> None:
    graph = Graph("step")
    x, y = graph.input("x", (256, 64)), graph.input("y", (256,), dtype="int64")
    h = tn.prelu(tn.batch_norm(tn.linear(x, 128, name="fc1"), name="bn1"), name="act1")
    h = tn.elu(tn.layer_norm(tn.linear(h, 128, name="fc2"), name="ln2"))
    graph.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc3"), y))
    plan = make_plan(joint_graph(graph, "loss", tn.adam()))
    assert len(plan.launches) == 6 and not library(plan) and plan.bytes_moved() < 3.3e6


def test_a_large_product_is_a_library_call() -> None:
    graph = Graph("large")
    x = graph.input("x", (4096, 4096))
    graph.output(y=tn.gelu(tn.linear(x, 8192, bias=False)))
    plan = make_plan(tn.compile(graph).program.graph)
    assert len(library(plan)) == 1 and not multiplied(plan)
    reasons = {v.reason for v in plan.verdicts if v.source == library(plan)[0]}
    assert len(reasons) == 1 and "a kernel would take longer" in reasons.pop()


def test_a_library_call_over_columns_of_any_number_names_their_size() -> None:
    """The Dim is called as a parameter of torch's is, so the program calls its size something else."""
    rows, cols = tn.Dim("rows"), tn.Dim("cols")
    g = tn.Graph("counts")
    logits, y = g.input("logits", (rows, cols)), g.input("y", (rows,), "int64")
    g.output(y=tn.confusion_matrix(logits, y))
    model = tn.compile(g, products="library")
    assert len(library(model.plan)) == 1
    feeds = {"logits": torch.randn(9, 5), "y": torch.randint(5, (9,))}
    assert torch.equal(model(**feeds)["y"].cpu(), tn.eager(g, feeds)["y"])


def test_without_fusion_all_products_are_library_calls() -> None:
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()), "off")
    assert len(library(plan)) == 8 and not multiplied(plan)


def test_what_a_user_forbids_stays_apart() -> None:
    graph = model("bias and activation")
    assert multiplied(tn.compile(graph).plan)
    assert not multiplied(tn.compile(graph, forbid=[("fc.product", "y"), ("fc.product", "fc")]).plan)


REFUSED: dict[str, Callable[[Graph], Value]] = {
    "64 bits": lambda g: matmul(g.input("x", (8, 16), "float64"), g.parameter("w", (16, 4), "zeros", dtype="float64")),
    "one column": lambda g: matmul(g.input("x", (8, 16)), g.parameter("w", (16, 1), "zeros")),
    "a transposed operand": lambda g: matmul(
        tn.transpose(g.input("x", (16, 8)), 0, 1), g.parameter("w", (16, 4), "zeros")
    ),
    "a part of a tensor": lambda g: matmul(
        tn.narrow(g.input("x", (8, 20)), 1, 0, 16), g.parameter("w", (16, 4), "zeros")
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tiles_cannot_read_is_left_to_the_library(name: str) -> None:
    graph = Graph("refused")
    product = REFUSED[name](graph)
    assert not is_generable(label_axes(graph), product)


def test_an_operand_that_is_reshaped_is_read_where_it_lies() -> None:
    graph = Graph("reshaped")
    x = graph.input("x", (6, 4, 8))
    graph.output(y=tn.relu(tn.linear(tn.reshape(x, (12, 16)), 32, name="fc")))
    compiled = tn.compile(graph)
    assert multiplied(compiled.plan) == ["fc.product"]
    assert_within_policy(judge(graph, draw(graph), model=compiled))


def test_long_sums_are_shared_and_short_ones_are_not() -> None:
    plans = {}
    for rows in (100, 4096):
        graph = Graph("step")
        x = graph.input("x", (rows, 64))
        graph.output(loss=tn.mean(tn.square(tn.linear(x, 64, name="fc"))))
        plans[rows] = make_plan(joint_graph(graph, "loss", tn.adam()))
    kernels = {rows: [k for k in plan.launches if isinstance(k, TileLaunch)] for rows, plan in plans.items()}
    shares = {rows: max(k.kernel.split_k for k in tiles) for rows, tiles in kernels.items()}
    assert shares == {100: 0, 4096: 4096 // products.SPLIT_K_LENGTH}


def test_weight_gradients_and_their_updates_share_a_launch() -> None:
    program = make_program(joint_graph(digits(), "loss", tn.adam()))
    (launch,) = (k for k in program.plan.launches if isinstance(k, GroupedMatmul))
    assert launch.kind == "grouped matmul" and [v.name for v in launch.products] == [
        "fc3.d_fc3_weight", "fc2.d_fc2_weight", "fc1.d_fc1_weight"
    ]  # fmt: skip
    (kernel,) = (k for k in program.kernels if isinstance(k, GroupedMatmulKernel))
    assert kernel.tiles == (4, 16, 8) and f"grid = (28, max(1, min(batch // 128, {kernel.split_k})))" in program.source
    assert f"{len(launch.members)} matmuls with their epilogues" in explain_plan(program.plan)


def test_products_that_a_user_keeps_apart_share_no_launch() -> None:
    apart = Fusion("optimal", forbid=(("fc1.d_fc1_weight", "fc2.d_fc2_weight"),))
    plan = make_plan(joint_graph(digits(), "loss", tn.adam()), apart)
    both = {"fc1.d_fc1_weight", "fc2.d_fc2_weight"}
    assert not any(both <= {v.name for v in k.products} for k in plan.launches)


# -- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_with_products_compiles_without_spills_and_without_tf32(dtype: str, arch: int) -> None:
    for report in compile_program(make_program(joint_graph(digits(dtype), "loss", tn.adam())), arch):
        assert not report.spills, f"{report.name}: {report.registers} registers, {report.spills}"
        assert "tf32" not in report.ptx, f"{report.name} rounds to tf32 unasked"


# -- operands ----------------------------------------------------------------------------------------------------------


def prologue(plan: FusionPlan) -> list[str]:
    return [u.value.name for k in plan.launches for u in k.units if u.part == "operand"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_and_activation_are_computed_where_they_are_multiplied(dtype: str) -> None:
    """The same numbers are drawn as by a kernel of its own, whatever the tile."""
    graph = Graph("prologue")
    x = graph.input("x", (BATCH, 50), dtype=dtype)
    graph.output(y=tn.relu(tn.linear(tn.dropout(tn.gelu(x), 0.3), 128, name="fc")))
    fused, apart = (tn.compile(graph, training=True, fusion=f) for f in ("optimal", "off"))
    assert len(fused.plan.launches) == 1 and "dropout" in prologue(fused.plan)
    apart.load_state_dict(fused.state_dict())
    feeds = draw(graph, batch=300)
    fused.seed = apart.seed = 7
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    torch.testing.assert_close(fused(**feeds)["y"], apart(**feeds)["y"], rtol=tolerance, atol=tolerance)


def regression() -> Graph:
    """The gradient of the weight multiplies what the forward run does: an activation of the input."""
    graph = Graph("regression")
    x, y = graph.input("x", (BATCH, 50)), graph.input("y", (BATCH, 24))
    graph.output(loss=tn.mse_loss(tn.linear(tn.silu(x, name="act"), 24, name="fc"), y))
    return graph


@pytest.mark.parametrize("rows", [5, 700])
def test_an_operand_of_two_products_never_reaches_memory(rows: int) -> None:
    fused, apart = (
        tn.compile_step(regression(), loss="loss", optimizer=tn.sgd(lr=0.1), fusion=f) for f in ("optimal", "off")
    )
    assert prologue(fused.plan)[-1] == "act"
    assert not any(v.name == "act" for k in fused.plan.launches for v in (*k.loads, *k.stores))
    feeds = draw(regression(), batch=rows)
    for _ in range(2):
        torch.testing.assert_close(fused(**feeds)["loss"], apart(**feeds)["loss"], rtol=1e-5, atol=1e-6)
    for name, weight in fused.model.state_dict().items():
        torch.testing.assert_close(weight, apart.model.state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_an_operand_of_one_column_is_computed_where_it_is_multiplied(rows: int) -> None:
    graph = Graph("column")
    w = graph.parameter("w", (rows, 1), init="normal", mean=0.0, std=1.0)
    h = tn.relu(w)
    graph.output(y=tn.minimum(tn.linear(h, weight=w, bias=False) - h, w))
    fused = tn.compile(graph)
    assert rows == 1 or "def tile_" in fused.source
    mine = fused.state_dict()["w"]
    torch.testing.assert_close(fused()["y"], torch.minimum(mine.relu() @ mine.T - mine.relu(), mine))


def test_what_others_read_is_not_only_an_operand() -> None:
    graph = Graph("both")
    h = tn.gelu(graph.input("x", (BATCH, 50)))
    graph.output(y=tn.linear(h, 128, name="fc"), h=h)
    assert not prologue(tn.compile(graph).plan)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_operands_compile_without_spills(arch: int) -> None:
    program = make_program(joint_graph(regression(), "loss", tn.adam()))
    assert prologue(program.plan)
    for report in compile_program(program, arch):
        assert not report.spills, f"{report.name}: {report.registers} registers, {report.spills}"


@pytest.mark.parametrize("asked", ["none", "allow_tf32", "set_float32_matmul_precision", "fp32_precision"])
def test_tf32_is_used_where_torch_is_told_so_by_either_of_its_names(asked: str) -> None:
    """In a process of its own: torch refuses to tell one name what was said by the other."""
    said = {
        "none": "",
        "allow_tf32": "matmul.allow_tf32 = True",
        "set_float32_matmul_precision": "torch.set_float32_matmul_precision('high')",
        "fp32_precision": "matmul.fp32_precision = 'tf32'",
    }
    lines = [
        "import torch",
        "matmul = torch.backends.cuda.matmul",
        said[asked],
        PRECISION,
        "print(float32_precision())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("ieee" if asked == "none" else "tf32")


@pytest.mark.parametrize("loss", [tn.mse_loss, tn.l1_loss, tn.smooth_l1_loss])
@pytest.mark.parametrize("rows, columns", [(40, 40), (17, 64), (64, 40), (40, 24)])
def test_a_loss_over_whole_tiles_leaves_out_what_lies_behind_rows_and_columns(
    loss: Callable[..., Value], rows: int, columns: int
) -> None:
    g = Graph("behind")
    x, t = g.input("x", (rows, 64)), g.input("t", (rows, columns))
    g.output(loss=loss(tn.linear(x, columns, name="out"), t))
    step = tn.compile_step(g, optimizer=tn.sgd(lr=0.0))
    feeds = draw(g)
    theirs = eager(g, feeds, step.model.state_dict())["loss"]
    torch.testing.assert_close(step(**feeds)["loss"], theirs.detach())
