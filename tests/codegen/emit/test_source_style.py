"""Generated source reads as if a person had written it: held by its syntax, over everything that gets a kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from compiled import DTYPES, digits
from op_graphs import op_graph
from program_style import wrong
from random_graphs import random_graph, seeded
from source_rules import KernelFacts, complaints

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph, joint_graph
from tritonnotes.ir.passes.split import split_gradient

OPTIMIZERS = {"adam": tn.adam(weight_decay=0.1), "sgd": tn.sgd(), "momentum": tn.sgd(momentum=0.9, nesterov=True)}
BATCH = tn.Dim("batch")


def programs_of(graph: Graph) -> list[Program]:
    """What `tn.compile` makes of a graph: the forward run, and with autograd the forward and the backward run."""
    made = [make_program(optimize(decompose(graph)), declared=graph)]
    wanted = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    floats = [n for n, v in graph.outputs.items() if v.dtype.is_float]
    if wanted and floats:
        split = split_gradient(
            gradient_graph(graph, wanted), list(graph.outputs), [*cotangent_names(graph, floats).values()]
        )
        made += [make_program(split.forward, declared=graph), make_program(split.backward, declared=graph)]
    return made


# -- what there is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_training_step_of_the_demo_is_clean(dtype: str) -> None:
    graph = digits(dtype)
    assert not wrong(make_program(joint_graph(graph, "loss", OPTIMIZERS["adam"]), declared=graph))


@pytest.mark.parametrize(
    ("optimizer", "fusion"), [("adam", "off"), ("adam", "greedy"), ("sgd", "greedy"), ("momentum", "greedy")]
)
def test_every_optimizer_is_clean_fused_and_unfused(optimizer: str, fusion: str) -> None:
    graph = digits()
    assert not wrong(make_program(joint_graph(graph, "loss", OPTIMIZERS[optimizer]), fusion, graph))


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_op_is_clean_forward_and_backward(name: str) -> None:
    assert not [line for program in programs_of(op_graph(name, (BATCH, 33), "float32")) for line in wrong(program)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue()))
def test_op_is_clean_where_tiles_divide_its_size(name: str) -> None:
    assert not [line for program in programs_of(op_graph(name, (64, 128), "bfloat16")) for line in wrong(program)]


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_random_graphs_are_clean(first: int) -> None:
    for seed in range(first, first + 10):
        graph, _ = random_graph(seeded(seed))
        found = [line for program in programs_of(graph) for line in wrong(program)]
        assert not found, f"random_graph(seeded({seed})): {found}"


# -- what the rules see ------------------------------------------------------------------------------------------------

CLEAN = """\
    import math

    import torch
    import triton
    import triton.language as tl


    @triton.jit
    def scaled_softmax(x_ptr, y_ptr, scale, batch, COLS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
        \"\"\"softmax of scale · x.\"\"\"
        col = tl.arange(0, BLOCK)[None, :]
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        in_cols = col < COLS
        mask = (row < batch) & in_cols
        cell = row * COLS + col
        x = tl.load(x_ptr + cell, mask=mask, other=0.0).to(tl.float32)

        scaled = scale * x
        row_max = tl.max(tl.where(in_cols, scaled, float("-inf")), axis=1, keep_dims=True)
        exp_shifted = tl.exp(scaled - row_max)
        total = tl.sum(tl.where(in_cols, exp_shifted, 0.0), axis=1, keep_dims=True)
        tl.store(y_ptr + cell, (exp_shifted / total).to(tl.bfloat16), mask=mask)


    def run_scaled_softmax(x, y, scale, batch):
        \"\"\"One program for four rows.\"\"\"
        scaled_softmax[(triton.cdiv(batch, 4),)](x, y, scale, batch, COLS=33, ROWS=4, BLOCK=64)


    def run(t, *, batch, scale, programs=1):
        \"\"\"Launch everything once.\"\"\"
        run_scaled_softmax(t["x"], t["y"], math.exp(scale), batch)


    def main():
        run({"x": torch.ones(5, 33), "y": torch.ones(5, 33)}, batch=5, scale=1.0)


    main()
    """
FACTS = KernelFacts(
    {"x_ptr": "*bf16", "y_ptr": "*bf16", "scale": "fp32", "batch": "i32"}, {"COLS": 33, "ROWS": 4, "BLOCK": 64}
)
BROKEN = {
    "a number for a name": ("exp_shifted", "v3", "numbered name: v3"),
    "a counted temporary": ("exp_shifted", "tmp7", "numbered name: tmp7"),
    "a counted primitive": ("exp_shifted", "softmax_exp_1", "numbered name: softmax_exp_1"),
    "a numbered argument": ("x_ptr", "in_ptr0", "numbered name: in_ptr0"),
    "a line that nobody reads": ("total = ", "half = 0.5 * scaled\n        total = ", "dead: half"),
    "a line overwritten before it is read": ("total = ", "total = x\n        total = ", "dead: total"),
    "an argument that nobody reads": ("scaled = scale * x", "scaled = 2.0 * x", "dead: argument scale"),
    "a statement without effect": ("scaled = ", "x + 1.0\n        scaled = ", "dead: x + 1.0"),
    "two names for one value": ("tl.exp(scaled - row_max)", "row_max", "dead: exp_shifted = row_max, a second name"),
    "an expression written twice": ("exp_shifted / total", "tl.exp(scaled - row_max) / total", "repeated: tl.exp(sc"),
    "the same with its arguments turned": ("exp_shifted / total", "x * scale / total", "repeated: x * scale"),
    "a mask written twice": ("where(in_cols, exp_shifted", "where(col < COLS, exp_shifted", "repeated: col < COLS"),
    "a value loaded twice": (
        "scaled = scale * x",
        "scaled = tl.load(x_ptr + cell, mask=mask, other=0.0).to(tl.float32) + scale * x",
        "repeated: tl.load(x_ptr + cell, mask=mask, other=0.0).to(tl.float32)",
    ),
    "an address with its arithmetic twice": ("tl.store(y_ptr + cell", "tl.store(y_ptr + row * COLS + col", "repeated"),
    "a cast of what was just cast": (".to(tl.float32)", ".to(tl.float32).to(tl.float32)", "idle cast: tl.load"),
    "a cast to the type of the memory": (").to(tl.float32)", ").to(tl.bfloat16)", "is bfloat16 already"),
    "a cast of what was computed in that type": ("tl.exp(scaled", "tl.exp(scaled.to(tl.float32)", "idle cast: scaled"),
    "a cast of a comparison to bool": ("in_cols = col < COLS", "in_cols = (col < COLS).to(tl.int1)", "is int1 already"),
    "a foreign import": ("import math\n", "import math\n    import numpy\n", "import: numpy"),
    "an import from the package": ("import torch\n", "import torch\n    from tritonnotes import ir\n", "from tritonno"),
    "an import that is not used": ("math.exp(scale)", "scale", "unused: math"),
    "a function that nobody calls": ("def main", "def other():\n        pass\n\n\n    def main", "unused: other"),
    "parentheses for nothing": ("scaled = scale * x", "scaled = (scale * x)", "parentheses: scaled = (scale * x)"),
}  # fmt: skip


def judged(source: str, facts: KernelFacts = FACTS) -> list[str]:
    return complaints(textwrap.dedent(source), {"scaled_softmax": facts})


def test_clean_source_draws_no_complaint() -> None:
    assert judged(CLEAN) == []


@pytest.mark.parametrize("fault", BROKEN)
def test_planted_fault_is_seen(fault: str) -> None:
    old, new, said = BROKEN[fault]
    assert old in CLEAN
    assert any(said in line for line in judged(CLEAN.replace(old, new))), judged(CLEAN.replace(old, new))


@pytest.mark.parametrize(
    ("cols", "block", "needless"), [(64, 64, True), (128, 64, True), (33, 64, False), (0, 1, False)]
)
def test_mask_is_needless_exactly_where_tiles_divide_a_known_size(cols: int, block: int, needless: bool) -> None:
    facts = KernelFacts(FACTS.signature, {"COLS": cols, "ROWS": 4, "BLOCK": block})
    assert [line.split(": ")[1] for line in judged(CLEAN, facts)] == ["needless mask"] * needless


def test_mask_on_a_known_number_of_rows_is_needless_too() -> None:
    assert any("row < 12 holds" in line for line in judged(CLEAN.replace("row < batch", "row < 12")))
    assert not any("needless" in line for line in judged(CLEAN.replace("row < batch", "row < 13")))


def test_numbers_that_an_author_wrote_may_stay() -> None:
    source = CLEAN.replace("exp_shifted", "fc1_exp")
    assert any("fc1_exp" in line for line in judged(source))
    assert judged(source, KernelFacts(FACTS.signature, FACTS.constexprs, frozenset({"fc1"}))) == []


def test_a_loop_repeats_nothing_by_going_round() -> None:
    loop = """\
        total = tl.sum(tl.where(in_cols, exp_shifted, 0.0), axis=1, keep_dims=True)
        for first in range(0, COLS, BLOCK):
            total += tl.sum(tl.load(x_ptr + first + col), axis=1, keep_dims=True)
        for first in range(0, COLS, BLOCK):
            total += tl.sum(tl.load(x_ptr + first + col), axis=1, keep_dims=True)
"""
    line = "        total = tl.sum(tl.where(in_cols, exp_shifted, 0.0), axis=1, keep_dims=True)\n"
    assert judged(CLEAN.replace(line, loop)) == []


# -- alone -------------------------------------------------------------------------------------------------------------

ALONE = """\
import pathlib, runpy, sys
sys.modules.update(dict.fromkeys(("tritonnotes", "ir", "codegen", "numpy.testing")))
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    print(f"== {path.name}", flush=True)
    runpy.run_path(str(path), run_name="__main__")
"""


def test_generated_files_run_with_torch_and_triton_alone(tmp_path: Path) -> None:
    """Isolated, with tritonnotes made impossible to import, under Triton's own interpreter."""
    graphs = {
        name: op_graph(name, (BATCH, 33), "float32") for name in ("softmax", "layer_norm", "cross_entropy", "glu")
    }
    graphs |= {f"random_{seed}": random_graph(seeded(seed))[0] for seed in range(4)}
    written = {}
    for name, graph in graphs.items():
        for index, program in enumerate(programs_of(graph)):
            written[f"{name}_{index}.py"] = [b.name for b in program.buffers]
            (tmp_path / f"{name}_{index}.py").write_text(program.source, encoding="utf-8")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    shown = {block.partition("\n")[0]: block for block in done.stdout.split("== ")[1:]}
    assert shown.keys() == written.keys()
    assert all(f"{buffer}: (" in shown[file] for file, buffers in written.items() for buffer in buffers)
