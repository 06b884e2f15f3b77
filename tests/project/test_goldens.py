"""Plans and kernels word for word: what a change of code generation does to them shows in the diff of these files.

`pytest --update-goldens` rewrites tests/goldens; a refactor leaves every file as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compiled import digits
from golden_files import hold
from paths import GOLDENS, JUDGES, ROOT, SHARED
from random_graphs import random_graph, seeded

import tritonnotes as tn
from tritonnotes.codegen.optimizer.emit import render_update
from tritonnotes.codegen.optimizer.kinds import make_multi_tensor_update
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.types import bfloat16, float32
from tritonnotes.ir.optim.update import Kind
from tritonnotes.ir.passes.joint import cotangent_names, gradient_graph, joint_graph
from tritonnotes.ir.passes.split import split_gradient

BATCH = tn.Dim("batch")


def digits_step() -> Program:
    """The demo's training step."""
    graph = digits()
    return make_program(joint_graph(graph, "loss", tn.adam(lr=1e-3)), declared=graph)


def residual() -> Graph:
    """A norm, an activation and what goes around both."""
    g = tn.Graph("residual")
    x = g.input("x", (BATCH, 100))
    g.output(y=x + tn.gelu(tn.layer_norm(x, name="ln"), name="gelu"))
    return g


def softmax() -> Graph:
    g = tn.Graph("softmax")
    g.output(y=tn.softmax(g.input("x", (BATCH, 64), "bfloat16"), -1))
    return g


def classes() -> Graph:
    """A loss and a metric over the same logits."""
    g = tn.Graph("classes")
    logits, y = g.input("logits", (BATCH, 10)), g.input("y", (BATCH,), "int64")
    g.output(loss=tn.cross_entropy(logits, y, name="loss"), accuracy=tn.accuracy(logits, y, name="accuracy"))
    return g


def custom() -> Graph:
    """An op that a user wrote, fused with the bias in front of it."""

    @tn.op(reference=lambda x: x * x.clamp(-3, 3), domain=(-5, 5))
    def soft_square(x):
        """x · clamp(x, −3, 3)"""
        bounded = tn.minimum(tn.maximum(x, -3), 3)
        return x * bounded

    g = tn.Graph("custom")
    x = g.input("x", (BATCH, 32))
    g.output(y=soft_square(x + g.parameter("bias", (32,)), name="square"))
    return g


def forward(graph: Graph) -> Program:
    """What runs where autograd watches: the outputs, and what backward needs of them."""
    return make_program(_split(graph).forward, declared=graph)


def backward(graph: Graph) -> Program:
    return make_program(_split(graph).backward, declared=graph)


def _split(graph: Graph):
    wanted = [v.name for v in graph.leaves("input", "parameter") if v.dtype.is_float]
    floats = [n for n, v in graph.outputs.items() if v.dtype.is_float]
    return split_gradient(
        gradient_graph(graph, wanted), list(graph.outputs), [*cotangent_names(graph, floats).values()]
    )


def update_of_two_dtypes() -> str:
    """Adam over one launch's parameters: float32, and bfloat16 with state in float32."""
    optimizer = tn.adam()
    kinds = [Kind(dtype, dtype, (float32,) * len(optimizer.state)) for dtype in (float32, bfloat16)]
    return render_update(make_multi_tensor_update(optimizer, kinds))


CASES: dict[str, Callable[[], Program | str]] = {
    "update_adam": update_of_two_dtypes,
    "digits_step": digits_step,
    "residual_forward": lambda: forward(residual()),
    "residual_backward": lambda: backward(residual()),
    "softmax_forward": lambda: forward(softmax()),
    "softmax_backward": lambda: backward(softmax()),
    "classes_forward": lambda: forward(classes()),
    "classes_backward": lambda: backward(classes()),
    "custom_forward": lambda: forward(custom()),
    "custom_backward": lambda: backward(custom()),
}


def shown(program: Program | str) -> str:
    """The plan, as comments, and the source: together a file that runs. A source alone is shown as it is."""
    if isinstance(program, str):
        return program
    plan = "\n".join(f"# {line}" for line in str(program.plan).splitlines())
    return f"{plan}\n\n{program.source}"


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-goldens"))


@pytest.mark.parametrize("name", CASES)
def test_plan_and_source_are_the_golden_ones(name: str, update: bool) -> None:
    hold(GOLDENS / f"{name}.py", shown(CASES[name]()), update)


def test_every_golden_has_a_case(update: bool) -> None:
    left_over = {p for p in GOLDENS.iterdir() if p.is_file()} - {GOLDENS / f"{name}.py" for name in CASES}
    for path in left_over if update else ():
        path.unlink()
    assert update or not left_over


def test_a_changed_byte_is_noticed_and_the_flag_accepts_it(tmp_path: Path) -> None:
    golden = tmp_path / "goldens" / "case.py"
    with pytest.raises(pytest.fail.Exception, match="--update-goldens"):
        hold(golden, "mean = 1\n", update=False)
    hold(golden, "mean = 1\n", update=True)
    hold(golden, "mean = 1\n", update=False)
    for other in ("mean = 2\n", "mean = 1", "mean = 1\r\n", "mean = 1 \n"):
        with pytest.raises(pytest.fail.Exception, match="case.py has changed"):
            hold(golden, other, update=False)


def every_source() -> Iterator[str]:
    yield from (shown(make()) for make in CASES.values())
    for seed in range(4):
        graph, _ = random_graph(seeded(seed))
        yield from (shown(make(graph)) for make in (forward, backward))


def test_same_bytes_whatever_the_hash_seed() -> None:
    paths = os.pathsep.join(map(str, dict.fromkeys([Path(__file__).parent, JUDGES, SHARED, ROOT])))
    script = "import sys, test_goldens; sys.stdout.buffer.write('\\0'.join(test_goldens.every_source()).encode())"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "4242")
    ]
    written = [run.communicate()[0].decode("utf-8").split("\0") for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert written[0] == written[1] == list(every_source())
