"""How far every op is from float64, beside eager PyTorch, as a table.

usage: python tests/judges/report_ops.py [--all] [--json FILE] [OP ...]

For each op of the catalogue, outputs and gradients of the compiled kernels at the shapes of `test_kernels.py` (`--all`:
those of its slow tests too), judged as there. An error is given in units of eager's own, which counts as at least half
a unit in the last place; for float64, where eager is the oracle, in units in the last place. `--json` writes those
of all dtypes but float64 to a file: `docs/hooks/op_errors.json` is what the pages of the ops show.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compiled import DTYPES, Judged, draw, judge
from op_graphs import OPS, QUICK_SHAPES, op_graph, shapes_for
from rich.console import Console
from rich.table import Table

import tritonnotes as tn
from tritonnotes.ir.passes.evaluation import evaluation_form

NARROW = DTYPES[:3]
"""The dtypes whose errors are given in units of eager's."""


@dataclass
class Worst:
    """The worst of one op: how many results there were, how many broke the policy, and the largest errors."""

    cases: int = 0
    results: int = 0
    beyond: int = 0
    largest: dict[tuple[str, bool], float] = field(default_factory=dict)
    shapes: set[tuple[int, int]] = field(default_factory=set)
    where: str = ""

    def add(self, judged: Judged, dtype: str, shape: tuple[int, int]) -> None:
        self.results += 1
        self.beyond += not judged.ok
        error, is_gradient = in_units(judged), judged.what.startswith("gradient")
        if dtype != "float64" and error >= max((e for (d, _), e in self.largest.items() if d != "float64"), default=0):
            self.where = f"{judged.what}, {dtype}{list(shape)}"
        key = (dtype, is_gradient)
        self.largest[key] = max(self.largest.get(key, 0.0), error)

    def of(self, is_gradient: bool, *dtypes: str) -> str:
        found = [e for (d, g), e in self.largest.items() if d in dtypes and g == is_gradient]
        return f"{max(found):.2f}" if found else "–"

    def by_dtype(self) -> dict[str, dict[str, float]]:
        """The largest error of output and gradient in each dtype but float64, to two digits."""
        made: dict[str, dict[str, float]] = {}
        for (dtype, is_gradient), error in sorted(self.largest.items()):
            if dtype == "float64":  # no error is known where eager is the oracle
                continue
            made.setdefault(dtype, {})["gradient" if is_gradient else "output"] = round(error, 2)
        return made


def in_units(judged: Judged) -> float:
    """The largest error, in units of eager's; in units in the last place for float64."""
    c = judged.comparison
    unit = c.ulp if c.dtype == "float64" else max(c.eager_max_error, c.ulp / 2)
    return c.max_error / unit if unit else float(c.max_error > 0)


def judgements(name: str, dtype: str, shapes: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], list[Judged]]]:
    for rows, cols in shapes:
        graph = op_graph(name, (tn.Dim("batch"), cols), dtype)
        for training in (False, True) if evaluation_form(graph) is not graph else (False,):

            def redraw(seed: int, graph=graph, rows=rows):
                return draw(graph, seed, True, batch=rows)

            seed = rows + cols
            yield (rows, cols), judge(graph, redraw(seed), seed=seed, redraw=redraw, training=training)


def worst_of(name: str, dtypes: Sequence[str], every_shape: bool) -> Worst:
    """The worst of one op in these dtypes."""
    worst = Worst()
    for dtype in dtypes:
        listed = [*QUICK_SHAPES, *(shapes_for(dtype) if every_shape else ())]
        for shape, judged in judgements(name, dtype, listed):
            worst.cases += 1
            worst.shapes.add(shape)
            for each in judged:
                worst.add(each, dtype, shape)
    return worst


def report(names: list[str], every_shape: bool, console: Console) -> dict[str, Worst]:
    """Print the table, and under it the counts. Returns the worst of each op."""
    table = Table(title="Worst errors against float64, in units of eager's error", title_justify="left")
    table.add_column("op")
    for heading in ("cases", "results", "output", "gradient", "float64 output, ulp", "float64 gradient, ulp", "beyond"):
        table.add_column(heading, justify="right")
    table.add_column("the worst is")
    started, total, found = time.perf_counter(), Worst(), dict[str, Worst]()
    for name in names:
        worst = found[name] = worst_of(name, DTYPES, every_shape)
        errors = (worst.of(g, *d) for d in (NARROW, ("float64",)) for g in (False, True))
        table.add_row(name, str(worst.cases), str(worst.results), *errors, str(worst.beyond), worst.where)
        total.cases, total.results = total.cases + worst.cases, total.results + worst.results
        total.beyond += worst.beyond
        total.shapes |= worst.shapes
    console.print(table)
    console.print(
        f"{len(names)} ops × {len(DTYPES)} dtypes × {len(total.shapes)} shapes: {total.cases} cases, "
        f"{total.results} results, {total.beyond} beyond the policy; {time.perf_counter() - started:.0f} s."
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help="these alone; every op of the catalogue unless given")
    parser.add_argument("--all", action="store_true", help="the shapes of the slow tests too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the largest errors by op and dtype")
    given = parser.parse_args()
    unknown = sorted(set(given.ops) - set(OPS))
    if unknown:
        parser.error(f"no op {unknown[0]!r}; there are {', '.join(OPS)}")
    found = report(given.ops or OPS, given.all, Console(width=180))
    if given.json is not None:
        # A line for each op, so that a change of one is a change of one line.
        lines = (f"{json.dumps(name)}: {json.dumps(worst.by_dtype())}" for name, worst in found.items())
        given.json.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
