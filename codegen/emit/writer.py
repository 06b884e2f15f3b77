"""The steps of a kernel as expressions: what stands in a variable of its own, and what is written inside its user."""

from __future__ import annotations

from collections import Counter
from math import copysign, inf, nan

from tritonnotes.ir.core.numbers import is_exact
from tritonnotes.ir.core.types import DType, bool_, float32, float64, int32, int64

from ..analysis.covered_nans import covered_maxima
from ..lower.index_math import Indexing
from ..lower.row_loops import deviations, row_loops, running_maximum
from ..lower.tile_ir import COL, ROW, SCALAR, TILE, Address, Kernel, Step
from ..support.expressions import ONE, Display, Expression, Name, both, call, number, product, total
from ..support.facets import ARITHMETIC, identity_of, reduced, triton
from ..support.provenance import Origin, united
from .ops import load, tl

LONGEST_INLINE = 90


class Writer:
    """Writes the steps of one kernel as expressions."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.steps = {s.name: s for s in kernel.steps}
        self.uses = Counter(a for s in kernel.steps for a in s.args)
        self.row_numbers = {a for s in kernel.steps if s.op == "take_rows" for a in s.args}
        self.online = running_maximum(kernel) if kernel.layout.loops_cols else {}
        self.largest = frozenset(self.online.values())
        self.running = frozenset() if kernel.layout.keeps_lanes else self.largest.union(self.online)
        self.covered = covered_maxima(kernel.steps, kernel.returned)
        self.deviations = _of_moments(kernel) if kernel.layout.loops_cols else {}
        self.only_stored = {
            s.args[0]
            for s in kernel.steps
            if s.op == "store" and self.uses[s.args[0]] == 1 and self.steps[s.args[0]].attrs.get("rounds") is s.dtype
        }
        """What is rounded to be stored and for nothing else: the store does that."""
        self.inlined: dict[str, bool] = {}
        self.found: dict[str, tuple[Origin, ...]] = {}
        self.index = Indexing(kernel)

    def value(self, name: str) -> Expression:
        """What a step gives: its variable, or the expression that stands in its user."""
        step = self.steps[name]
        if step.op == "number":
            return step.attrs["number"]
        if step.op == "index":
            return self.index.index_along(step)
        return self.expression(step) if self.is_inlined(step) else Name(step.name)

    def expression(self, step: Step) -> Expression:
        """What computes a step."""
        if step.op in ("sum", "max", "min"):
            return self.reduction(step)
        if step.op == "select":
            return self._selected(step)
        if step.op == "uniform":
            place = self.index.offset(step.attrs["address"])
            return triton("uniform", Name(step.attrs["seed"]), place, number(step.attrs["stream"]))
        if step.op == "cast":
            return self._converted(step)
        if step.op == "round_to":
            return triton("cast", self._narrowed(step), tl(step.dtype))
        if step.op == "neg" and step.dtype.is_float:
            # Triton's own minus is 0 − x, which is 0 for 0.
            return self._operands(step)[0] * number(-1.0)
        return triton(step.op, *self._operands(step))

    def _operands(self, step: Step) -> list[Expression]:
        """What a primitive is taken of. A number is a literal where Triton reads that as the same number in the dtype
        of a tensor beside it, else a tensor itself."""
        chosen = [self.steps[a] for a in step.args[step.op == "where" :]]
        beside = [s.dtype for s in chosen if s.op != "number" and not (step.dtype is float64 and _is_size(s))]
        keeps = bool(beside) and step.op in ARITHMETIC

        def operand(place: int, name: str) -> Expression:
            source = self.steps[name]
            if source.op != "number":
                return self.value(name)
            if not _is_minus_zero(source) and (keeps or (beside and _is_plain(source) and (step.op, place) != _ASKED)):
                return source.attrs["number"]
            return _full(source, next((d for d in beside if d.is_float), source.dtype))

        return [operand(place, name) for place, name in enumerate(step.args)]

    def tensor(self, name: str) -> Expression:
        """What a step gives, as a tensor even if it is a number."""
        source = self.steps[name]
        return _full(source, source.dtype) if source.op == "number" else self.value(name)

    def _converted(self, step: Step) -> Expression:
        """What a cast takes, in the dtype that the kernel computes in."""
        source = self.steps[step.args[0]]
        if source.op == "number":
            return _full(source, step.dtype)
        value = self.value(source.name)
        if source.op == "argument":
            # Triton makes a size of 1 a plain int, which has no method.
            return call("tl.cast", value, tl(step.dtype))
        return value if source.dtype is step.dtype else triton("cast", value, tl(step.dtype))

    def _narrowed(self, step: Step) -> Expression:
        """What is rounded, with 16 bits."""
        return triton("round_to", self._converted(step), tl(step.attrs["rounds"]))

    def origins(self, step: Step) -> tuple[Origin, ...]:
        """What a step's line is of: the step, and what is written inside it."""
        if step.name not in self.found:
            inside = (self.steps[a] for a in step.args if self.steps[a].op not in ("number", "index"))
            self.found[step.name] = united([step.origin, *(self.origins(s) for s in inside if self.is_inlined(s))])
        return self.found[step.name]

    # -- what is written inside its user --

    def is_inlined(self, step: Step) -> bool:
        """Whether a step has no variable."""
        if step.name not in self.inlined:
            self.inlined[step.name] = self._is_second_name(step) or self._fits_in_its_user(step)
        return self.inlined[step.name]

    def _fits_in_its_user(self, step: Step) -> bool:
        if step.name in self.only_stored:
            return True
        if step.is_named or step.op in _STATEMENTS or "place" in step.attrs:
            return False
        if step.name in self.row_numbers or step.name in self.largest or step.name in self.running:
            return False
        return self.uses[step.name] == 1 and len(str(self.expression(step))) <= LONGEST_INLINE

    def _is_second_name(self, step: Step) -> bool:
        """Whether a step only says again what another variable holds."""
        if step.op not in ("copy", "cast"):
            return False
        source = self.steps[step.args[0]]
        has_name = source.op not in ("number", "index") and not self.is_inlined(source)
        return has_name and source.dtype is step.dtype

    # -- reductions --

    def reduction(self, step: Step) -> Expression:
        """A reduction of the tile, or of the lanes that a loop along the row leaves."""
        op = step.attrs.get("reduction", step.op)
        arg = self.steps[step.args[0]]
        is_looped = self.layout.loops_cols and step.op != "accumulate"
        value: Expression = Name(f"{step.name}_lanes") if is_looped else self.reduced_value(step)
        if step.name in self.online and step.name not in self.running:
            # What a lane has summed is eˣ less the largest x of its own.
            largest = self.online[step.name]
            value = value * call("tl.exp", Name(f"{largest}_lanes") - Name(largest))
        if step.name in self.deviations:
            value = self._from_moments(step)
        return reduced(op, value, step.attrs["axis"], arg.dtype, step.name in self.covered)

    def _from_moments(self, step: Step) -> Expression:
        """What each lane adds to a sum of deviations, or of their squares."""
        x, about = self.deviations[step.name]
        counts, first, mean, squares = moment_names(self.steps[x])
        # The first number of a lane is close to the others, so that this is exact where all of them are large.
        off = first - self.value(about) + mean
        is_linear = self.steps[step.args[0]].op == "sub"
        return counts * off if is_linear else call("squares_about", squares, counts, off)

    def carries(self, step: Step) -> bool:
        """Whether a sum over rows has one for each place of the tile until all tiles are done. Numbers that are
        counted with more bits than they have are summed tile by tile."""
        return self.layout.traversal.carries_tiles and self.steps[step.args[0]].dtype is step.dtype

    def reduced_value(self, step: Step) -> Expression:
        """What a reduction is taken of, with its identity in the lanes outside the tensor."""
        value = self.value(step.args[0])
        if step.attrs.get("masked") and not self.index.reads_identity(step):
            value = self.masked_value(step, self.steps[step.args[0]], value)
        return value

    def masked_value(self, step: Step, arg: Step, value: Expression) -> Expression:
        """The argument of a reduction with its identity in the lanes outside the tensor."""
        mask, identity = self.index.mask_of_reduction(step), step.attrs["identity"]
        assert mask is not None
        if arg.op == "where" and self.is_inlined(arg) and self.value(arg.args[2]) == identity:
            # A choice that has the identity on its other side takes the mask into its condition.
            return call("tl.where", mask & self.value(arg.args[0]), self.value(arg.args[1]), identity)
        return call("tl.where", mask, value, identity)

    # -- memory --

    def loaded(self, step: Step) -> Expression:
        """A load, with what a reduction over it takes in the lanes outside the tensor."""
        mask = self.index.mask(step.extent)
        filled = self.index.filled_for(step) if mask and step.extent != SCALAR else ""
        other = identity_of(filled, step.dtype) if filled else None
        return _as_computed(step, load(self.address(step), mask=mask, other=other))

    def gathered(self, step: Step) -> Expression:
        """A load of rows that another step names; a number outside the table addresses nothing and gives NaN."""
        chosen = self.tensor(step.args[0])
        address: Address = step.attrs["address"]
        rows = self.index.product(address.shape[:1])
        stride = self.index.product(address.shape[1:])
        is_narrow = self.steps[step.args[0]].dtype is int32 and self.index.is_wide
        row = chosen.method("to", tl(int64)) if is_narrow else chosen
        place = total(Name(step.attrs["pointer"]), product(row, stride), self.index.offset(address))
        mask = both(chosen >= 0, chosen < rows, self.index.mask(step.extent))
        return _as_computed(step, load(place, mask=mask, other=number(nan if step.dtype.is_float else 0)))

    def _selected(self, step: Step) -> Expression:
        """A load of the one element of a row that another step names; a number outside the row gives −∞."""
        chosen = self.tensor(step.args[0])
        mask = both(chosen >= 0, chosen < self.index.col_bound(), self.index.mask(ROW))
        return _as_computed(step, load(total(self.address(step), chosen), mask=mask, other=number(-inf)))

    def address(self, step: Step) -> Expression:
        """Where each lane's element lies in memory."""
        return total(Name(step.attrs["pointer"]), self.index.offset(step.attrs["address"]))

    def stored(self, step: Step) -> Expression:
        """What a store writes, in the dtype of its memory."""
        source = self.steps[step.args[0]]
        if source.name in self.only_stored:
            return self._narrowed(source)
        while source.op == "copy" and self.is_inlined(source):
            source = self.steps[source.args[0]]
        if source.op == "number":
            return source.attrs["number"] if _is_plain(source) else _full(source, source.dtype)
        rounds = step.dtype is not source.dtype and step.dtype.is_float
        value = self.value(source.name)
        return value.method("to", tl(step.dtype)) if rounds else value

    def tile_shape(self, extent: str) -> Expression:
        """The shape of a variable that has these of the tile's axes."""
        if self.layout.traversal.is_one_row and extent == ROW:
            return Display(())
        rows, block = Name("ROWS"), Name("BLOCK")
        if self.layout.is_flat:
            return Display((block,))
        return Display({TILE: (rows, block), ROW: (rows, ONE), COL: (ONE, block)}[extent])


def moment_names(step: Step) -> tuple[Name, Name, Name, Name]:
    """What a loop along the row keeps of a step that deviates: of each lane how many numbers it has seen, the first of
    them, the mean less the first, and Σ (x − mean)²."""
    counts, first, mean, squares = (
        Name(f"{step.name}_{what}") for what in ("lanes_count", "lanes_first", "lanes_mean", "lanes_squares")
    )
    return counts, first, mean, squares


def _of_moments(kernel: Kernel) -> dict[str, tuple[str, str]]:
    """The sums that follow from moments, with what deviates there, and from what."""
    known = deviations(kernel)
    return {name: known[name] for loop in row_loops(kernel).loops for name in loop.moments}


def _full(source: Step, dtype: DType) -> Expression:
    """A number as a tensor of a dtype."""
    written, value = source.attrs["number"], source.attrs.get("value", 0)
    if isinstance(value, float) and not dtype.is_float:
        written = number(int(value != 0) if dtype is bool_ else int(value))
    elif _is_minus_zero(source):
        return call("tl.full", Display(()), number(0.0), tl(dtype)) * number(-1.0)
    return call("tl.full", Display(()), written, tl(dtype))


def _is_size(source: Step) -> bool:
    """Whether a step is the size of a `Dim`: an int, which with a literal beside it makes float32."""
    return source.op == "argument" and source.dtype is float32


def _is_minus_zero(source: Step) -> bool:
    """Whether a number is −0, which Triton reads as 0 wherever it is written."""
    value = source.attrs.get("value", 0)
    return isinstance(value, float) and value == 0 and copysign(1, value) < 0


def _is_plain(source: Step) -> bool:
    """Whether Triton reads a literal that stands alone as the number itself: it makes floats float32."""
    value = source.attrs.get("value", 0)
    return not isinstance(value, float) or source.dtype is not float64 or is_exact(value, float32)


def _as_computed(step: Step, loaded: Expression) -> Expression:
    """A load in the dtype that the kernel computes in."""
    return loaded if step.attrs["storage"] is step.dtype else loaded.method("to", tl(step.dtype))


_ASKED = ("pow", 0)
"""The argument that a helper asks for its dtype, which a literal has not."""


_STATEMENTS = (
    "load",
    "store",
    "accumulate",
    "finalize",
    "moments",
    "deviations",
    "repeat",
    "argument",
    "take_rows",
    "replicated",
    "operand",
    "product",
)
"""Steps that have a line of their own. So has a maximum that is taken together with its place."""
