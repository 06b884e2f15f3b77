"""What tells kernels apart: by name what generated modules call, and Triton's own hash for everybody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from paths import GOLDENS
from triton.runtime.jit import JITFunction

from tritonnotes.codegen.target.cache import KernelCache
from tritonnotes.codegen.target.load import load_source
from tritonnotes.native.run.arguments import face_of
from tritonnotes.native.run.source_key import source_key

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
    monkeypatch.setattr(JITFunction, "parse", lambda self: pytest.fail(f"{self.__name__} is parsed"))
    module = load_source("# not parsed\n" + SOURCE, KernelCache())
    assert len(source_key(module.kernel)) == 64
    assert face_of(module.kernel).name == "kernel"


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
