"""Fixtures for tests of kernels, by the entry point `pytest11`. pytest imports this at every start, so this imports
nothing but pytest.

- `check_kernel(kernel, reference, *tensors)` fails where `tn.check` does, and writes what fails as a script into the
  folder of `--tritonnotes-failures`;
- `assert_fused`, `assert_close_to_float64`: those of `tritonnotes.testing`;
- `native_triton`: in this test, Triton kernels launched on CPU tensors run as machine code;
- `strict_triton`: they run under the strict interpreter, which stops at what is out of bounds and at races.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

LONGEST = 200
"""Bytes of a test's id in the name of a file."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("tritonnotes").addoption(
        "--tritonnotes-failures",
        default="tritonnotes-failures",
        metavar="DIR",
        help="where failing kernels are written as scripts; default tritonnotes-failures",
    )


@pytest.fixture
def check_kernel(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function: fail unless a kernel is as close to float64 as its reference, and deterministic, without faults."""
    from .testing import assert_kernel

    name = _file_name(request.node.nodeid)
    folder = Path(request.config.getoption("--tritonnotes-failures"))
    return partial(assert_kernel, write_to=folder / f"{name}.py")


def _file_name(node: str) -> str:
    """A test's id as the name of a file. File systems hold 255 bytes; of a longer one the end says which test it is."""
    name = re.sub(r"[^\w.-]+", "_", node)
    if len(name.encode()) <= LONGEST:
        return name
    kept = name.encode()[-LONGEST:].decode(errors="ignore")
    return f"{hashlib.sha256(node.encode()).hexdigest()[:8]}_{kept}"


@pytest.fixture
def assert_fused() -> Callable[..., None]:
    """`tritonnotes.testing.assert_fused`."""
    from . import testing

    return testing.assert_fused


@pytest.fixture
def assert_close_to_float64() -> Callable[..., None]:
    """`tritonnotes.testing.assert_close_to_float64`."""
    from . import testing

    return testing.assert_close_to_float64


@pytest.fixture
def native_triton() -> Iterator[None]:
    """Within the test, `kernel[grid](...)` on CPU tensors runs as machine code."""
    from . import native

    with native.enabled():
        yield


@pytest.fixture
def strict_triton() -> Iterator[list[str]]:
    """Within the test, `kernel[grid](...)` on CPU tensors runs under the strict interpreter. Gives the names of the
    kernels that were launched."""
    from . import interpreter

    with interpreter.enabled() as launched:
        yield launched
