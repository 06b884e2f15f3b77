"""For people's own tests: what a plan must not exceed, how far a result may be from float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from .certificate import check
from .codegen.pipeline import make_plan
from .codegen.plan.fusion_plan import FusionPlan
from .codegen.report.explain import explain_plan
from .codegen.support.sizes import Sizes
from .ir.core.errors import KernelError, VerificationError
from .ir.core.graph import Graph
from .ir.core.optimizer import Optimizer
from .ir.core.rewrite import optimize
from .ir.passes.decompose import decompose
from .ir.passes.joint import joint_graph
from .judge.tolerance import compare
from .kernel_check.entry import check_arguments
from .kernel_check.result import KernelCertificate
from .kernel_check.running import copied, named_tensors
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
        f"bytes{plan.at(Sizes(batch))}": (plan.bytes_moved(batch), max_bytes),
    }
    wrong = [
        f"{have:,} {name}, wanted at most {most:,}" for name, (have, most) in found.items() if _exceeds(have, most)
    ]
    if wrong:
        raise AssertionError("\n".join([f"{plan.graph.name}: {'; '.join(wrong)}.", "", explain_plan(plan, batch)]))


def assert_close_to_float64(result: Any, reference: Callable[..., Any], *tensors: Any) -> None:
    """Fail unless `result` errs at most twice as much as `reference(*tensors)` does in eager PyTorch, plus two units in
    the last place, both measured against the reference in float64. `result` is what was made of `tensors`: a tensor, or
    a tuple or dict of them; or a function that makes it. Raises `AssertionError` that tells every error."""
    check_arguments("assert_close_to_float64", tensors)
    # Each call has tensors of its own: what one writes in them must not reach the others, nor the caller.
    made = result(*copied(tensors)) if callable(result) else result
    found = {name: t.clone() for name, t in named_tensors("result", made)}
    exact = tuple(t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors)
    eager, oracle = (dict(named_tensors("result", reference(*copied(given)))) for given in (tensors, exact))
    if found.keys() != eager.keys():
        had, wanted = (", ".join(names) or "nothing" for names in (found, eager))
        raise AssertionError(f"there is {had}; the reference gives {wanted}")
    if not any(t.numel() for t in eager.values()):
        given = (
            "gives empty tensors alone; pass tensors that have elements" if eager else "returns no tensor; return it"
        )
        raise AssertionError(f"nothing is compared: the reference {given}")
    try:
        compared = {name: compare(found[name], eager[name], oracle[name]) for name in found}
    except VerificationError as error:
        raise AssertionError(str(error)) from None
    if not all(c.ok for c in compared.values()):
        raise AssertionError("\n".join(f"{name}: {c}" for name, c in compared.items()))


def assert_kernel(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    *tensors: Any,
    write_to: str | Path | None = None,
    **how: Any,
) -> KernelCertificate:
    """Fail unless `tn.check(kernel, reference, *tensors, **how)` holds. Raises `AssertionError` with the certificate;
    the first case that fails is written to the file `write_to`, as a script that shows it alone."""
    certificate = check(kernel, reference, *tensors, **how)
    if certificate.ok:
        return certificate
    told = str(certificate)
    if write_to is not None:
        try:
            told += f"\n\nwritten to {certificate.write_reproduction(write_to)}"
        except (KernelError, OSError) as error:
            told += f"\n\nnot written: {error}"
    raise AssertionError(told)


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
