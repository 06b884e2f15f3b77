"""Scripts of graphs: what they read like, and that each declares the graph that it was made of."""

from __future__ import annotations

import keyword

import pytest
from graphs_for_text import BATCH, digits, levels
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_graph, seeded
from scripts import assert_declares, declared_by

import tritonnotes as tn
from tritonnotes.ir.core.errors import DeclarationError
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.script.script import to_python

DIGITS = """\
import tritonnotes as tn

g = tn.Graph("digits")
batch = tn.Dim("batch")
x = g.input("x", (batch, 64))
y = g.input("y", (batch,), "int64")
fc1 = tn.linear(x, 32, name="fc1")
relu = tn.relu(fc1)
fc2 = tn.linear(relu, 32, name="fc2")
ln2 = tn.layer_norm(fc2, bias=None, name="ln2")
h = tn.tanh(ln2) + relu * 2
logits = tn.linear(h, 10, name="fc3")
loss = tn.cross_entropy(logits, y)
accuracy = tn.accuracy(logits, y)
g.output(logits=logits, loss=loss, accuracy=accuracy)
"""


def test_a_script_reads_as_its_author_would_write_it() -> None:
    assert assert_declares(digits()) == DIGITS
    assert str(declared_by(DIGITS)) == str(digits()), "each op declares its own parameters, so nothing has moved"


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_op_has_a_form(name: str) -> None:
    g = tn.Graph("g")
    g.output(out=catalogue()[name].sample(g, (BATCH, 6), "float32"))
    script = assert_declares(g)
    assert "g.call" not in script or name in ("running_mean", "running_var"), script


def is_without_state(name: str) -> bool:
    """Whether an op declares nothing of its own, so that a name is the value's alone."""
    g = tn.Graph("g")
    catalogue()[name].sample(g, (BATCH, 6), "float32")
    return not g.leaves("parameter", "buffer")


@pytest.mark.parametrize("name", [*filter(is_without_state, catalogue())])
def test_every_op_that_has_a_name_has_a_form(name: str) -> None:
    g = tn.Graph("g")
    g.output(out=g.keep_name(catalogue()[name].sample(g, (BATCH, 6), "float32"), "chosen"))
    script = assert_declares(g)
    assert "chosen" in script and ("g.call" not in script or name in ("running_mean", "running_var")), script


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_random_graphs_are_declared_again(seed: int) -> None:
    graph, _ = random_graph(seeded(seed))
    assert_declares(graph)


WORDS = [*keyword.kwlist, "tn", "g", "float", "print", "batch", "_", "x_1", "mul", "mul_1", "0", "a.b", "a_b", "1.2.3"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(WORDS), min_size=6, max_size=6, unique=True), st.sampled_from(WORDS))
def test_any_name_survives(names: list[str], dim: str) -> None:
    g = tn.Graph(names[0])
    size = tn.Dim(dim.replace(".", "_"))
    x, w, b = g.input(names[0], (size, 4)), g.parameter(names[1], (4,), 0.5), g.buffer(names[2], (4,), "ones")
    first = g.keep_name(x * w, names[3])
    second = tn.relu(first * first + b, name=names[4])
    g.update(b, b * 2)
    g.output(**{names[5]: second - first, names[4]: second})
    assert_declares(g)


def test_numbers_sizes_and_dtypes_are_kept_to_the_bit() -> None:
    g = tn.Graph("numbers")
    rows, time = tn.Dim("rows"), tn.Dim("time")
    x = g.input("x", (rows, time, 4), "bfloat16")
    n = g.input("n", (4,), "int64")
    for i, number in enumerate((0.1, 2.0, -0.0, 1e300, float("inf"), float("-inf"), float("nan"), 3)):
        g.output(**{f"y{i}": x * number + (n + 2 if i % 2 else n)})
    g.output(
        power=x**-2, base=2**x, both=-(x + 1) ** 2, sizes=x * (rows * time * 3), count=tn.mean(x) * x.shape[0],
        half=tn.cast(x, "float16") * tn.cast(n, "float16"), alone=g.constant(2.0, "float64") * n,
        flat=x.reshape(rows * time, 4), back=x.reshape(-1, 2, 2), first=x[..., 1], part=x[..., 1:3], one=x[..., :1],
        chosen=tn.where(x > 0, 1, 0), choice=tn.where((x > 0) & ~(x < 1) | (x != x), x, -1.5), total=n.sum(),
        kept=x.sum(0, keepdim=True), along=x.amax((0, 2)), least=tn.amin(x), there=tn.argmax(x, 1),
    )  # fmt: skip
    assert_declares(g)


def test_arguments_keep_the_order_in_which_they_were_computed() -> None:
    g = tn.Graph("order")
    x = g.input("x", (3,))
    first, second = tn.exp(x), tn.sin(x)
    g.output(y=second / first)
    assert "exp = tn.exp(x)\nsin = tn.sin(x)\ny = sin / exp\n" in assert_declares(g).replace("first", "exp").replace(
        "second", "sin"
    )


def test_layers_declare_what_is_theirs_and_take_the_rest() -> None:
    g = tn.Graph("layers")
    x = g.input("x", (BATCH, 6, 4))
    shared = g.parameter("shared", (4, 4), "normal", mean=0.0, std=0.1)
    h = tn.linear(tn.linear(x, weight=shared, name="a"), weight=shared, bias=g.parameter("own", (4,)), name="b")
    h = tn.batch_norm(tn.dropout(h, 0.1), momentum=None, name="bn")
    h = tn.instance_norm(h, affine=True, track_running_stats=True, name="norm")
    h = tn.batch_norm(h, track_running_stats=False, weight=None, bias=None, name="plain")
    h = tn.prelu(tn.group_norm(h, 3, name="groups"), num_parameters=6, init=0.1, name="act")
    h = tn.dropout(tn.layer_norm(h, (6, 4), weight=None, bias=None, name="ln"), 0.5)
    g.output(y=h)
    script = assert_declares(g)
    for line in (
        'tn.linear(x, weight=shared, name="a")',
        'tn.linear(a, bias=own, weight=shared, name="b")',
        'tn.batch_norm(dropout, momentum=None, name="bn")',
        'tn.instance_norm(bn, affine=True, track_running_stats=True, name="norm")',
        'tn.group_norm(plain, 3, name="groups")',
    ):
        assert line in script, script


def test_a_norm_that_runs_twice_moves_its_statistics_twice() -> None:
    g = tn.Graph("twice")
    x, y = g.input("x", (BATCH, 4)), g.input("y", (BATCH, 4))
    first = tn.batch_norm(x, name="bn")
    names = ("running_mean", "running_var", "weight", "bias")
    g.output(y=first + tn.batch_norm(y, *(g[f"bn.{name}"] for name in names), name="again"))
    assert_declares(g)


def test_what_has_no_script_is_refused() -> None:
    for level in ("decomposed", "joint"):
        with pytest.raises(DeclarationError, match="give the graph as it is declared"):
            to_python(levels()[level])
