"""Kernels that say the same under other names, or on other lines, are compiled once; what differs in anything else is
not taken for the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import tritonnotes as tn
from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE
from tritonnotes.native import UnsupportedError, launch
from tritonnotes.native.run import compiled
from tritonnotes.native.ttir.meaning import meaning_of

HEAD = "import triton\nimport triton.language as tl\nfrom triton.language import exp\n\n"
HELPER = """
@triton.jit
def scaled(x, factor):
    return x * factor
"""
SCALE = "SCALE = tl.constexpr(2)\n"
KERNEL = '''
@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Twice x."""
    place = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < n, other=0.0)
    tl.store(y_ptr + place, scaled(x, factor=SCALE) + exp(0.0 * x), mask=place < n)
'''
SOURCE = HEAD + SCALE + HELPER + KERNEL


def made(folder: Path, text: str) -> Any:
    """The kernel of a module with this text."""
    path = folder / f"module_{len(list(folder.iterdir()))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return next(value for name, value in vars(module).items() if name in ("kernel", "other_name"))


ALIKE = {
    "its name": ("def kernel", "def other_name"),
    "a parameter": ("y_ptr", "out_ptr"),
    "a variable": ("place", "offsets"),
    "the docstring": ("Twice x.", "What x is, twice."),
    "a comment": ("    place = ", "    # where\n    place = "),
    "its line": (KERNEL, "\n\n" + KERNEL),
}


@pytest.mark.parametrize("old, new", ALIKE.values(), ids=list(ALIKE))
def test_names_lines_and_words_do_not_matter(tmp_path: Path, old: str, new: str) -> None:
    assert old in SOURCE
    first, second = made(tmp_path, SOURCE), made(tmp_path, SOURCE.replace(old, new))
    assert meaning_of(first) is not None and meaning_of(first) == meaning_of(second)


APART = {
    "a number": ("0.0 * x", "1.0 * x"),
    "the sign of zero": ("other=0.0", "other=-0.0"),
    "an int for a float": ("other=0.0", "other=0"),
    "a constant of the module": ("tl.constexpr(2)", "tl.constexpr(3)"),
    "another dtype of it": ("tl.constexpr(2)", "tl.constexpr(2.0)"),
    "a helper": ("return x * factor", "return x + factor"),
    "what a helper calls its parameters": ("def scaled(x, factor)", "def scaled(factor, x)"),
    "a function of the language": ("import exp", "import log as exp"),
    "an operation": ("place < n, other", "place <= n, other"),
    "what is compiled in": ("n, BLOCK: tl.constexpr", "n: tl.constexpr, BLOCK: tl.constexpr"),
    "the type of a parameter": ("y_ptr, n,", "y_ptr, n: tl.int64,"),
    "a default": ("BLOCK: tl.constexpr)", "BLOCK: tl.constexpr = 16)"),
    "the order of parameters": ("x_ptr, y_ptr, n,", "y_ptr, x_ptr, n,"),
    "a variable of which a type is said": ("    place = tl", "    place: tl.tensor = tl"),
    "what Python would leave out": ("    place = tl", "    n = True and n\n    place = tl"),
    "what is only asserted": ("    place = tl", "    assert n < 5\n    place = tl"),
    "a helper that is not inlined": (HELPER, HELPER.replace("@triton.jit", "@triton.jit(noinline=True)")),
}


@pytest.mark.parametrize("old, new", APART.values(), ids=list(APART))
def test_all_else_does(tmp_path: Path, old: str, new: str) -> None:
    assert old in SOURCE
    first, second = made(tmp_path, SOURCE), made(tmp_path, SOURCE.replace(old, new))
    assert meaning_of(second) is not None and meaning_of(first) != meaning_of(second)


NESTED = """
@triton.jit
def kernel(x_ptr, n):
    if n > 0:
        if tl.atomic_add(x_ptr, 1) > 0:
            tl.store(x_ptr + 1, 1)
"""


def test_both_sides_of_and_are_computed_and_an_inner_if_is_not(tmp_path: Path) -> None:
    """In Python's bytecode they are the same."""
    both = NESTED.replace("n > 0:\n        if ", "n > 0 and ").replace("            tl.store", "        tl.store")
    first, second = made(tmp_path, HEAD + NESTED), made(tmp_path, HEAD + both)
    assert first.fn.__code__.co_code == second.fn.__code__.co_code
    assert meaning_of(first) != meaning_of(second)
    for kernel, added in ((first, 0), (second, 1)):
        x = torch.zeros(2, dtype=torch.int32)
        launch(kernel, (1,), x, 0)
        assert x.tolist() == [added, 0]


UNKNOWN = {
    "a constant that becomes a variable": ("    place = tl", "    SCALE = SCALE * 2\n    place = tl"),
    "a function of Python's that becomes a variable": ("    place = tl", "    max = max(n, 1)\n    place = tl"),
    "a function within": ("    place = tl", "    once = lambda n: n\n    place = tl"),
    "a module of others": ("import triton\n", "import math\nimport triton\n", "exp(0.0 * x)", "math.pi"),
    "an object of the module": (SCALE, "SCALE = tl.constexpr((1, 2))\n"),
}  # fmt: skip


@pytest.mark.parametrize("changes", UNKNOWN.values(), ids=list(UNKNOWN))
def test_what_is_not_known_is_shared_with_nothing(tmp_path: Path, changes: tuple[str, ...]) -> None:
    text = SOURCE
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    assert meaning_of(made(tmp_path, text)) is None


def test_closures_are_shared_with_nothing() -> None:
    import triton
    import triton.language as tl

    inner: Any = tl.constexpr(3)

    @triton.jit
    def closed(x_ptr):
        tl.store(x_ptr, inner)

    assert meaning_of(closed) is None


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often Triton's front end and LLVM ran, from an empty cache on."""
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    counts = {"triton_ir": 0, "compile_object": 0}
    for name in counts:
        real = getattr(compiled, name)

        def counting(*args: Any, name: str = name, real: Any = real) -> Any:
            counts[name] += 1
            return real(*args)

        monkeypatch.setattr(compiled, name, counting)
    return counts


def test_equal_layers_are_compiled_once(built: dict[str, int]) -> None:
    def graph(layers: int) -> tn.Graph:
        g = tn.Graph("layers")
        h = g.input("x", (tn.Dim("batch"), 4))
        for number in range(layers):
            h = tn.gelu(tn.layer_norm(h, name=f"norm{number}"), name=f"gelu{number}")
        g.output(y=h)
        return g

    x = torch.randn(5, 4)
    one = tn.compile(graph(1), fusion="off", device="cpu")
    one(x=x)
    first = dict(built)
    assert 0 < first["triton_ir"] == first["compile_object"] <= len(one.plan.kernels)
    many = tn.compile(graph(3), fusion="off", device="cpu")
    many.load_state_dict({name: torch.randn_like(p) for name, p in many.state_dict().items()})
    want = x
    for number in range(3):
        norm = [many.state_dict()[f"norm{number}.{what}"] for what in ("weight", "bias")]
        want = torch.nn.functional.gelu(torch.nn.functional.layer_norm(want, (4,), *norm))
    torch.testing.assert_close(many(x=x)["y"], want)
    assert len(many.plan.kernels) == 3 * len(one.plan.kernels)
    assert built == first


def test_what_is_not_covered_is_named_with_its_own_line(tmp_path: Path, built: dict[str, int]) -> None:
    text = HEAD + (
        "@triton.jit\ndef kernel(x_ptr):\n    at = tl.arange(0, 4)\n"
        '    x = tl.inline_asm_elementwise("nop", "=r,r", [tl.load(x_ptr + at)], tl.float32, True, 1)\n'
        "    tl.store(x_ptr + at, x)\n"
    )
    for head, line in (("", 8), ("\n\n\n", 11)):
        kernel = made(tmp_path, text.replace("@triton", f"{head}@triton"))
        assert meaning_of(kernel) is not None
        with pytest.raises(UnsupportedError, match=rf"kernel kernel \(module_\d+\.py, line {line}\)"):
            launch(kernel, (1,), torch.ones(4))
