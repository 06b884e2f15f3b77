"""The page of a program: well-formed, offline, the same each time, and with a way from every op to its lines."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from compiled import digits
from rich.console import Console

import tritonnotes as tn
from tritonnotes.cli.commands import main
from tritonnotes.codegen.fusion.constraints import as_fusion
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.explorer import page as page_module
from tritonnotes.explorer.formula import mathml
from tritonnotes.explorer.layout import layered
from tritonnotes.explorer.page import explore_page
from tritonnotes.explorer.progress import shown
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.chunks import in_chunks
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.joint import joint_graph

B = tn.Dim("batch")

VOID = {"meta", "link", "input", "br", "hr", "img", "mspace"}
"""Elements that have no end."""


@cache
def small() -> Program:
    g = tn.Graph("small")
    x, y = g.input("x", (B, 16)), g.input("y", (B,), dtype="int64")
    h = tn.gelu(tn.layer_norm(tn.linear(x, 32, name="fc1"), name="ln"), name="act")
    g.output(loss=tn.cross_entropy(tn.linear(h, 10, name="fc2"), y))
    return make_program(joint_graph(g, "loss", tn.adam()), declared=g)


@cache
def page() -> str:
    return explore_page(small(), "a <title> & more")


@cache
def page_of(program: Program) -> str:
    return explore_page(program, "figures", machine_code=False)


class Reader(HTMLParser):
    """Notes elements, and whether each end fits its start."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert len(found) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> ends {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


@cache
def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def items(name: str) -> list[dict[str, str]]:
    """The attributes of all elements of a class."""
    return [attrs for _, attrs in read(page()).elements if name in attrs.get("class", "").split()]


def numbers(attrs: dict[str, str], name: str) -> set[str]:
    return set(attrs.get(f"data-{name}", "").split())


def test_the_page_is_well_formed() -> None:
    ids = [attrs["id"] for _, attrs in read(page()).elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {"pane-formula", "pane-graph", "pane-plan", "pane-triton", "pane-machine", "pane-memory"} <= set(ids)
    assert "a &lt;title&gt; &amp; more" in page()


def test_the_page_loads_nothing() -> None:
    for tag, attrs in read(page()).elements:
        for name in ("src", "href", "action", "srcset", "poster", "xlink:href"):
            assert attrs.get(name, "data:,") == "data:,", (tag, attrs)
    style = read(page()).text["style"]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|import)\b\s*\(", read(page()).text["script"])
    assert "default-src 'none'" in page()


def test_the_same_program_gives_the_same_bytes() -> None:
    assert explore_page(small(), "a <title> & more") == page()


def test_every_op_reaches_its_formula_lines_launch_and_machine_code() -> None:
    things = {attrs["data-o"]: attrs["data-t"].partition(":")[0] for attrs in items("thing")}
    for kind in ("node", "step", "op"):
        linked = set().union(*(numbers(attrs, "o") for attrs in items(kind)))
        names = {things[number] for number in linked if number in things}
        assert {"fc1", "ln", "act", "fc2"} <= names, kind
    if "pane-machine" in page() and items("blk"):
        linked = set().union(*(numbers(attrs, "o") for attrs in items("blk")))
        assert {"fc1", "ln", "act"} <= {things[number] for number in linked if number in things}


def test_machine_code_leads_to_lines_that_are_there() -> None:
    lines = {number for attrs in items("line") for number in numbers(attrs, "l")}
    assert lines == {str(n) for n in range(1, len(small().line_map) + 1)}
    blocks = items("blk")
    assert blocks
    assert set().union(*(numbers(attrs, "l") for attrs in blocks)) <= lines
    assert sum("data-o" in attrs for attrs in blocks) > 0.9 * len(blocks)


def test_every_launch_and_edge_of_the_plan_is_drawn() -> None:
    assert len(items("launch")) == len(small().plan.launches)
    data = json.loads(read(page()).text["script"].partition('"use strict"')[0])
    assert len(data["edges"]) == len(items("edge"))
    shown = {(v["source"], v["target"]) for edge in data["edges"] for v in edge}
    apart = {(v.source, v.target) for v in small().plan.verdicts if not v.fused and v.rule not in ("leaf", "number")}
    assert apart <= shown
    for edge in data["edges"]:
        for verdict in edge:
            assert verdict["reason"] and verdict["rule"]


# -- figures follow the sizes of Dims --


def worked_out(terms: list[Any], sizes: list[int]) -> int:
    """What a formula of the page is, read from its JSON alone."""
    total = 0
    for count, *factors in terms:
        for factor in factors:
            if isinstance(factor, int):
                count *= sizes[factor]
            elif factor[0] == "//":
                count *= worked_out(factor[1], sizes) // factor[2]
            else:
                count *= {"min": min, "max": max}[factor[0]](worked_out(part, sizes) for part in factor[1:])
        total += count
    return total


@cache
def sequence() -> Program:
    """Two `Dim`s, chunks of rows, and an arena with more than one buffer at a time."""
    time = tn.Dim("time")
    g = tn.Graph("sequence")
    x, y = g.input("x", (B, time, 16)), g.input("y", (B, time), dtype="int64")
    h = tn.layer_norm(tn.linear(tn.reshape(x, (B * time, 16)), 64, name="fc1"), name="ln")
    g.output(loss=tn.cross_entropy(tn.linear(h, 3000, name="head"), tn.reshape(y, (B * time,))))
    chunked, (chunking,) = in_chunks(joint_graph(g, "loss", tn.sgd()), 64 * 3000 * 4)
    assert chunking.rows == 64
    return make_program(chunked, declared=g)


def figures_of(program: Program, sizes: dict[str, int]) -> list[int]:
    """What the page shows, in the order of its elements: this plan, each launch, its edges, then the arena."""
    plan = program.plan
    placement = program.arena.placement(sizes, program.programs(sizes))
    return [
        plan.launch_count(sizes), plan.bytes_moved(sizes), *(k.bytes_moved(sizes) for k in plan.launches),
        program.buffer_bytes(sizes), program.peak_bytes(sizes), placement.bytes, *placement.offsets.values(),
    ]  # fmt: skip


def shown_figures(text: str) -> tuple[dict[str, Any], list[int], int]:
    """The data of a page, the places of the formulas that its elements show, and of what is held beside the arena."""
    reader = read(text)
    data = json.loads(reader.text["script"].partition('"use strict"')[0])
    tspans = [int(attrs["data-f"]) for tag, attrs in reader.elements if tag == "tspan"]
    spans = [int(attrs["data-f"]) for tag, attrs in reader.elements if tag == "span" and "data-f" in attrs]
    beside = next(int(attrs["data-beside"]) for _, attrs in reader.elements if "data-beside" in attrs)
    return data, [*spans[:2], *tspans, spans[-1]], beside


def random_sizes(program: Program) -> list[dict[str, int]]:
    rng = random.Random(7)
    return [{dim.name: rng.choice((1, 3, 255, 257, rng.randint(1, 99_999))) for dim in program.dims} for _ in range(12)]


@pytest.mark.parametrize("program", [small, sequence])
def test_figures_of_the_page_follow_any_size(program: Callable[[], Program]) -> None:
    made = program()
    data, places, beside = shown_figures(page_of(made))
    for sizes in random_sizes(made):
        given = [sizes[name] for name in data["dims"]]
        wanted = figures_of(made, sizes)
        held = wanted[len(places)] - wanted[len(places) + 1]
        said = [worked_out(data["formulas"][place], given) for place in [*places, beside]]
        assert said == [*wanted[: len(places)], held]
    edges = {(v["source"], v["target"]): v for edge in data["edges"] for v in edge}
    for verdict in made.plan.verdicts:
        shown = edges.get((verdict.source, verdict.target))
        if shown is None:
            continue
        assert worked_out(data["formulas"][shown["bytes"]], given) == verdict.bytes_at(sizes)
        assert worked_out(data["formulas"][shown["bytes"]], [256] * len(given)) == verdict.bytes
        if "opposite" in shown:
            moved, opposite = data["formulas"][shown["opposite"]["bytes"]], verdict.opposite
            assert worked_out(moved, given) == verdict.opposite_bytes_at(sizes)
            assert worked_out(moved, [256] * len(given)) == opposite.bytes


@pytest.mark.parametrize("products", ["fastest", "library"])
def test_an_edge_is_drawn_as_impossible_only_where_no_plan_fuses_it(products: str) -> None:
    made = make_program(joint_graph(digits(), "loss", tn.adam()), as_fusion("optimal", products=products))
    data, *_ = shown_figures(page_of(made))
    drawn = [attrs for _, attrs in read(page_of(made)).elements if "edge" in attrs.get("class", "").split()]
    hard = [edge for edge in drawn if "hard" in edge["class"].split()]
    assert bool(hard) == (products == "library")
    for edge in hard:
        assert all(v["opposite"]["impossible"] for v in data["edges"][int(edge["data-e"])] if not v["fused"])
    into_matmuls = [v for edge in data["edges"] for v in edge if v["rule"] == "matmul"]
    assert any(not v["opposite"]["impossible"] for v in into_matmuls) or products == "library"


NODE = shutil.which("node") or ""


@pytest.mark.skipif(not NODE, reason="node is not installed: formulas are not worked out by the page's script")
@pytest.mark.parametrize("program", [small, sequence])
def test_the_script_works_out_what_the_program_says(program: Callable[[], Program]) -> None:
    made = program()
    data, places, beside = shown_figures(page_of(made))
    asked = random_sizes(made)
    script = (Path(page_module.__file__).parent / "templates" / "formulas.js").read_text()
    script += f"""
        const data = {json.dumps(data)}, places = {places};
        const said = {json.dumps([[sizes[name] for name in data["dims"]] for sizes in asked])}.map((numbers) => {{
            const sizes = numbers.map(BigInt), of = (place) => formulas.value(data.formulas[place], sizes);
            const arena = formulas.place(data.lives.map(([size, first, last]) => ({{ size: of(size), first, last }})));
            return [...places.map(of), of({beside}) + arena.bytes, arena.bytes, ...arena.offsets].map(String);
        }});
        console.log(JSON.stringify(said));"""
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, timeout=60, check=True)
    lives = [life.buffer.name for life in made.arena.lives]
    for sizes, said in zip(asked, json.loads(done.stdout), strict=True):
        offsets = made.arena.placement(sizes, made.programs(sizes)).offsets
        wanted = figures_of(made, sizes)
        assert list(map(int, said)) == [*wanted[: len(wanted) - len(lives)], *(offsets[name] for name in lives)]


def test_what_is_fixed_is_said() -> None:
    assert "made for 256" in page() and "follow the sizes" in page()
    assert [name for _, attrs in read(page()).elements if (name := attrs.get("id")) in ("batch", "batch-size")]
    assert sum("dim" in attrs.get("class", "").split() for _, attrs in read(page_of(sequence())).elements) == 2


def test_a_forward_run_and_a_graph_without_kernels_have_pages_too() -> None:
    g = tn.Graph("forward")
    g.output(y=tn.relu(g.input("x", (B, 8))))
    read(explore_page(make_program(optimize(decompose(g)), declared=g)))
    h = tn.Graph("nothing")
    h.output(y=h.input("x", (B, 8)))
    text = explore_page(make_program(optimize(decompose(h)), declared=h))
    assert read(text) and "no generated kernel" in text
    empty = tn.Graph("empty")
    read(explore_page(make_program(optimize(decompose(empty)), declared=empty)))


def test_another_architecture_is_refused() -> None:
    with pytest.raises(tn.TritonNotesError, match="explore: arch must be one of 80, 90, 100 and 'cpu', not 75"):
        explore_page(small(), arch=75)


def test_errors_of_a_certificate_heat_the_ops_that_they_are_of() -> None:
    g = tn.Graph("checked")
    g.output(loss=tn.mean(tn.linear(g.input("x", (B, 4)), 3, name="fc")))
    certificate = tn.check(g, sizes={"batch": 5})
    reader = read(explore_page(make_program(optimize(decompose(g)), declared=g), certificate=certificate))
    heats = [float(attrs["style"].partition(":")[2]) for _, attrs in reader.elements if attrs.get("class") == "heat"]
    assert len(heats) >= len(certificate.rows) and all(0 <= heat <= 1 for heat in heats) and any(heats)
    linked = set().union(*(numbers(attrs, "o") for tag, attrs in reader.elements if tag == "tr"))
    things = (attrs for _, attrs in reader.elements if "thing" in attrs.get("class", "").split())
    assert {"fc.weight", "fc.bias", "x", "loss"} <= {
        a["data-t"].partition(":")[0] for a in things if a["data-o"] in linked
    }


def test_a_plan_without_a_search_stands_beside_the_one_that_is_shown() -> None:
    text = page()
    assert "greedy" in text and "not fused" in text


# -- formulas --


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("a / b", "<mfrac><mi>a</mi><mi>b</mi></mfrac>"),
        ("(a + b) / √(c)", "<mfrac><mrow><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow></mrow><msqrt>"),
        ("x²", "<msup><mi>x</mi><mn>2</mn></msup>"),
        ("e^−x", "<msup><mi>e</mi><mrow><mo>−</mo><mi>x</mi></mrow></msup>"),
        ("‖x‖ₚ", "<msub><mrow><mo>‖</mo><mrow><mi>x</mi></mrow><mo>‖</mo></mrow><mi>p</mi></msub>"),
        ("a / Σ b", '<mfrac><mi>a</mi><mrow><mo>Σ</mo><mspace width="0.3em"/><mi>b</mi></mrow></mfrac>'),
        (
            "f(a) / b",
            "<mfrac><mrow><mi>f</mi><mrow><mo>(</mo><mrow><mi>a</mi></mrow><mo>)</mo></mrow></mrow><mi>b</mi>",
        ),
        (
            "a / f(b)",
            "<mfrac><mi>a</mi><mrow><mi>f</mi><mrow><mo>(</mo><mrow><mi>b</mi></mrow><mo>)</mo></mrow></mrow>",
        ),
        ("a < b & c", "<mo>&lt;</mo><mi>b</mi><mo>&amp;</mo>"),
        ("m\u0302 / (v\u0302 + eps)", "<mfrac><mi>m\u0302</mi><mrow><mrow><mi>v\u0302</mi><mo>+</mo>"),
        ("β₁ᵗ", "<msup><msub><mi>β</mi><mn>1</mn></msub><mi>t</mi></msup>"),
        ("μₜ₊₁", "<msub><mi>μ</mi><mrow><mi>t</mi><mo>+</mo><mn>1</mn></mrow></msub>"),
    ],
)
def test_formulas_are_typeset(formula: str, shown: str) -> None:
    assert shown in mathml(formula)


def test_every_note_is_typeset_and_nothing_of_it_is_lost() -> None:
    for op in catalogue().values():
        for text in filter(None, (op.note.formula, op.note.derivative) if op.note else ()):
            reader = Reader()
            reader.feed(mathml(text))
            assert reader.open == []
            letters = "".join(c for c in text if c.isascii() and c.isalnum())
            said = "".join(c for c in re.sub(r"<[^>]*>", "", mathml(text)) if c.isascii() and c.isalnum())
            assert all(said.count(c) >= letters.count(c) for c in set(letters)), text


@pytest.mark.parametrize("broken", ["(", "√", "/", "a /", "^", "|x", "x^", ")", "", "√/", "‖"])
def test_what_is_no_formula_is_shown_as_it_is(broken: str) -> None:
    reader = Reader()
    reader.feed(mathml(broken))
    assert reader.open == []


# -- layout --


def test_nodes_lie_below_what_they_read_and_apart_from_each_other() -> None:
    edges = [("x", "a"), ("w", "a"), ("a", "b"), ("x", "b"), ("late", "b")]
    drawing = layered({name: name * 3 for name in ("x", "w", "a", "late", "b")}, edges)
    for above, below in edges:
        assert drawing.boxes[above].y < drawing.boxes[below].y
    assert drawing.boxes["late"].y == drawing.boxes["a"].y, "a leaf stands right above its reader"
    boxes = list(drawing.boxes.values())
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert one.y != other.y or one.x + one.width <= other.x or other.x + other.width <= one.x


# -- the command line, and a browser --

TARGET = """
import tritonnotes as tn

def graph() -> tn.Graph:
    g = tn.Graph("target")
    g.output(y=tn.tanh(g.input("x", (tn.Dim("batch"), 8))))
    return g
"""


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "target.py").write_text(TARGET)
    out = tmp_path / "page.html"
    assert main(["explore", f"{tmp_path}/target.py:graph", "-o", str(out), "--check", "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert "tritonnotes: machine code for sm_90 of 1 kernel, up to 2 seconds each\n" in printed.err
    assert said["page"] == str(out) and said["bytes"] == out.stat().st_size
    assert "forward run of target" in out.read_text() and "checked against float64" in out.read_text()


def test_machine_code_is_left_out_when_that_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "target.py").write_text(TARGET)
    out = tmp_path / "page.html"
    assert main(["explore", f"{tmp_path}/target.py:graph", "-o", str(out), "--no-machine-code"]) == 0
    reader = read(out.read_text())
    assert "Machine code is left out" in out.read_text()
    assert not any("blk" in attrs.get("class", "").split() for _, attrs in reader.elements)
    assert "machine code for" not in capsys.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_alone(is_terminal: bool) -> None:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=is_terminal, width=100)
    with shown(2, 90, console) as told:
        told("first, 10 instructions")
        told("second, 20 instructions")
    text = printed.getvalue()
    assert ("━" in text and "2/2" in text and "second" in text) == is_terminal
    assert text.count("\n") == 1 or is_terminal


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.py:graph", "-o", "page.html"], 1, "no file 'none.py'"),
        (["{}/target.py:grph", "-o", "page.html"], 1, "has no function 'grph'"),
        (["{}/target.py:graph", "-o", "{}/missing/page.html"], 1, "missing"),
        (["{}/target.py:graph"], 2, "-o"),
        (["{}/target.py:graph", "-o", "page.html", "--arch", "75"], 2, "sm_80"),
    ],
)
def test_a_bad_command_says_what_is_wrong(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "target.py").write_text(TARGET)
    assert main(["explore", *(a.format(tmp_path) for a in arguments)]) == code
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()[-1]) > 10


def test_models_and_steps_write_their_page(tmp_path: Path) -> None:
    g = tn.Graph("net")
    g.output(loss=tn.mean(tn.sin(tn.linear(g.input("x", (B, 4)), 3, name="fc"))))
    step = tn.compile_step(g, optimizer=tn.sgd())
    page = step.explore(tmp_path / "step.html", machine_code=False).read_text()
    assert page.count("training step of net") == 2 and "Machine code is left out" in page
    reader = read(tn.compile(g).explore(tmp_path / "model.html", arch="cpu").read_text())
    assert "forward run of net" in reader.text["title"]
    blocks = [attrs for _, attrs in reader.elements if "blk" in attrs.get("class", "").split()]
    steps = {a["data-l"] for _, a in reader.elements if {"line", "step"} <= set(a.get("class", "").split())}
    assert sum(a.get("data-l") in steps for a in blocks) > 0.4 * len(blocks), "this CPU's code leads to lines"
    without = tn.compile(g).explore(tmp_path / "model.html", arch="cpu", machine_code=False).read_text()
    assert "<small>CPU, at" in without and "Machine code is left out" in without, "it names no GPU"
    wrong: tuple[int | str, ...] = ("znver3", 75)
    for arch in wrong:
        with pytest.raises(tn.TritonNotesError, match=f"arch must be one of 80, 90, 100 and 'cpu', not {arch!r}"):
            tn.compile(g).explore(tmp_path / "model.html", arch=arch)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: the page is not opened in a browser")
def test_a_browser_opens_the_page_without_an_error(tmp_path: Path) -> None:
    """The script runs to its end and lights up what belongs together; the browser prints no error."""
    probe = """<script>
        const count = (selector) => document.querySelectorAll(selector).length;
        const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
        const point = (element, kind) => element.dispatchEvent(new PointerEvent(kind, {bubbles: true}));
        point(document.querySelector('#pane-triton .step[data-o]'), 'pointerover');
        const lit = [count('.hot'), count('.lit')];
        press('Escape'); press('2'); press('ArrowDown'); press('ArrowDown');
        const walked = count('#pane-graph .cursor');
        press(']');
        const find = document.getElementById('find');
        find.value = 'act'; find.dispatchEvent(new Event('input'));
        const found = document.querySelectorAll('.thing.hot, .thing.lit').length;
        point(document.querySelector('.edge'), 'click');
        const told = document.querySelectorAll('#detail td').length;
        const size = document.getElementById('batch-size'), batch = size.value;
        const moved = () => document.querySelector('.sum [data-as=bytes]').textContent;
        const before = moved();
        size.value = '1234'; size.dispatchEvent(new Event('input'));
        const heading = document.querySelector('#detail th:nth-child(4)').textContent.replace('bytes at ', '');
        const follows = before === moved() ? 'stays' : 'follows';
        document.title = ['seen', ...lit, walked, found, told, batch, heading, follows].join(' ');
        </script></body>"""
    # The policy of the page allows scripts inside it alone, as this one is.
    file = tmp_path / "page.html"
    file.write_text(page().replace("</body>", probe), encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
    ]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    seen = re.search(r"<title>seen (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) follows</title>", done.stdout)
    assert seen, done.stderr
    hot, lit, walked, found, told, batch, said = map(int, seen.groups())
    assert hot > 1 and lit > 1, "a line lights up what belongs to it"
    assert walked == 1, "arrows walk a pane"
    assert found == 1, "an op is found by its name"
    assert told >= 5, "an edge tells its verdicts"
    assert batch == 512, "the batch doubles"
    assert said == 1234, "a size is typed"
