"""Tables for the terminal: a training run, a fusion plan, a certificate, the ops and their notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from ..certificate import Certificate
from ..codegen.plan.fusion_plan import FusionPlan
from ..codegen.support.sizes import Sizes
from ..codegen.support.text import counted
from ..notes import Entry


def epoch_table(rows: Iterable[tuple[float, float, float]]) -> Table:
    """Mean losses and the largest relative difference of a step, epoch by epoch."""
    table = Table(title="Loss by epoch", title_justify="left")
    for heading in ("epoch", "fused", "eager", "largest difference"):
        table.add_column(heading, justify="right")
    for epoch, (fused, judged, difference) in enumerate(rows, 1):
        table.add_row(str(epoch), f"{fused:.6f}", f"{judged:.6f}", f"{difference:.1e}")
    return table


def plan_table(plan: FusionPlan, unfused: FusionPlan, batch: int) -> Table:
    """Every launch with the ops it covers and its bytes; at the foot the totals, and what fusion saves."""
    moved, before = plan.bytes_moved(batch), unfused.bytes_moved(batch)
    share = f" ({1 - moved / before:.0%})" if before else ""
    table = Table(
        title=f"Fusion plan of {plan.graph.name}, bytes{plan.at(Sizes(batch))}",
        caption=f"Without fusion: {counted(len(unfused.launches), 'launch')}, {before:,} bytes; "
        f"fusion saves {before - moved:,}{share}.",
        title_justify="left",
        caption_justify="left",
        show_footer=True,
    )
    table.add_column("kernel", counted(len(plan.launches), "launch"), overflow="fold")
    generated, library = len(plan.kernels), len(plan.library)
    table.add_column("kind")
    table.add_column("ops", f"{generated} generated, {library} library")
    table.add_column("bytes", f"{moved:,}", justify="right")
    for kernel in plan.launches:
        table.add_row(kernel.name, kernel.kind, ", ".join(kernel.ops), f"{kernel.bytes_moved(batch):,}")
    return table


def score_table(fused: Mapping[str, float], judged: Mapping[str, float], rows: int) -> Table:
    """The scores of both runs on rows that neither was trained on."""
    table = Table(title=f"Held out: {rows:,} rows", title_justify="left")
    table.add_column("score")
    for heading in ("fused", "eager"):
        table.add_column(heading, justify="right")
    for name, score in fused.items():
        table.add_row(name, f"{score:.4f}", f"{judged[name]:.4f}")
    return table


def certificate_table(certificate: Certificate) -> Table:
    """How far every result is from float64, fused and eager."""
    sizes = ", ".join(f"{name}={size}" for name, size in certificate.sizes.items())
    title = f"Numerics certificate of {certificate.graph}" + (f" at {sizes}" if sizes else "")
    held = "every result errs at most twice as much as eager, plus two units in the last place"
    verdict = f"OK: {held}" if certificate.ok else "FAILS: see what is marked"
    caption = escape("\n".join([*certificate.strict.lines(), verdict]))
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("result", overflow="fold")
    for heading in ("fused error", "eager error", "allowed"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in certificate.rows:
        c = row.comparison
        errors = (f"{e:.2e}" for e in (c.max_error, c.eager_max_error, c.max_allowed))
        table.add_row(f"{row.what} {row.name}", *errors, "ok" if c.ok else "FAILS")
    return table


def ops_table(entries: Sequence[Entry]) -> Table:
    """Every op with its formula, a section for each family."""
    table = Table(title=f"{len(entries)} ops, losses, metrics and update rules", title_justify="left")
    for heading in ("family", "name", "formula"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    family = None
    for entry in entries:
        if family not in (None, entry.family):
            table.add_section()
        shown = "" if entry.family == family else entry.family
        table.add_row(escape(shown), escape(entry.name), escape(entry.note.formula))
        family = entry.family
    return table


def note_table(entry: Entry) -> Table:
    """One note, line by line, under the signature."""
    table = Table(title=escape(entry.signature), title_justify="left", show_header=False, min_width=60)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for heading, text in {"family": entry.family, **entry.lines()}.items():
        table.add_row(heading, escape(text))
    return table
