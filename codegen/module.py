"""The generated module: header, helpers, kernels with their launchers, and `run`, which launches them in order.

It imports torch and triton alone, and what it holds depends on the graph alone: no paths, no dates, no hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tritonnotes.ir.errors import PlanError
from tritonnotes.ir.graph import Graph, Value
from tritonnotes.ir.philox import is_seed
from tritonnotes.ir.primitives import CHUNK_ROWS
from tritonnotes.ir.types import Dim, Shape, Size
from tritonnotes.ir.version import VERSION

from .arena import Arena, Buffer, arrivals_name, partial_name
from .arena_source import arena_parts, temporaries_call
from .axes import is_host
from .chunks import Chunks, scratch_name
from .group_kernel import GroupKernel
from .group_source import TABLE_OF, render_group
from .launcher import INDENT, call_lines
from .names import Names, describe, identifier, uncounted
from .numbers_source import numbers_in_memory
from .plan import FusionPlan, KernelPlan
from .side_kernel import SideKernel
from .side_source import render_sides
from .source import KernelSource, render_kernel
from .spelling import HELPERS, helpers_in_order
from .tile import Kernel, Parameter, number_text
from .units import destinations_of, memory_of

HOST_SPELLINGS = {
    "neg": ("-{0}", 13),
    "abs": ("abs({0})", 16),
    "exp": ("math.exp({0})", 16),
    "expm1": ("math.expm1({0})", 16),
    "log": ("math.log({0})", 16),
    "log1p": ("math.log1p({0})", 16),
    "sqrt": ("math.sqrt({0})", 16),
    "rsqrt": ("1.0 / math.sqrt({0})", 12),
    "sin": ("math.sin({0})", 16),
    "cos": ("math.cos({0})", 16),
    "tanh": ("math.tanh({0})", 16),
    "erf": ("math.erf({0})", 16),
    "floor": ("math.floor({0})", 16),
    "sign": ("math.copysign({0} != 0, {0})", 16),
    "add": ("{0} + {1}", 11),
    "sub": ("{0} - {1}", 11),
    "mul": ("{0} * {1}", 12),
    "div": ("{0} / {1}", 12),
    "pow": ("{0}**{1}", 14),
    "maximum": ("max({0}, {1})", 16),
    "minimum": ("min({0}, {1})", 16),
    "copy": ("{0}", 16),
}
"""Numbers that the host works out before a launch, in float64 as Python floats are."""


def render_module(
    plan: FusionPlan,
    kernels: tuple[Kernel, ...],
    declared: Graph,
    buffers: tuple[Buffer, ...],
    arena: Arena,
    chunks: Mapping[str, tuple[Buffer, ...]],
    in_memory: bool = False,
) -> tuple[str, tuple[KernelSource, ...]]:
    """The text of the module, and the sources of its kernels. `chunks` are the buffers of
    one chunk, by the name of the loop over chunks. With numbers `in_memory`, `run` takes a tensor of them, and
    `numbers_of` says what it must hold."""
    sources = tuple(map(_rendered, kernels))
    if in_memory:
        sources = tuple(numbers_in_memory(k, s) for k, s in zip(kernels, sources, strict=True))
    helpers = helpers_in_order(set().union(*(s.helpers for s in sources)) if sources else set())
    run = _Run(plan, {k.name: k for k in kernels}, buffers, chunks, in_memory)
    run_text = run.text()
    imports = ["import math", ""] if "math." in run_text or arena.lives else []
    parts = [
        "\n".join(
            [*_header(plan, declared), "", *imports, "import torch", "import triton", "import triton.language as tl"]
        )
        + "\n",
        LAUNCH,
        *([ALL_REDUCE] if any(u.is_collective for k in plan.launches for u in k.units) else []),
        *(HELPERS[name] for name in helpers),
        *([PRECISION] if any(k.products or isinstance(k, SideKernel) for k in kernels) else []),
        *([TABLE_OF] if any(isinstance(k, GroupKernel) for k in kernels) else []),
    ]
    owns = {name: text for source in sources for name, text in source.owns.items()}
    parts += owns.values()
    for source in sources:
        parts += [source.text, source.launcher]
    parts += [*arena_parts(arena), run_text, run.numbers() if in_memory else run.main(arena)]
    return "\n\n".join(parts), sources


def _rendered(kernel: Kernel) -> KernelSource:
    if isinstance(kernel, GroupKernel):
        return render_group(kernel)
    return render_sides(kernel) if isinstance(kernel, SideKernel) else render_kernel(kernel)


NUMBERS = "numbers"

LAUNCH = '''\
def launch(kernel, grid, *arguments, **options):
    """Launch a kernel on the current device; an empty grid launches nothing."""
    if all(grid):
        kernel[grid](*arguments, enable_fp_fusion=True, **options)
'''


ALL_REDUCE = '''\
def all_reduce(x, total):
    """Add up what processes have. Whoever runs several puts torch.distributed here; one alone has all there is."""
    total.copy_(x)
'''


PRECISION = '''\
def float32_precision():
    """How tensor cores may take float32: not at all, unless torch is told that tf32 will do, by its old name or new."""
    asked = torch.backends.cuda.matmul
    will_do = asked.fp32_precision == "tf32" if hasattr(asked, "fp32_precision") else asked.allow_tf32
    return "tf32" if will_do else "ieee"
'''


def _header(plan: FusionPlan, declared: Graph) -> list[str]:
    generated, library = len(plan.kernels), len(plan.library)
    lines = [
        f"Triton kernels of the graph {plan.graph.name}, generated by tritonnotes {VERSION}.",
        "",
        f"{generated} generated kernels and {library} library calls; {plan.bytes_moved():,} bytes a run at batch 256.",
        "",
    ]
    for kernel in plan.launches:
        lines.append(f"{kernel.name}: {kernel.kind}, {kernel.bytes_moved():,} bytes")
        lines.append(f"    {', '.join(kernel.ops)}")
    lines += ["", *str(declared).splitlines()]
    return [f"# {line}".rstrip() for line in lines]


class _Run:
    """Writes `run`: the launches in order over a dict of tensors."""

    def __init__(
        self,
        plan: FusionPlan,
        kernels: dict[str, Kernel],
        buffers: tuple[Buffer, ...],
        chunk_buffers: Mapping[str, tuple[Buffer, ...]],
        in_memory: bool,
    ) -> None:
        self.plan = plan
        self.in_memory = in_memory
        self.slots: dict[str, int] = {}
        self.buffers = buffers
        self.chunk_buffers = chunk_buffers
        self.kernels = kernels
        self.names = Names()
        self.tensors = "t"
        self.added: frozenset[str] = frozenset()
        self.destinations = destinations_of(plan.units)
        self.host_names: dict[Value, str] = {}
        self.host_lines: list[str] = []
        self.on_device: dict[str, str] = {}
        self.dims = self._dims()
        self.names.taken.add(CHUNK_ROWS.name)
        self.scalars = [v for v in plan.graph.leaves("scalar")]
        held = plan.graph.leaves("input", "parameter", "buffer", "slot")
        self.device = f"{_tensor(held[0].name)}.device" if held else ""
        for dim in self.dims:
            self.names.claim(dim.name)
        for value in self.scalars:
            self.host_names[value] = self.names.claim(value.name.rpartition(".")[2], identifier(value.name))
        if in_memory:
            self.names.taken.add(NUMBERS)

    def text(self) -> str:
        calls: list[str] = []
        calls += self._calls()
        # One Dim keeps its own name here: sizes are passed by name.
        numbers = [NUMBERS] if self.in_memory else [self.host_names[v] for v in self.scalars]
        arguments = ["t", "*", *(d.name for d in self.dims), *numbers, "programs=1"]
        lines = call_lines("def run(", arguments, "):")
        lines.append(
            f'{INDENT}"""Launch everything once. `t` holds the tensors by name; `programs` share each sum over rows."""'
        )
        lines += [INDENT + line for line in (*([] if self.in_memory else self.host_lines), *calls)]
        return "\n".join(lines) + "\n"

    def _calls(self) -> Iterator[str]:
        for kernel in self.plan.launches:
            if kernel.chunks is not None:
                yield from self._chunks(kernel, kernel.chunks)
            else:
                yield from self._library(kernel) if kernel.is_library else self._generated(kernel)

    def _chunks(self, launch: KernelPlan, chunks: Chunks) -> Iterator[str]:
        """Zeros for the sums, and the loop over chunks: its launches find the rows of a chunk under their own names."""
        size, rows = _size_text(chunks.size), CHUNK_ROWS.name
        begin, chunk = self.names.claim("begin"), self.names.claim("chunk")
        part = f"[{begin} : {begin} + {rows}]"
        tensors = [(leaf, outer) for leaf, outer in chunks.inputs if not is_host(leaf)]
        where = {leaf.name: self._operand(outer) + _if_rows(leaf.shape, part) for leaf, outer in tensors}
        where |= {slot: self._memory(value) for slot, value in chunks.sums}
        where |= {name: self._memory(value) + part for name, value in chunks.results}
        for buffer in (b for b in self.chunk_buffers[launch.name] if b.role not in ("leaf", "output")):
            where[buffer.name] = self._tensor(scratch_name(launch, buffer.name)) + _if_rows(buffer.shape, f"[:{rows}]")
        yield from (f"{self._memory(value)}.zero_()" for _, value in chunks.sums)
        yield f"for {begin} in range(0, {size}, {chunks.rows}):"
        yield f"{INDENT}{rows} = min({chunks.rows}, {size} - {begin})"
        yield f"{INDENT}{chunk} = {{"
        yield from (f'{INDENT * 2}"{name}": {text},' for name, text in where.items())
        yield f"{INDENT}}}"
        yield from (INDENT + line for line in self._inner(chunks, chunk)._calls())

    def _inner(self, chunks: Chunks, tensors: str) -> _Run:
        """Writes the launches of a chunk. Numbers of the host are those of the program around them."""
        made = _Run(chunks.plan, self.kernels, (), {}, self.in_memory)
        made.tensors, made.added = tensors, chunks.multiplied
        made.names, made.slots, made.device = self.names, self.slots, self.device
        made.host_lines, made.on_device = self.host_lines, self.on_device
        made.host_names = {leaf: self._host(outer) for leaf, outer in chunks.inputs if is_host(leaf)}
        return made

    def numbers(self) -> str:
        """The function that works out what kernels read from memory; after `text`, which says what that is."""
        arguments = [*(d.name for d in self.dims), *(self.host_names[v] for v in self.scalars)]
        lines = call_lines("def numbers_of(", ["*", *arguments] if arguments else [], "):")
        lines.append(f'{INDENT}"""What kernels read, in order: ints where they read 64 bits of one, else floats."""')
        lines += [INDENT + line for line in (*self.host_lines, *call_lines("return [", list(self.slots), "]"))]
        return "\n".join(lines) + "\n"

    def _number(self, parameter: Parameter) -> str:
        """What a launch is given for a number that the host works out."""
        assert parameter.value is not None
        if not self.in_memory:
            return self._on_device(parameter.value) if parameter.is_pointer else self._host(parameter.value)
        slot = self.slots.setdefault(self._host(parameter.value), len(self.slots))
        return f"{NUMBERS}[{slot}]" + (".view(torch.int64)" if parameter.is_exact else "")

    def main(self, arena: Arena) -> str:
        """What running the file does: every launch once, on made-up tensors."""
        tensors = [f"{INDENT}{_tensor(b.name)} = {_made_up(b)}" for b in self.buffers if b.role in ("leaf", "output")]
        if arena.lives:
            tensors.append(f"{INDENT}t |= {temporaries_call(arena)}")
        numbers = (f"{self.host_names[v]}={0 if is_seed(v) else 0.5}" for v in self.scalars)
        given = [*(f"{d.name}={d.name}" for d in self.dims), *numbers]
        names = [f"{INDENT}{d.name} = {n}" for d, n in zip(self.dims, range(5, 5 + len(self.dims)), strict=True)]
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

    def _dims(self) -> list[Dim]:
        found: dict[Dim, None] = {}
        for value in self.plan.graph.values:
            for size in value.shape:
                if isinstance(size, Dim):
                    found.setdefault(size)
        return list(found)

    def _generated(self, plan: KernelPlan) -> list[str]:
        kernel = self.kernels[plan.name]
        if isinstance(kernel, GroupKernel):
            return self._group(kernel)
        arguments = []
        for p in kernel.parameters:
            if p.role == "size":
                arguments.append(p.size[0].name if isinstance(p.size[0], Dim) else str(p.size[0]))
            elif p.role == "scalar":
                assert p.value is not None
                arguments.append(self._number(p))
            elif p.role == "arrivals":
                arguments.append(self._tensor(arrivals_name(plan)))
            else:
                assert p.value is not None
                arguments.append(self._tensor(partial_name(p.value)) if "partial" in p.role else self._memory(p.value))
        layout = kernel.layout
        if layout.rows and len(layout.row_shape) > 1 and any(isinstance(s, Dim) for s in layout.row_shape):
            arguments.append(_product_text(layout.row_shape))
        if (layout.carries and not layout.alone) or layout.combines:
            arguments.append("programs")
        return call_lines(f"run_{plan.name}(", arguments, ")")

    def _group(self, kernel: GroupKernel) -> list[str]:
        segments = self.names.claim(f"{kernel.name}_segments")
        lines = [f"{segments} = ["]
        for tensors in kernel.rows:
            lines += [INDENT + line for line in call_lines("[", [self._tensor(v.name) for v in tensors], "],")]
        arguments = [segments]
        for _, p in kernel.arguments:
            assert p.value is not None
            if p.role == "scalar":
                arguments.append(self._number(p))
            else:
                arguments.append(self._memory(p.value))
        return [*lines, "]", *call_lines(f"run_{kernel.name}(", arguments, ")")]

    def _on_device(self, value: Value) -> str:
        """The variable that holds a host number as a tensor: a float argument would arrive as float32. A launch
        fills it, since copying it over would wait for the device."""
        text = self._host(value)
        if text not in self.on_device:
            stem = text if text.isidentifier() else uncounted(value)
            self.on_device[text] = name = self.names.claim(f"{stem}_on_device")
            self.host_lines.append(f"{name} = torch.full((), {text}, dtype=torch.float64, device={self.device})")
        return self.on_device[text]

    def _library(self, plan: KernelPlan) -> list[str]:
        (unit,) = plan.units
        value = unit.value
        out = self._memory(value)
        if unit.is_collective:
            return call_lines("all_reduce(", [self._operand(value.inputs[0]), out], ")")
        a, b = value.inputs
        if value.op.name == "add_rows":
            # torch's own gradient of an embedding: sorted by row, so always added in one order.
            width = _product_text(value.shape[1:])
            added = [_flat(self._operand(a), a, f"-1, {width}"), f"{self._operand(b)}.reshape(-1)"]
            arguments = [*added, str(value.attrs["rows"]), "-1", "False"]
            lines = call_lines("torch.ops.aten.embedding_dense_backward(", arguments, ")")
            return [f"{_flat(out, value, f'-1, {width}')}.copy_(", *(INDENT + line for line in lines), ")"]
        if value.op.name == "matmul":
            rows = _product_text(a.shape[:-1])
            left = _flat(self._operand(a), a, f"{rows}, {a.shape[-1]}")
            right = self._operand(b) + (".T" if value.attrs["transpose_b"] else "")
            target = _flat(out, value, f"{rows}, {value.shape[-1]}")
        else:
            rows = _product_text(a.shape[:-1])
            left = _flat(self._operand(a), a, f"{rows}, {a.shape[-1]}") + ".T"
            right = _flat(self._operand(b), b, f"{rows}, {b.shape[-1]}")
            target = out
        if value.name in self.added:
            return call_lines("torch.addmm(", [target, left, right, f"out={target}"], ")")
        return call_lines("torch.mm(", [left, right, f"out={target}"], ")")

    def _operand(self, value: Value) -> str:
        """A library operand: its memory, seen through the views between."""
        if value.op.name == "transpose":
            return f"{self._operand(value.inputs[0])}.permute{value.attrs['axes']}"
        if value.op.name == "broadcast_to":
            return f"{self._operand(value.inputs[0])}.expand({_tuple_text(value.shape)})"
        if value.op.name == "reshape":
            return f"{self._operand(value.inputs[0])}.reshape({_tuple_text(value.shape)})"
        if value.op.name == "narrow":
            part = ", ".join(str(value.attrs[k]) for k in ("axis", "start", "length"))
            return f"{self._operand(value.inputs[0])}.narrow({part})"
        return self._memory(memory_of(value))

    def _memory(self, value: Value) -> str:
        """The tensor that a value lies in: its own, or the one that is updated with it."""
        return self._tensor(self.destinations.get(value, value).name)

    def _tensor(self, name: str) -> str:
        return _tensor(name, self.tensors)

    def _host(self, value: Value) -> str:
        """The variable that holds a number which the host works out, its line written before first use."""
        if value in self.host_names:
            return self.host_names[value]
        text, binds = self._host_expression(value)
        if binds == 16 and "(" not in text:
            return text
        words = [self.host_names.get(a) or self._host_expression(a)[0] for a in value.inputs]
        name = self.names.claim(value.hint or "", describe(value.op.name, words), uncounted(value))
        self.host_names[value] = name
        self.host_lines.append(f"{name} = {text}")
        return name

    def _host_expression(self, value: Value) -> tuple[str, int]:
        if value in self.host_names:
            return self.host_names[value], 16
        if value.op.name == "constant":
            text = number_text(value.attrs["value"])
            return text, 13 if text.startswith("-") else 16
        if value.op.name == "dim_size":
            return value.attrs["dim"], 16
        if value.op.name not in HOST_SPELLINGS or not all(is_host(a) for a in value.inputs):
            raise PlanError(
                f"{value.op.name} of {value.name!r} is worked out on the host, which has no {value.op.name}"
            )
        template, binds = HOST_SPELLINGS[value.op.name]
        if value.hint and value.inputs:
            # A number that its author named keeps its own line.
            inner = [self._host_part(a) for a in value.inputs]
        else:
            inner = [self._host_expression(a) for a in value.inputs]
        args = []
        for i, (text, have) in enumerate(inner):
            need = binds + (1 if i and binds < 14 else 0) + (1 if i == 0 and binds == 14 else 0)
            args.append(f"({text})" if have < need and binds < 16 else text)
        return template.format(*args), binds

    def _host_part(self, value: Value) -> tuple[str, int]:
        if value.hint and not value.is_leaf:
            return self._host(value), 16
        return self._host_expression(value)


def _made_up(buffer: Buffer) -> str:
    make = "empty" if buffer.role == "output" else "rand" if buffer.dtype.is_float else "zeros"
    return f"torch.{make}({_tuple_text(buffer.shape)}, dtype=torch.{buffer.dtype.name}, device=device)"


def _tensor(name: str, tensors: str = "t") -> str:
    return f'{tensors}["{name}"]'


def _if_rows(shape: Shape, part: str) -> str:
    """The part of a tensor that a chunk takes, where rows come first. Of others the chunk uses what it needs."""
    return part if shape[:1] == (CHUNK_ROWS,) else ""


def _flat(text: str, value: Value, shape: str) -> str:
    return text if len(value.shape) == 2 else f"{text}.reshape({shape})"


def _size_text(size: Size) -> str:
    return size.name if isinstance(size, Dim) else str(size)


def _tuple_text(shape: Shape) -> str:
    return "(" + "".join(f"{_size_text(s)}, " for s in shape).rstrip(" " if len(shape) == 1 else ", ") + ")"


def _product_text(shape: Shape) -> str:
    return " * ".join(map(_size_text, shape)) or "1"
