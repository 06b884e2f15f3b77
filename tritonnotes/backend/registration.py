"""Makes the name "tritonnotes" known to `torch.compile`, also where the package is imported from a checkout.

An installed package is found by its entry point. For one that is not installed, the same entry point is given to
`importlib.metadata`, where torch looks it up when the first function is compiled: so torch's compiler, which takes
longer to import than this package, is imported no sooner.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder, EntryPoint
from os import PathLike
from typing import Any

NAME, GROUP = "tritonnotes", "torch_dynamo_backends"
TARGET = "tritonnotes.backend.compiling:tritonnotes"
REGISTRY = "torch._dynamo.backends.registry"
EVERYTHING = DistributionFinder.Context()


class _Backend(Distribution):
    """A distribution that has this entry point, and no files."""

    def read_text(self, filename: str) -> str | None:
        texts = {
            "METADATA": f"Name: {NAME}-backend\nVersion: 0\n",
            "entry_points.txt": f"[{GROUP}]\n{NAME} = {TARGET}\n",
        }
        return texts.get(filename)

    def locate_file(self, path: str | PathLike[str]) -> Any:
        raise FileNotFoundError(path)


class _Finder(DistributionFinder):
    """Finds `_Backend`, and no modules."""

    def find_spec(self, *_: object) -> None:
        return None

    def find_distributions(self, context: DistributionFinder.Context = EVERYTHING) -> Iterable[Any]:
        return [_Backend()] if context.name in (None, f"{NAME}-backend") else []


def register() -> None:
    """Make the backend known, once."""
    registry = sys.modules.get(REGISTRY)
    if registry is not None:
        # It may have looked for entry points before.
        registry._BACKENDS.setdefault(NAME, EntryPoint(NAME, TARGET, GROUP))
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
