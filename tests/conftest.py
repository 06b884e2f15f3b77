"""What all tests share: the `--update-goldens` flag, and a kernel cache of the test run's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tritonnotes.codegen.cache import CACHE_DIR_VARIABLE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="rewrite the files under tests/goldens")


@pytest.fixture(scope="session", autouse=True)
def _own_kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Thousands of kernels of random graphs stay out of the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv(CACHE_DIR_VARIABLE, str(tmp_path_factory.mktemp("kernels")))
    yield
    patch.undo()
