"""The kernels of the benchmark, as they compile for an A100, an H100 and a B200: a table that a test holds.

usage: python benchmarks/kernel_reports.py                  # every case
       python benchmarks/kernel_reports.py softmax glu      # cases whose names begin so

Forward and backward run, or a step, float32 and bfloat16. No GPU is needed; what the figures mean,
docs/kernel_reports.md says.
`pytest --update-goldens` writes benchmarks/kernel_reports.md anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.report.kernel_reports import KernelReport, make_reports
from tritonnotes.codegen.target.compile import ARCHS, triton_version
from tritonnotes.codegen.target.gpus import H100
from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.passes.joint import apart_graph, gathering_graph, loss_gradient_graph
from tritonnotes.runtime.kernel_reports import gradient_programs

DTYPES = ("float32", "bfloat16")


def one_input(build: Callable[[Value], Value], *shape: int) -> Callable[[str], Graph]:
    def graph(dtype: str) -> Graph:
        g = Graph("case")
        g.output(y=build(g.input("x", shape, dtype=dtype)))
        return g

    return graph


def rows_softmax(x: Value) -> Value:
    return tn.softmax(x, -1)


def cross_entropy(rows: int, classes: int) -> Callable[[str], Graph]:
    def graph(dtype: str) -> Graph:
        g = Graph("case")
        logits, y = g.input("logits", (rows, classes), dtype=dtype), g.input("y", (rows,), dtype="int64")
        g.output(loss=tn.cross_entropy(logits, y))
        return g

    return graph


def weighted_sum(count: int, *shape: int) -> Callable[[str], Graph]:
    """A loss of so many parameters."""

    def graph(dtype: str) -> Graph:
        g = Graph("case")
        products = [
            g.parameter(f"w{i}", shape, dtype=dtype) * g.input(f"x{i}", shape, dtype=dtype) for i in range(count)
        ]
        g.output(loss=sum(map(tn.sum, products[1:]), tn.sum(products[0])))
        return g

    return graph


Programs = Iterable[tuple[str, Program]]
"""The programs of a case, with the run that each belongs to."""


def forward_and_backward(graph: Graph) -> Programs:
    """What autograd runs."""
    return zip(("forward", "backward"), gradient_programs(graph), strict=True)


def loss_with_gradient(graph: Graph) -> Programs:
    """A loss and the gradient of its logits in one program, as a training step has them."""
    return [("step", make_program(loss_gradient_graph(graph, "loss", ["logits"])))]


def update_alone(graph: Graph) -> Programs:
    """Adam's update by gradients that lie in memory."""
    return [("update", make_program(apart_graph(gathering_graph(graph, "loss", 2, None), tn.adam(), None)))]


@dataclass(frozen=True)
class Case:
    """A title, and the programs of a graph in each of some dtypes."""

    title: str
    graph: Callable[[str], Graph]
    dtypes: tuple[str, ...] = DTYPES
    programs: Callable[[Graph], Programs] = forward_and_backward


CASES: dict[str, Case] = {
    "layer_norm": Case("layer norm, 8192×4096", one_input(tn.layer_norm, 8192, 4096)),
    "layer_norm_odd": Case("layer norm, 32768×769", one_input(tn.layer_norm, 32768, 769), DTYPES[:1]),
    "rms_norm": Case("RMS norm, 32768×1024", one_input(tn.rms_norm, 32768, 1024)),
    "softmax": Case("softmax, 8192×4096", one_input(rows_softmax, 8192, 4096)),
    "softmax_long": Case("softmax, 1024×65536", one_input(rows_softmax, 1024, 65536), DTYPES[:1]),
    "cross_entropy": Case("cross entropy, 8192×32000", cross_entropy(8192, 32000)),
    "cross_entropy_step": Case(
        "cross entropy with its gradient, 8192×32000", cross_entropy(8192, 32000), programs=loss_with_gradient
    ),
    "batch_norm": Case("batch norm, 64×256×28×28", one_input(tn.batch_norm, 64, 256, 28, 28)),
    "batch_norm_flat": Case("batch norm, 65536×512", one_input(tn.batch_norm, 65536, 512), DTYPES[:1]),
    "glu": Case("GLU, 8192×11008", one_input(tn.glu, 8192, 2 * 11008)),
    "adam": Case("Adam, 8 of 1024×1024", weighted_sum(8, 1024, 1024), DTYPES[:1], update_alone),
}
"""Few enough that a test compiles them all in a minute."""

HEAD = f"""# Kernel reports of the benchmark

Compiled ahead of time by Triton {triton_version()} for {", ".join(f"sm_{arch}" for arch in ARCHS)}; nothing was run.
`pytest --update-goldens` writes this file, `tests/project/test_benchmark_kernel_reports.py` holds it, and
[docs/kernel_reports.md](../docs/kernel_reports.md) says what the figures mean.

Where figures differ between architectures they stand in that order, with a slash between. Bytes are what one launch
reads and writes, partial sums for an {H100.name} included. Widths are those of the narrowest instruction that moves an
argument, in bits for each thread; what is below 128 is explained under the table. Barriers and load phases (chains of
loads that wait for each other) are those in the code, where one in a loop counts once; after each plus sign stand those
of last programs that finish sums. In flight is what one program has on its way from memory at once. Predicted are the
time on an {H100.name} and the share of a copy's bandwidth that this is.
"""

COLUMNS = (
    "run", "kernel", "kind", "bytes", "warps", "registers", "spills", "occupancy %", "barriers", "load phases",
    "in flight KiB", "predicted µs", "of a copy %", "loads", "stores",
)  # fmt: skip


def table(names: Iterable[str] = CASES, look: Callable[[str, KernelReport], None] = lambda case, report: None) -> str:
    """The text of benchmarks/kernel_reports.md, of the cases named; `look` is shown every report."""
    parts = [HEAD.rstrip("\n")]
    for name in names:
        case = CASES[name]
        for dtype in case.dtypes:
            kernels = list(_reports_of(case.programs(case.graph(dtype))))
            for report in (report for _, reports in kernels for report in reports):
                look(name, report)
            parts.append(_case(f"{case.title}, {dtype}", kernels))
    return "\n\n".join(parts) + "\n"


Kernels = Sequence[tuple[str, Sequence[KernelReport]]]
"""For each kernel the run that it belongs to, and its reports in the order of `ARCHS`."""


def _reports_of(programs: Programs) -> Iterator[tuple[str, Sequence[KernelReport]]]:
    for run, program in programs:
        for reports in zip(*(make_reports(program, arch) for arch in ARCHS), strict=True):
            yield run, reports


def _case(title: str, kernels: Kernels) -> str:
    launches = f"{len(kernels)} launch{'es' * (len(kernels) > 1)}"
    lines = [f"## {title}: {launches}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line((run, *_row(reports))) for run, reports in kernels]
    reasons = [line for _, reports in kernels for line in _reasons(reports)]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _reasons(reports: Sequence[KernelReport]) -> Iterator[str]:
    """What is narrow in a kernel and why, one line for each reason."""
    narrow: dict[str, dict[str, None]] = {}
    for access in (access for report in reports for access in report.accesses):
        if access.reason:
            narrow.setdefault(access.reason, {})[access.argument] = None
    for reason, arguments in narrow.items():
        yield f"- {reports[0].name}, {', '.join(arguments)}: {reason}"


def _row(reports: Sequence[KernelReport]) -> tuple[str, ...]:
    report = reports[ARCHS.index(H100.arch)]
    return (
        report.name,
        report.kind,
        f"{report.traffic.read + report.traffic.written:,}",
        _each(str(c.num_warps) for c in reports),
        _each(str(c.registers) for c in reports),
        _each(str(c.spilled_bytes) for c in reports),
        _each(f"{c.occupancy.share * 100:.0f}" for c in reports),
        _each("+".join(str(s.barriers) for s in c.sections) for c in reports),
        _each("+".join(str(s.phases) for s in c.sections) for c in reports),
        _each(f"{c.bytes_in_flight / 1024:.1f}" for c in reports),
        f"{report.seconds * 1e6:,.1f}",
        f"{report.copy_share * 100:.0f}",
        _each(_widths(c, stores=False) for c in reports),
        _each(_widths(c, stores=True) for c in reports),
    )


def _widths(report: KernelReport, stores: bool) -> str:
    return ", ".join(f"{a.argument} {min(a.widths)}" for a in report.accesses if a.is_store == stores) or "none"


def _each(texts: Iterable[str]) -> str:
    """What holds for all architectures once, else for each."""
    found = list(texts)
    return found[0] if len(set(found)) == 1 else " / ".join(found)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"beginnings of names: {', '.join(CASES)}")
    given = parser.parse_args().case
    print(table(n for n in CASES if not given or any(n.startswith(g) for g in given)), end="")


if __name__ == "__main__":
    main()
