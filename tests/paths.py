"""Where things lie, for whatever reads files of the repository."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDENS = TESTS / "goldens"
JUDGES = TESTS
SHARED = TESTS
