"""Who may import whom: the judge shares no code with the accused, and the IR needs neither torch nor triton.

The laws are read from the syntax, so an import inside a function counts like one at the top. What
`tritonnotes/face.py` imports counts for nobody else: it is the public face, which every import of a
submodule runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_reader import COMPUTED, Import, all_imports, imports_of, module_name, package_files, within
from paths import ROOT

LINKS = ("ir", "codegen")
COMPILER = ("tritonnotes.ir", "tritonnotes.codegen")
KERNEL_FILES = ("codegen/target/compile.py", "codegen/target/load.py")  # the files of codegen that may know triton
JUDGES = "tritonnotes.judge"  # every file of this folder is one
# All that a judge may know of the compiler: what a graph is, and which op has which reference. Formulas,
# gradients, decomposition and whatever the compiler grows later are the accused.
SHARED = (
    "tritonnotes.ir",
    "tritonnotes.ir.core.errors",
    "tritonnotes.ir.core.graph",
    "tritonnotes.ir.core.op",
    "tritonnotes.ir.core.optimizer",
    "tritonnotes.ir.core.registry",
    "tritonnotes.ir.core.types",
)


def reached_from(start: str, imports: list[Import]) -> Iterator[Import]:
    """Every import of a judge and of the modules it imports in turn, up to the border of the compiler.

    Not beyond it: `ir` registers its ops and primitives when it is imported, so all of it is loaded.
    """
    edges: dict[str, list[Import]] = {}
    for found in imports:
        edges.setdefault(found.importer, []).append(found)
    seen = {start}
    waiting = [start]
    while waiting:
        for found in edges.get(waiting.pop(), []):
            yield found
            if found.imported not in seen and not within(found.imported, *COMPILER):
                seen.add(found.imported)
                waiting.append(found.imported)


def violations(root: Path) -> list[str]:
    imports = all_imports(root)
    broken = []
    for found in imports:
        importer, imported = found.importer, found.imported
        if within(imported, *LINKS):
            broken.append(f"{found}; it is imported as tritonnotes.{imported}")
        if within(importer, "tritonnotes.ir"):
            if within(imported, "torch", "triton"):
                broken.append(f"{found}; ir needs neither torch nor triton")
            if within(imported, "tritonnotes") and not within(imported, "tritonnotes.ir"):
                broken.append(f"{found}; ir knows nothing of tritonnotes but itself")
        if within(importer, "tritonnotes.codegen"):
            if within(imported, "torch"):
                broken.append(f"{found}; codegen needs no torch")
            if within(imported, "triton") and not found.file.endswith(KERNEL_FILES):
                broken.append(f"{found}; in codegen only {' and '.join(KERNEL_FILES)} know triton")
            if within(imported, "tritonnotes") and not within(imported, *COMPILER):
                broken.append(f"{found}; codegen knows nothing of tritonnotes but ir and itself")
        if imported == COMPUTED and within(importer, *COMPILER, JUDGES):
            broken.append(f"{found}; no test can tell what that is")
    for judge in (module for module in package_files(root) if within(module, JUDGES)):
        for found in reached_from(judge, imports):
            if found.imported == "tritonnotes":
                broken.append(f"{found}; from {judge} that is the public face, which imports everything")
                break  # and reaches everything, so one line says it all
            if within(found.imported, *COMPILER) and found.imported not in SHARED:
                broken.append(f"{found}; {judge} reaches it, and the judge shares no code with the accused")
    return broken


def test_nobody_breaks_the_import_laws() -> None:
    assert violations(ROOT) == []


def test_every_folder_of_the_package_is_seen() -> None:
    files = package_files(ROOT)
    for module in ("tritonnotes", "tritonnotes.ir.core.errors", "tritonnotes.codegen.target.cache"):
        assert module in files
    on_disk = {path for link in LINKS for path in (ROOT / link).rglob("*.py")}
    assert on_disk <= {path.resolve() for path in files.values()}


def test_nothing_outside_the_package_imports_the_links_by_their_bare_names() -> None:
    known = package_files(ROOT)
    for folder in ("tests", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for found in imports_of(path, module_name(path, ROOT), known, ROOT):
                assert not within(found.imported, *LINKS), found


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_and_lead_to_the_top_level(name: str) -> None:
    link = ROOT / "tritonnotes" / name
    assert link.is_symlink(), "git on this machine checked the link out as a file; set core.symlinks"
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("tritonnotes.ir", {"torch", "triton"}), ("tritonnotes.codegen.target.cache", {"torch"})],
)
def test_imported_alone_it_leaves_out_what_it_does_not_need(module: str, unwanted: set[str]) -> None:
    # The public face imports everything, so an empty package stands in for it.
    script = f"""
import importlib, sys, types
bare = types.ModuleType("tritonnotes")
bare.__path__ = [{str(ROOT / "tritonnotes")!r}]
sys.modules["tritonnotes"] = bare
importlib.import_module({module!r})
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not unwanted & loaded


# The checker itself: every law has a violation planted, in a copy, and must be seen to break

PLANTS = [
    ("ir/planted.py", "import torch", "ir needs neither"),
    ("ir/planted.py", "def f():\n    from torch.nn import functional", "ir needs neither"),
    ("ir/planted.py", "import triton.language as tl", "ir needs neither"),
    ("ir/ops/planted.py", "from tritonnotes import codegen", "knows nothing of tritonnotes but itself"),
    ("ir/ops/planted.py", "from ...codegen import cache", "knows nothing of tritonnotes but itself"),
    ("ir/planted.py", "import tritonnotes", "knows nothing of tritonnotes but itself"),
    ("ir/planted.py", "from ir import errors", "imported as tritonnotes.ir"),
    ("tritonnotes/planted.py", "import codegen.cache", "imported as tritonnotes.codegen"),
    ("codegen/planted.py", "import torch", "codegen needs no torch"),
    ("codegen/planted.py", "if True:\n    import triton", "know triton"),
    ("codegen/planted.py", "from tritonnotes.runtime import Program", "but ir and itself"),
    ("ir/planted.py", "import importlib\nname = 'tor' + 'ch'\nimportlib.import_module(name)", "can tell"),
    ("ir/planted.py", "__import__('torch')", "ir needs neither"),
    ("tritonnotes/judge/executor.py", "from tritonnotes.ir.passes import gradients", "judge.executor reaches it"),
    ("tritonnotes/judge/executor.py", "from ..codegen.target.cache import KernelCache", "judge.executor reaches it"),
    ("tritonnotes/judge/executor.py", "def f():\n    from tritonnotes import Graph", "the public face"),
    ("tritonnotes/judge/references.py", "from ..ir.primitives import tanh", "judge.references reaches it"),
    ("tritonnotes/judge/planted.py", "from ..ir.optim.update import append_update", "judge.planted reaches it"),
    (
        "tritonnotes/judge/planted.py",
        "import importlib\nname = 'to' + 'day'\nimportlib.import_module(name)",
        "can tell",
    ),
]


def copy_with(tmp_path: Path, file: str, text: str) -> Path:
    """A small package that keeps every law, with one file more."""
    for link in LINKS:
        for room in ("core", "ops", "passes"):
            (tmp_path / link / room).mkdir(parents=True)
        (tmp_path / link / "__init__.py").touch()
    (tmp_path / "tritonnotes/judge").mkdir(parents=True)
    for name in LINKS:
        (tmp_path / "tritonnotes" / name).symlink_to(f"../{name}")
    (tmp_path / "tritonnotes/__init__.py").write_text("import torch\nfrom tritonnotes.codegen.target import cache\n")
    (tmp_path / "tritonnotes/judge/executor.py").write_text(
        "import torch\nfrom tritonnotes.ir.core.graph import Graph\n"
    )
    (tmp_path / "tritonnotes/judge/references.py").write_text("import torch\n")
    (tmp_path / "ir/core/graph.py").write_text("import networkx\nfrom tritonnotes.ir.core.errors import CacheError\n")
    (tmp_path / "ir/passes/gradients.py").write_text("from tritonnotes.ir import primitives\n")
    (tmp_path / "ir/primitives.py").write_text("import numpy\n")
    (tmp_path / "codegen/target").mkdir()
    (tmp_path / "codegen/target/__init__.py").touch()
    (tmp_path / "codegen/target/load.py").write_text("import triton\nfrom . import cache\n")
    shutil.copy(ROOT / "ir/core/errors.py", tmp_path / "ir/core")
    shutil.copy(ROOT / "codegen/target/cache.py", tmp_path / "codegen/target")
    assert violations(tmp_path) == []
    path = tmp_path / file
    path.write_text((path.read_text() if path.exists() else "") + text + "\n")
    return tmp_path


@pytest.mark.parametrize(("file", "text", "message"), PLANTS)
def test_planted_violation_is_noticed(tmp_path: Path, file: str, text: str, message: str) -> None:
    found = violations(copy_with(tmp_path, file, text))
    assert found, "not noticed"
    assert any(message in violation for violation in found), found


def test_judge_that_reaches_the_accused_by_a_detour_is_noticed(tmp_path: Path) -> None:
    root = copy_with(tmp_path, "tritonnotes/judge/executor.py", "from .. import helper")
    (root / "tritonnotes/helper.py").write_text("def f():\n    from .further import g\n")
    (root / "tritonnotes/further.py").write_text("from tritonnotes.ir.core.graph import Graph\n")
    assert violations(root) == []
    (root / "tritonnotes/further.py").write_text("from tritonnotes.ir.passes.decompose import decompose\n")
    assert any("tritonnotes.judge.executor reaches it" in violation for violation in violations(root))
