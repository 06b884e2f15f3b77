"""What a notebook and a shell show: short lines, HTML that is well formed and escaped, drawings that are complete."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

import tritonnotes as tn
from tritonnotes.codegen.plan.fusion_plan import FusionPlan
from tritonnotes.codegen.plan.launches import Launch
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.report.kernel_reports import KernelReport
from tritonnotes.ir.core.op import OPS, Op, catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer, UpdateRule
from tritonnotes.notes import Entry, UnknownNameError
from tritonnotes.runtime.kernel_reports import Reports
from tritonnotes.views.drawing import Arrow, Box, Drawing, to_dot, to_mermaid
from tritonnotes.views.drawn import graph_drawing, plan_drawing
from tritonnotes.views.html import block, table
from tritonnotes.views.svg import MOST_BOXES, to_svg

HOSTILE = '<script>alert("&")</script>'
VOID = {"br", "img", "hr", "input", "meta", "link"}


def small() -> tn.Graph:
    g = tn.Graph("small")
    x, y = g.input("x", (tn.Dim("batch"), 8)), g.input("y", (tn.Dim("batch"),), dtype="int64")
    h = tn.gelu(tn.layer_norm(tn.linear(x, 8, name="fc1"), name="ln")) * 2
    g.output(loss=tn.cross_entropy(tn.linear(h, 4, name="fc2"), y), h=h)
    return g


@pytest.fixture(scope="module")
def shown() -> dict[type, Any]:
    """One of each class that users look at."""
    graph = small()
    model = tn.compile(graph)
    step = tn.compile_step(graph, optimizer=tn.adam())
    reports = model.reports()
    return {
        tn.Graph: graph, tn.Value: graph.outputs["loss"], FusionPlan: step.plan, Program: step.program,
        tn.Model: model, tn.TrainingStep: step, tn.Certificate: tn.check(graph), Reports: reports,
        KernelReport: reports.reports[0],
        tn.KernelCertificate: tn.check(torch.exp, torch.exp, torch.rand(3, 4), edge_cases=False),
        Op: tn.gelu, UpdateRule: UPDATE_RULES["adam"],
        Optimizer: tn.adam(lr=0.1), Entry: tn.note("gelu"), Launch: step.plan.launches[0],
    }  # fmt: skip


LOOKED_AT = (tn.KernelCertificate, tn.Graph, tn.Value, FusionPlan, Program, tn.Model, tn.TrainingStep, tn.Certificate,
             Reports, KernelReport, Op, UpdateRule, Optimizer, Entry, Launch)  # fmt: skip
IN_NOTEBOOKS = tuple(kind for kind in LOOKED_AT if kind is not Launch)


NAMES = {Reports: "forward run of small", Op: "gelu", UpdateRule: "adam", Optimizer: "adam", tn.Value: "loss",
         **dict.fromkeys((tn.Graph, tn.Model, tn.TrainingStep, tn.Certificate, Program), "small")}  # fmt: skip


class Nesting(HTMLParser):
    """Whether every element is closed where it should be, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Nesting:
    parser = Nesting()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.mark.parametrize("kind", LOOKED_AT, ids=lambda kind: kind.__name__)
def test_a_repr_is_short_and_names_what_it_is_of(kind: type, shown: dict[type, Any]) -> None:
    thing = shown[kind]
    text = repr(thing)
    assert NAMES.get(kind, "") in text and " object at 0x" not in text
    assert len(text) < 400 or kind in (tn.Model, Entry), text
    assert not re.search(r"frozenset|mappingproxy|functools", text)


@pytest.mark.parametrize("kind", IN_NOTEBOOKS, ids=lambda kind: kind.__name__)
def test_a_notebook_shows_html_that_is_well_formed(kind: type, shown: dict[type, Any]) -> None:
    assert parsed(shown[kind]._repr_html_()).seen >= {"table", "td"}


def test_numbers_that_matter_are_told(shown: dict[type, Any]) -> None:
    plan, step = shown[FusionPlan], shown[tn.TrainingStep]
    moved = f"{plan.bytes_moved():,} bytes at batch 256"
    assert moved in repr(plan) and moved in repr(step) and moved in parsed(plan._repr_html_()).text
    html = parsed(step._repr_html_()).text
    assert all(launch.name in html for launch in plan.launches)
    assert "x: float32[batch, 8]" in repr(shown[tn.Graph]) and "outputs loss, h" in repr(shown[tn.Graph])
    weights = sum(p.numel() for p in shown[tn.Model].parameters())
    assert f"6 parameters of {weights:,} elements" in repr(shown[tn.Graph])
    assert repr(shown[tn.Certificate]).endswith(", OK)")


def test_the_model_of_a_step_is_shown_before_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tn.compile_step(small(), optimizer=tn.sgd())
    monkeypatch.setattr("tritonnotes.runtime.form.make_program", lambda *given, **how: pytest.fail("it was compiled"))
    assert "'small' in evaluation form" in repr(step.model)
    assert "'small' in evaluation form" in parsed(step.model._repr_html_()).text


def test_what_somebody_wrote_is_text() -> None:
    @tn.op(reference=torch.sin, domain=(-1, 1))
    def hostile(x):
        return tn.sin(x)

    hostile.__doc__ = f"{HOSTILE}\x1b[31m\nand more"
    g = tn.Graph("hostile")
    g.output(y=hostile(g.input("x", (3,))))
    for thing in (hostile, g, g.outputs["y"], tn.note(hostile), tn.compile(g).plan):
        html = parsed(thing._repr_html_())
        assert "script" not in html.seen and "\x1b" not in html.text + repr(thing)
    assert HOSTILE in parsed(hostile._repr_html_()).text and HOSTILE in parsed(tn.note(hostile)._repr_html_()).text
    html = parsed(block(HOSTILE, table((HOSTILE,), [(HOSTILE,)])))
    assert "script" not in html.seen and html.text.count(HOSTILE) == 3
    OPS.pop(hostile.name)


MERMAID_BOX = r' {4}n(\d+)([\[(]{1,2})"([^"`<>]*(?:<br/>[^"`<>]*)*)"([\])]{1,2})'
MERMAID_ARROW = r' {4}n(\d+) -->(?:\|"[^"`<>|]*"\|)? n(\d+)'
DOT_STRING = r'"(?:[^"\\\n]|\\["\\n])*"'
DOT_BOX = rf" {{4}}n(\d+) \[label=({DOT_STRING}), [a-z0-9=, ]+\];"
DOT_ARROW = rf" {{4}}n(\d+) -> n(\d+)(?: \[label={DOT_STRING}\])?;"


def matches(pattern: str, lines: list[str]) -> list[re.Match[str]]:
    return [found for line in lines if (found := re.fullmatch(pattern, line))]


def check_mermaid(text: str, drawing: Drawing) -> None:
    """Every line is a box or an arrow, every box and arrow of the drawing is there, and what is quoted stays so."""
    head, *lines = text.splitlines()
    assert head == "flowchart TB"
    boxes, arrows = matches(MERMAID_BOX, lines), matches(MERMAID_ARROW, lines)
    assert len(boxes) + len(arrows) == len(lines), text
    mirrored = {"[": "]", "(": ")"}
    assert all("".join(mirrored[c] for c in reversed(m[2])) == m[4] for m in boxes)
    assert [int(m[1]) for m in boxes] == list(range(len(drawing.boxes)))
    assert [m[3].count("<br/>") + 1 for m in boxes] == [len(box.lines) for box in drawing.boxes]
    assert [(int(m[1]), int(m[2])) for m in arrows] == [(a.source, a.target) for a in drawing.arrows]


def check_dot(text: str, drawing: Drawing) -> None:
    head, style, *lines, foot = text.splitlines()
    assert re.fullmatch(rf"digraph {DOT_STRING} {{", head) and style.startswith("    node [") and foot == "}"
    boxes, arrows = matches(DOT_BOX, lines), matches(DOT_ARROW, lines)
    assert len(boxes) + len(arrows) == len(lines), text
    assert [int(m[1]) for m in boxes] == list(range(len(drawing.boxes)))
    assert [(int(m[1]), int(m[2])) for m in arrows] == [(a.source, a.target) for a in drawing.arrows]


def test_drawings_hold_all_values_and_all_launches(shown: dict[type, Any]) -> None:
    graph, plan = shown[tn.Graph], shown[FusionPlan]
    drawing = graph_drawing(graph)
    assert [box.lines[0] for box in drawing.boxes] == [v.name for v in graph.values]
    places = {v: i for i, v in enumerate(graph.values)}
    assert {(a.source, a.target) for a in drawing.arrows} == {
        (places[arg], places[v]) for v in graph.values for arg in v.inputs
    }
    check_mermaid(graph.to_mermaid(), drawing)
    check_dot(graph.to_dot(), drawing)
    drawing = plan_drawing(plan)
    names = [box.lines[0] for box in drawing.boxes]
    assert names == [k.name for k in plan.launches]
    assert {(names[a.source], names[a.target]) for a in drawing.arrows} == set(plan.to_networkx().edges)
    check_mermaid(plan.to_mermaid(), drawing)
    check_dot(plan.to_dot(), drawing)


def test_a_drawing_is_xml_whose_boxes_do_not_overlap(shown: dict[type, Any]) -> None:
    for thing, drawing in ((shown[tn.Graph], graph_drawing), (shown[FusionPlan], plan_drawing)):
        svg = ElementTree.fromstring(thing._repr_svg_())
        rects = [{k: float(r.get(k, "")) for k in ("x", "y", "width", "height")} for r in svg.findall(".//{*}rect")]
        assert len(rects) == len(drawing(thing).boxes)
        for i, one in enumerate(rects):
            assert one["x"] >= 0 and one["x"] + one["width"] <= float(svg.get("width", ""))
            assert one["y"] >= 0 and one["y"] + one["height"] <= float(svg.get("height", ""))
            for other in rects[:i]:
                apart_x = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
                apart_y = one["y"] >= other["y"] + other["height"] or other["y"] >= one["y"] + one["height"]
                assert apart_x or apart_y
        assert thing._repr_svg_() in thing._repr_html_()


def test_a_drawing_of_too_many_boxes_is_left_out() -> None:
    boxes = (Box(("x",), "op"),) * (MOST_BOXES + 1)
    arrows = tuple(Arrow(i, i + 1) for i in range(MOST_BOXES))
    assert to_svg(Drawing("large", boxes, arrows)) is None and to_svg(Drawing("none", (), ())) is None

    g = tn.Graph("large")
    x = g.input("x", (4,))
    for _ in range(MOST_BOXES):
        x = -x
    g.output(y=x)
    html = parsed(g._repr_html_())
    assert g._repr_svg_() is None and "svg" not in html.seen and "more" in html.text


def test_labels_are_quoted() -> None:
    drawing = Drawing('a "name"', (Box(('"quoted" \\ <b> #1 `x`', "two"), "op"), Box(("y",), "library")),
                      (Arrow(0, 1, 'a|b "c"'),))  # fmt: skip
    check_mermaid(to_mermaid(drawing), drawing)
    check_dot(to_dot(drawing), drawing)
    assert '\\"quoted\\" \\\\ <b>' in to_dot(drawing)


# -- notes -------------------------------------------------------------------------------------------------------------

RULES = sorted(name for name, rule in UPDATE_RULES.items() if not rule.custom)


@pytest.mark.parametrize("name", [*sorted(catalogue()), *RULES])
def test_everything_has_a_note_with_its_reference(name: str) -> None:
    entry = tn.note(name)
    assert entry.name == name and entry.note.formula in str(entry) and repr(entry) == str(entry)
    assert entry.reference and "object at 0x" not in entry.reference
    assert entry.reference in str(entry).replace("\n    ", "\n")
    assert parsed(entry._repr_html_()).text.count(entry.note.formula) >= 1
    called = getattr(tn, name, None)
    if called is not None:
        assert tn.note(called) == entry
        assert entry.note.formula in called.__doc__ and entry.note.derivative in called.__doc__
    declared = entry.graph((3, 5))
    assert declared.outputs


def test_a_note_checks_its_kernel() -> None:
    for entry in (tn.note("gelu"), tn.note("lion"), tn.note("cross_entropy")):
        certificate = entry.check((5, 7))
        assert certificate.ok, certificate
    assert any(row.what == "update" for row in tn.note("lion").check((5, 7)).rows)


def test_a_note_of_what_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gelu'"):
        tn.note("gellu")
    with pytest.raises(UnknownNameError, match="no op"):
        tn.note(lambda x: x)
    assert tn.note(tn.adam(lr=1e-2)).name == "adam" and tn.note("tn.relu").name == "relu"


def test_what_users_declare_has_a_note_too() -> None:
    @tn.op(reference=torch.sin, domain=(-1, 1))
    def almost(x):
        """sin x, nearly"""
        return tn.sin(x)

    @tn.update_rule(state=(), reference=lambda p, g, *, lr: (p - lr * g,))
    def plainly(p, g, *, lr):
        """p − lr · g"""
        return (p - lr * g,)

    assert "sin x, nearly" in str(tn.note(almost)) and "sin x, nearly" in repr(almost)
    assert "p − lr · g" in str(tn.note(plainly)) and "p − lr · g" in repr(plainly)
    for made in (almost, plainly):
        assert parsed(made._repr_html_()) and parsed(tn.note(made)._repr_html_())
        OPS.pop(made.name, None)
