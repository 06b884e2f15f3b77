"""Who imports whom, read from the syntax: an import inside a function counts like one at the top."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

IMPORTERS = ("import_module", "__import__")
COMPUTED = "a module whose name is computed"


class Import(NamedTuple):
    file: str
    line: int
    importer: str
    imported: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_files(root: Path) -> dict[str, Path]:
    """Every module of tritonnotes by its name, those behind the links included."""
    files = {}
    for folder, _, names in os.walk(root / "tritonnotes", followlinks=True):
        for name in names:
            if name.endswith(".py"):
                path = Path(folder, name)
                files[module_name(path, root)] = path
    return files


def imports_of(path: Path, module: str, known: Iterable[str], root: Path) -> Iterator[Import]:
    """Every import in a file, absolute however spelled; `from package import module` names the module."""
    known = set(known)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    file = str(path.relative_to(root))
    for node in ast.walk(ast.parse(path.read_text("utf-8"), filename=file)):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(file, node.lineno, module, alias.name)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*above, base] if base else above)
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield Import(file, node.lineno, module, full if full in known else base)
            case ast.Call(func=ast.Attribute(attr=called) | ast.Name(id=called)) if called in IMPORTERS:
                # A name that only running can tell would slip past every law here.
                target = node.args[0] if node.args else None
                name = target.value if isinstance(target, ast.Constant) else COMPUTED
                yield Import(file, node.lineno, module, str(name))


def all_imports(root: Path) -> list[Import]:
    files = package_files(root)
    return [found for module, path in files.items() for found in imports_of(path, module, files, root)]


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)
