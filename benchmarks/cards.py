"""The kernels of the benchmark, as they compile for an A100, an H100 and a B200: a table that a test holds.

usage: python benchmarks/cards.py                  # every case
       python benchmarks/cards.py softmax glu      # cases whose names begin so

Forward and backward run, float32 and bfloat16. No GPU is needed; what the figures mean, docs/cards.md says.
`pytest --update-goldens` writes benchmarks/cards.md anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence

import tritonnotes as tn
from tritonnotes.cards import gradient_programs
from tritonnotes.codegen.cards import KernelCard, make_cards
from tritonnotes.codegen.compile import ARCHS, triton_version
from tritonnotes.codegen.gpus import H100
from tritonnotes.ir.graph import Graph, Value

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


CASES: dict[str, tuple[str, Callable[[str], Graph]]] = {
    "layer_norm": ("layer norm, 8192×4096", one_input(tn.layer_norm, 8192, 4096)),
    "layer_norm_odd": ("layer norm, 32768×769", one_input(tn.layer_norm, 32768, 769)),
    "rms_norm": ("RMS norm, 32768×1024", one_input(tn.rms_norm, 32768, 1024)),
    "softmax": ("softmax, 8192×4096", one_input(rows_softmax, 8192, 4096)),
    "softmax_long": ("softmax, 1024×65536", one_input(rows_softmax, 1024, 65536)),
    "cross_entropy": ("cross entropy, 8192×1000", cross_entropy(8192, 1000)),
    "cross_entropy_long": ("cross entropy, 8192×32000", cross_entropy(8192, 32000)),
    "batch_norm": ("batch norm, 64×256×28×28", one_input(tn.batch_norm, 64, 256, 28, 28)),
    "batch_norm_flat": ("batch norm, 65536×512", one_input(tn.batch_norm, 65536, 512)),
    "glu": ("GLU, 8192×11008", one_input(tn.glu, 8192, 2 * 11008)),
    "swiglu": ("SwiGLU, 8192×11008", one_input(tn.swiglu, 8192, 2 * 11008)),
}

HEAD = f"""# Cards of the benchmark's kernels

Compiled ahead of time by Triton {triton_version()} for {", ".join(f"sm_{arch}" for arch in ARCHS)}; nothing was run.
`pytest --update-goldens` writes this file, `tests/test_benchmark_cards.py` holds it, and [docs/cards.md](../docs/cards.md)
says what the figures mean.

Where figures differ between architectures they stand in that order, with a slash between. Bytes are what one launch
reads and writes, partial sums for an {H100.name} included. Widths are those of the narrowest instruction that moves an
argument, in bits for each thread; what is below 128 is explained under the table.
"""

COLUMNS = ("run", "kernel", "kind", "bytes", "warps", "registers", "spills", "occupancy %", "loads", "stores")


def table(names: Iterable[str] = CASES) -> str:
    """The text of benchmarks/cards.md, of the cases named."""
    parts = [HEAD.rstrip("\n")]
    for name in names:
        title, build = CASES[name]
        for dtype in DTYPES:
            parts.append(_case(f"{title}, {dtype}", build(dtype)))
    return "\n\n".join(parts) + "\n"


def cards_of(name: str, dtype: str) -> Iterator[tuple[str, list[KernelCard]]]:
    """For each kernel of a case the run that it belongs to, and its cards in the order of `ARCHS`."""
    yield from _cards(CASES[name][1](dtype))


def _cards(graph: Graph) -> Iterator[tuple[str, list[KernelCard]]]:
    for run, program in zip(("forward", "backward"), gradient_programs(graph), strict=True):
        for cards in zip(*(make_cards(program, arch) for arch in ARCHS), strict=True):
            yield run, list(cards)


def _case(title: str, graph: Graph) -> str:
    rows, reasons = [], {}
    for run, cards in _cards(graph):
        rows.append((run, *_row(cards)))
        for card in cards:
            for access in card.accesses:
                if access.reason:
                    verb = "store to" if access.is_store else "load of"
                    reasons[f"- {card.name}, {verb} {access.argument}: {access.reason}"] = None
    launches = f"{len(rows)} launch{'es' * (len(rows) > 1)}"
    lines = [f"## {title}: {launches}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows)]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _row(cards: Sequence[KernelCard]) -> tuple[str, ...]:
    card = cards[ARCHS.index(H100.arch)]
    return (
        card.name,
        card.kind,
        f"{card.traffic.read + card.traffic.written:,}",
        str(card.num_warps),
        _each(str(c.registers) for c in cards),
        _each(str(c.spilled_bytes) for c in cards),
        _each(f"{c.occupancy.share * 100:.0f}" for c in cards),
        _each(_widths(c, stores=False) for c in cards),
        _each(_widths(c, stores=True) for c in cards),
    )


def _widths(card: KernelCard, stores: bool) -> str:
    return ", ".join(f"{a.argument} {min(a.widths)}" for a in card.accesses if a.is_store == stores) or "none"


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
