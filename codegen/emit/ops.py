"""What kernels call: loads and stores, and the helper functions in front of the kernels of a module.

Helpers are written in plain `tl`, not libdevice, so that they run under the interpreter too, and keep the stable forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tritonnotes.ir.core.types import DType

from ..support.expressions import Call, Expression, Name, call, walk
from ..support.statements import Statement, every


def tl(dtype: DType) -> Name:
    """A dtype in Triton."""
    return Name(f"tl.{'int1' if dtype.name == 'bool' else dtype.name}")


def zeros(shape: Expression, dtype: Expression) -> Expression:
    return call("tl.zeros", shape, dtype)


def load(place: Expression, *, mask: Expression | None = None, other: Expression | None = None) -> Expression:
    """A load of the lanes under a mask, and what the others hold."""
    return call("tl.load", place, **_given(mask=mask, other=other))


def store(place: Expression, value: Expression, *, mask: Expression | None = None) -> Expression:
    """A store of the lanes under a mask."""
    return call("tl.store", place, value, **_given(mask=mask))


def _given(**keywords: Expression | None) -> dict[str, Expression]:
    return {name: value for name, value in keywords.items() if value is not None}


HELPERS: Mapping[str, str] = {
    "sign": '''\
@triton.jit
def sign(x):
    """−1, 0 or 1."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
''',
    "expm1": '''\
@triton.jit
def expm1(x):
    """eˣ − 1 without cancellation near 0 (Kahan): the rounding error of eˣ leaves both factors and cancels."""
    exp_x = tl.exp(x)
    plain = exp_x - 1.0
    near_zero = exp_x == 1.0
    beyond = (exp_x == float("inf")) | (plain == -1.0)
    log_exp_x = tl.where(near_zero | beyond, 1.0, tl.log(exp_x))
    return tl.where(near_zero, x, tl.where(beyond, plain, plain * x / log_exp_x))
''',
    "log1p": '''\
@triton.jit
def log1p(x):
    """ln(1 + x) without cancellation near 0 (Kahan): the rounding error of 1 + x leaves both factors and cancels."""
    one_plus_x = 1.0 + x
    is_x = (one_plus_x == 1.0) | (one_plus_x == float("inf"))
    rounded_x = tl.where(is_x, 1.0, one_plus_x - 1.0)
    return tl.where(is_x, x, tl.log(one_plus_x) * (x / rounded_x))
''',
    "tanh": '''\
@triton.jit
def tanh(x):
    """1 − 2 / (e²ˣ + 1), and near 0, where that cancels, a polynomial (Cephes) or, in float64, by expm1."""
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    if x.dtype == tl.float64:
        t = expm1(-2.0 * size)
        near = -t / (t + 2.0)
    else:
        z = x * x
        slope = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
        near = (slope - 3.33332819422e-1) * z * size + size
    magnitude = tl.where(size < 0.625, near, far)
    return tl.where(x < 0.0, -magnitude, tl.where(x == 0.0, x, magnitude))
''',
    "power": '''\
@triton.jit
def power(base, exponent):
    """baseᵉˣᵖᵒⁿᵉⁿᵗ, in float64 since a float32 logarithm times a large exponent keeps few digits."""
    wide = tl.zeros_like(base).to(tl.float64) + exponent
    size = tl.abs(base.to(tl.float64))
    magnitude = tl.where(size == 1.0, 1.0, tl.exp(wide * tl.log(size)))
    is_whole = tl.floor(wide) == wide
    is_odd = is_whole & (tl.floor(wide * 0.5) * 2.0 != wide)
    is_below = base < 0
    is_minus = is_below | (base == 0) & (1.0 / base < 0)
    signed = tl.where(is_minus & is_odd, magnitude * -1.0, magnitude)
    is_undefined = is_below & (size < float("inf")) & (is_whole == 0)
    signed = tl.where(is_undefined, float("nan"), signed)
    return tl.where((wide == 0.0) | (base == 1.0), 1.0, signed).to(base.dtype)
''',
    "uniform": '''\
@triton.jit
def uniform(seed, place, stream: tl.constexpr):
    """A number in [0, 1) for each place: Philox 4x32-10 of the counter (place, stream); tl.rand, for stream 0."""
    wide = tl.cast(place, tl.uint64)
    low = wide.to(tl.uint32)
    zero = tl.zeros_like(low)
    word, _, _, _ = tl.philox(seed, low, (wide >> 32).to(tl.uint32), zero + stream, zero)
    return tl.uint_to_uniform_float(word)
''',
    "max_or_nan": '''\
@triton.jit
def max_or_nan(x, axis: tl.constexpr, keep_dims: tl.constexpr = False):
    """The largest, NaN if any is: tl.max alone skips NaN."""
    has_nan = tl.max((x != x).to(tl.int32), axis=axis, keep_dims=keep_dims)
    return tl.where(has_nan != 0, float("nan"), tl.max(x, axis=axis, keep_dims=keep_dims))
''',
    "larger_first": '''\
@triton.jit
def larger_first(x, place, other, other_place):
    """The larger of two numbers and its place: NaN counts as largest, and of alike ones the first is taken."""
    is_larger = (x > other) | ((x != x) & (other == other))
    is_alike = (x == other) | ((x != x) & (other != other))
    is_first = is_larger | (is_alike & (place < other_place))
    return tl.where(is_first, x, other), tl.where(is_first, place, other_place)
''',
    "max_and_place": '''\
@triton.jit
def max_and_place(x, places, axis: tl.constexpr):
    """The largest, NaN if any is, and the first place where it is."""
    return tl.reduce((x, places), axis, larger_first)
''',
    "rescale": '''\
@triton.jit
def rescale(largest_before, largest):
    """What a sum of eˣ over x − largest_before is multiplied by to be one over x − largest."""
    return tl.where(largest_before == largest, 1.0, tl.exp(largest_before - largest))
''',
    "add_exponential": '''\
@triton.jit
def add_exponential(largest, total, x):
    """The largest x so far and the sum of eˣ⁻ˡᵃʳᵍᵉˢᵗ, with one more x: one exponential is taken, of the smaller."""
    is_larger = x > largest
    # Where there is nothing but −∞ so far, −∞ − (−∞) is no number.
    smaller = tl.where(x == float("-inf"), 0.0, tl.exp(-tl.abs(x - largest)))
    total = tl.where(is_larger, total * smaller + 1.0, total + smaller)
    return tl.maximum(largest, x, propagate_nan=tl.PropagateNan.ALL), total
''',
    "add_moment": '''\
@triton.jit
def add_moment(mean, squares, x, count):
    """The mean of what each lane has seen, and the sum of (x − mean)², with one more x, the `count`-th (Welford)."""
    off = x - mean
    mean += off * (1.0 / tl.cast(count, mean.dtype))
    return mean, squares + off * (x - mean)
''',
    "squares_about": '''\
@triton.jit
def squares_about(squares, counts, off):
    """Σ (x − c)² of each lane, of its Σ (x − mean)², how many x it has, and mean − c (Chan, Golub and LeVeque)."""
    return squares + counts * off * off
''',
    "moments_of_lanes": '''\
@triton.jit
def moments_of_lanes(total, first, mean, squares, counts):
    """How many x the lanes of a column have seen, how far their mean is from their total over that, and Σ (x − mean)²;
    of each lane's first x, its mean less that, its Σ (x − mean)² and how many it has (Chan, Golub and LeVeque)."""
    has_rows = counts > 0
    count = tl.sum(counts)
    over = tl.maximum(count, 1)
    # Close to each lane's first x, so that this is exact where all of them are large.
    off = tl.where(has_rows, first - total / over + mean, 0.0)
    mean_off = tl.sum(counts * off, axis=0, keep_dims=True) / over
    apart = tl.where(has_rows, off - mean_off, 0.0)
    squares = tl.sum(squares_about(squares, counts, apart), axis=0, keep_dims=True)
    return count, mean_off, squares
''',
    "add_up_moments": '''\
@triton.jit
def add_up_moments(
    total_ptr, off_ptr, squares_ptr, count_ptr, first, members, COLS: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Put together what a group of programs left of the moments of columns, in the place of the first one: how many x
    each has seen, their sum, how far their mean is from that over their number, and Σ (x − mean)² (Chan, Golub and
    LeVeque)."""
    count_ptr += first
    rows = tl.load(count_ptr)
    for member in tl.range(1, GROUP, loop_unroll_factor=GROUP):
        rows += tl.load(count_ptr + member, mask=member < members, other=0)
    over = tl.maximum(rows, 1)
    for start in range(0, COLS, BLOCK):
        col = start + tl.arange(0, BLOCK)
        in_cols = col < COLS
        cell = first * COLS + col
        total = tl.load(total_ptr + cell, mask=in_cols, other=0.0)
        for member in tl.range(1, GROUP, loop_unroll_factor=GROUP):
            place = cell + member * COLS
            total += tl.load(total_ptr + place, mask=in_cols & (member < members), other=0.0)
        about = total / over
        off = tl.zeros_like(total)
        squares = tl.zeros_like(about)
        for member in tl.range(0, GROUP, loop_unroll_factor=GROUP // 4):
            is_member = member < members
            is_there = in_cols & is_member
            place = cell + member * COLS
            count = tl.load(count_ptr + member, mask=is_member, other=0)
            mean = tl.load(total_ptr + place, mask=is_there, other=0.0) / tl.maximum(count, 1)
            apart = mean - about + tl.load(off_ptr + place, mask=is_there, other=0.0)
            apart = tl.where(count > 0, apart, 0.0)
            squares += squares_about(tl.load(squares_ptr + place, mask=is_there, other=0.0), count, apart)
            off += count * apart
        off /= over
        # Where squares overflow, their sum is infinite, and not the difference of two infinities.
        less = tl.where(squares < float("inf"), rows * off * off, 0.0)
        tl.store(total_ptr + cell, total, mask=in_cols)
        tl.store(off_ptr + cell, off, mask=in_cols)
        tl.store(squares_ptr + cell, squares - less, mask=in_cols)
    tl.debug_barrier()
    tl.store(count_ptr, rows)
''',
    "arrives_last": '''\
@triton.jit
def arrives_last(arrivals_ptr, programs):
    """Whether this program is the last of so many to come here, and so sees what all of them stored before."""
    tl.debug_barrier()
    is_last = tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") == programs - 1
    if is_last:
        # The next launch counts from 0 again.
        tl.store(arrivals_ptr, 0)
    return is_last
''',
    "add_up_group": '''\
@triton.jit
def add_up_group(partial_ptr, first, members, COLS: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Add up what a group of programs left, in their order, in the place of the first one. A thread adds up columns of
    its own, and its loads do not wait for each other."""
    for start in range(0, COLS, BLOCK):
        col = start + tl.arange(0, BLOCK)
        in_cols = col < COLS
        total_ptr = partial_ptr + first * COLS + col
        total = tl.load(total_ptr, mask=in_cols, other=0)
        for member in tl.range(1, GROUP, loop_unroll_factor=GROUP):
            total += tl.load(total_ptr + member * COLS, mask=in_cols & (member < members), other=0)
        tl.store(total_ptr, total, mask=in_cols)
''',
    "address": '''\
@triton.jit
def address(cell_ptr, start, dtype: tl.constexpr, ALIGN: tl.constexpr):
    """Where a block starts in the tensor that a cell of a table points to. The pointer is known to be a multiple of
    ALIGN bytes: of 16, so that accesses are as wide."""
    return tl.multiple_of(tl.load(cell_ptr).to(tl.pointer_type(dtype)), ALIGN) + start
''',
    "min_or_nan": '''\
@triton.jit
def min_or_nan(x, axis: tl.constexpr, keep_dims: tl.constexpr = False):
    """The smallest, NaN if any is: tl.min alone skips NaN."""
    has_nan = tl.max((x != x).to(tl.int32), axis=axis, keep_dims=keep_dims)
    return tl.where(has_nan != 0, float("nan"), tl.min(x, axis=axis, keep_dims=keep_dims))
''',
}


HELPER_POINTERS: Mapping[str, str] = {
    "arrives_last": "arrivals_ptr",
    "add_up_group": "partial_ptr",
    "add_up_moments": "total_ptr",
    "address": "cell_ptr",
}
"""What helpers that touch memory load from, and store to."""


HELPER_NEEDS: Mapping[str, tuple[str, ...]] = {
    "tanh": ("expm1",),
    "max_and_place": ("larger_first",),
    "moments_of_lanes": ("squares_about",),
    "add_up_moments": ("squares_about",),
}


def helpers_called(statements: Iterable[Statement]) -> frozenset[str]:
    """The helpers that statements call."""
    expressions = (e for s in every(statements) for e in s.expressions)
    called = {
        part.function.name
        for e in expressions
        for part in walk(e)
        if isinstance(part, Call) and isinstance(part.function, Name)
    }
    return frozenset(called & HELPERS.keys())


def helpers_in_order(names: set[str]) -> list[str]:
    """The helpers and those that they call, callees first."""
    ordered: dict[str, None] = {}
    for name in sorted(names):
        for needed in (*HELPER_NEEDS.get(name, ()), name):
            ordered.setdefault(needed)
    return list(ordered)
