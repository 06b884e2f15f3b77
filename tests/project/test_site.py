"""The notes site, without mkdocs: its navigation, the numbers of the page on fusion, messages of troubleshooting."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator

import pytest
from paths import ROOT

import tritonnotes as tn

NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
LISTED = re.findall(r"([\w./]+\.md)$", NAVIGATION, re.MULTILINE)
FUSION = (ROOT / "docs/how_fusion_works.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.*)`$", TROUBLE, re.MULTILINE)
PLACES = {"Rule": 0, "Refusal": 0, "judge": 1}
"""Which of the constants of a call is the name of a rule."""

A_NUMBER = r"\d{1,3}(?:,\d{3})+"


def test_the_navigation_lists_every_page_once() -> None:
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
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
