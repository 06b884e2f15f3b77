"""The rows of primitives: one for each that a kernel computes, in agreement with numpy where the host spells it too."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tritonnotes.codegen.support.expressions import Name, number
from tritonnotes.codegen.support.facets import FACETS, Axis, combined, identity_of, reduced, triton
from tritonnotes.ir.core.registry import PRIMITIVES
from tritonnotes.ir.core.types import float32, int32, int64

x, y = Name("x"), Name("y")


def test_every_primitive_that_is_computed_in_a_kernel_has_a_row() -> None:
    wanted = {n for n, p in PRIMITIVES.items() if p.kind in ("elementwise", "cast", "reduction")}
    assert wanted <= set(FACETS) <= set(PRIMITIVES)
    for name, row in FACETS.items():
        assert (row.reduction is not None) == (PRIMITIVES[name].kind == "reduction"), name
        assert (row.triton is None) == (row.reduction is not None), name


@pytest.mark.parametrize("op", [name for name, row in FACETS.items() if row.host is not None])
def test_the_host_computes_what_the_primitive_means(op: str) -> None:
    build = FACETS[op].host
    assert build is not None
    for numbers in ((0.3, 1.7), (0.9, 0.2)):
        given = numbers[: PRIMITIVES[op].arity]
        value = eval(str(build(*map(number, given))), {"math": math})
        np.testing.assert_allclose(value, PRIMITIVES[op].evaluate(*map(np.float64, given)), rtol=1e-12)


@pytest.mark.parametrize(
    ("op", "dtype", "text"),
    [
        ("sum", float32, "0.0"), ("sum", int64, "0"), ("max", float32, 'float("-inf")'),
        ("min", float32, 'float("inf")'), ("max", int32, "-2147483648"), ("min", int32, "2147483647"),
        ("max", int64, "-9223372036854775808"), ("min", int64, "9223372036854775807"),
    ],
)  # fmt: skip
def test_identities_are_the_ends_of_a_dtype(op: str, dtype: object, text: str) -> None:
    assert str(identity_of(op, dtype)) == text  # type: ignore[arg-type]


def test_reductions_keep_nan_where_numbers_may_be_nan() -> None:
    assert str(reduced("max", x, Axis(0), float32)) == "max_or_nan(x, axis=0)"
    assert str(reduced("max", x, Axis(1, keeps=True), int64)) == "tl.max(x, axis=1, keep_dims=True)"
    assert str(reduced("sum", x, Axis(None), float32)) == "tl.sum(x)"
    assert str(reduced("min", x, Axis(None), float32)) == "min_or_nan(x, axis=None)"


def test_what_is_reduced_so_far_takes_in_more_by_a_primitive() -> None:
    assert combined("max", x, y) == triton("maximum", x, y)
    assert combined("sum", x, y) == x + y
