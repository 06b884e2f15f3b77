"""Every joint graph of a training step reads back from its JSON and its text, whatever rule and options it has."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tritonnotes as tn
from tritonnotes.ir import Graph
from tritonnotes.ir.core.apply import PASS_FORMULAS
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.op import OPS
from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.ir.core.verify import verify, verify_joint
from tritonnotes.ir.passes.chunks import in_chunks
from tritonnotes.ir.passes.scaling import GradScaler
from tritonnotes.training.param_groups import with_groups
from tritonnotes.training.step_programs import step_graphs


@tn.update_rule(state=("m",), reference=lambda p, g, m, *, lr: (p - lr * torch.tanh(m + g), m + g))
def read_back_rule(p, g, m, *, lr):
    """p ← p − lr · tanh(m + g)"""
    return p - lr * tn.tanh(m + g), m + g


RULES = [name for name in UPDATE_RULES if name != "ema"]
PARAMETERS = ["fc1.weight", "fc1.bias", "norm.weight", "norm.bias", "fc2.weight", "fc2.bias"]


def classifier(dtype: str) -> Graph:
    g = tn.Graph("classifier")
    batch = tn.Dim("batch")
    x, y = g.input("x", (batch, 8), dtype), g.input("y", (batch,), "int64")
    h = tn.batch_norm(tn.linear(x, 6, name="fc1"), name="norm")
    h = tn.dropout(tn.relu(h), 0.1, name="drop")
    g.output(loss=tn.cross_entropy(tn.linear(h, 5, name="fc2"), y))
    return g


@st.composite
def optimizers(draw: st.DrawFn) -> Optimizer:
    rule = UPDATE_RULES[draw(st.sampled_from(RULES))]
    made = rule(**({"lr": 1e-2} if "lr" in rule.takes else {}))
    if draw(st.booleans()):
        made = tn.ema(made, 0.9)
    if draw(st.booleans()):
        made = tn.clip(made, max_norm=1.0, max_value=0.5)
    if "lr" in rule.takes and draw(st.booleans()):
        made = with_groups(made, [{"params": ["*.bias"], "lr": 1e-3}], PARAMETERS)
    return made


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {
        "accumulate": draw(st.sampled_from([1, 3])),
        "scaler": draw(st.sampled_from([None, GradScaler()])),
    }
    if draw(st.booleans()):
        return {**made, "parallel": tn.DataParallel(sync_batch_norm=draw(st.booleans()))}
    return {**made, "frozen": frozenset(draw(st.sets(st.sampled_from(PARAMETERS[:4]))))}


def assert_reads_back(graph: Graph) -> None:
    for read in (Graph.from_json(graph.to_json()), Graph.from_text(str(graph))):
        verify(read)
        verify_joint(read)
        assert same_graph(read, graph)
        assert str(read) == str(graph)
    assert Graph.from_json(graph.to_json()).to_json() == graph.to_json()


@settings(max_examples=12, deadline=None)
@given(optimizers(), options(), st.sampled_from(["float32", "float16"]))
def test_the_graphs_of_every_step_read_back(optimizer: Optimizer, options: dict[str, Any], dtype: str) -> None:
    graphs = step_graphs(classifier(dtype), "loss", optimizer, **options)
    for joint in filter(None, (graphs.gathering, graphs.update)):
        assert_reads_back(joint)
        assert_reads_back(in_chunks(joint, 64)[0])


def test_an_accumulated_and_scaled_step_has_the_scopes_of_its_passes() -> None:
    graphs = step_graphs(classifier("float16"), "loss", tn.adam(), accumulate=2, scaler=GradScaler())
    read = Graph.from_json(graphs.update.to_json())
    said = {v.scope.op: v.scope.formula for v in read.values}
    assert {name: said[name] for name in ("gather", "grad_scaler")} == {
        "gather": "grad ← grad + gradient",
        "grad_scaler": "found_inf: scale ← scale · backoff_factor, the update is skipped",
    }


def test_what_passes_add_has_no_name_of_an_op_or_a_rule() -> None:
    assert not set(PASS_FORMULAS) & {*OPS, *PRIMITIVES, *UPDATE_RULES}
