"""A page for each op, primitive and update rule, written from its declaration when the site is built."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drawing import svg
from mkdocs.structure.files import File, Files
from plan_drawing import totals
from update_paths import caption, update_svg

from tritonnotes.cli.plots import PlotError, picture
from tritonnotes.cli.show import is_trainable, joint_or_forward, show
from tritonnotes.codegen.emit.kernel import render_kernel
from tritonnotes.codegen.fusion.constraints import Fusion
from tritonnotes.codegen.optimizer.kinds import make_multi_tensor_update
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.support.sizes import NOMINAL
from tritonnotes.codegen.target.targets import GPU
from tritonnotes.explorer.formula import mathml
from tritonnotes.graph import Graph
from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer
from tritonnotes.ir.core.types import Dim, float32
from tritonnotes.ir.optim.update import Kind
from tritonnotes.notes import Entry, entries
from tritonnotes.optim.optimizers import sgd

SECTION = "Ops and update rules"

DRAWN = ("activations", "arithmetic", "losses", "normalizations", "reductions")
"""Families whose ops are drawn over one number of their input."""

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
            f"\n{heading}", f"\n{heading}\n[Its drawing, kernels, errors and reference]({address(entry)})\n", 1
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
        f"Kind: {entry.kind}. Family: {entry.family}.",
        "",
    )
    yield f"**Formula** <span>{mathml(entry.note.formula)}</span>\n"
    if entry.note.derivative:
        yield f"**Derivative** <span>{mathml(entry.note.derivative)}</span>\n"
    yield from drawn(entry)
    said = entry.lines()
    yield from (f"- **{heading}**: {plain(said[heading])}" for heading in LISTED if heading in said)
    yield from ("", "## Reference", "", "Results are compared with this function of PyTorch.", "")
    yield from ("```python", entry.reference, "```", "")
    yield from kernels(entry)
    yield from errors(entry)
    yield from ("", "## Try it", "", "```python", f'note = tn.note("{entry.name}")')
    yield from ("print(note.check())  # the errors of its kernel beside eager PyTorch's", "```", "")


def drawn(entry: Entry) -> Iterator[str]:
    """The curves of an op over one number, the path of an update rule."""
    if entry.kind == "update rule":
        yield f"{update_svg(entry.name)}\n"
        yield f"{caption(entry.name)}\n"
    if entry.family in DRAWN:
        with contextlib.suppress(PlotError):  # some ops of these families are no functions of one number
            yield svg(picture(entry.name)) + "\n"


def plain(text: str) -> str:
    """Text in which Markdown sees no markup."""
    for character in "\\*<[_":
        text = text.replace(character, f"\\{character}")
    return text


def kernels(entry: Entry) -> Iterator[str]:
    """Its kernel alone, then one in which it is fused."""
    if entry.kind == "update rule":
        yield "## Kernel alone\n"
        yield "The update of one parameter whose gradient is in memory.\n"
        yield from ("```python", alone_rule(entry.name), "```", "")
        yield "## Kernel fused\n"
        yield "A training step with one weight: loss, gradient and update.\n"
        yield from fused(entry.graph(), {"loss": "loss", "optimizer": with_a_rate(entry.name)})
        return
    yield "## Kernel alone\n"
    yield from launches(entry.graph(), FORWARD)
    graph = between(entry)
    if graph is not None:
        is_loss = entry.family == "losses" and is_trainable(graph, "y") and "none" not in entry.note.derivative
        yield "## Kernel fused\n"
        yield "A training step: loss, gradient and update of `gain`.\n" if is_loss else "Between a product and a sum.\n"
        yield from fused(graph, {"loss": "y", "optimizer": sgd(lr=1e-3)} if is_loss else FORWARD)


def errors(entry: Entry) -> Iterator[str]:
    """The errors that were measured of its kernel, by dtype."""
    yield "## Errors\n"
    if entry.kind == "update rule":
        yield "[Optimizers](../optimizers.md#error-compared-with-torch) has the errors of each class, beside torch's.\n"
        return
    measured = json.loads(ERRORS.read_text(encoding="utf-8"))[entry.name]
    yield (
        "The largest error of the kernel against float64, over sizes from 0 to 200, on a CPU. The unit is the error of "
        "eager PyTorch in the same dtype, and at least half a unit in the last place. "
        "The tests allow twice the error of eager PyTorch plus two units in the last place.\n"
    )
    yield "| dtype | output | gradient |\n|---|---|---|"
    for dtype in sorted(measured, key=DTYPES.index):
        said = (f"{measured[dtype][what]:g}" if what in measured[dtype] else "–" for what in ("output", "gradient"))
        yield f"| {dtype} | {' | '.join(said)} |"
    yield ""


DTYPES = ("float32", "float16", "bfloat16")

ERRORS = Path(__file__).parent / "op_errors.json"
"""Written by `tests/judges/report_ops.py --json`."""


FORWARD: Mapping[str, Any] = {"loss": None, "optimizer": sgd(lr=1e-3)}


def fused(graph: Graph, how: Mapping[str, Any]) -> Iterator[str]:
    """The launches of a graph, after their totals with and without fusion."""
    primitives = joint_or_forward(graph, **how)
    plan, unfused = (make_plan(primitives, Fusion(mode=mode, target=GPU)) for mode in ("optimal", "off"))
    yield f"{totals(plan)} at batch {NOMINAL}. Without fusion: {totals(unfused)}.\n"
    yield from launches(graph, how)


def launches(graph: Graph, how: Mapping[str, Any]) -> Iterator[str]:
    """The launches of a graph with their sources."""
    plan = show(graph, "plan", **how).data
    if not plan["launches"]:
        yield "It has none: the kernels that read its result read through it.\n"
    for launch in plan["launches"]:
        yield f"`{launch['name']}` reads and writes {launch['bytes']:,} bytes at batch {plan['batch']}.\n"
        if launch["kind"] == "library":
            yield "It is a call of torch's library.\n"
            continue
        yield from ("```python", show(graph, "triton", kernel=launch["name"], **how).text, "```", "")


class Neighboured(Graph):
    """A graph whose first float input is multiplied by a parameter before anything reads it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.is_multiplied = False

    def input(self, name: str, shape: Any, dtype: Any = float32) -> Value:
        """The input, or the product."""
        value = super().input(name, shape, dtype)
        if self.is_multiplied or not value.dtype.is_float or not isinstance(value.shape[-1], int):
            return value
        self.is_multiplied = True
        return value * self.parameter("gain", value.shape[-1:], init="ones", dtype=dtype)


def between(entry: Entry) -> Graph | None:
    """The op with a product before it and, where its result is no single number, a sum after it; None where the product
    would change nothing of what it takes."""
    graph, sample = Neighboured(f"{entry.name}_fused"), catalogue()[entry.name].sample
    assert sample is not None
    y = sample(graph, (Dim("batch"), 64), float32)
    if not graph.is_multiplied:
        return None
    if y.dtype.is_float and y.shape and isinstance(y.shape[-1], int):
        y = y + graph.parameter("shift", y.shape[-1:], init="zeros", dtype=y.dtype)
    graph.output(y=y)
    return graph


def alone_rule(name: str) -> str:
    """The kernel of an update rule over one float32 parameter."""
    optimizer = with_a_rate(name)
    kind = Kind(float32, float32, (float32,) * len(optimizer.state))
    (lowered,) = make_multi_tensor_update(optimizer, [kind]).kinds
    return render_kernel(lowered.kernel).text


def with_a_rate(name: str) -> Optimizer:
    """An update rule with its defaults, and a usual rate where it has none."""
    rule = UPDATE_RULES[name]
    return rule(**{taken: 1e-3 for taken in rule.takes if rule.defaults[taken] is inspect.Parameter.empty})
