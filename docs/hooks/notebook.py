"""A notebook as a page, run when the site is built: what it shows is what its cells give."""

from __future__ import annotations

import ast
import contextlib
import io
import linecache
import re
from collections.abc import Iterator
from typing import Any

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def rendered(cells: list[dict[str, Any]]) -> Iterator[str]:
    """The page's Markdown: each cell, and below a cell of code what it prints and what its last expression is."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield f"{source}\n"
            if source.startswith("# "):
                yield "The notebook itself: [tutorial.ipynb](tutorial.ipynb).\n"
            continue
        yield f"```python\n{source}\n```\n"
        printed, shown = run(source, f"<cell {number}>", names)
        if printed:
            yield f"```text\n{printed.rstrip()}\n```\n"
        if shown is not None:
            yield f'<div class="output">{one_line(shown._repr_html_())}</div>\n'


def run(source: str, file: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of the expression at its end, if there is one."""
    # Triton reads the source of a kernel.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    tree = ast.parse(source, file)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(tree, file, "exec"), names)
        shown = None if last is None else eval(compile(ast.Expression(last.value), file, "eval"), names)
    return COLOUR.sub("", out.getvalue()), shown


def one_line(html: str) -> str:
    """HTML in which Markdown finds no end of a block."""
    return html.replace("\n", "&#10;")
