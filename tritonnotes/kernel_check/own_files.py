"""The modules of a script that are its author's own files, not installed packages."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from pathlib import Path


def imports_of_own_files(text: str) -> list[tuple[str, str, str]]:
    """Of each module that `text` imports from a file of the author's: its name, the file, and the SHA-256 of its text.
    Modules are looked up among those that are loaded."""
    names: dict[str, None] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names[node.module] = None
    files = ((name, own_file(name)) for name in names)
    return [(name, file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in files if file]


def own_file(module: str) -> Path | None:
    """The file of a loaded module, where that is its author's own."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py") or module.partition(".")[0] == "tritonnotes":
        return None
    paths = sysconfig.get_paths()
    installed = {Path(paths[kind]).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return None if installed & set(Path(file).resolve().parents) else Path(file)
