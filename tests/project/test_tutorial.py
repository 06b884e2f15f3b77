"""The tutorial notebook runs, shows what it says, and holds no results of an older run."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import pytest
from paths import ROOT

import tritonnotes as tn

FILE = ROOT / "docs/tutorial.ipynb"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run(cells: list[str]) -> tuple[dict[str, Any], list[Any], str]:
    """What the cells leave, the last expression of each, as a notebook shows it, and what they print."""
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = [importlib.import_module("notebook").run(cell, f"<cell {n}>", names) for n, cell in enumerate(cells)]
    return names, [shown for _, shown in ran], "".join(printed for printed, _ in ran)


def test_the_tutorial_runs_and_shows_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs/hooks"))  # what runs it for the site runs it here
    names, shown, out = run(CODE)
    assert "@triton.jit" in out and "launches, " in out and "not fused" in out
    assert float(names["result"]["accuracy"]) > 0.9
    certificates = [s for s in shown if isinstance(s, tn.Certificate)]
    assert certificates and all(certificate.ok for certificate in certificates)
    assert not names["certificate"].ok and "strides" in out
    assert all(s._repr_html_() for s in shown if s is not None) and sum(s is not None for s in shown) >= 6
    optimal, off = (
        re.search(rf"^{fusion}: (\d+) launches, ([\d,]+) bytes", out, re.M) for fusion in ("optimal", "off")
    )
    assert optimal and off and int(optimal[1]) < int(off[1])
    assert int(optimal[2].replace(",", "")) < int(off[2].replace(",", ""))


def test_the_tutorial_holds_no_results() -> None:
    for cell in CELLS:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_jupyter_runs_the_tutorial() -> None:
    """As a reader does, in a kernel of its own."""
    nbclient = pytest.importorskip("nbclient", reason="extra tritonnotes[notebook] is not installed")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    html = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "text/html" in o.get("data", {})]
    assert len(html) >= 6
