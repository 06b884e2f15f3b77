"""The element of a result that is furthest from the truth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..judge.tolerance import misplaced


@dataclass(frozen=True)
class Worst:
    """An element of a result: where it is, what the kernel gives, what is expected (the reference in float64; of
    integers and bools eager's) and what the reference gives in eager PyTorch."""

    index: tuple[int, ...]
    got: float
    expected: float
    eager: float

    def __str__(self) -> str:
        return f"at {list(self.index)}: got {self.got:.8g}, expected {self.expected:.8g}, eager {self.eager:.8g}"

    def to_dict(self) -> dict[str, object]:
        return {"index": list(self.index), "got": self.got, "expected": self.expected, "eager": self.eager}


def worst(result: Tensor, eager: Tensor, truth: Tensor) -> Worst | None:
    """The first NaN or infinity that is out of place, or else the largest error; None of an empty result. The tensors
    are those that `compare` takes."""
    if not result.numel():
        return None
    result, eager, truth = (t.detach().cpu() for t in (result, eager, truth))
    wanted = truth if result.is_floating_point() else eager
    lost = misplaced(result, eager, truth) if result.is_floating_point() else result != eager
    if not lost.any():
        lost = (result.double() - wanted.double()).abs().nan_to_num(0.0, 0.0, 0.0)
    flat = int(lost.double().argmax())
    index = []
    for size in reversed(result.shape):
        flat, at = divmod(flat, size)
        index.append(at)
    place = tuple(reversed(index))
    return Worst(place, *(float(t[place].item()) for t in (result, wanted, eager)))
