"""What all tests share: the `--update-goldens` flag, a kernel cache of the run's own, what the judges were asked."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from paths import ROOT
from tally import pytest_terminal_summary

import tritonnotes as tn
from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE
from tritonnotes.ir.core.op import OPS
from tritonnotes.native.llvm.engine import LEVEL_VARIABLE
from tritonnotes.runtime.executors.execution import STRICT_VARIABLE

__all__ = ["pytest_terminal_summary"]

# How long a machine takes to draw an input says nothing of the code: suspended meanwhile, it takes half a minute.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Test runs share the machine's cores among themselves, unless they are asked for threads of their own. Results are the
# same for any number of threads.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens",
        action="store_true",
        help="rewrite docs/ops.md, benchmarks/kernel_reports.md and the files of tests/goldens",
    )


def pytest_collection_finish() -> None:
    """A million objects are there by now, of torch and of the tests, and stay. The garbage collector, otherwise a tenth
    of a run, does not come before, and passes them by from now on."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What `@pytest.mark.interpreted` asks for, unless a test says `strict=` itself. All tests of the compiler run so:
    they launch many kernels once each."""
    if item.get_closest_marker("interpreted") is None and ROOT / "tests" / "codegen" not in item.path.parents:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STRICT_VARIABLE, "1")
        return (yield)


@pytest.fixture
def no_op_stays() -> Iterator[None]:
    """The ops that a test declares are gone after it."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


@pytest.fixture
def dynamo_anew() -> Iterator[None]:
    """TorchDynamo and the report of our backend know of nothing that ran before."""
    torch._dynamo.reset()
    tn.torch_compile_report(clear=True)
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session", autouse=True)
def _own_kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Thousands of kernels of random graphs stay out of the user's cache. The workers of a run share theirs, so that
    each kernel is compiled once, and in the least time: most run but a few times."""
    patch = pytest.MonkeyPatch()
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    patch.setenv(CACHE_DIR_VARIABLE, str(shared / "kernels"))
    patch.setenv(LEVEL_VARIABLE, "0")
    yield
    patch.undo()
