"""Names for the variables of one kernel: the author's own where they are free, never a number of ours."""

from __future__ import annotations

import builtins
import keyword

from tritonnotes.ir.core.graph import Value

from .facets import FACETS

RESERVED = frozenset(
    {"tl", "triton", "torch", "math", "float", "range", "launch", "all_reduce", "grid", "run", "main", "t"}
    | {"row", "rows", "col", "cols", "mask", "cell", "offset", "elements"}
    | {"partial_row", "partial_cell", "tile", "start", "first"}
    | {"group", "member", "members", "arrivals", "arrives_last", "add_up_group"}
    | {"program", "programs", "in_programs", "ROWS", "COLS", "BLOCK", "PROGRAMS", "rescale"}
    | {"sign", "expm1", "log1p", "tanh", "power", "uniform", "max_or_nan", "min_or_nan"}
    | {"address", "numbers", "parameters", "blocks", "ALIGN", "inside"}
    | {"INNER", "PRECISION", "float32_precision", "length", "other"}
    | {"tile_row", "tile_col", "part", "parts"}
    | {"segments", "table_of", "TABLES", "SEGMENTS"}
    | set(keyword.kwlist)
    | set(keyword.softkwlist)
    | set(dir(builtins))
)


def identifier(name: str) -> str:
    """A checked graph name as a Python identifier: dots become underscores."""
    return name.replace(".", "_")


def uncounted(value: Value) -> str:
    """A value's name as an identifier, without the count by which a graph tells it from its like."""
    if value.is_leaf:
        return identifier(value.name)
    scope, replicated = identifier(value.scope.name), value.hint or value.op.name
    return replicated if replicated == scope or not scope else f"{scope}_{replicated}"


class Names:
    """Hands out each name once."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def claim(self, *candidates: str) -> str:
        """The first candidate that is free and no reserved word, else the last one with a word to tell it apart."""
        for candidate in candidates:
            if candidate and self._is_free(candidate):
                return self._take(candidate)
        stem = next(c for c in reversed(candidates) if c).lstrip("_") or "value"
        suffixes = ("value", "again", "other", "further", "last")
        for suffix in (*suffixes, *(f"{a}_{b}" for a in suffixes for b in suffixes)):
            if self._is_free(f"{stem}_{suffix}"):
                return self._take(f"{stem}_{suffix}")
        count = 2
        while not self._is_free(f"{stem}_no_{count}"):
            count += 1
        return self._take(f"{stem}_no_{count}")

    def _take(self, name: str) -> str:
        # The pointer that the value is loaded from has its name too.
        self.taken |= {name, f"{name}_ptr"}
        return name

    def _is_free(self, name: str) -> bool:
        is_taken = name in self.taken or f"{name}_ptr" in self.taken
        return not is_taken and name not in RESERVED and not name.startswith("__")


def describe(op: str, args: list[str]) -> str:
    """A name for what nobody named: `exp_shifted`, `centered_squared`, `one_minus_beta1`; empty if it would be long."""
    shown = [{"1.0": "one", "0.0": "zero", "2.0": "two", "1": "one"}.get(a, a) for a in args]
    if not all(a.isidentifier() for a in shown):
        return ""
    if op == "mul" and len(set(shown)) == 1:
        made = f"{shown[0]}_squared"
    elif len(shown) == 1:
        made = f"{op}_{shown[0]}"
    elif op in FACETS and FACETS[op].word:
        made = f"{shown[0]}_{FACETS[op].word}_{shown[1]}"
    else:
        return ""
    return made if len(made) <= 40 else ""
