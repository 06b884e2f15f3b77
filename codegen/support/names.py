"""The one allocator of names in generated source: the author's own where they are free, never a number of ours.

What a user may call a thing does not depend on what we call ours: a name that Python, Triton or our own lines need gets
a word more in the source, and stays as it is everywhere else.
"""

from __future__ import annotations

import builtins
import keyword
import unicodedata
from collections.abc import Iterable

from tritonnotes.ir.core.graph import Graph, Value
from tritonnotes.ir.core.types import dims_in

from .facets import FACETS

RESERVED = frozenset(
    {"tl", "triton", "torch", "math", "float", "range", "launch", "all_reduce", "grid", "run", "main", "t"}
    | {"device", "lives", "name", "tensor", "place", "in_arena", "temporaries", "numbers_of", "number_row"}
    | {"row", "rows", "col", "cols", "mask", "cell", "offset", "elements"}
    | {"partial_row", "partial_cell", "tile", "start", "first"}
    | {"group", "member", "members", "arrivals", "arrives_last", "add_up_group"}
    | {"program", "programs", "in_programs", "ROWS", "COLS", "BLOCK", "PROGRAMS", "add_exponential", "rescale"}
    | {"add_moment", "squares_about", "moments_of_lanes", "add_up_moments"}
    | {"sign", "expm1", "log1p", "tanh", "power", "uniform", "max_or_nan", "min_or_nan"}
    | {"larger_first", "max_and_place"}
    | {"address", "numbers", "parameters", "blocks", "ALIGN", "inside"}
    | {"INNER", "PRECISION", "float32_precision", "length", "other"}
    | {"tile_row", "tile_col", "part", "parts"}
    | {"segments", "table_of", "tables", "SEGMENTS", "called", "kept", "gradients", "flat"}
    | set(keyword.kwlist)
    | set(keyword.softkwlist)
    | set(dir(builtins))
)
"""What our own lines call their variables, functions and modules."""

DERIVED = (
    "_ptr", "_lanes", "_before", "_candidates", "_terms", "_rounded",
    "_lanes_first", "_lanes_mean", "_lanes_squares", "_lanes_count",
    "_lanes_seen", "_rows_count", "_rows_mean", "_rows_squares", "_rows_off",
)  # fmt: skip
"""What follows a variable's name in those that belong to it."""


def identifier(name: str) -> str:
    """A checked graph name as a Python identifier, spelled as Python reads it: dots become underscores."""
    text = name if name.isascii() else unicodedata.normalize("NFKC", name)
    text = text.replace(".", "_")
    return f"_{text}" if text[:1].isdigit() else text


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
        spelled = [identifier(c) for c in candidates if c]
        for candidate in spelled:
            if self._is_free(candidate):
                return self._take(candidate)
        stem = identifier(spelled[-1].lstrip("_") or "value")
        suffixes = ("value", "again", "other", "further", "last")
        for suffix in (*suffixes, *(f"{a}_{b}" for a in suffixes for b in suffixes)):
            if self._is_free(f"{stem}_{suffix}"):
                return self._take(f"{stem}_{suffix}")
        count = 2
        while not self._is_free(f"{stem}_no_{count}"):
            count += 1
        return self._take(f"{stem}_no_{count}")

    def _take(self, name: str) -> str:
        self.taken |= _family(name)
        return name

    def _is_free(self, name: str) -> bool:
        # What ends as a pointer's name does is called without that ending where kernels are launched.
        is_ours = name in RESERVED or name.startswith("__") or name.endswith("_ptr")
        return not is_ours and name.isidentifier() and self.taken.isdisjoint(_family(name))


def _family(name: str) -> set[str]:
    """A variable's name and those that belong to it, such as the pointer that it is loaded from."""
    return {name, *(f"{name}{ending}" for ending in DERIVED)}


class LaunchNames:
    """Hands out the names of launches, each once: its kernel has that name, and what launches it `run_<name>`. Neither
    is what a variable of the author's is called, in `graph`."""

    def __init__(self, graph: Graph, taken: Iterable[str] = ()) -> None:
        names = {name for value in graph.values for name in (value.name, value.name.rpartition(".")[2], value.hint)}
        dims = {dim.name for shape in {value.shape for value in graph.values} for dim in dims_in(shape)}
        self.words = RESERVED | {identifier(name) for name in names | dims if name}
        self.taken: set[str] = set()
        for name in taken:
            self._take(name)

    def claim(self, name: str, blocks: bool = False) -> str:
        """A free name, after `name`. With `blocks` the launch calls functions that begin with it and `_block`."""
        stem = f"kernel{name}" if name.startswith("__") else f"{name}_kernel" if name in self.words else name
        made, count = stem, 1
        while not self._is_free(made) or (blocks and self._begins(f"{made}_block")):
            count += 1
            made = f"{stem}_{count}"
        return self._take(made)

    def _take(self, name: str) -> str:
        self.taken |= {name, f"run_{name}"}
        return name

    def _is_free(self, name: str) -> bool:
        mine = {name, f"run_{name}"}
        return self.taken.isdisjoint(mine) and self.words.isdisjoint(mine)

    def _begins(self, stem: str) -> bool:
        return any(name.startswith(stem) for names in (self.taken, self.words) for name in names)


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
