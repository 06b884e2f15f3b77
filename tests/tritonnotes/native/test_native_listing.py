"""Machine code to read: each instruction leads to the line of the kernel that it comes of, and running code has none of
that."""

from __future__ import annotations

import inspect

import pytest
import torch
import triton
import triton.language as tl

from tritonnotes.native import Listing, UnsupportedError, launch, listing
from tritonnotes.native.llvm.debug_lines import DebugLines
from tritonnotes.native.llvm.engine import assembly
from tritonnotes.native.llvm.threads import DECLARATIONS
from tritonnotes.native.lower.kernel import lower
from tritonnotes.native.lower.lowering import Options
from tritonnotes.native.ttir.front import triton_ir


@triton.jit
def scaled(x):
    return x * 3.5


@triton.jit
def softmax(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    col = tl.arange(0, BLOCK)
    mask = col < n
    x = tl.load(x_ptr + tl.program_id(0) * n + col, mask=mask, other=-float("inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    y = e / tl.sum(e, axis=0)
    y = scaled(y)
    for _ in range(n):
        y += 1.25
    tl.store(y_ptr + tl.program_id(0) * n + col, y, mask=mask)


@triton.jit
def looping(a, b):
    while a > b:
        a -= b
    return a


@triton.jit
def reduces_with_a_loop(x_ptr, y_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    found = tl.reduce(x, 0, looping)
    tl.store(y_ptr, found)


SOURCE, FIRST = inspect.getsourcelines(softmax.fn)
FILE = inspect.getsource(inspect.getmodule(softmax.fn))  # type: ignore[arg-type]


def number(text: str) -> int:
    """The line of this file that holds a text of the kernel."""
    return FIRST + next(place for place, line in enumerate(SOURCE) if text in line)


def listed() -> Listing:
    return listing(softmax, torch.empty(8, 100, device="meta"), torch.empty(8, 100, device="meta"), 100, BLOCK=128)


def test_each_line_that_computes_has_instructions_and_most_instructions_a_line() -> None:
    made = listed()
    found = {instruction.line for instruction in made.instructions}
    for text in ("x = tl.load", "tl.exp(", "tl.sum(", "y += 1.25", "tl.store("):
        assert number(text) in found, text
    inner = inspect.getsourcelines(scaled.fn)[1] + 2
    assert (inner, number("y = scaled(y)")) in {instruction.lines for instruction in made.instructions}
    assert made.known > 0.7 * len(made.instructions)
    assert made.instructions[0].lines == (), "a prologue is of no line"
    last = FIRST + len(SOURCE)
    assert all(FIRST <= line < last or line == inner for i in made.instructions for line in i.lines)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="names instructions of x86")
def test_instructions_do_what_their_line_says() -> None:
    by_line: dict[int, list[str]] = {}
    for instruction in listed().instructions:
        by_line.setdefault(instruction.line, []).append(instruction.text)
    assert any("div" in text for text in by_line[number("y = e / tl.sum")])
    assert any("add" in text for text in by_line[number("y += 1.25")])
    assert any("max" in text or "cmp" in text for text in by_line[number("tl.max(x")])
    assert not any("div" in text for text in by_line[number("y += 1.25")])


def test_a_listing_is_the_code_that_runs() -> None:
    ttir = triton_ir(softmax, {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32"}, {"BLOCK": 128})
    plain = lower(ttir, Options())
    assert "!dbg" not in plain.text
    lines = DebugLines(lambda line: line or 0)
    marked = lower(ttir, Options(), lines=lines)

    def operations(text: str) -> list[str]:
        code = (line.partition("#")[0].split() for line in text.splitlines() if line.startswith("\t"))
        return [words[0] for words in code if words and not words[0].startswith(".")]

    ran = operations(assembly(f"{DECLARATIONS}\n{plain.text}"))
    shown = operations(assembly(f"{DECLARATIONS}\n{marked.text}\n{lines.text}"))
    assert sorted(ran) == sorted(shown)


def test_instructions_stand_below_the_lines_of_source() -> None:
    text = listed().with_source(FILE)
    assert f"# line {number('y += 1.25')}: y += 1.25" in text
    assert text.splitlines()[0].startswith("# softmax for ")


def test_an_error_in_a_region_names_the_line_that_holds_it() -> None:
    line = inspect.getsourcelines(reduces_with_a_loop.fn)[1] + 3
    with pytest.raises(UnsupportedError, match=rf"reduces_with_a_loop \(test_native_listing.py, line {line}\)"):
        launch(
            reduces_with_a_loop, (1,), torch.ones(64, dtype=torch.int32), torch.empty(1, dtype=torch.int32), BLOCK=64
        )
