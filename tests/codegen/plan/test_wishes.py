"""What `fuse` may ask for: each fusion that a verdict prices, at that price; the rest is refused as the verdict says."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

import tritonnotes as tn
from tritonnotes.cli.targets import load_target
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.passes.joint import joint_graph

UNSAID = ("number", "leaf", "join")


@pytest.fixture(scope="module", params=["digits", "breast_cancer", "diabetes", "custom"])
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


def test_what_has_no_price_is_refused_by_the_rule_of_its_verdict_if_at_all(plan: FusionPlan) -> None:
    for verdict in plan.verdicts:
        if verdict.fused or verdict.rule in UNSAID or not verdict.opposite.reason:
            continue
        assert verdict.opposite.reason == verdict.reason
        wish = Fusion(fuse=((verdict.source, verdict.target),))
        try:
            make_plan(plan.graph, wish)
        except PlanError as error:
            assert f"by the rule {verdict.rule!r}: {verdict.reason}" in str(error), str(verdict)


def test_a_matmul_takes_what_is_computed_again_for_it_where_that_is_asked_for() -> None:
    """The remedy that docs/explorer.md names: no rule is claimed to stand in the way of what has a price."""
    graph = load_target(f"{ROOT}/examples/digits.py:graph")
    forced = tn.compile(graph, target="gpu", fuse=[("h", "fc3.product")]).plan
    (kernel,) = [k for k in forced.launches if graph_value(forced, "fc3.product") in k.products]
    assert graph_value(forced, "h") in kernel.recomputed
    with pytest.raises(PlanError, match=re.escape("relu, fc2.product cannot be fused, by the rule 'matmul': relu is")):
        tn.compile(graph, target="gpu", fuse=[("relu", "fc2.product")])


def graph_value(plan: FusionPlan, name: str) -> object:
    return plan.graph[name]
