"""What `fuse` gives: each fusion that a verdict prices, at that price; the rest is refused as the verdict says."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

import tritonnotes as tn
from tritonnotes.cli.target import load_target
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.passes.joint import joint_graph

UNSAID = ("number", "leaf", "join")


@pytest.fixture(scope="module", params=["digits", "breast_cancer", "diabetes"])
def plan(request: pytest.FixtureRequest) -> FusionPlan:
    graph = load_target(f"{ROOT}/examples/{request.param}.py:graph")
    return make_plan(joint_graph(graph, "loss", tn.adam()))


def test_what_has_a_price_is_fused_at_no_more_than_that(plan: FusionPlan) -> None:
    price_of_launch = plan.candidate.options.planned_for.launch_bytes
    for verdict in plan.verdicts:
        opposite = verdict.opposite
        if verdict.fused or verdict.rule in UNSAID or opposite.reason:
            continue
        forced = make_plan(plan.graph, Fusion(fuse=((verdict.source, verdict.target),)))
        more = len(forced.launches) - len(plan.launches), forced.bytes_moved() - plan.bytes_moved()
        stated = opposite.launches * price_of_launch + opposite.bytes
        assert more[0] * price_of_launch + more[1] <= stated, f"{verdict} costs {more}, not {opposite}"


def test_what_has_no_price_is_refused_by_the_rule_of_its_verdict(plan: FusionPlan) -> None:
    ops = {value.scope.name for value in plan.graph.values}
    for verdict in plan.verdicts:
        if verdict.fused or verdict.rule in UNSAID or not verdict.opposite.reason:
            continue
        if {verdict.source, verdict.target} & ops:
            continue  # the name of an op is a wish for all of its values
        assert verdict.opposite.reason == verdict.reason
        with pytest.raises(PlanError, match=re.escape(f"by the rule {verdict.rule!r}: {verdict.reason}")):
            make_plan(plan.graph, Fusion(fuse=((verdict.source, verdict.target),)))


def test_a_matmul_takes_what_is_computed_again_for_it_where_that_is_asked_for() -> None:
    """The remedy that docs/explorer.md names: no rule is claimed to stand in the way of what has a price."""
    graph = load_target(f"{ROOT}/examples/digits.py:graph")
    forced = tn.compile(graph, target="gpu", fuse=[("h", "fc3.product")]).plan
    (kernel,) = [k for k in forced.launches if forced.graph["fc3.product"] in set(k.products)]
    assert forced.graph["h"] in set(kernel.recomputed)
    with pytest.raises(PlanError, match="by the rule 'matmul': .* multiplies ln2.d_x"):
        tn.compile_step(graph, optimizer=tn.adam(), target="gpu", fuse=[("h.d_h", "relu.d_relu")])


def test_explain_gives_bytes_at_any_size_and_names_no_size_where_there_is_none() -> None:
    graph = load_target(f"{ROOT}/examples/digits.py:graph")
    step = tn.compile_step(graph, optimizer=tn.adam(), target="gpu")
    for text in (step.explain(batch=64), step.explain({"batch": 64})):
        assert f"{step.plan.bytes_moved(64):,} bytes read and written at batch 64." in text
        assert f"inputs at batch 64: {step.peak_bytes(64):,} bytes" in " ".join(text.split())
        assert "+0 launches, +0 bytes" not in text
    assert step.explain() == step.explain(256) != text
    fixed = tn.Graph("fixed")
    fixed.output(y=tn.exp(fixed.input("x", (32, 8))))
    model = tn.compile(fixed, target="gpu")
    assert " at " not in model.explain().splitlines()[0]
    assert "256" not in "".join(map(repr, (model.plan, model.plan.launches[0])))
