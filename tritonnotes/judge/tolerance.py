"""How far a result may be from the truth: as far as eager PyTorch is, twice over, and two units in the last place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ir.core.errors import VerificationError


@dataclass(frozen=True)
class Comparison:
    """A result beside eager PyTorch, both measured against the float64 oracle where all three are finite.

    Errors are absolute, in the result's units; `ulp` is the spacing of the result's dtype at the oracle's largest
    magnitude (0 for integers and bools, which must be equal). `special` says that NaN and ±∞ stand where they should.
    """

    dtype: str
    shape: tuple[int, ...]
    max_error: float
    eager_max_error: float
    rms_error: float
    eager_rms_error: float
    ulp: float
    special: bool

    @property
    def max_allowed(self) -> float:
        return max(2 * self.eager_max_error + 2 * self.ulp, self._peer)

    @property
    def rms_allowed(self) -> float:
        return max(2 * self.eager_rms_error + 2 * self.ulp, self._peer)

    @property
    def _peer(self) -> float:
        """For float64 the oracle is no more exact than the result: the two agree to 1e-10 of the largest magnitude."""
        return 1e-10 * self.ulp / torch.finfo(torch.float64).eps if self.dtype == "float64" else 0.0

    @property
    def ok(self) -> bool:
        """err ≤ 2·err_eager + 2·ulp, in the maximum and in the root mean square, and NaN and ±∞ in their places.

        float64 results, whose oracle is eager itself, agree to 1e-10 of the largest magnitude.
        """
        return self.special and self.max_error <= self.max_allowed and self.rms_error <= self.rms_allowed

    def __str__(self) -> str:
        line = (
            f"{'ok' if self.ok else 'FAIL':4}  max {self.max_error:.2e} (eager {self.eager_max_error:.2e})  "
            f"rms {self.rms_error:.2e} (eager {self.eager_rms_error:.2e})  ulp {self.ulp:.2e}  "
            f"{self.dtype}{list(self.shape)}"
        )
        return line if self.special else f"{line}  NaN or inf misplaced"


def pooled(draws: Sequence[Comparison]) -> Comparison:
    """Comparisons of one result on several draws as one, as if they had been parts of one tensor."""
    count = len(draws)
    return replace(
        draws[0],
        shape=(count, *draws[0].shape),
        max_error=max(c.max_error for c in draws),
        eager_max_error=max(c.eager_max_error for c in draws),
        rms_error=math.hypot(*(c.rms_error for c in draws)) / math.sqrt(count),
        eager_rms_error=math.hypot(*(c.eager_rms_error for c in draws)) / math.sqrt(count),
        ulp=max(c.ulp for c in draws),
        special=all(c.special for c in draws),
    )


def ulp(dtype: torch.dtype, magnitude: float) -> float:
    """The distance between neighbours of a floating `dtype` at `magnitude`; past its largest number, at that one."""
    info = torch.finfo(dtype)
    magnitude = min(max(abs(magnitude), info.tiny), info.max)
    return info.eps * 2.0 ** (math.frexp(magnitude)[1] - 1)


def compare(result: Tensor, eager: Tensor, oracle: Tensor) -> Comparison:
    """Measure `result` and `eager` (one shape and dtype) against `oracle` (that shape, float64 where they are floats).

    A NaN or infinity is in its place where eager has the same, or where the oracle rounded to the result's dtype has:
    an eager intermediate may overflow that a kernel in float32 does not. An infinity is in its place too where eager
    has NaN and the oracle a number: infinities that met in eager may stay apart in float32. Empty tensors agree.
    Integers and bools must equal eager's. Raises `VerificationError` where shapes or dtypes differ.
    """
    if result.shape != eager.shape or result.shape != oracle.shape or result.dtype != eager.dtype:
        shown = ", ".join(f"{n} {t.dtype}{list(t.shape)}" for n, t in _named(result, eager, oracle))
        raise VerificationError(f"not comparable: {shown}; all must have one shape, result and eager one dtype")
    result, eager, oracle = (t.detach().cpu() for t in (result, eager, oracle))
    dtype, shape = str(result.dtype).removeprefix("torch."), tuple(result.shape)
    if not result.is_floating_point():
        # Python's integers, for a difference of int64s may not fit one.
        pairs = zip(result.flatten().tolist(), eager.flatten().tolist(), strict=True)
        gaps = [float(abs(a - b)) for a, b in pairs] if not torch.equal(result, eager) else []
        rms = math.sqrt(sum(g * g for g in gaps) / len(gaps)) if gaps else 0.0
        return Comparison(dtype, shape, max(gaps, default=0.0), 0.0, rms, 0.0, 0.0, True)
    rounded = oracle.to(result.dtype)
    special = not bool(misplaced(result, eager, oracle).any())
    finite = result.isfinite() & eager.isfinite() & rounded.isfinite()
    truth = oracle[finite].double()
    errors, eager_errors = (t[finite].double() - truth for t in (result, eager))
    unit = ulp(result.dtype, _largest(truth)) if truth.numel() else 0.0
    return Comparison(
        dtype, shape, _largest(errors), _largest(eager_errors), _rms(errors), _rms(eager_errors), unit, special
    )


def misplaced(result: Tensor, eager: Tensor, oracle: Tensor) -> Tensor:
    """Where a float result has a NaN, an infinity or a number that `compare` does not take for one in its place."""
    overflowed = eager.isnan() & oracle.isfinite() & result.isinf()
    kind = _kind(result)
    return ~((kind == _kind(eager)) | (kind == _kind(oracle.to(result.dtype))) | overflowed)


def _named(*tensors: Tensor) -> list[tuple[str, Tensor]]:
    return list(zip(("result", "eager", "oracle"), tensors, strict=True))


def _kind(x: Tensor) -> Tensor:
    """0 for a finite number, 1 for NaN, 2 for +∞, 3 for −∞."""
    return x.isnan() * 1 + x.isposinf() * 2 + x.isneginf() * 3


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _rms(x: Tensor) -> float:
    """Scaled by the largest, so that squares neither overflow nor vanish."""
    largest = _largest(x)
    return largest * float((x / largest).square().mean().sqrt()) if largest else 0.0
