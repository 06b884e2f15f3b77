"""What all tests share: the `--update-goldens` flag, a kernel cache of the run's own, what the judges were asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tally import pytest_terminal_summary

from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE

__all__ = ["pytest_terminal_summary"]

# How long a machine takes to draw an input says nothing of the code: suspended meanwhile, it takes half a minute.
settings.register_profile("tests", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="rewrite docs/ops.md, benchmarks/kernel_reports.md and the files of tests/goldens",
    )


@pytest.fixture(scope="session", autouse=True)
def _own_kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Thousands of kernels of random graphs stay out of the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv(CACHE_DIR_VARIABLE, str(tmp_path_factory.mktemp("kernels")))
    yield
    patch.undo()
