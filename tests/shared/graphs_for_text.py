"""Graphs that the tests of text, JSON and verification share, and the attributes that are hard to write down."""

from __future__ import annotations

import math

import numpy as np

from tritonnotes import accuracy, cross_entropy, layer_norm, linear, relu
from tritonnotes.ir import Dim, Graph, Value
from tritonnotes.ir import primitives as P
from tritonnotes.ir.core.op import op
from tritonnotes.ir.core.types import bfloat16, int64
from tritonnotes.ir.optim.update_rules import adam
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph

BATCH = Dim("batch")


@op(domain=(-1, 1), custom=True)
def tagged(x: Value, shift: Value | None = None, *, tag) -> Value:
    """x, or x + shift;
    the tag changes nothing"""
    return x * 1 if shift is None else x + shift


TAGS = [
    math.nan,
    math.inf,
    -math.inf,
    -0.0,
    0.0,
    0.1,
    5e-324,
    1.7976931348623157e308,
    1e22,
    True,
    False,
    0,
    1,
    -(2**63),
    2**63 - 1,
    "",
    "mean",
    "it's a \\ 'quoted' one, <batch> (1, 2) = none # not a comment",
    bfloat16,
    int64,
    BATCH,
    Dim("none"),
    Dim("float32"),
    (),
    (1,),
    (True, 1, 1.0, -0.0),
    (BATCH, 64, ("a", (int64, ()), math.nan)),
]


def digits() -> Graph:
    """The model of DESIGN §4 with the ops there are."""
    g = Graph("digits")
    x = g.input("x", (BATCH, 64))
    y = g.input("y", (BATCH,), dtype="int64")
    h = relu(linear(x, 32, name="fc1"))
    h = P.tanh(layer_norm(linear(h, 32, name="fc2"), bias=None, name="ln2")) + h * 2
    logits = linear(h, 10, name="fc3")
    loss = cross_entropy(logits, y)
    g.output(logits=logits, loss=loss, accuracy=accuracy(logits, y))
    return g


def levels() -> dict[str, Graph]:
    """The model at every level that has a text."""
    declared = digits()
    return {
        "declared": declared,
        "decomposed": decompose(declared),
        "joint": joint_graph(declared, "loss", adam(lr=1e-3)),
    }


def with_tags() -> Graph:
    """Every attribute in TAGS, on a graph whose names are reserved words."""
    g = Graph("lambda")
    value = g.input("none", (BATCH, 3), dtype="float64")
    for index, tag in enumerate(TAGS):
        value = tagged.apply(value, tag=tag, name=f"class.{index}")
    for name in ("tl", "inf", "nan", "output", "update", "scope", "region", "graph", "true", "float32", "__import__"):
        value = tagged.apply(value, tag=0, name=name)
    g.output(**{"def": value, "none": g["none"]})
    return g


def bits(value: object) -> object:
    """An attribute as something that compares by type and by bits: 0.0 is not −0.0, True is not 1; every nan is one."""
    if isinstance(value, float):
        value = math.nan if math.isnan(value) else value
        return float, np.float64(value).tobytes()
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    return type(value), value
