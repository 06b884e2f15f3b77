"""The generated module: header, helpers, kernels with their launchers, and `run`, which launches them in order.

It imports torch and triton alone, and what it holds depends on the graph alone: no paths, no dates, no hashes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from tritonnotes.ir.core.graph import Graph, Value, is_seed
from tritonnotes.ir.core.types import Shape, element_count
from tritonnotes.ir.primitives import CHUNK_ROWS
from tritonnotes.ir.primitives.library import GRADIENT, call_of
from tritonnotes.ir.version import VERSION

from ..analysis.views import is_host, memory_of
from ..cost.matmul import split_k_expression, splits_of
from ..fusion.last_block import GROUP
from ..lower.foreach import ForeachKernel
from ..lower.grouped_matmul import GroupedMatmulKernel
from ..lower.lower import GeneratedKernel
from ..lower.tile_ir import Kernel, Layout, Parameter
from ..memory.arena import Arena, Life, place
from ..memory.buffers import Buffer, buffer_of, scratch_name
from ..plan.chunk_loops import ChunkLoop
from ..plan.fusion_plan import FusionPlan
from ..plan.launches import Launch, LibraryCall, TorchCall
from ..plan.torch_calls import gradients_of, torch_calls
from ..support.arguments import RunArguments, SizeText
from ..support.names import uncounted
from ..support.provenance import BLANK_LINE, LineOrigin, Part, in_launch, part
from ..support.repeats import BREAK, broken, repeats, with_loops
from ..support.sizes import known_size
from ..support.statements import Line
from ..support.text import INDENT, call_lines, counted
from ..support.torch_text import call_text
from .foreach import render_foreach
from .grouped_matmul import render_grouped_matmul
from .host import HostNumbers, python_number, uses_math
from .kernel import KernelSource, render_kernel
from .ops import HELPERS, helpers_in_order
from .prelude import ALL_REDUCE, CALLS_OF_TORCH, GIVEN_LAUNCH, GIVEN_TABLES, IN_ARENA, LAUNCH, LAUNCHER_HELPERS


def render_module(
    plan: FusionPlan,
    kernels: tuple[GeneratedKernel, ...],
    declared: Graph,
    buffers: tuple[Buffer, ...],
    arena: Arena,
    chunks: Mapping[str, tuple[Buffer, ...]],
    written: Mapping[str, GeneratedKernel],
    in_memory: bool = False,
) -> tuple[tuple[KernelSource, ...], tuple[Part, ...]]:
    """The source of each kernel, and the pieces of the module, two blank lines between them. `chunks` are the buffers
    of one chunk, by the name of the loop over chunks, `written` the kernels that are written, by the names of the
    launches. With numbers `in_memory`, `run` takes a tensor of them, and `numbers_of` says what it must hold."""
    by_name = {kernel.name: _rendered(kernel, in_memory) for kernel in dict.fromkeys(written.values())}
    sources = tuple(by_name.values())
    first: dict[str, str] = {}
    for launch, kernel in written.items():
        first.setdefault(kernel.name, launch)
    helpers = helpers_in_order(set().union(*(s.helpers for s in sources)) if sources else set())
    arguments = RunArguments(plan.graph, [k.name for k in kernels], by_name)
    functions = {launch: kernel.name for launch, kernel in written.items()}
    run = _Run(plan, {k.name: k for k in kernels}, functions, buffers, chunks, arguments, in_memory)
    run_part = run.part()
    imports = ["import math", ""] if uses_math(run.host.statements) or arena.lives else []
    imports = ["", *imports, "import torch", "import triton", "import triton.language as tl"]
    parts = [
        _head(_header(plan, declared, functions), imports),
        part(LAUNCH, "run"),
        *([part(ALL_REDUCE, "run")] if _has_collectives(plan) else []),
        *(part(CALLS_OF_TORCH[name], "run") for name in _torch_helpers(plan)),
        *(part(HELPERS[name], "helper", function=name) for name in helpers),
        *(
            part(text, "launcher")
            for name, text in LAUNCHER_HELPERS.items()
            if any(name in s.launcher_helpers for s in sources)
        ),
    ]
    shared = {f.name: f for s in sources for f in s.functions if f.name in s.common}
    parts += [Part(function.text, function.lines) for function in shared.values()]
    for source in sources:
        mine = [Part(f.text, f.lines) for f in source.functions if f.name not in source.common]
        parts += [in_launch(p, first[source.name]) for p in mine]
        parts.append(part(source.launcher, "launcher", first[source.name]))
    parts += [part(text, "memory") for text in _arena_parts(arena, arguments)]
    parts += [run_part, run.numbers() if in_memory else part(run.main(arena), "main")]
    return tuple(by_name[functions[kernel.name]] for kernel in kernels), tuple(parts)


def _rendered(kernel: GeneratedKernel, numbers_in_memory: bool) -> KernelSource:
    match kernel:
        case ForeachKernel():
            return render_foreach(kernel, numbers_in_memory)
        case GroupedMatmulKernel():
            return render_grouped_matmul(kernel, numbers_in_memory)
        case Kernel():
            return render_kernel(kernel, numbers_in_memory)


NUMBERS = "numbers"


def _head(header: list[tuple[str, str]], imports: list[str]) -> Part:
    """The comment in front of a module, and its imports."""
    lines = [LineOrigin("header", launch) for _, launch in header]
    lines += [LineOrigin("import") if line else BLANK_LINE for line in imports]
    return Part("\n".join([*(line for line, _ in header), *imports]) + "\n", lambda: lines)


def _header(plan: FusionPlan, declared: Graph, functions: Mapping[str, str]) -> list[tuple[str, str]]:
    """The lines of the comment, each with the launch that it is about."""
    made = f"{counted(len(plan.kernels), 'generated kernel')} and {counted(len(plan.library), 'library call')}"
    lines = [
        (f"Triton kernels of the graph {plan.graph.name}, generated by tritonnotes {VERSION}.", ""),
        ("", ""),
        (f"{made}; {plan.bytes_moved():,} bytes a run at batch 256.", ""),
        ("", ""),
    ]
    for name, (first, *others) in _by_function(plan.launches, functions).items():
        each = " each" if others else ""
        lines.append((f"{name}: {first.kind}, {first.bytes_moved():,} bytes{each}", first.name))
        said = [f"{launch.name}: {', '.join(launch.ops)}" for launch in (first, *others)]
        said = said if others else [", ".join(first.ops)]
        lines += [(f"    {line}", [first, *others][place].name) for line, place in with_loops(said, "n", prose=True)]
    lines += [(line, "") for line, _ in with_loops(["", *str(declared).splitlines()], "n", prose=True)]
    return [(f"# {line}".rstrip(), launch) for line, launch in lines]


def _by_function(launches: Iterable[Launch], functions: Mapping[str, str]) -> dict[str, list[Launch]]:
    """The launches that share a kernel, by its name; others by their own."""
    found: dict[str, list[Launch]] = {}
    for launch in launches:
        found.setdefault(functions.get(launch.name, launch.name), []).append(launch)
    return found


class _Run:
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
    ) -> None:
        self.plan = plan
        self.in_memory = in_memory
        self.slots: dict[str, int] = {}
        self.buffers = buffers
        self.chunk_buffers = chunk_buffers
        self.kernels = kernels
        self.functions = functions
        self.given, self.names, self.sizes = arguments, arguments.names, arguments.sizes
        self.tensors = "t"
        self.added: frozenset[str] = frozenset()
        self.destinations = plan.units.destinations
        sizes = {dim.name: variable for dim, variable in arguments.dims.items()}
        self.host = HostNumbers(python_number, lambda value: value, self.names, dict(arguments.scalars), sizes)
        self.on_device: dict[str, str] = {}
        self.gradients = gradients_of(plan.launches)
        self.made: dict[Launch, str] = {}
        self.chunks: dict[ChunkLoop, str] = {}
        self.listed = ""
        self.counter = "n"
        held = plan.graph.leaves("input", "parameter", "buffer", "slot")
        self.device = f"{_tensor(held[0].name)}.device" if held else ""

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
        if _has_collectives(self.plan):
            arguments.append("all_reduce=all_reduce")
        arguments += [f"{name}={name}" for name in _torch_helpers(self.plan)]
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
                    lines: Iterable[str] = self._library(launch)
                case TorchCall():
                    lines = self._torch(launch)
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
        where = {leaf.name: self._operand(outer) + _if_rows(leaf.shape, part) for leaf, outer in tensors}
        where |= {slot: self._memory(value) for slot, value in loop.sums}
        where |= {name: self._memory(value) + part for name, value in loop.results}
        for buffer in (b for b in self.chunk_buffers[loop.name] if b.role not in ("leaf", "output")):
            where[buffer.name] = self._tensor(scratch_name(loop, buffer.name)) + _if_rows(buffer.shape, f"[:{rows}]")
        yield from (f"{self._memory(value)}.zero_()" for _, value in loop.sums)
        yield f"for {begin} in range(0, {size}, {loop.rows}):"
        yield f"{INDENT}{rows} = min({loop.rows}, {size} - {begin})"
        yield f"{INDENT}{chunk} = {{"
        yield from (f'{INDENT * 2}"{name}": {text},' for name, text in where.items())
        yield f"{INDENT}}}"

    def _inner(self, loop: ChunkLoop, tensors: str) -> _Run:
        """Writes the launches of a chunk. Numbers of the host are those of the program around them."""
        made = _Run(loop.plan, self.kernels, self.functions, (), {}, self.given, self.in_memory)
        made.tensors, made.added = tensors, loop.multiplied
        made.slots, made.device = self.slots, self.device
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
        made = [f"{_tensor(b.name)} = {_made_up(b, self.sizes)}" for b in held]
        tensors = [INDENT + line for line, _ in with_loops(made, self.counter)]
        if arena.lives:
            tensors.append(f"{INDENT}t |= {_temporaries_call(arena, self.given)}")
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
        return self._tensor(buffer_of(parameter, launch, self.destinations))

    def _segments(self, name: str, kernel: ForeachKernel) -> Iterator[str]:
        """The tensors that each update finds in its table."""
        rows = [BREAK.join(["[", *(self._tensor(v.name) for v in tensors), "],"]) for tensors in kernel.rows]
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

    def _library(self, call: LibraryCall) -> list[str]:
        unit, value = call.unit, call.unit.value
        out = self._memory(value)
        if unit.is_collective:
            return [BREAK.join(["all_reduce(", self._operand(value.inputs[0]), out, ")"])]
        a, b = value.inputs
        if value.op.name == "add_rows":
            # torch's own gradient of an embedding: sorted by row, so always added in one order.
            width = self.sizes.product(value.shape[1:])
            added = [_flat(self._operand(a), a, f"-1, {width}"), f"{self._operand(b)}.reshape(-1)"]
            arguments = [*added, str(value.attrs["rows"]), "-1", "False"]
            lines = call_lines("torch.ops.aten.embedding_dense_backward(", arguments, ")")
            return [f"{_flat(out, value, f'-1, {width}')}.copy_(", *(INDENT + line for line in lines), ")"]
        if value.op.name == "matmul":
            left = _flat(self._operand(a), a, self._rows_and_columns(a))
            right = self._operand(b) + (".T" if value.attrs["transpose_b"] else "")
            target = _flat(out, value, self._rows_and_columns(value))
        else:
            left = _flat(self._operand(a), a, self._rows_and_columns(a)) + ".T"
            right = _flat(self._operand(b), b, self._rows_and_columns(b))
            target = out
        if value.name in self.added:
            return [BREAK.join(["torch.addmm(", target, left, right, f"out={target}", ")"])]
        return [BREAK.join(["torch.mm(", left, right, f"out={target}", ")"])]

    def _rows_and_columns(self, value: Value) -> str:
        """The shape of a value as a matrix: all axes but the last are its rows."""
        return f"{self.sizes.product(value.shape[:-1])}, {self.sizes.size(value.shape[-1])}"

    def _torch(self, launch: TorchCall) -> Iterator[str]:
        """A call of torch that the graph names: its tensors are those that the plan has, where they can be. Where
        gradients of it are asked for later in this run, what torch keeps for them is kept until then; else they begin
        with the call."""
        values = [unit.value for unit in launch.units]
        name = self.made[launch] = self.names.claim(f"{uncounted(values[0])}_made")
        if values[0].op.name == GRADIENT:
            forward, asked = self.gradients[launch]
            wanted = sorted(v.attrs["which"] for v in values)
            made = self.made[forward] if forward is not None else f"called({', '.join(self._call(values[0], wanted))})"
            given = [made, str(values[0].attrs["result"]), self._operand(values[0].inputs[0]), str(wanted)]
            again = ["again=True"] if forward is not None and launch is not asked[-1] else []
            yield from call_lines(f"{name} = gradients(", [*given, *again], ")")
            number = {v: wanted.index(v.attrs["which"]) for v in values}
        else:
            later = [k for k, (forward, _) in self.gradients.items() if forward is launch]
            wanted = sorted({u.value.attrs["which"] for k in later for u in k.units})
            yield from call_lines(f"{name} = called(", self._call(values[0], wanted), ")")
            number = {v: v.attrs["which"] for v in values}
        for value in launch.stores:
            given = [name, str(number[value]), self.sizes.shape(value.shape), f"torch.{launch.storage[value].name}"]
            yield from call_lines(f"{self._memory(value)} = kept(", given, ")")

    def _call(self, value: Value, wanted: list[int]) -> list[str]:
        """The arguments of `called`."""
        self.listed = tensors = self.listed or self.names.claim("tensors")
        given = [*map(self._operand, call_of(value))]
        # The call may outlive this run, so it holds no tensors.
        device = f"{tensors}[0].device" if given else self.device
        text = f"lambda {tensors}: {call_text(value.attrs, tensors, self.sizes, device)}"
        return [text, f"[{', '.join(given)}]", *([f"wanted={wanted}"] if wanted else [])]

    def _operand(self, value: Value) -> str:
        """A library operand: its memory, seen through the views between."""
        if value.op.name == "transpose":
            return f"{self._operand(value.inputs[0])}.permute{value.attrs['axes']}"
        if value.op.name == "broadcast_to":
            return f"{self._operand(value.inputs[0])}.expand({self.sizes.shape(value.shape)})"
        if value.op.name == "reshape":
            return f"{self._operand(value.inputs[0])}.reshape({self.sizes.shape(value.shape)})"
        if value.op.name == "narrow":
            part = ", ".join(str(value.attrs[k]) for k in ("axis", "start", "length"))
            return f"{self._operand(value.inputs[0])}.narrow({part})"
        return self._memory(memory_of(value))

    def _memory(self, value: Value) -> str:
        """The tensor that a value lies in: its own, or the one that is updated with it."""
        return self._tensor(self.destinations.get(value, value).name)

    def _tensor(self, name: str) -> str:
        return _tensor(name, self.tensors)

    def _bound_arguments(self, layout: Layout) -> Iterator[str]:
        """What a tile program's launcher takes besides its arguments: the number of rows, and of programs."""
        if layout.counts_rows:
            yield str(self.sizes.product(layout.row_shape))
        if layout.counts_programs:
            yield "programs"


def _torch_helpers(plan: FusionPlan) -> list[str]:
    """Which of the functions are needed that make the calls of torch that the graph names."""
    calls = torch_calls(plan.launches)
    asks = any(u.value.op.name == GRADIENT for k in calls for u in k.units)
    return [*(["called", "kept"] if calls else []), *(["gradients"] if asks else [])]


def _has_collectives(plan: FusionPlan) -> bool:
    return any(u.is_collective for k in plan.launches for u in k.units)


def _made_up(buffer: Buffer, sizes: SizeText) -> str:
    make = "empty" if buffer.role == "output" else "rand" if buffer.dtype.is_float else "zeros"
    return f"torch.{make}({sizes.shape(buffer.shape)}, dtype=torch.{buffer.dtype.name}, device=device)"


def _tensor(name: str, tensors: str = "t") -> str:
    return f'{tensors}["{name}"]'


def _if_rows(shape: Shape, part: str) -> str:
    """The part of a tensor that a chunk takes, where rows come first. Of others the chunk uses what it needs."""
    return part if shape[:1] == (CHUNK_ROWS,) else ""


def _flat(text: str, value: Value, shape: str) -> str:
    return text if len(value.shape) == 2 else f"{text}.reshape({shape})"


def _arena_parts(arena: Arena, arguments: RunArguments) -> list[str]:
    """The functions that lay out what a run needs for itself; none where it needs nothing."""
    if not arena.lives:
        return []
    return [inspect.getsource(place), IN_ARENA, _temporaries(arena, arguments)]


def _temporaries_call(arena: Arena, arguments: RunArguments) -> str:
    """What makes the tensors, for one program to each sum over rows."""
    dims = (arguments.dims[dim] for dim in arena.dims)
    return f"temporaries({', '.join(['device', *(f'{d}={d}' for d in dims)])})"


def _temporaries(arena: Arena, given: RunArguments) -> str:
    arguments = ["device", "*", *(given.dims[d] for d in arena.dims), *(["programs=1"] if arena.is_shared else [])]
    arguments = arguments if arguments[-1] != "*" else arguments[:-1]
    lines = [
        *call_lines("def temporaries(", arguments, "):"),
        f'{INDENT}"""The tensors that live inside a run, in one arena: memory is reused after the last launch that',
        f'{INDENT}needs it. Of each the shape, the dtype, and the first and last launch."""',
    ]
    known = {life.buffer.name: _life_text(life, given.sizes) for life in arena.lives}
    listed = [f'lives["{name}"] = {text}' for name, text in known.items()]
    looped = [f"{INDENT}{line}" for line, _ in with_loops(listed, "n")]
    if len(looped) < len(listed):
        lines += [f"{INDENT}lives = {{}}", *looped]
    else:
        entries = (f'{INDENT * 2}"{name}": {text},' for name, text in known.items())
        lines += [f"{INDENT}lives = {{", *entries, f"{INDENT}}}"]
    return "\n".join([*lines, f"{INDENT}return in_arena(lives, device)"]) + "\n"


def _life_text(life: Life, sizes: SizeText) -> str:
    return f"({_shape_text(life, sizes)}, torch.{life.buffer.dtype.name}, {life.first}, {life.last})"


def _shape_text(life: Life, spelled: SizeText) -> str:
    sizes = [str(spelled.size(size)) for size in life.buffer.shape]
    if life.buffer.role == "partial":
        sizes.insert(0, "programs")
    elif life.buffer.role == "arrivals":
        sizes.insert(0, f"1 + triton.cdiv(programs, {GROUP})")
    elif life.buffer.role == "split-K":
        sizes.insert(0, _split_k_text(life.buffer, spelled))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _split_k_text(buffer: Buffer, spelled: SizeText) -> str:
    if known_size(buffer.summed) is not None:
        return str(splits_of(element_count(buffer.summed, {}), buffer.most))
    return str(split_k_expression(spelled.product(buffer.summed), buffer.most))
