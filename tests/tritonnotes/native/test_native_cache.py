"""Object files on disk: built once, found again by another process, and built anew where they are damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from tritonnotes.codegen.target.cache import CACHE_DIR_VARIABLE
from tritonnotes.native.llvm.engine import own_files

SCRIPT = """
import sys, torch, triton, triton.language as tl
from tritonnotes.native import launch
from tritonnotes.native.run import compiled

@triton.jit
def doubled(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2, mask=at < n)

built = []
compile_object, triton_ir = compiled.compile_object, compiled.triton_ir
compiled.compile_object = lambda *args: built.append("object") or compile_object(*args)
compiled.triton_ir = lambda *args: built.append("ir") or triton_ir(*args)
x = torch.arange(10.0)
launch(doubled, (1,), x, 10, BLOCK=16)
assert x.tolist() == [2.0 * i for i in range(10)], x
print(*built)
"""


def run(folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    root = str(ROOT)
    environment = {**os.environ, CACHE_DIR_VARIABLE: str(folder / "cache"), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    assert run(folder) == "ir object"
    return folder


def test_another_process_builds_nothing(folder: Path) -> None:
    assert run(folder) == ""


@pytest.mark.parametrize("damage", ["flipped", "cut short", "writable by others"])
def test_a_damaged_object_is_built_anew(folder: Path, damage: str) -> None:
    (entry,) = (folder / "cache" / "native").glob("*.entry")
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
        entry.write_bytes(content)
    elif damage == "cut short":
        entry.write_bytes(content[: len(content) // 2])
    else:
        entry.chmod(0o666)
    assert run(folder) == "object"
    assert run(folder) == ""


def test_the_key_of_an_object_holds_every_file_that_makes_code() -> None:
    """Else another version of the lowering finds what an older one left."""
    made = {Path(m.__file__) for n, m in sys.modules.items() if n.startswith("tritonnotes.native.") and m.__file__}
    assert len(made) > 20 and made <= set(own_files())
