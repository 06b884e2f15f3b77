"""What a plan says of each edge of the joint graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tritonnotes.ir.graph import Value

from .axes import is_alias, is_free, is_host
from .clusters import Clusters
from .fusion import Refusal
from .plan import FusionPlan
from .traffic import nominal_bytes
from .units import COMBINE, PARTIAL, memory_of


@dataclass(frozen=True)
class Verdict:
    """What the plan says of one edge of the joint graph: value `source` read by value `target`.

    `bytes` is what is saved (fused) or moved (not fused) for it at the nominal batch of 256.
    """

    source: str
    target: str
    fused: bool
    rule: str
    reason: str
    bytes: int

    def __str__(self) -> str:
        word = "fused" if self.fused else "apart"
        return f"{self.source} → {self.target}: {word}, {self.rule}: {self.reason} ({self.bytes:,} bytes)"


def verdicts(plan: FusionPlan) -> Iterator[Verdict]:
    units = plan.units
    clusters = Clusters(units, plan.legality, plan.partition.kernels)
    again: dict[Value, set[str]] = {}
    for kernel in plan.launches:
        for value in kernel.recomputed:
            again.setdefault(value, set()).add(kernel.name)
    home = {u: k for k in plan.launches for u in k.units}
    for unit in units.units:
        if unit.part == PARTIAL:
            continue
        target = unit.value
        first = next(u for u in units.units if u.value is target)
        for arg in dict.fromkeys(target.inputs):
            size = nominal_bytes(arg)
            if is_free(arg) or is_host(arg):
                yield Verdict(arg.name, target.name, True, "number", "numbers and indices need no memory", 0)
                continue
            memory = memory_of(arg)
            producer = units.producer.get(memory)
            if producer is None:
                yield Verdict(
                    arg.name, target.name, False, "leaf", f"{memory.op.name} {memory.name} lies in memory", size
                )
            elif clusters.of[producer] is clusters.of[first] and not is_alias(arg):
                yield Verdict(arg.name, target.name, True, "same kernel", f"both in {home[first].name}", 2 * size)
            elif home[first].name in again.get(memory, ()):
                reason = f"computed again in {home[first].name}, which moves fewer bytes"
                yield Verdict(arg.name, target.name, True, "recomputed", reason, 2 * size)
            else:
                why = clusters.why_not(clusters.of[producer], clusters.of[first])
                if producer.part == COMBINE and why is not None:
                    why = Refusal("column", f"{memory.name} is whole only once every program is done")
                why = why or Refusal("order", "legal, but other fusions were made first")
                yield Verdict(arg.name, target.name, False, why.rule, why.reason, 2 * size)
