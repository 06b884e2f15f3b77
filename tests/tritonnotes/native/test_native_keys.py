"""What tells kernels apart: by name what generated modules call, and Triton's own hash for everybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import GOLDENS
from triton.runtime.jit import JITFunction

from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE, KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.native.run import compiled
from tritonnotes.native.run.arguments import face_of
from tritonnotes.native.run.source_key import source_key
from tritonnotes.native.ttir.meaning import meaning_of

SOURCE = """
import triton
import triton.language as tl

FACTOR = tl.constexpr(3)


@triton.jit
def doubled(x):
    return x + x


@triton.jit
def squared(x):
    return doubled(x * x)


@triton.jit
def kernel(x_ptr, BLOCK: tl.constexpr):
    at = x_ptr + tl.arange(0, BLOCK)
    tl.store(at, squared(tl.load(at)))


@triton.jit
def scaled(x_ptr, BLOCK: tl.constexpr):
    at = x_ptr + tl.arange(0, BLOCK)
    tl.store(at, tl.load(at) * FACTOR)


def run():
    return kernel
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is still empty."""
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def functions() -> Iterator[JITFunction]:
    """All functions of the generated modules that the goldens are."""
    for path in sorted(GOLDENS.glob("*.py")):
        module = load_source(path.read_text(), KernelCache())
        yield from (f for f in vars(module).values() if isinstance(f, JITFunction))


def test_keys_tell_apart_what_tritons_own_tell_apart() -> None:
    """Both ways, over every pair of functions of all goldens."""
    pairs = {(source_key(f), f.cache_key) for f in functions()}
    assert len(pairs) > 30
    assert len({ours for ours, _ in pairs}) == len(pairs) == len({theirs for _, theirs in pairs})


def test_generated_kernels_are_told_apart_without_parsing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that finds a kernel's IR on disk does not ask Triton what the kernel is."""
    kernel = load_source("# not parsed\n" + SOURCE, KernelCache()).kernel
    first = compiled.kept_ir(kernel, {"x_ptr": "*fp32"}, {"BLOCK": 16})
    monkeypatch.setattr(JITFunction, "parse", lambda self: pytest.fail(f"{self.__name__} is parsed"))
    kernel.hash = None
    assert compiled.kept_ir(kernel, {"x_ptr": "*fp32"}, {"BLOCK": 16}) == first
    assert face_of(kernel).name == "kernel"


def test_what_generated_kernels_say_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of them what it says is found out once, and one that says the same elsewhere has its IR."""
    asked: list[str] = []
    monkeypatch.setattr(compiled, "meaning_of", lambda kernel: asked.append(kernel.__name__) or meaning_of(kernel))
    for head in ("# one\n", "# one\n", "# another\n\n"):
        kernel = load_source(head + SOURCE, KernelCache()).kernel
        assert "tt.store" in compiled.kept_ir(kernel, {"x_ptr": "*fp32"}, {"BLOCK": 16}).text
    assert asked == ["kernel"]
    assert len([*(folder / "meaning").iterdir()]) == len([*(folder / "ttir").iterdir()]) == 1


CHANGES = {
    "itself": ("squared(tl.load(at))", "squared(tl.load(at) + 1)", {"kernel"}),
    "what it calls": ("doubled(x * x)", "doubled(x * x * x)", {"kernel", "squared"}),
    "what that calls": ("x + x", "x + x + x", {"kernel", "squared", "doubled"}),
    "how": ("@triton.jit\ndef doubled", "@triton.jit(noinline=True)\ndef doubled", {"kernel", "squared", "doubled"}),
    "a constant": ("FACTOR = tl.constexpr(3)", "FACTOR = tl.constexpr(4)", {"scaled"}),
    "what nobody calls": ("return kernel", "return scaled", set()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_key_changes_with_all_that_a_kernel_calls(change: str) -> None:
    old, new, changed = CHANGES[change]
    assert old in SOURCE
    modules = [load_source(text, KernelCache()) for text in (SOURCE, SOURCE.replace(old, new))]
    names = ("kernel", "squared", "doubled", "scaled")
    keys = [{name: source_key(vars(module)[name]) for name in names} for module in modules]
    assert {name for name in names if keys[0][name] != keys[1][name]} == changed


def test_a_kernel_with_another_text_has_another_face() -> None:
    kernel = load_source("# patched\n" + SOURCE, KernelCache()).kernel
    face = face_of(kernel)
    assert face_of(kernel) is face
    kernel._unsafe_update_src(kernel.src.replace("squared(", "doubled("))
    assert face_of(kernel) is not face
