"""The tests that are marked `gpu`, a row each."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .part import ROOT, asked
from .rows import row, tell


class _Told:
    """Tells each test as it ends."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped:
            why = "" if report.passed else str(report.longreprtext).strip().splitlines()[-1]
            tell(row(report.nodeid, report.passed, why))
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            tell(row(report.nodeid, None, reason))
        elif report.failed:
            tell(row(report.nodeid, False, f"{report.when} failed"))


def files() -> Iterator[str]:
    """Those that have such tests: to collect all others takes half a minute."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8"):
            yield str(path)


def main() -> int:
    asked()
    found = list(files())
    if not found:
        tell(row("tests marked gpu", False, f"there are none below {ROOT / 'tests'}"))
        return 0
    pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *found], plugins=[_Told()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
