"""Compiles small models into readable Triton kernels: forward run, gradients and optimizer update, fused."""

import sys
from functools import partial
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from .backend.registration import register as _register

if TYPE_CHECKING:
    from .face import *
    from .face import __version__ as __version__
else:
    # The names come from face.py when the first of them is asked for, and with them torch and triton: the command
    # line's help and a start of pytest need neither. No module of this folder may be called as a name of the face is:
    # Python binds a submodule to its package, where it would hide that name.
    def __getattr__(name: str) -> Any:
        is_special = name.startswith("__") and name not in ("__all__", "__version__")
        if not is_special:  # tools ask every module for __wrapped__ and the like
            if PathFinder.find_spec(f"{__name__}.{name}", __path__):
                return import_module(f"{__name__}.{name}")
            face = import_module("tritonnotes.face")
            if hasattr(face, name):
                globals()[name] = getattr(face, name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("tritonnotes.face").__all__})


def _declare_ops() -> None:
    """Declare the ops that exported programs call, and nothing else. Where torch comes later, it calls this at the end
    of its import (`backend/registration.py`)."""
    import_module("tritonnotes.tensors.torch_ops").BIND.append(partial(import_module, "tritonnotes.face"))


_register()

if "torch" in sys.modules:
    _declare_ops()
