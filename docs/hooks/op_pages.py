"""A page for each op, primitive and update rule, written from its declaration when the site is built."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from drawing import svg
from mkdocs.structure.files import File, Files

import tritonnotes.face  # noqa: F401 entries are called by the names that the face publishes
from tritonnotes.cli.plots import PlotError, picture
from tritonnotes.cli.show import show
from tritonnotes.explorer.formula import mathml
from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer
from tritonnotes.notes import Entry, entries
from tritonnotes.optim.optimizers import sgd

SECTION = "Ops and update rules"

DRAWN = ("activations", "arithmetic", "losses")
"""Families of functions of a number."""

LISTED = ("strengths", "weaknesses", "use", "source", "dtypes", "state")


def on_config(config: Any) -> Any:
    """The pages in the navigation, by family."""
    (section,) = (each[SECTION] for each in config.nav if SECTION in each)
    families: dict[str, list[dict[str, str]]] = {}
    for entry in entries():
        families.setdefault(entry.family.capitalize(), []).append({entry.name: address(entry)})
    section += [{family: pages} for family, pages in families.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages themselves."""
    for entry in entries():
        files.append(File.generated(config, address(entry), content="\n".join(page(entry))))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """On the page of all ops, a link from each to its own page."""
    if page.file.src_uri != "ops.md":
        return markdown
    for entry in entries():
        heading = f"### {entry.name}\n"
        markdown = markdown.replace(
            f"\n{heading}", f"\n{heading}\n[Its kernel, and what it is compared with]({address(entry)})\n", 1
        )
    return markdown


def address(entry: Entry) -> str:
    """The place of an entry's page on the site."""
    return f"ops/{entry.name}.md"


def page(entry: Entry) -> Iterator[str]:
    """The lines of an entry's page."""
    yield from (
        f"# {entry.name}",
        "",
        f"`{entry.signature}`",
        "",
        f"{entry.kind.capitalize()}, of the {entry.family}.",
        "",
    )
    yield f"**Formula** <span>{mathml(entry.note.formula)}</span>\n"
    if entry.note.derivative:
        yield f"**Derivative** <span>{mathml(entry.note.derivative)}</span>\n"
    yield from drawn(entry)
    said = entry.lines()
    yield from (f"- **{heading}**: {plain(said[heading])}" for heading in LISTED if heading in said)
    yield from ("", "## What it is compared with", "", "```python", entry.reference, "```", "")
    yield from kernels(entry)
    yield from ("", "## Try it", "", "```python", f'note = tn.note("{entry.name}")')
    yield from ("print(note.check())  # the errors of its kernel beside eager PyTorch's", "```", "")


def drawn(entry: Entry) -> Iterator[str]:
    """The curves of an op that is a function of numbers."""
    if entry.family in DRAWN:
        with contextlib.suppress(PlotError):  # some ops of these families are no functions of one number
            yield svg(picture(entry.name)) + "\n"


def plain(text: str) -> str:
    """Text in which Markdown sees no markup."""
    for character in "\\*<[_":
        text = text.replace(character, f"\\{character}")
    return text


def kernels(entry: Entry) -> Iterator[str]:
    """The kernels of its graph, in which nothing else is."""
    graph, how = entry.graph(), {"loss": None, "optimizer": sgd(lr=1e-3)}
    yield "## Its kernel alone\n"
    if entry.kind == "update rule":
        how = {"loss": "loss", "optimizer": with_a_rate(entry.name)}
        yield "In a step that trains one weight, with loss and gradient.\n"
    plan = show(graph, "plan", **how).data
    if not plan["launches"]:
        yield "It has none: the kernels that read its result read through it.\n"
    for launch in plan["launches"]:
        yield f"`{launch['name']}` reads and writes {launch['bytes']:,} bytes at batch {plan['batch']}.\n"
        if launch["kind"] == "library":
            yield "It is a call of torch's library.\n"
            continue
        yield from ("```python", show(graph, "triton", kernel=launch["name"], **how).text, "```", "")


def with_a_rate(name: str) -> Optimizer:
    """An update rule with its defaults, and a usual rate where it has none."""
    rule = UPDATE_RULES[name]
    return rule(**{taken: 1e-3 for taken in rule.takes if rule.defaults[taken] is inspect.Parameter.empty})
