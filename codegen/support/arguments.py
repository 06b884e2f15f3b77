"""What `run` of a generated module takes: its variables for sizes and for numbers of the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from tritonnotes.ir.core.errors import PlanError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.types import Dim, Shape, Size, dims_in, known_factor
from tritonnotes.ir.primitives import CHUNK_ROWS

from .expressions import Expression, Name, product
from .names import Names


class RunArguments:
    """The variables that hold sizes and numbers of the host in `run` and the functions beside it: the author's own
    names where these are free. `names` are all that is taken, the functions of the `launches` among them."""

    def __init__(self, graph: Graph, *launches: Iterable[str]) -> None:
        self.names = Names()
        self.names.taken |= {name for launch in chain(*launches) for name in (launch, f"run_{launch}")}
        shapes = (value.shape for value in graph.values)
        dims = dict.fromkeys(dim for shape in shapes for dim in dims_in(shape))
        self.dims = {dim: self.names.claim(dim.name) for dim in dims}
        self.scalars = {v: self.names.claim(v.name.rpartition(".")[2], v.name) for v in graph.leaves("scalar")}
        self._variables = {v.name: variable for v, variable in self.scalars.items()}
        self.sizes = SizeText({**self.dims, CHUNK_ROWS: self.names.claim(CHUNK_ROWS.name)})

    def given(self, sizes: Mapping[str, int], numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of a call, for sizes by the names of `Dim`s and numbers by the names of scalars; others than the
        graph has are left out. Raises `PlanError` where one is missing."""
        return self.given_sizes(sizes) | self.given_numbers(numbers)

    def given_numbers(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords for numbers alone."""
        try:
            return {variable: numbers[name] for name, variable in self._variables.items()}
        except KeyError:
            missing = next(name for name in self._variables if name not in numbers)
            raise PlanError(f"nobody gives the number {missing!r}; a run takes all of its program") from None

    def given_sizes(self, sizes: Mapping[str, int], dims: Iterable[Dim] | None = None) -> dict[str, int]:
        """The keywords for sizes alone: of all `Dim`s, or of some."""
        wanted = self.dims if dims is None else dims
        return {self.dims[dim]: _found(sizes, dim.name, "size of a Dim") for dim in wanted}


def _found(given: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        return given[name]  # of sizes with a default, each has one
    except KeyError:
        raise PlanError(f"nobody gives the {what} {name!r}; a run takes all of its program") from None


class SizeText:
    """Spells sizes, shapes and their products by the variables that hold `Dim`s."""

    def __init__(self, dims: Mapping[Dim, str]) -> None:
        self.dims = dims

    def size(self, size: Size) -> Expression:
        return self.product((size,))

    def product(self, shape: Shape) -> Expression:
        return product(*(Name(self.dims[dim]) for dim in dims_in(shape)), known_factor(shape))

    def shape(self, shape: Shape) -> str:
        """A tuple, without parentheses around what has one size."""
        sizes = [str(self.size(s)) for s in shape]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
