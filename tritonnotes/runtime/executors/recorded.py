"""A program as machine code, recorded once for each set of sizes: then a run is one native call, or a few where it
calls torch's library in between.

From run to run only addresses of what a caller hands in and of the outputs change, and numbers of the host, which
kernels read from memory. Temporaries lie in an arena that stays.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ... import native
from ...codegen.emit.prelude import CALLS_OF_TORCH, MAKES
from ...codegen.fusion.horizontal import SEGMENTS
from ...codegen.lower.foreach import ForeachKernel
from ...codegen.program.program import Program
from ...codegen.support.collector import paused_collector
from ...codegen.target.cache import KernelCache
from ...codegen.target.load import load_source
from ...ir.core.evaluate import concrete
from ...tensors.allocation import allocating, maker, raise_no_memory
from ...tensors.dtypes import torch_dtype
from .executor import Held
from .machine_code import NativeExecutor
from .recording import Call, Made, Part, Places, Recording, Result, stand_in

KEPT_SIZES = 8
"""How many sets of sizes are kept, so that a ragged last batch does not evict the others. What was used longest ago
goes first."""

AllReduce = Callable[[Tensor, Tensor], None]


class RecordedRuns:
    """The runs of a program on the CPU."""

    def __init__(self, program: Program, executor: NativeExecutor) -> None:
        self._program = replace(program, in_memory=True)
        self._executor = executor
        self._kept: OrderedDict[tuple[tuple[str, int], ...], Record] = OrderedDict()

    @cached_property
    def module(self) -> Any:
        """The module of the program whose kernels read the host's numbers from memory."""
        return load_source(self._program.source, KernelCache())

    def run(
        self,
        leaves: Mapping[str, Tensor],
        held: Held,
        sizes: Mapping[str, int],
        scalars: Mapping[str, float],
        all_reduce: AllReduce | None,
        begin: Callable[[], None] | None,
    ) -> dict[str, Tensor]:
        """As `Runner.run`. `begin` is called before the first launch, when all is compiled and allocated."""
        key = tuple(sizes.items())
        record = self._kept.get(key)
        if record is None:
            # What is kept is there for runs outside of inference mode, too.
            with torch.inference_mode(False), allocating(f"graph {self._program.graph.name!r}"), paused_collector():
                given = {**leaves, **held.leaves}
                record = Record(self._program, self.module, self._executor, given, sizes, scalars, all_reduce)
            self._kept[key] = record
            if len(self._kept) > KEPT_SIZES:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        try:
            return record.run(leaves, held, scalars, begin)
        except BaseException:
            # Programs that did not arrive are missing in the counts that the arena holds.
            self._kept.pop(key, None)
            raise


class Record:
    """What a program does at one set of sizes."""

    def __init__(
        self,
        program: Program,
        module: Any,
        executor: NativeExecutor,
        leaves: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scalars: Mapping[str, float],
        all_reduce: AllReduce | None,
    ) -> None:
        self._what = f"graph {program.graph.name!r}"
        arguments = program.arguments
        programs = executor.programs(sizes)
        outputs = {
            b.name: (concrete(b.shape, sizes), torch_dtype(b.dtype)) for b in program.buffers if b.role == "output"
        }
        shown = {name: (buffer, concrete(shape, sizes)) for name, (buffer, shape) in program.outputs.items()}
        # An output is made in a shape that a caller sees: kernels take its address, calls a view of their own.
        seen = {buffer: shape for buffer, shape in shown.values() if buffer in outputs}
        self._outputs = tuple((name, maker(seen.get(name, shape), dtype)) for name, (shape, dtype) in outputs.items())
        self._numbers_of, self._given_numbers = module.numbers_of, arguments.given_numbers
        given_sizes = arguments.given_sizes(sizes)
        self._given = given_sizes | arguments.given_numbers(scalars)
        numbers = self._numbers_of(**self._given)
        self._numbers = torch.zeros(max(len(numbers), 1), dtype=torch.float64, device="cpu")
        self._words = memoryview(self._numbers.numpy()).cast("B")  # type: ignore[arg-type]
        self._packed, self._kinds = struct.Struct(""), list[type]()
        self._tell(numbers)
        self._are_given = bool(arguments.scalars)
        arena = self._arena(program, module, sizes, programs)
        stand_ins = {name: stand_in(leaf) for name, leaf in leaves.items()}
        stand_ins |= {name: torch.zeros(shape, dtype=dtype, device="cpu") for name, (shape, dtype) in outputs.items()}
        shapes = {b.name: concrete(b.shape, sizes) for b in program.buffers} | seen
        self._results = tuple(
            (name, buffer, buffer in leaves, None if shapes[buffer] == shape else shape)
            for name, (buffer, shape) in shown.items()
        )
        places = Places(stand_ins)
        recording = Recording(places, [*arena.values(), self._numbers])
        given = {**given_sizes, "numbers": self._numbers, "programs": programs}
        if all_reduce is not None and hasattr(module, "all_reduce"):
            given["all_reduce"] = recording.instead_of(all_reduce)
        by_torch = [b.name for b in program.buffers if b.role == "torch"]
        for name in CALLS_OF_TORCH if by_torch else ():
            function = getattr(module, name, None)
            if function is not None:
                makes = name == MAKES
                given[name] = recording.making(function, by_torch) if makes else recording.instead_of(function)
        tables: list[Tensor] = []

        def launch(kernel: Any, grid: tuple[int, ...], *passed: Any, **options: Any) -> None:
            planned, grid, options = executor.adapted(kernel, grid, options, sizes)
            if isinstance(planned, ForeachKernel):
                tables.append(passed[0])
            recorder = native.Recorder(executor.work(planned, sizes))
            recorder(kernel, grid, *passed, **options)
            recording.launch(recorder.launches)

        tensors = {**arena, **stand_ins}
        with torch.no_grad(), recording:
            module.run(tensors, **given, launch=launch)
            recording.flush()
        assert all(tensors[name] is made for name, made in recording.made.items()), "in the order of the buffers"
        self._slots = _Slots(places)
        self._steps = [self._replayed(step) for step in recording.steps]
        self._tables = [_Table(table, self._slots) for table in tables]
        self._kept = arena, tables
        self._mark: object = None
        self._places: dict[str, int] = {}

    @staticmethod
    def _arena(program: Program, module: Any, sizes: Mapping[str, int], programs: int) -> dict[str, Tensor]:
        if not program.arena.lives:
            return {}
        given = program.arguments.given_sizes(sizes, program.arena.dims)
        given |= {"programs": programs} if program.arena.is_shared else {}
        made: dict[str, Tensor] = module.temporaries(torch.device("cpu"), **given)
        return made

    def _replayed(self, step: Any) -> native.Bundle | _Replay:
        if isinstance(step, Call):
            return _Replay(step, self._slots)
        bundle = native.Bundle(step)
        for place, tensor in bundle.tensors():
            self._slots.add(tensor.data_ptr(), bundle.words, place)
        return bundle

    def run(
        self,
        leaves: Mapping[str, Tensor],
        held: Held,
        scalars: Mapping[str, float],
        begin: Callable[[], None] | None = None,
    ) -> dict[str, Tensor]:
        """One run over these tensors."""
        if self._are_given:  # others follow from sizes alone
            self._given |= self._given_numbers(scalars)
            self._tell(self._numbers_of(**self._given))
        point = self._slots.point
        if held.mark is not self._mark:
            self._point(held.leaves)
            self._mark = held.mark
        self._point(leaves)
        made: dict[str, Tensor] = {}
        try:
            for name, make in self._outputs:
                made[name] = tensor = make()
                point(name, tensor, tensor.data_ptr())
        except RuntimeError as error:
            raise_no_memory(error, self._what)
            raise
        for table in self._tables:
            table.align()  # what torch makes is aligned in every run
        if begin is not None:
            begin()
        results: list[Any] = []
        for step in self._steps:
            if isinstance(step, native.Bundle):
                step.run()
                results.append(None)
            else:
                results.append(step.run(results))
                if step.makes:
                    made[step.makes] = results[-1]
                    point(step.makes, results[-1], results[-1].data_ptr())
        for step in self._steps:
            if isinstance(step, _Replay) and step.makes:
                self._slots.forget(step.makes)
        found = {}
        for name, buffer, is_leaf, shape in self._results:
            if is_leaf:
                # It is handed out as it is now, not as a later run leaves it.
                made[buffer] = (leaves[buffer] if buffer in leaves else held.leaves[buffer]).clone()
            found[name] = made[buffer] if shape is None else made[buffer].reshape(shape)
        return found

    def _tell(self, numbers: list[float]) -> None:
        """Write the numbers where kernels read them, exact ints bit for bit."""
        kinds = [*map(type, numbers)]
        if kinds != self._kinds:
            self._packed = struct.Struct("=" + "".join("q" if issubclass(kind, int) else "d" for kind in kinds))
            self._kinds = kinds
        self._packed.pack_into(self._words, 0, *numbers)

    def _point(self, leaves: Mapping[str, Tensor]) -> None:
        """Leaves are these tensors from now on."""
        places = self._places
        for name, tensor in leaves.items():
            address = tensor.data_ptr()
            if places.get(name) != address:
                self._slots.point(name, tensor, address)
                places[name] = address


class _Slots:
    """Where the addresses of buffers are written, and which calls see them."""

    def __init__(self, places: Places) -> None:
        self._find = places.find
        self._words: dict[str, list[tuple[memoryview, int, int]]] = {}
        self._calls: dict[str, list[_Replay]] = {}

    def add(self, address: int, words: memoryview, place: int) -> None:
        """What lies at an address is passed in one of the words."""
        found = self._find(address)
        if found is not None:
            name, offset = found
            self._words.setdefault(name, []).append((words, place, offset))

    def watch(self, buffer: str, call: _Replay) -> None:
        """A call is made over views of a buffer."""
        self._calls.setdefault(buffer, []).append(call)

    def point(self, buffer: str, tensor: Tensor, address: int) -> None:
        """A buffer is this tensor from now on."""
        for words, place, offset in self._words.get(buffer, ()):
            words[place] = address + offset
        for call in self._calls.get(buffer, ()):
            call.point(buffer, tensor)

    def forget(self, buffer: str) -> None:
        """No call sees a buffer until it is pointed at again."""
        for call in self._calls.get(buffer, ()):
            call.forget(buffer)


class _Table:
    """The table of a foreach launch: a row for each update, which holds addresses."""

    def __init__(self, table: Tensor, slots: _Slots) -> None:
        self._words = memoryview(table.numpy()).cast("B").cast("Q")  # type: ignore[arg-type]
        rows, width = table.shape
        first = SEGMENTS.addresses
        self._rows = [(row * width, range(row * width + first, (row + 1) * width)) for row in range(rows)]
        self._known: bytes = b""
        for _, cells in self._rows:
            for cell in cells:
                if self._words[cell]:
                    slots.add(self._words[cell], self._words, cell)

    def align(self) -> None:
        """Say of each row anew whether its addresses are multiples of 16."""
        now = self._words.tobytes()
        if now == self._known:
            return
        aligned = SEGMENTS.place("aligned")
        for start, cells in self._rows:
            self._words[start + aligned] = all(self._words[cell] % 16 == 0 for cell in cells)
        self._known = self._words.tobytes()


class _Replay:
    """A call to torch's library over the tensors of a run."""

    def __init__(self, call: Call, slots: _Slots) -> None:
        self._function, self.makes = call.function, call.makes
        self._arguments, self._options = list(call.arguments), dict(call.options)
        self._parts: list[tuple[Any, Any, Part]] = []
        self._earlier: list[tuple[Any, Any, Result | Made]] = []
        self._find(self._arguments, slots)
        self._find(self._options, slots)

    def _find(self, held: list[Any] | dict[str, Any], slots: _Slots) -> None:
        """Note what is another in each run."""
        for key, value in [*enumerate(held)] if isinstance(held, list) else [*held.items()]:
            if isinstance(value, Part):
                self._parts.append((held, key, value))
                slots.watch(value.buffer, self)
            elif isinstance(value, Result | Made):
                self._earlier.append((held, key, value))
            elif isinstance(value, list):
                self._find(value, slots)

    def point(self, buffer: str, tensor: Tensor) -> None:
        for held, key, part in self._parts:
            if part.buffer == buffer:
                held[key] = part.of(tensor)

    def forget(self, buffer: str) -> None:
        for held, key, part in self._parts:
            if part.buffer == buffer:
                held[key] = None

    def run(self, results: list[Any]) -> Any:
        for held, key, earlier in self._earlier:
            held[key] = earlier.of(results[earlier.number])
        try:
            return self._function(*self._arguments, **self._options)
        finally:
            for held, key, _ in self._earlier:
                held[key] = None  # else it would live until the next run
