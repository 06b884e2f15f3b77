"""Embedding: a learned row for each number."""

from __future__ import annotations

from .. import primitives as P
from ..core.errors import DeclarationError, DTypeError, ShapeError
from ..core.graph import Value
from ..core.op import op
from ..core.registry import Note
from ..core.types import float32, show_shape
from ..primitives.rows import add_rows, take_rows
from .declare import DECLARE, Declare, instance_name, parameter_or

FAMILY = "layers"

NO_PADDING = -1


@op(
    domain={"input": "row", "weight": (-3, 3)},
    note=Note(
        formula="weight[input]",
        derivative="Σ of the rows of d that have the same number; 0 for padding_idx",
        strengths="A vector for each of many symbols; a lookup reads one row.",
        weaknesses="Rows of rare symbols learn slowly; the table is as long as the vocabulary.",
        use="Words, categories, positions.",
        source="torch.nn.functional.embedding",
    ),
)
def embedding(input: Value, weight: Value, *, padding_idx: int = NO_PADDING) -> Value:
    """weight[input]"""
    return take_rows(weight, input)


@embedding.gradient
def _(d_y, y, input, weight, *, padding_idx):
    learns = (input >= 0) & (input < weight.shape[0]) & (input != padding_idx)
    row = P.where(learns, input, NO_PADDING)  # a number that names no row is left out
    return None, add_rows(d_y, row, weight.shape[0])


embedding.sample = lambda graph, shape, dtype: embedding(
    graph.input("input", shape[:-1], "int64"), weight=graph.parameter("weight", (11, *shape[-1:]), "ones", dtype)
)


@embedding.declares
def _(
    input: Value,
    num_embeddings: int | None = None,
    embedding_dim: int | None = None,
    padding_idx: int | None = None,
    *,
    weight: Value | Declare = DECLARE,
    name: str | None = None,
) -> Value:
    """Rows of a table by their numbers `input` (any shape, int64 or int32): `input.shape + (embedding_dim,)`.

    Declares `<name>.weight` (num_embeddings, embedding_dim), float32 and normal as torch.nn.Embedding's, unless
    `weight` is given as a Value. The row `padding_idx` gets no gradient, and starts at zero where it is declared. A
    number outside the table raises where the host can see it (CPU); on a GPU it gives NaN.
    """
    if input.dtype.kind != "int":
        raise DTypeError(f"embedding: input {input.name!r} is {input.dtype}; row numbers are int64 (or int32)")
    name = instance_name(input.graph, "embedding", name)
    if isinstance(weight, Value):
        if len(weight.shape) != 2 or not isinstance(weight.shape[0], int):
            raise ShapeError(
                f"embedding {name!r}: weight {weight.name!r} has shape {show_shape(weight.shape)}; a table is "
                "(num_embeddings, embedding_dim)"
            )
        num_embeddings, embedding_dim = weight.shape  # type: ignore[assignment]
    for what, size in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
        if not isinstance(weight, Value) and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise DeclarationError(
                f"embedding {name!r}: {what} is {size!r}; give an int, as in tn.embedding(x, 1000, 64)"
            )
    assert isinstance(num_embeddings, int)
    if padding_idx is None:
        padding_row = NO_PADDING
    elif -num_embeddings <= padding_idx < num_embeddings:
        padding_row = padding_idx % num_embeddings
    else:
        raise DeclarationError(
            f"embedding {name!r}: padding_idx is {padding_idx} of {num_embeddings} rows; use a row's number"
        )
    init = {"init": "normal_rows", "mean": 0.0, "std": 1.0, "zero_row": float(padding_row)}
    shape = (num_embeddings, embedding_dim)
    table = parameter_or(weight, input.graph, f"{name}.weight", shape, float32, init, f"embedding {name!r}")  # type: ignore[arg-type]
    assert table is not None
    return embedding.apply(input, table, padding_idx=padding_row, name=name)
