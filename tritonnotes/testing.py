"""For people's own tests: what a plan must not exceed."""

from __future__ import annotations

from .codegen.pipeline import make_plan
from .codegen.plan.fusion_plan import FusionPlan
from .codegen.report.explain import explain_plan
from .ir.core.graph import Graph
from .ir.core.optimizer import Optimizer
from .ir.core.rewrite import optimize
from .ir.passes.decompose import decompose
from .ir.passes.joint import joint_graph
from .runtime.model import Model
from .training.step import TrainingStep


def assert_fused(
    what: Graph | FusionPlan | Model | TrainingStep,
    *,
    kernels: int | None = None,
    launches: int | None = None,
    max_bytes: int | None = None,
    batch: int = 256,
    loss: str | None = None,
    optimizer: Optimizer | None = None,
) -> None:
    """Fail unless a plan has at most so many generated `kernels`, so many `launches` (library calls included), and
    moves at most `max_bytes` of device memory with every `Dim` at `batch`.

    `what` is a plan, what has one (a `Model`, a compiled step), or a declared graph: its forward run or, given `loss`
    and `optimizer`, its training step. Raises `AssertionError` that tells the plan and why it fuses no more.
    """
    plan = _plan_of(what, loss, optimizer)
    found = {
        "generated kernels": (len(plan.kernels), kernels),
        "launches": (len(plan.launches), launches),
        f"bytes at batch {batch}": (plan.bytes_moved(batch), max_bytes),
    }
    wrong = [
        f"{have:,} {name}, wanted at most {most:,}" for name, (have, most) in found.items() if _exceeds(have, most)
    ]
    if wrong:
        raise AssertionError("\n".join([f"{plan.graph.name}: {'; '.join(wrong)}.", "", explain_plan(plan, batch)]))


def _exceeds(have: int, most: int | None) -> bool:
    return most is not None and have > most


def _plan_of(
    what: Graph | FusionPlan | Model | TrainingStep, loss: str | None, optimizer: Optimizer | None
) -> FusionPlan:
    if isinstance(what, FusionPlan):
        return what
    if not isinstance(what, Graph):
        return what.plan
    if loss is None or optimizer is None:
        return make_plan(optimize(decompose(what)))
    return make_plan(joint_graph(what, loss, optimizer))
