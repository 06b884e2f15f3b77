"""The source of matrix products in the tiles of a kernel: blocks along the sum, and sums that programs share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tritonnotes.ir.core.types import Shape

from ..analysis.matmul import INNER_BLOCK, is_ragged
from ..lower.index_math import Indexing
from ..lower.tile_ir import ROW, TILE, Kernel, Step
from ..support.sizes import known_size, static_size
from ..support.text import INDENT, call_lines, factor


def summed_alike(products: Iterable[Step]) -> list[list[Step]]:
    """Products that share a loop, as they sum over the same sizes."""
    alike: dict[Shape, list[Step]] = {}
    for step in products:
        alike.setdefault(step.attrs["summed"], []).append(step)
    return list(alike.values())


class ProductText:
    """Spells the products of one kernel."""

    def __init__(self, kernel: Kernel, index: Indexing) -> None:
        self.kernel = kernel
        self.layout = kernel.layout
        self.index = index
        self.steps = index.steps

    def lines(self, products: Sequence[Step]) -> list[str]:
        """Matrix products, summed block by block over the same sizes."""
        summed, inner = products[0].attrs["summed"], products[0].attrs["inner"]
        size = self.index.sizes_text(summed) or "1"
        operands = [self.steps[name] for name in dict.fromkeys(name for step in products for name in step.args)]
        loaded = [line for s in operands for line in self._operand_lines(s, summed, inner)]
        length = known_size(summed)
        if length is not None and length <= INNER_BLOCK and not self.layout.split_k:
            dots = [f"{s.name} = tl.dot({', '.join(s.args)}, input_precision=PRECISION)" for s in products]
            return [f"{inner} = tl.arange(0, INNER)", *loaded, *dots]
        start = "tl.cast(start, tl.int64)" if self._is_wide_sum(summed, operands) else "start"
        first, behind = "0", size
        lines = [f"{s.name} = tl.zeros([ROWS, BLOCK], tl.float32)" for s in products]
        if self.layout.split_k:
            lines += [f"length = tl.cdiv({size}, INNER * parts) * INNER", "first = part * length"]
            first, behind = "first", f"tl.minimum(first + length, {size})"
        return [
            *lines,
            f"for start in range({first}, {behind}, INNER):",
            f"{INDENT}{inner} = {start} + tl.arange(0, INNER)",
            *(INDENT + line for line in loaded),
            *(f"{INDENT}{s.name} = tl.dot({', '.join(s.args)}, {s.name}, input_precision=PRECISION)" for s in products),
        ]

    def _is_wide_sum(self, summed: Shape, operands: Sequence[Step]) -> bool:
        """Whether an offset along the summed axis may pass 2**31."""
        strides = [known_size(s.attrs["behind"]) if "behind" in s.attrs else None for s in operands]
        length = known_size(summed)
        if length is None or None in strides:
            return self.index.is_wide
        return length * max(stride for stride in strides if stride is not None) >= 2**31

    def _operand_call(self, step: Step, summed: Shape, inner: str) -> list[str]:
        """A block of an operand that the kernel computes itself."""
        (part,) = (p for p in self.kernel.operands if p.kernel.name == step.attrs["function"])
        mine = self.index.row_name() if step.form == ROW else "col"
        places = [inner, mine] if step.attrs["leading"] else [mine, inner]
        lines = call_lines(f"{step.name} = {part.kernel.name}(", [*places, *part.arguments], ")")
        text = step.name
        if is_ragged(summed):
            text = f"tl.where({inner} < {self.index.sizes_text(summed) or 1}, {text}, 0.0)"
        if step.dtype.itemsize < 4:
            text += f".to(tl.{step.dtype.name})"
        return [*lines, f"{step.name} = {text}"] if text != step.name else lines

    def shared_lines(self, step: Step) -> list[str]:
        """Programs that share the sum of a tile leave what they have, and the last of them adds it up."""
        cell = self.index.offset(step.attrs["address"])
        mask = self.index.shared_text(self.index.mask_of(TILE))
        masked, pointer = f", mask={mask}" if mask else "", step.attrs["pointer"]
        size = static_size(step.attrs["address"].extent)
        tile = self.layout.traversal.tile
        return [
            "# Programs that share the sum of a tile leave their parts: the last of them adds these up, in one order.",
            f"tl.store({pointer} + part * {size} + {cell}, {step.name}{masked})",
            f"if arrives_last({step.attrs['arrivals']} + {tile}, parts):",
            f"{INDENT}{step.name} = tl.zeros([ROWS, BLOCK], tl.float32)",
            f"{INDENT}for other in range(parts):",
            f"{INDENT * 2}{step.name} += tl.load({pointer} + other * {size} + {cell}{masked})",
        ]

    def _operand_lines(self, step: Step, summed: Shape, name: str) -> list[str]:
        """A block of one side of a product, 0 behind its end."""
        inner = f"{name}[None, :]" if step.form == ROW else f"{name}[:, None]"
        if "function" in step.attrs:
            return self._operand_call(step, summed, inner)
        stride = self.index.sizes_text(step.attrs["behind"])
        place = f"{inner} * {factor(stride)}" if stride else inner
        offset = self.index.offset(step.attrs["address"])
        masks = [self.index.shared_text(self.index.mask_of(step.form))]
        if is_ragged(summed):
            masks.append(f"{inner} < {self.index.sizes_text(summed) or 1}")
        masks = [m for m in masks if m]
        mask = " & ".join(m if m.isidentifier() or len(masks) == 1 else f"({m})" for m in masks)
        outside = f", mask={mask}, other=0.0" if mask else ""
        return [f"{step.name} = tl.load({step.attrs['pointer']} + {offset} + {place}{outside})"]
