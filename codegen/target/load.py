"""Imports a generated module from its file in the kernel cache."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import io
import linecache
import marshal
import sys
import threading
from contextlib import suppress
from types import CodeType, ModuleType

from .cache import KernelCache, key_of

BYTECODE = "bytecode"
"""The kind of entry that holds what Python compiles a module to."""


GENERATED = "tritonnotes_generated_"
"""What the names of generated modules begin with."""


_lock = threading.RLock()


_modules: dict[str, ModuleType] = {}


def load_source(source: str, cache: KernelCache) -> ModuleType:
    """The module that this generated text defines; the same text gives the same module within a process.

    Triton's JIT reads a kernel's text back through its file name, so the text needs a real file. What runs is
    compiled from `source` itself, by this process or by one that left its bytecode in the cache, and `linecache`
    holds the same lines: a file changed after it was verified changes neither. Python's own import is no use here: it
    believes any `__pycache__` that lies beside the file.

    Raises `CacheError` where the cache cannot be used, and whatever the module raises while it is executed.
    """
    digest = hashlib.sha256(source.encode("utf-8")).hexdigest()
    with _lock:
        if digest in _modules:
            return _modules[digest]
        path = str(cache.source_path(source))
        name = f"{GENERATED}{digest}"
        module = ModuleType(name)
        module.__file__ = path
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, origin=path)
        # A modification time of None tells linecache.checkcache never to look at the file again.
        lines = io.StringIO(source, newline=None).readlines()
        linecache.cache[path] = (len(source), None, lines, path)
        # inspect finds a function's module, and pickle a function, through sys.modules.
        sys.modules[name] = module
        try:
            exec(_bytecode(source, path, cache), module.__dict__)
        except BaseException:
            del sys.modules[name]
            linecache.cache.pop(path, None)
            raise
        _modules[digest] = module
        return module


def _bytecode(source: str, path: str, cache: KernelCache) -> CodeType:
    """What a module runs, from the cache where this version of Python compiled the same text before."""
    key = key_of(source=source, path=path, python=importlib.util.MAGIC_NUMBER, optimized=sys.flags.optimize)
    kept = cache.get(BYTECODE, key)
    if kept is not None:
        with suppress(ValueError, EOFError, TypeError):
            found = marshal.loads(kept)
            if isinstance(found, CodeType):
                return found
    made = compile(source, path, "exec", dont_inherit=True)
    cache.put(BYTECODE, key, marshal.dumps(made))
    return made
