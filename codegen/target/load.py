"""Imports a generated module from its file in the kernel cache."""

from __future__ import annotations

import hashlib
import importlib.machinery
import io
import linecache
import sys
import threading
from types import ModuleType

from .cache import KernelCache

_lock = threading.RLock()


_modules: dict[str, ModuleType] = {}


def load_source(source: str, cache: KernelCache) -> ModuleType:
    """The module that this generated text defines; the same text gives the same module within a process.

    Triton's JIT reads a kernel's text back through its file name, so the text needs a real file. What runs is
    compiled from `source` itself, and `linecache` holds the same lines: a file changed after it was verified
    changes neither. Python's own import is no use here: it believes any `__pycache__` that lies beside the
    file.

    Raises `CacheError` where the cache cannot be used, and whatever the module raises while it is executed.
    """
    digest = hashlib.sha256(source.encode("utf-8")).hexdigest()
    with _lock:
        if digest in _modules:
            return _modules[digest]
        path = str(cache.source_path(source))
        name = f"tritonnotes_generated_{digest}"
        module = ModuleType(name)
        module.__file__ = path
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, origin=path)
        # A modification time of None tells linecache.checkcache never to look at the file again.
        lines = io.StringIO(source, newline=None).readlines()
        linecache.cache[path] = (len(source), None, lines, path)
        # inspect finds a function's module, and pickle a function, through sys.modules.
        sys.modules[name] = module
        try:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[name]
            linecache.cache.pop(path, None)
            raise
        _modules[digest] = module
        return module
