"""The public names: imported at first use, the same whatever is imported first, and hidden by no module."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types

import pytest
from import_reader import package_files
from paths import ROOT

import tritonnotes as tn

HEAVY = ("torch", "triton", "numpy", "networkx", "importlib.metadata", "tritonnotes.face", "tritonnotes.ir")


def printed_by(script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert printed_by(f"import sys, tritonnotes; print([m for m in {HEAVY} if m in sys.modules])") == "[]\n"


def test_no_module_hides_a_public_name() -> None:
    """Python binds a submodule to its package, where a function of the same name would not be found again."""
    beside = {module.split(".")[1] for module in package_files(ROOT) if "." in module}
    hidden = {name for name in beside if name in tn.__all__ and not isinstance(getattr(tn, name), types.ModuleType)}
    assert not hidden and {"nn", "optim", "native"} <= beside


FIRST = ("tritonnotes.nn", "tritonnotes.optim", "tritonnotes.native", "tritonnotes.compiler", "tritonnotes.certificate",
         "tritonnotes.torch_modules", "tritonnotes.runtime.model", "tritonnotes.codegen.pipeline")  # fmt: skip


def test_type_checkers_see_the_version() -> None:
    """A star imports no name with underscores, so the version is imported by name, and as itself to be public."""
    tree = ast.parse((ROOT / "tritonnotes/__init__.py").read_text(encoding="utf-8"))
    seen = [(a.name, a.asname) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    assert ("*", None) in seen and ("__version__", "__version__") in seen


def test_every_name_is_there_whatever_is_imported_first() -> None:
    """One child for each module, forked off a process that has imported torch and triton and nothing of ours."""
    script = f"""
import importlib, os, sys
import torch, triton
for first in {FIRST!r}:
    if not (child := os.fork()):
        importlib.import_module(first)
        import tritonnotes as tn
        wrong = [n for n in tn.__all__ if n not in ("nn", "optim") and not callable(getattr(tn, n))]
        os._exit(len(wrong) + (tn.native.__name__ != "tritonnotes.native") + hasattr(tn, "no_such_name"))
    assert os.waitpid(child, 0)[1] == 0, first
print("done")
"""
    assert printed_by(script) == "done\n"


def test_names_are_listed_and_unknown_ones_missing() -> None:
    assert set(tn.__all__) < set(dir(tn))
    with pytest.raises(AttributeError, match="module 'tritonnotes' has no attribute 'gleu'"):
        _ = tn.gleu
    with pytest.raises(ImportError, match="gleu"):
        exec("from tritonnotes import gleu")
    everything: dict[str, object] = {}
    exec("from tritonnotes import *", everything)
    assert set(tn.__all__) <= set(everything)


def test_notes_know_public_names_whatever_is_imported_first() -> None:
    script = "from tritonnotes.notes import entries; print([e.signature[:8] for e in entries() if e.name == 'gelu'])"
    assert printed_by(script) == "['tn.gelu(']\n"


def test_the_backend_is_known_before_any_name_is_used() -> None:
    script = """
import tritonnotes
from importlib.metadata import entry_points
print([found.value for found in entry_points(group="torch_dynamo_backends") if found.name == "tritonnotes"][0])
"""
    assert printed_by(script) == "tritonnotes.backend.compiling:tritonnotes\n"
