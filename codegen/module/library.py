"""Statements of `run` that call torch: its library for products, and what the graph names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from tritonnotes.ir.core.graph import Value
from tritonnotes.ir.primitives.library import GRADIENT, call_of

from ..plan.fusion_plan import FusionPlan
from ..plan.launches import Launch, LibraryCall, TorchCall
from ..plan.torch_calls import gradients_of, torch_calls
from ..support.names import Names, uncounted
from ..support.repeats import BREAK
from ..support.text import INDENT, call_lines
from ..support.torch_text import call_text
from .memories import Memories, flat


def library_lines(call: LibraryCall, memories: Memories, added: Collection[str]) -> list[str]:
    """The statement that makes a library call. What is `added` is multiplied on top of what lies there."""
    unit, value = call.unit, call.unit.value
    out = memories.memory(*call.stores)
    if unit.is_collective:
        return [BREAK.join(["all_reduce(", memories.operand(value.inputs[0]), out, ")"])]
    a, b = value.inputs
    if value.op.name == "add_rows":
        # torch's own gradient of an embedding: sorted by row, so always added in one order.
        width = memories.sizes.product(value.shape[1:])
        rows = [flat(memories.operand(a), a, f"-1, {width}"), f"{memories.operand(b)}.reshape(-1)"]
        arguments = [*rows, str(value.attrs["rows"]), "-1", "False"]
        lines = call_lines("torch.ops.aten.embedding_dense_backward(", arguments, ")")
        return [f"{flat(out, value, f'-1, {width}')}.copy_(", *(INDENT + line for line in lines), ")"]
    if value.op.name == "matmul":
        left = flat(memories.operand(a), a, memories.rows_and_columns(a))
        right = memories.operand(b) + (".T" if value.attrs["transpose_b"] else "")
        target = flat(out, value, memories.rows_and_columns(value))
    else:
        left = flat(memories.operand(a), a, memories.rows_and_columns(a)) + ".T"
        right = flat(memories.operand(b), b, memories.rows_and_columns(b))
        target = out
    if call.bias is not None:
        return [BREAK.join(["torch.addmm(", memories.operand(call.bias), left, right, f"out={target}", ")"])]
    if value.name in added:
        return [BREAK.join(["torch.addmm(", target, left, right, f"out={target}", ")"])]
    return [BREAK.join(["torch.mm(", left, right, f"out={target}", ")"])]


class TorchCalls:
    """Writes the calls of torch that a plan's graph names, and keeps what later ones need of earlier ones."""

    def __init__(self, launches: Iterable[Launch], names: Names, memories: Memories, device: str) -> None:
        self.names, self.memories, self.device = names, memories, device
        self.gradients = gradients_of(launches)
        self.made: dict[Launch, str] = {}
        self.listed = ""

    def lines(self, launch: TorchCall) -> Iterator[str]:
        """A call of torch that the graph names: its tensors are those that the plan has, where they can be. Where
        gradients of it are asked for later in this run, what torch keeps for them is kept until then; else they begin
        with the call."""
        values = [unit.value for unit in launch.units]
        name = self.made[launch] = self.names.claim(f"{uncounted(values[0])}_made")
        if values[0].op.name == GRADIENT:
            forward, asked = self.gradients[launch]
            wanted = sorted(v.attrs["which"] for v in values)
            made = self.made[forward] if forward is not None else f"called({', '.join(self._call(values[0], wanted))})"
            given = [made, str(values[0].attrs["result"]), self.memories.operand(values[0].inputs[0]), str(wanted)]
            again = ["again=True"] if forward is not None and launch is not asked[-1] else []
            yield from call_lines(f"{name} = gradients(", [*given, *again], ")")
            number = {v: wanted.index(v.attrs["which"]) for v in values}
        else:
            later = [k for k, (forward, _) in self.gradients.items() if forward is launch]
            wanted = sorted({u.value.attrs["which"] for k in later for u in k.units})
            yield from call_lines(f"{name} = called(", self._call(values[0], wanted), ")")
            number = {v: v.attrs["which"] for v in values}
        for value in launch.stores:
            shape, dtype = self.memories.sizes.shape(value.shape), launch.storage[value].name
            given = [name, str(number[value]), shape, f"torch.{dtype}"]
            yield from call_lines(f"{self.memories.memory(value)} = kept(", given, ")")

    def _call(self, value: Value, wanted: list[int]) -> list[str]:
        """The arguments of `called`."""
        self.listed = tensors = self.listed or self.names.claim("tensors")
        given = [*map(self.memories.operand, call_of(value))]
        # The call may outlive this run, so it holds no tensors.
        device = f"{tensors}[0].device" if given else self.device
        text = f"lambda {tensors}: {call_text(value.attrs, tensors, self.memories.sizes, device)}"
        return [text, f"[{', '.join(given)}]", *([f"wanted={wanted}"] if wanted else [])]


def torch_helpers(plan: FusionPlan) -> list[str]:
    """Which of the functions are needed that make the calls of torch that the graph names."""
    calls = torch_calls(plan.launches)
    asks = any(u.value.op.name == GRADIENT for k in calls for u in k.units)
    return [*(["called", "kept"] if calls else []), *(["gradients"] if asks else [])]
