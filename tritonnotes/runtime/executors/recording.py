"""One run of a generated module, recorded: native launches, and between them the calls to torch's library.

A module's `run` is called once over stand-ins for the tensors that a caller hands in, so that every address in the
record says which buffer it belongs to, and where in it. What is launched is noted; so is what calls the library, and
its result where that is a new tensor.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ... import native


@dataclass(frozen=True)
class Result:
    """A view of the tensor that an earlier call of the same run gave, by its number among the steps."""

    number: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        return tensor.as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True)
class Made:
    """What an earlier call of the same run gave, by its number among the steps: a function of the module knows it."""

    number: int

    def of(self, given: Any) -> Any:
        return given


@dataclass(frozen=True)
class Part:
    """A view of a buffer that a caller hands in."""

    buffer: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        return tensor.as_strided(self.shape, self.strides, tensor.storage_offset() + self.offset)


@dataclass(frozen=True)
class Call:
    """A call to torch's library, or another process: `arguments` and `options` hold a `Result`, a `Made` or a `Part`
    where they are others in each run. What it gives is the buffer `makes`, where that is not empty."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    makes: str = ""


Step = tuple[native.Launch, ...] | Call
"""Launches that follow each other, or a call."""


class Places:
    """Which buffer an address lies in, of the stand-ins that a module is run over."""

    def __init__(self, stand_ins: Mapping[str, Tensor]) -> None:
        held = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), n) for n, t in stand_ins.items()]
        self._spans = sorted(span for span in held if span[0] < span[1])
        self._starts = [start for start, _, _ in self._spans]

    def add(self, name: str, tensor: Tensor) -> None:
        """One more buffer, and the stand-in for it."""
        if size := tensor.numel() * tensor.element_size():
            place = bisect_right(self._starts, tensor.data_ptr())
            self._starts.insert(place, tensor.data_ptr())
            self._spans.insert(place, (tensor.data_ptr(), tensor.data_ptr() + size, name))

    def find(self, address: int) -> tuple[str, int] | None:
        """The buffer, and the byte in it; None for memory that stays."""
        number = bisect_right(self._starts, address) - 1
        if number < 0 or address >= self._spans[number][1]:
            return None
        start, _, name = self._spans[number]
        return name, address - start


def stand_in(tensor: Tensor) -> Tensor:
    """A tensor of the same kind in memory of its own. It holds zeros, which are valid wherever numbers say a place."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")


class Recording(TorchDispatchMode):
    """Notes the steps of what runs within it."""

    def __init__(self, places: Places, stays: Sequence[Tensor]) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.made: dict[str, Tensor] = {}
        """The stand-ins for buffers that are made within the run."""
        self._places = places
        self._launches: list[native.Launch] = []
        self._known = {t.untyped_storage().data_ptr() for t in stays}
        self._results: dict[int, tuple[int, Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: torch would import its tracer to be told so, which takes longer than to compile a program."""
        return False

    def launch(self, recorded: Sequence[native.Launch]) -> None:
        """Kernels are launched here."""
        self._launches += recorded

    def call(
        self, function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any], makes: str = ""
    ) -> None:
        """Something else is called here."""
        self.flush()
        given = tuple(self._said(value) for value in arguments)
        said = {name: self._said(value) for name, value in options.items()}
        self.steps.append(Call(function, given, said, makes))

    def instead_of(self, function: Callable[..., Any]) -> Callable[..., Made]:
        """What is called in the place of a function of the module: it notes a call, and computes nothing."""

        def noted(*arguments: Any, **options: Any) -> Made:
            self.call(function, arguments, options)
            return Made(len(self.steps) - 1)

        return noted

    def making(self, function: Callable[..., Tensor], buffers: Iterable[str]) -> Callable[..., Tensor]:
        """The same for a function that makes the next of the `buffers`, of a shape and a dtype, its last arguments: it
        gives a stand-in for that."""
        names = iter(buffers)

        def noted(*arguments: Any) -> Tensor:
            *_, shape, dtype = arguments
            made, name = torch.zeros(shape, dtype=dtype, device="cpu"), next(names)
            self.made[name] = made
            self._places.add(name, made)
            self.call(function, arguments, {}, makes=name)
            return made

        return noted

    def flush(self) -> None:
        """The launches so far end a step."""
        if self._launches:
            self.steps.append(tuple(self._launches))
            self._launches = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
        if func.is_view or not any(map(self._is_known, tensors)):
            return func(*args, **options)
        self.call(func, args, options)
        result = func(*args, **options)
        if isinstance(result, Tensor) and not any(result is t for t in tensors):
            self._results[result.untyped_storage().data_ptr()] = len(self.steps) - 1, result
        return result

    def _is_known(self, tensor: Tensor) -> bool:
        place = tensor.untyped_storage().data_ptr()
        return place in self._known or place in self._results or self._places.find(tensor.data_ptr()) is not None

    def _said(self, value: Any) -> Any:
        """An argument as it is kept."""
        if isinstance(value, list):
            return [self._said(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        found = self._results.get(value.untyped_storage().data_ptr())
        if found is not None:
            return Result(found[0], tuple(value.shape), value.stride(), int(value.storage_offset()))
        place = self._places.find(value.data_ptr())
        if place is None:
            return value
        name, byte = place
        return Part(name, tuple(value.shape), value.stride(), byte // value.element_size())
