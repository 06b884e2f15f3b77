"""What a notebook shows of the compiler's objects: bound to their classes as `_repr_html_`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict

from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.program.program import Program
from ..codegen.report.kernel_reports import KernelReport
from ..codegen.support.text import counted
from ..ir.core.graph import Graph, Value, bind
from ..ir.core.op import Op
from ..ir.core.optimizer import Optimizer, UpdateRule
from ..ir.core.printer import value_line
from ..ir.core.registry import Note, in_a_line
from ..ir.core.types import show_shape
from ..runtime.kernel_reports import Reports
from ..runtime.model import Model
from ..training.step import TrainingStep
from .drawn import graph_drawing, plan_drawing
from .html import Html, block, code, folded, table, tag
from .svg import to_svg

MOST_ROWS = 200
"""Rows of a table; of more, it says how many are left out."""


def _graph(graph: Graph) -> Html:
    named: dict[Value, list[str]] = {value: [] for value in graph.values}
    for name, value in graph.outputs.items():
        named[value].append(f"output {name}")
    for name, value in graph.updates.items():
        named[value].append(f"updates {name}")
    rows = [
        (code(v.name), f"{v.dtype}{show_shape(v.shape)}", code(_call(v)), ", ".join(named[v])) for v in graph.values
    ]
    drawing = to_svg(graph_drawing(graph))
    drawn = [folded("drawing", drawing)] if drawing is not None else []
    return block(f"graph {graph.name}", _rows(("value", "type", "made by", ""), rows), *drawn)


def _value(value: Value) -> Html:
    readers = [v.name for v in value.graph.values if any(arg is value for arg in value.args)]
    note = getattr(value.op, "note", None)
    rows = [("type", f"{value.dtype}{show_shape(value.shape)}"), ("made by", code(_call(value)))]
    rows += [("formula", note.formula)] if note is not None else []
    rows += [("read by", in_a_line(", ".join(readers), 400) or "nothing"), ("graph", value.graph.name)]
    return block(code(value.name), table(("", ""), rows))


def _call(value: Value) -> str:
    return in_a_line(value_line(value).partition(" = ")[2], 160)


def _plan(plan: FusionPlan) -> Html:
    whole = plan.bytes_moved() or 1
    rows = []
    for launch in plan.launches:
        moved = launch.bytes_moved()
        ops = in_a_line(", ".join(launch.ops), 160)
        rows.append((code(launch.name), launch.kind, ops, f"{moved:,}", f"{moved / whole:.0%}"))
    rules = Counter((v.fused, v.rule) for v in plan.verdicts)
    edges = [("fused" if fused else "not fused", rule, str(count)) for (fused, rule), count in rules.most_common()]
    heads = ("launch", "kind", "ops", f"bytes{plan.at()}", "share")
    drawing = to_svg(plan_drawing(plan))
    return block(
        f"plan of {plan.graph.name}: {plan.totals}",
        _rows(heads, rows, right=(3, 4)),
        folded("edges of the graph, by the rule that decides", table(("", "rule", "edges"), edges, right=(2,))),
        *([folded("drawing", drawing)] if drawing is not None else []),
    )


def _program(program: Program) -> Html:
    return block(repr(program), _plan(program.plan), folded("source", tag("pre", program.source)))


def _model(model: Model) -> Html:
    held = model.graph.leaves("input", "parameter", "buffer")
    tensors = [(code(v.name), v.op.name, f"{v.dtype}{show_shape(v.shape)}") for v in held]
    plan = [_plan(model.plan)] if model.is_made else []
    return block(
        f"model {model.extra_repr()}",
        folded(counted(len(tensors), "tensor"), _rows(("name", "kind", "type"), tensors)),
        *plan,
    )


def _step(step: TrainingStep) -> Html:
    rows = [("minimizes", step.loss), ("update rule", repr(step.declared_optimizer))]
    rows += [(name, f"{number:g}") for name, number in step.hyperparameters.items()]
    rows += [("updates so far", str(step.steps)), ("device", str(step.device))]
    return block(f"training step of {step.graph.name}", table(("", ""), rows), _plan(step.plan))


REPORT_HEADS = (
    "kernel", "GPU", "kind", "warps", "registers", "spilled", "occupancy", "bytes", "predicted µs", "bound by",
)  # fmt: skip


def _reports(reports: Sequence[KernelReport]) -> Html:
    rows = [
        (code(r.name), f"{r.gpu.name} (sm_{r.gpu.arch})", r.kind, r.num_warps, r.registers, r.spilled_bytes,
         f"{r.occupancy.share:.0%}", f"{r.traffic.total:,}", f"{r.seconds * 1e6:,.2f}", r.bound)
        for r in reports
    ]  # fmt: skip
    return _rows(REPORT_HEADS, rows, right=range(3, 9))


def _report(report: KernelReport) -> Html:
    mix = list(report.mix.items())
    return block(
        f"kernel report of {report.name}",
        _reports([report]),
        folded("accesses", tag("ul", *(tag("li", access) for access in report.accesses))),
        folded("instructions by kind", table(("kind", "count"), mix, right=(1,))),
    )


def _all_reports(reports: Reports) -> Html:
    at = ", ".join(f"{name}={size}" for name, size in reports.sizes.items())
    return block(f"{reports.title}{f' at {at}' if at else ''}", _reports(reports.reports))


def note_html(title: str, note: Note | None, more: Sequence[tuple[str, object]] = ()) -> Html:
    """The lines of a note, formulas as code, and what else there is to say."""
    said = {} if note is None else {heading: text for heading, text in asdict(note).items() if text}
    rows = [(head, code(text) if head in ("formula", "derivative") else text) for head, text in said.items()]
    return block(code(title), table(("", ""), [*rows, *more]))


def _op(op: Op) -> Html:
    signature = f"{op.name}{op.__signature__}"
    return note_html(in_a_line(signature, 400), op.note, [] if op.note else [("formula", code(in_a_line(op.summary)))])


def _rule(rule: UpdateRule) -> Html:
    more: list[tuple[str, object]] = [("state", ", ".join(rule.state) or "none")]
    for name in rule.takes:
        default = rule.defaults[name]
        more.append((name, "to be given" if default is inspect.Parameter.empty else repr(default)))
    return note_html(rule.name, rule.note, more)


def _optimizer(optimizer: Optimizer) -> Html:
    return note_html(repr(optimizer), optimizer.rule.note, [("state", ", ".join(optimizer.state) or "none")])


def _rows(headings: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[int] = ()) -> Html:
    left = len(rows) - MOST_ROWS
    shown = table(headings, rows[:MOST_ROWS], right)
    return shown if left <= 0 else tag("div", shown, tag("p", f"and {left:,} more"))


bind(Graph, _repr_html_=_graph)
bind(Value, _repr_html_=_value)
bind(FusionPlan, _repr_html_=_plan)
bind(Program, _repr_html_=_program)
bind(Model, _repr_html_=_model)
bind(TrainingStep, _repr_html_=_step)
bind(KernelReport, _repr_html_=_report)
bind(Reports, _repr_html_=_all_reports)
bind(Op, _repr_html_=_op)
bind(UpdateRule, _repr_html_=_rule)
bind(Optimizer, _repr_html_=_optimizer)
