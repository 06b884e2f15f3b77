"""Layers: imports go downward only, and nowhere in a circle.

Read from the syntax, so that an import inside a function or under TYPE_CHECKING counts like one at the top.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest
from import_reader import Import, all_imports, package_files, within
from paths import ROOT

# Each line may import itself and the lines below it. Packages on one line do not import each other. A package stands
# for its modules that no other line names.
LAYERS = """
tritonnotes.__main__
tritonnotes.cli
tritonnotes
tritonnotes.kernel_check
tritonnotes.views
tritonnotes.nn  tritonnotes.backend
tritonnotes.optim
tritonnotes.training
tritonnotes.distributed
tritonnotes.runtime
tritonnotes.runtime.executors
tritonnotes.onnx_importer
tritonnotes.onnx_importer.operators
tritonnotes.judge  tritonnotes.interpreter  tritonnotes.native  tritonnotes.importer
tritonnotes.importer.ops
tritonnotes.native.run
tritonnotes.native.lower
tritonnotes.native.schedule
tritonnotes.native.llvm
tritonnotes.native.ttir
tritonnotes.native.errors
tritonnotes.tensors

tritonnotes.explorer
tritonnotes.codegen
tritonnotes.codegen.report  tritonnotes.codegen.optimizer
tritonnotes.codegen.pipeline
tritonnotes.codegen.program
tritonnotes.codegen.module
tritonnotes.codegen.emit
tritonnotes.codegen.memory  tritonnotes.codegen.share
tritonnotes.codegen.lower
tritonnotes.codegen.plan
tritonnotes.codegen.fusion
tritonnotes.codegen.cost
tritonnotes.codegen.canonicalize
tritonnotes.codegen.analysis
tritonnotes.codegen.target
tritonnotes.codegen.support

tritonnotes.ir
tritonnotes.ir.passes  tritonnotes.ir.script
tritonnotes.ir.ops  tritonnotes.ir.optim  tritonnotes.ir.text
tritonnotes.ir.primitives
tritonnotes.ir.core
tritonnotes.ir.version
"""

LINES = [line.split() for line in LAYERS.splitlines() if line]
FLOOR = {package: floor for floor, line in enumerate(reversed(LINES)) for package in line}
MOST_FILES = 15
"""Files of a folder, `ir/ops` excepted: there an op is one block, and a file a family."""


def layer_of(module: str) -> str | None:
    """The innermost package of the list that a module lies in; None outside of tritonnotes."""
    return max((package for package in FLOOR if within(module, package)), key=len, default=None)


def upward(imports: list[Import]) -> Iterator[str]:
    """Imports of a layer by one that lies below or beside it."""
    for found in imports:
        importer, imported = layer_of(found.importer), layer_of(found.imported)
        if importer is None or imported is None or importer == imported:
            continue
        if FLOOR[importer] <= FLOOR[imported]:
            yield f"{found}; {importer} does not lie above {imported}"


def circles(imports: list[Import]) -> list[list[str]]:
    """Modules that import each other, in a circle. A package's `__init__` is a module like any other."""
    graph = networkx.DiGraph((i.importer, i.imported) for i in imports if within(i.imported, "tritonnotes"))
    return [sorted(ring) for ring in networkx.strongly_connected_components(graph) if len(ring) > 1]


def test_imports_go_downward() -> None:
    assert list(upward(all_imports(ROOT))) == []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circles(all_imports(ROOT)) == []


def test_every_folder_has_a_layer_of_its_own() -> None:
    folders = {name for name, path in package_files(ROOT).items() if path.name == "__init__.py"}
    nested = {name for name in folders if layer_of(name) != name}
    assert nested == {"tritonnotes.codegen.fusion.search"}, "it shares the layer of the folder around it"
    assert {package for package in FLOOR if package not in package_files(ROOT)} == set()


def test_no_folder_holds_more_than_one_can_take_in() -> None:
    sizes: dict[Path, int] = {}
    for path in package_files(ROOT).values():
        if path.name != "__init__.py":
            sizes[path.parent] = sizes.get(path.parent, 0) + 1
    crowded = {str(folder.relative_to(ROOT)): n for folder, n in sizes.items() if n > MOST_FILES}
    assert set(crowded) <= {"tritonnotes/ir/ops"}


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("tritonnotes.judge.planted", "from ..runtime.runner import Runner"),
        ("tritonnotes.runtime.planted", "def f():\n    from ..training import step"),
        ("tritonnotes.runtime.planted", "from tritonnotes.certificate import check"),
        ("tritonnotes.training.planted", "import tritonnotes"),
        ("tritonnotes.planted", "from .cli.commands import main"),
        ("tritonnotes.codegen.cost.planted", "from ..fusion.partition import Partition"),
        ("tritonnotes.codegen.emit.planted", "if TYPE_CHECKING:\n    from ..program.program import Program"),
        ("tritonnotes.codegen.fusion.planted", "from ..pipeline import make_plan"),
        ("tritonnotes.ir.ops.planted", "from ..text import parser"),
        ("tritonnotes.ir.core.planted", "def f():\n    from ..primitives import exp"),
    ],
)
def test_an_import_upward_is_noticed(tmp_path: Path, importer: str, text: str) -> None:
    path = tmp_path / (importer.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (line,) = upward(all_imports(tmp_path))
    assert "does not lie above" in line


def test_a_circle_hidden_in_a_function_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "tritonnotes"
    folder.mkdir()
    (folder / "one.py").write_text("from tritonnotes.two import x\n")
    (folder / "two.py").write_text("def f():\n    from .one import y\n")
    assert circles(all_imports(tmp_path)) == [["tritonnotes.one", "tritonnotes.two"]]
