"""Makes the name "tritonnotes" known to `torch.compile`, also where the package is imported from a checkout.

An installed package is found by its entry point. For one that is not installed, the same entry point is given to
`importlib.metadata`, where torch looks it up when the first function is compiled: so torch's compiler, which takes
longer to import than this package, is imported no sooner. `import tritonnotes` registers, so even `importlib.metadata`
is imported only where something asks for it.

torch asks for a second entry point at the end of its own import, and calls it: with it come the ops that exported
programs call, so that `torch.export.load` finds them though nothing of this package was used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution, DistributionFinder

NAME, GROUP = "tritonnotes", "torch_dynamo_backends"
TARGET = "tritonnotes.backend.compiling:tritonnotes"
OPS_GROUP, OPS_TARGET = "torch.backends", "tritonnotes:_declare_ops"
DISTRIBUTION = f"{NAME}-backend"
REGISTRY = "torch._dynamo.backends.registry"


@cache
def _distribution() -> Distribution:
    """A distribution that has the entry point, and no files."""
    from importlib.metadata import Distribution

    class Backend(Distribution):
        def read_text(self, filename: str) -> str | None:
            texts = {
                "METADATA": f"Name: {DISTRIBUTION}\nVersion: 0\n",
                "entry_points.txt": f"[{GROUP}]\n{NAME} = {TARGET}\n[{OPS_GROUP}]\n{NAME} = {OPS_TARGET}\n",
            }
            return texts.get(filename)

        def locate_file(self, path: str | PathLike[str]) -> Any:
            raise FileNotFoundError(path)

    return Backend()


class _Finder:
    """Finds that distribution, and no modules: what `importlib.metadata.DistributionFinder` asks of a finder."""

    def find_spec(self, *_: object) -> None:
        return None

    def invalidate_caches(self) -> None: ...

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Any]:
        return [_distribution()] if context is None or context.name in (None, DISTRIBUTION) else []


def register() -> None:
    """Make the backend known, once."""
    registry = sys.modules.get(REGISTRY)
    if registry is not None:
        from importlib.metadata import EntryPoint

        # It may have looked for entry points before.
        registry._BACKENDS.setdefault(NAME, EntryPoint(NAME, TARGET, GROUP))
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
