"""`run` of a generated module, which launches everything in order, and `main`, which runs it once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from tritonnotes.ir.core.graph import Value, is_seed
from tritonnotes.ir.primitives import CHUNK_ROWS

from ..analysis.views import is_host
from ..emit.host import HostNumbers, python_number
from ..emit.prelude import GIVEN_LAUNCH, GIVEN_TABLES
from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import Kernel, Layout, Parameter
from ..memory.arena import Arena
from ..memory.buffers import Buffer, buffer_of, scratch_name
from ..plan.chunk_loops import ChunkLoop
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import LibraryCall, TorchCall
from ..support.arguments import RunArguments, SizeText
from ..support.names import uncounted
from ..support.provenance import LineOrigin, Part
from ..support.repeats import BREAK, broken, repeats, with_loops
from ..support.statements import Line
from ..support.text import INDENT, call_lines
from .library import TorchCalls, library_lines, torch_helpers
from .memories import Memories, if_rows
from .temporaries import temporaries_call

NUMBERS = "numbers"
"""The tensor of the numbers that kernels read from memory."""


class RunWriter:
    """Writes `run`: the launches in order over a dict of tensors."""

    def __init__(
        self,
        plan: FusionPlan,
        kernels: dict[str, GeneratedKernel],
        functions: Mapping[str, str],
        buffers: tuple[Buffer, ...],
        chunk_buffers: Mapping[str, tuple[Buffer, ...]],
        arguments: RunArguments,
        in_memory: bool,
        tensors: str = "t",
    ) -> None:
        self.plan = plan
        self.in_memory = in_memory
        self.slots: dict[str, int] = {}
        self.buffers = buffers
        self.chunk_buffers = chunk_buffers
        self.kernels = kernels
        self.functions = functions
        self.given, self.names, self.sizes = arguments, arguments.names, arguments.sizes
        self.memories = Memories(plan.units.destinations, self.sizes, tensors)
        self.added: frozenset[str] = frozenset()
        self.destinations = plan.units.destinations
        sizes = {dim.name: variable for dim, variable in arguments.dims.items()}
        self.host = HostNumbers(python_number, lambda value: value, self.names, dict(arguments.scalars), sizes)
        self.on_device: dict[str, str] = {}
        self.chunks: dict[ChunkLoop, str] = {}
        self.counter = "n"
        held = plan.graph.leaves("input", "parameter", "buffer", "slot")
        self.device = f"{self.memories.tensor(held[0].name)}.device" if held else ""
        self.torch = TorchCalls(plan.launches, self.names, self.memories, self.device)

    def part(self) -> Part:
        """The function with the launch that each line belongs to, and what numbers of the host are of."""
        statements = list(self._calls())
        texts = [text for text, _ in statements]
        calls = [(line, statements[place][1]) for line, place in with_loops(texts, self.counter)]
        # A Dim keeps its own name here where it can: sizes are passed by name.
        numbers = [NUMBERS] if self.in_memory else self.given.scalars.values()
        arguments = ["t", "*", *self.given.dims.values(), *numbers, "programs=1", GIVEN_LAUNCH]
        if any(isinstance(kernel, ForeachKernel) for kernel in self.kernels.values()):
            arguments.append(GIVEN_TABLES)
        if has_collectives(self.plan):
            arguments.append("all_reduce=all_reduce")
        arguments += [f"{name}={name}" for name in torch_helpers(self.plan)]
        lines = call_lines("def run(", arguments, "):")
        lines.append(
            f'{INDENT}"""Launch everything once. `t` holds the tensors by name; `programs` share each sum over rows."""'
        )
        above, host = len(lines), self.host
        lines += [INDENT + line for line in (*([] if self.in_memory else host.lines), *(line for line, _ in calls))]

        def origins() -> Iterator[LineOrigin]:
            yield from [LineOrigin("run", "", "run")] * above
            yield from [] if self.in_memory else host.line_origins("run")
            yield from (LineOrigin("run", launch, "run") for _, launch in calls)

        return Part("\n".join(lines) + "\n", lambda: list(origins()))

    def _calls(self) -> Iterator[tuple[str, str]]:
        """The statements that call each launch, and its name."""
        for launch in self.plan.launches:
            match launch:
                case ChunkLoop():
                    yield from self._chunks(launch)
                    continue
                case LibraryCall():
                    lines: Iterable[str] = library_lines(launch, self.memories, self.added)
                case TorchCall():
                    lines = self.torch.lines(launch)
                case _:
                    lines = self._generated(self.kernels[launch.name])
            yield from ((line, launch.name) for line in lines)

    def _chunks(self, loop: ChunkLoop) -> Iterator[tuple[str, str]]:
        yield from ((line, loop.name) for line in self._chunk_lines(loop))
        inner = self._inner(loop, self.chunks[loop])
        yield from ((INDENT + line, launch) for line, launch in inner._calls())

    def _chunk_lines(self, loop: ChunkLoop) -> Iterator[str]:
        """Zeros for the sums, and the loop over chunks: its launches find the rows of a chunk under their own names."""
        size, rows = self.sizes.size(loop.size), str(self.sizes.size(CHUNK_ROWS))
        begin, chunk = self.names.claim("begin"), self.names.claim("chunk")
        self.chunks[loop] = chunk
        part = f"[{begin} : {begin} + {rows}]"
        tensors = [(leaf, outer) for leaf, outer in loop.inputs if not is_host(leaf)]
        where = {leaf.name: self.memories.operand(outer) + if_rows(leaf.shape, part) for leaf, outer in tensors}
        where |= {slot: self.memories.memory(value) for slot, value in loop.sums}
        where |= {name: self.memories.memory(value) + part for name, value in loop.results}
        for buffer in (b for b in self.chunk_buffers[loop.name] if b.role not in ("leaf", "output")):
            tensor = self.memories.tensor(scratch_name(loop, buffer.name))
            where[buffer.name] = tensor + if_rows(buffer.shape, f"[:{rows}]")
        yield from (f"{self.memories.memory(value)}.zero_()" for _, value in loop.sums)
        yield f"for {begin} in range(0, {size}, {loop.rows}):"
        yield f"{INDENT}{rows} = min({loop.rows}, {size} - {begin})"
        yield f"{INDENT}{chunk} = {{"
        yield from (f'{INDENT * 2}"{name}": {text},' for name, text in where.items())
        yield f"{INDENT}}}"

    def _inner(self, loop: ChunkLoop, tensors: str) -> RunWriter:
        """Writes the launches of a chunk. Numbers of the host are those of the program around them."""
        made = RunWriter(loop.plan, self.kernels, self.functions, (), {}, self.given, self.in_memory, tensors)
        made.added = loop.multiplied
        made.slots, made.device = self.slots, self.device
        made.torch = TorchCalls(loop.plan.launches, self.names, made.memories, self.device)
        made.on_device = self.on_device
        known = {leaf: self.host.name(outer) for leaf, outer in loop.inputs if is_host(leaf)}
        made.host = replace(self.host, known=known)
        return made

    def numbers(self) -> Part:
        """The function that works out what kernels read from memory; after `part`, which says what that is."""
        arguments = [*self.given.dims.values(), *self.given.scalars.values()]
        lines = call_lines("def numbers_of(", ["*", *arguments] if arguments else [], "):")
        lines.append(f'{INDENT}"""What kernels read, in order: ints where they read 64 bits of one, else floats."""')
        above, below = len(lines), call_lines("return [", list(self.slots), "]")
        lines += [INDENT + line for line in (*self.host.lines, *below)]

        def origins() -> list[LineOrigin]:
            plain = LineOrigin("run", "", "numbers_of")
            return [*[plain] * above, *self.host.line_origins("numbers_of"), *[plain] * len(below)]

        return Part("\n".join(lines) + "\n", origins)

    def _number(self, parameter: Parameter) -> str:
        """What a launch is given for a number that the host works out."""
        assert parameter.value is not None
        if not self.in_memory:
            return self._on_device(parameter.value) if parameter.is_pointer else self.host.name(parameter.value)
        slot = self.slots.setdefault(self.host.name(parameter.value), len(self.slots))
        return f"{NUMBERS}[{slot}]" + (".view(torch.int64)" if parameter.is_exact else "")

    def main(self, arena: Arena) -> str:
        """What running the file does: every launch once, on made-up tensors."""
        held = [b for b in self.buffers if b.role in ("leaf", "output")]
        made = [f"{self.memories.tensor(b.name)} = {_made_up(b, self.sizes)}" for b in held]
        tensors = [INDENT + line for line, _ in with_loops(made, self.counter)]
        if arena.lives:
            tensors.append(f"{INDENT}t |= {temporaries_call(arena, self.given)}")
        numbers = (f"{name}={0 if is_seed(v) else 0.5}" for v, name in self.given.scalars.items())
        given = [*(f"{name}={name}" for name in self.given.dims.values()), *numbers]
        names = [f"{INDENT}{name} = {size}" for size, name in enumerate(self.given.dims.values(), 5)]
        lines = [
            "def main():",
            f'{INDENT}"""Run once on made-up tensors, on a GPU or under the interpreter (TRITON_INTERPRET=1)."""',
            f'{INDENT}device = "cuda" if torch.cuda.is_available() else "cpu"',
            f"{INDENT}torch.manual_seed(0)",
            *names,
            f"{INDENT}t = {{}}",
            *tensors,
            *(INDENT + line for line in call_lines("run(", ["t", *given], ")")),
            f"{INDENT}for name, tensor in t.items():",
            f'{INDENT * 2}print(f"{{name}}: {{tuple(tensor.shape)}}, mean {{tensor.double().mean().item():.6g}}")',
            "",
            "",
            'if __name__ == "__main__":',
            f"{INDENT}main()",
        ]
        return "\n".join(lines) + "\n"

    def _generated(self, kernel: GeneratedKernel) -> Iterator[str]:
        """The call to a kernel's launcher."""
        match kernel:
            case ForeachKernel():
                segments = self.names.claim(f"{kernel.name}_segments")
                yield from self._segments(segments, kernel)
                arguments = [segments, *self._arguments(kernel), "tables=tables"]
            case GroupedMatmulKernel():
                arguments = self._arguments(kernel)
            case Kernel():
                arguments = [*self._arguments(kernel), *self._bound_arguments(kernel.layout)]
        yield BREAK.join([f"run_{self.functions[kernel.name]}(", *arguments, GIVEN_LAUNCH, ")"])

    def _arguments(self, kernel: GeneratedKernel) -> list[str]:
        return [self._argument(kernel.name, p) for _, p in kernel.arguments]

    def _argument(self, launch: str, parameter: Parameter) -> str:
        """What a launch is given for an argument."""
        if parameter.role == "size":
            return str(self.sizes.size(parameter.size[0]))
        if parameter.role == "scalar":
            return self._number(parameter)
        return self.memories.tensor(buffer_of(parameter, launch, self.destinations))

    def _segments(self, name: str, kernel: ForeachKernel) -> Iterator[str]:
        """The tensors that each update finds in its table."""
        rows = [BREAK.join(["[", *(self.memories.tensor(v.name) for v in tensors), "],"]) for tensors in kernel.rows]
        yield f"{name} = ["
        for repeat in repeats(rows, self.counter):
            if repeat.count == 1:
                yield from broken(INDENT + repeat.lines[0])
                continue
            yield f"{INDENT}*(row for {self.counter} in {repeat.numbers} for row in ("
            yield from (line for row in repeat.lines for line in broken(INDENT * 2 + row))
            yield f"{INDENT})),"
        yield "]"

    def _on_device(self, value: Value) -> str:
        """The variable that holds a host number as a tensor: a float argument would arrive as float32. A launch
        fills it, since copying it over would wait for the device."""
        text = self.host.name(value)
        if text not in self.on_device:
            stem = text if text.isidentifier() else uncounted(value)
            self.on_device[text] = name = self.names.claim(f"{stem}_on_device")
            filled = f"torch.full((), {text}, dtype=torch.float64, device={self.device})"
            self.host.statements.append(Line(f"{name} = {filled}"))
        return self.on_device[text]

    def _bound_arguments(self, layout: Layout) -> Iterator[str]:
        """What a tile program's launcher takes besides its arguments: the number of rows, and of programs."""
        if layout.counts_rows:
            yield str(self.sizes.product(layout.row_shape))
        if layout.counts_programs:
            yield "programs"


def has_collectives(plan: FusionPlan) -> bool:
    """Whether a plan adds tensors up over ranks."""
    return any(u.is_collective for k in plan.launches for u in k.units)


def _made_up(buffer: Buffer, sizes: SizeText) -> str:
    make = "empty" if buffer.role == "output" else "rand" if buffer.dtype.is_float else "zeros"
    return f"torch.{make}({sizes.shape(buffer.shape)}, dtype=torch.{buffer.dtype.name}, device=device)"
