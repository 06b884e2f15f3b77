"""The notes site, without mkdocs: its navigation, numbers and drawings, messages of troubleshooting, links."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from paths import ROOT

import tritonnotes as tn
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES

NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
LISTED = re.findall(r"([\w./]+\.md)$", NAVIGATION, re.MULTILINE)
FUSION = (ROOT / "docs/how_fusion_works.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.*)`$", TROUBLE, re.MULTILINE)
PLACES = {"Rule": 0, "Refusal": 0, "judge": 1}
"""Which of the constants of a call is the name of a rule."""

A_NUMBER = r"\d{1,3}(?:,\d{3})+"


@pytest.fixture(autouse=True)
def hooks_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where mkdocs loads them."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/hooks"))


def hook(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_the_navigation_lists_every_page_once() -> None:
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    pages |= {p.with_suffix(".md").name for p in (ROOT / "docs").glob("*.ipynb")}
    assert sorted(name for name in LISTED if not name.startswith("repository/")) == sorted(pages)


def test_what_the_navigation_names_of_the_repository_exists() -> None:
    outside = [name.removeprefix("repository/") for name in LISTED if name.startswith("repository/")]
    assert "README.md" in outside and len(outside) == len(set(outside))
    for name in outside:
        assert (ROOT / name).is_file(), name


def test_ci_builds_the_site_so_that_warnings_count() -> None:
    # Under --quiet mkdocs drops warnings before it counts them, and --strict finds none.
    assert "mkdocs build --strict\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")


# -- how fusion works --


def fences(language: str) -> Iterator[str]:
    for block in re.finditer(rf"^```{language}\n(.*?)^```", FUSION, re.MULTILINE | re.DOTALL):
        yield block[1]


@pytest.fixture(scope="module")
def printed() -> str:
    """What the code of the page prints."""
    out, shared = io.StringIO(), {}
    with contextlib.redirect_stdout(out):
        for block in fences("python"):
            exec(compile(block, "how_fusion_works.md", "exec"), shared)
    return out.getvalue()


def test_what_the_page_on_fusion_shows_is_printed_by_its_code(printed: str) -> None:
    lines, shown = printed.splitlines(), [line for block in fences("text") for line in block.splitlines()]
    assert len(shown) > 30
    for line in shown:
        assert line in lines or line == "…", f"docs/how_fusion_works.md shows a line that is no longer printed: {line}"


def test_every_number_of_bytes_in_its_sentences_is_printed_or_a_size(printed: str) -> None:
    prose = re.sub(r"^```.*?^```", "", FUSION, flags=re.MULTILINE | re.DOTALL)
    known = {*re.findall(A_NUMBER, printed), f"{256 * 128 * 4:,}"}
    assert set(re.findall(A_NUMBER, prose)) <= known


def test_every_rule_that_a_verdict_may_have_is_in_its_table() -> None:
    table = set(re.findall(r"^\| `([a-z ]+)` \| (?:yes|no) \|", FUSION, re.MULTILINE))
    assert table == rules()


def rules() -> set[str]:
    """What the sources call a rule: first of a `Rule` or `Refusal`, second of a verdict."""
    found = set()
    for path in (ROOT / "codegen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PLACES:
                named = [arg.value for arg in node.args if isinstance(arg, ast.Constant)][PLACES[node.func.id] :]
                found |= {name for name in named[:1] if isinstance(name, str)}
    return found


def test_every_picture_is_on_the_page_once_and_named_there() -> None:
    pictures = hook("fusion_pictures")
    assert sorted(pictures.MARK.findall(FUSION)) == sorted({*pictures.PICTURES, *pictures.OTHERS})


def test_a_picture_shows_launches_and_what_passes_through_memory(printed: str) -> None:
    drawn = hook("fusion_pictures").with_pictures(
        f"```python\n{next(fences('python'))}```\n\n<!-- picture: fused -->\n"
    )
    assert "<!--" not in drawn and 'role="img"' in drawn and "<title>The plan: 2 launches, 369,196 bytes" in drawn
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert texts.count("fc1_ln1_h") == 1 and texts.count("fc2_loss") == 1
    assert f"h: {256 * 128 * 4:,} bytes" in texts
    assert "row and column: 138,284 bytes" in texts and "138,284" in printed
    assert not re.search(r'(?:fill|stroke)="(?:black|white|#000|#fff)', drawn)  # it is read on light and on dark


def test_the_picture_of_partial_sums_names_what_the_launch_leaves() -> None:
    pictures = hook("fusion_pictures")
    declared: dict[str, object] = {}
    exec(next(fences("python")), declared)
    lines = [box.lines for box in pictures.last_block(tn.compile(declared["classifier"](), target="gpu").plan).boxes]
    assert ("loss.total", "one number per program") in lines and lines[-1] == ("loss", "output")


def test_a_picture_of_two_kernels_shows_one_launch_more() -> None:
    pictures = hook("fusion_pictures")
    declared: dict[str, object] = {}
    exec(next(fences("python")), declared)
    for name in ("elementwise", "row", "epilogue"):
        apart, together = (pictures.planned(plan, declared["classifier"]) for plan in pictures.PICTURES[name])
        assert apart.launch_count() == together.launch_count() + 1, name
        assert apart.bytes_moved() > together.bytes_moved() + 128 * 1024, name


# -- the paths of update rules --


@pytest.mark.parametrize("surface", ["RAVINE", "VALLEY"])
def test_every_update_rule_has_a_path_that_leads_down(surface: str) -> None:
    paths = hook("update_paths")
    assert set(paths.RATES) == {name for name, rule in UPDATE_RULES.items() if not rule.custom}
    ground = getattr(paths, surface)
    for rule in paths.RATES:
        places = paths.path(paths.optimizer_of(rule, ground), ground).places
        assert places.shape == (ground.steps + 1, 2) and np.isfinite(places).all(), rule
        assert ground.value(*places[-1]) < 0.25 * ground.value(*places[0]), rule


def test_the_path_of_sgd_is_that_of_the_formula() -> None:
    paths = hook("update_paths")
    (x, y), rate = paths.RAVINE.start, paths.RATES["sgd"][0]["lr"]
    steps = np.arange(paths.RAVINE.steps + 1)
    expected = np.stack([x * (1 - rate) ** steps, y * (1 - 40 * rate) ** steps], axis=1)
    np.testing.assert_allclose(paths.path(paths.optimizer_of("sgd", paths.RAVINE), paths.RAVINE).places, expected)


def test_gradients_and_contours_of_the_surfaces_are_those_of_their_values() -> None:
    paths, small = hook("update_paths"), 1e-6
    for ground in (paths.RAVINE, paths.VALLEY):
        x, y = 0.3, -0.4
        slopes = [ground.value(x + small, y) - ground.value(x - small, y)]
        slopes += [ground.value(x, y + small) - ground.value(x, y - small)]
        np.testing.assert_allclose(ground.gradient(x, y), np.array(slopes) / (2 * small), rtol=1e-6)
        for contour in ground.contours():
            heights = [ground.value(*place) for place in contour]
            np.testing.assert_allclose(heights, heights[0])


# -- the errors that pages of ops show --


def test_the_errors_of_every_op_are_measured_and_within_the_policy() -> None:
    measured = json.loads((ROOT / "docs/hooks/op_errors.json").read_text(encoding="utf-8"))
    assert set(measured) == set(catalogue()), "run tests/judges/report_ops.py --json, and merge what is new"
    for name, dtypes in measured.items():
        assert set(dtypes) == {"float16", "bfloat16", "float32"}, name
        for dtype, found in dtypes.items():
            assert "output" in found and all(0 <= error <= 6 for error in found.values()), (name, dtype)


# -- the gallery --


def test_the_gallery_draws_every_graph_that_it_declares() -> None:
    gallery = hook("gallery")
    text = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    functions = {name for name, value in gallery.declared(text).items() if callable(value)}
    assert len(functions) >= 5 and sorted(gallery.MARK.findall(text)) == sorted(functions)
    for name in functions:
        assert isinstance(gallery.declared(text)[name](), tn.Graph)


def test_the_gallery_shows_training_steps_of_what_can_be_trained() -> None:
    gallery = hook("gallery")
    known = gallery.declared((ROOT / "docs/gallery.md").read_text(encoding="utf-8"))
    assert set(gallery.primitives(known["digits"]()).updates) >= {"fc1.weight", "fc2.bias"}
    assert not gallery.primitives(known["evaluation"]()).updates


def test_a_plan_of_the_gallery_is_the_compilers() -> None:
    gallery = hook("gallery")
    text = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    graph = gallery.declared(text)["attention_weights"]()
    drawn = gallery.drawn("attention_weights", graph)
    plan, unfused = (tn.compile(graph, target="gpu", fusion=mode).plan for mode in ("optimal", "off"))
    assert drawn.startswith(f"Forward run: 1 launch, {plan.bytes_moved():,} bytes. Without fusion: ")
    assert f"{unfused.launch_count()} launches, {unfused.bytes_moved():,} bytes." in drawn


# -- what is drawn and run for the site --


def test_the_flowcharts_of_all_pages_are_drawn() -> None:
    flowcharts = hook("flowcharts")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    found = {page.name: page.read_text(encoding="utf-8") for page in pages}
    drawn = {name: flowcharts.on_page_markdown(text, None, None, None) for name, text in found.items()}
    assert not [name for name, text in drawn.items() if "```mermaid" in text]
    assert {"README.md", "ARCHITECTURE.md"} <= {name for name in found if drawn[name] != found[name]}


def test_a_flowchart_has_its_boxes_and_arrows() -> None:
    flowcharts = hook("flowcharts")
    chart = flowcharts.chart(
        'subgraph s["outer"]\na["one<br>two"] --> b\nend\nb --> c --> d\nc <-. "why" .-> d\na --> d'
    )
    made = flowcharts.drawing(chart)
    assert [box.lines for box in made.boxes] == [("outer", "one<br>two → b"), ("c",), ("why",), ("d",)]
    # What leads over another box needs no arrow of its own.
    assert [(arrow.source, arrow.target) for arrow in made.arrows] == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(flowcharts.FlowchartError, match="classDef"):
        flowcharts.chart("classDef x fill:#fff")


def test_a_notebook_becomes_a_page_of_what_its_cells_give() -> None:
    code = [
        "class Shown:\n    def _repr_html_(self):\n        return '<pre>a\\n\\nb</pre>'\n\n"
        "print('\\x1b[1mbold\\x1b[0m')",
        "Shown()",
    ]
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "text"]}]
    cells += [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in code]
    page = "\n".join(hook("notebook").rendered(json.loads(json.dumps(cells))))
    assert page.startswith("# Title\ntext\n") and "```text\nbold\n```" in page
    assert '<div class="output"><pre>a&#10;&#10;b</pre></div>' in page


# -- what the built pages load and link to --


def test_what_a_page_loads_from_another_host_is_found(tmp_path: Path) -> None:
    links = hook("html_links")
    loads = [
        '<script src="https://unpkg.com/mermaid.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img src="http://a.example/b.png">',
    ]
    fine = [
        '<a href="https://pytorch.org">torch</a>',
        '<link rel="canonical" href="https://here.example/">',
        '<img src="data:image/png;base64,AA">',
        '<a id="place" href="other.html#there">other</a>',
    ]
    (tmp_path / "other.html").write_text('<p id="there">', encoding="utf-8")
    (tmp_path / "page.html").write_text("".join(fine), encoding="utf-8")
    assert list(links.faults(tmp_path)) == []
    (tmp_path / "page.html").write_text("".join(loads), encoding="utf-8")
    assert len([fault for fault in links.faults(tmp_path) if fault.startswith("page.html loads ")]) == 3


@pytest.mark.parametrize("link", ["gone.html", "other.html#nowhere", "#nowhere"])
def test_a_dead_link_is_found(tmp_path: Path, link: str) -> None:
    (tmp_path / "other.html").write_text('<p id="there">', encoding="utf-8")
    (tmp_path / "page.html").write_text(f'<a href="{link}">x</a>', encoding="utf-8")
    assert list(hook("html_links").faults(tmp_path)) == [f"page.html: dead link {link}"]


# -- words --

RIDDLES = (
    r"need not be there|\bapart is apart|\bwhoever\b|\b(?:any|some|no)body\b|\bof ours\b|\bours\b|the same road|"
    r"\bkin\b|\bdear(?:er|est)?\b|for granted|\bspeaks? of\b|lights up|\bwas come by|never exists? whole"
)
"""Words that a reader would have to guess at; docs/glossary.md has those of the field."""


def test_pages_and_help_are_in_plain_words() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages}
    texts["commands.py"] = (ROOT / "tritonnotes/cli/commands.py").read_text(encoding="utf-8")
    found = {name: re.findall(RIDDLES, text, re.IGNORECASE) for name, text in texts.items()}
    assert not {name: words for name, words in found.items() if words}


# -- troubleshooting --


def messages() -> Iterator[str]:
    """Every text in the sources, with … for what is put into it."""
    for folder in ("tritonnotes", "ir", "codegen"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_message_of_troubleshooting_is_one_of_the_sources() -> None:
    assert len(MESSAGES) >= 20
    known = list(messages())
    for message in MESSAGES:
        pattern = ".*".join(map(re.escape, message.replace("'…'", "…").split("…")))
        assert any(re.search(pattern, text) for text in known), f"nothing in the sources says {message!r}"


def test_the_errors_that_the_page_speaks_of_are_of_the_public_class() -> None:
    graph = tn.Graph("g")
    x = graph.input("x", (tn.Dim("batch"), 64))
    with pytest.raises(tn.TritonNotesError, match="do not broadcast, they differ in axis"):
        x + graph.input("z", (tn.Dim("batch"), 63))
    with pytest.raises(tn.TritonNotesError, match="has no truth value while a graph is declared"):
        bool(x > 0)
