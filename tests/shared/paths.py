"""Where things lie, for whatever reads files of the repository."""

from pathlib import Path

SHARED = Path(__file__).resolve().parent
TESTS = SHARED.parent
JUDGES = TESTS / "judges"
GOLDENS = TESTS / "goldens"
ROOT = TESTS.parent
