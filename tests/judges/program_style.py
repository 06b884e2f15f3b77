"""What is wrong with the source of a program, by the rules of `source_rules` and the words of its author."""

from __future__ import annotations

from source_rules import KernelFacts, complaints

import tritonnotes as tn
from tritonnotes.codegen.program.program import Program
from tritonnotes.ir.core.graph import Graph


def authors_words(*graphs: Graph) -> frozenset[str]:
    """What people named: leaves, op instances, sizes, and the local variables of formulas."""
    words = set()
    for graph in graphs:
        for value in graph.values:
            words |= {value.scope.name, value.scope.op, value.hint or ""}
            words |= {size.name for size in value.shape if isinstance(size, tn.Dim)}
            if value.is_leaf or graph.level == "declared":
                words |= {value.name, value.name.rpartition(".")[2]}
    return frozenset(words - {""})


def wrong(program: Program) -> list[str]:
    words = authors_words(program.declared, program.graph)
    facts = {k.name: KernelFacts(k.signature, k.constexprs, words) for k in program.kernel_sources}
    return complaints(program.source, facts, words)
