"""What a newcomer meets first: the README's two commands, the pinned versions, what an install leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

from tritonnotes.ir.version import VERSION

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def constraints() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {}
    for line in filter(None, lines):
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line)
        assert match, f"not an exact version, and nothing else belongs here: {line}"
        pins[name_of(match[1])] = match[2]
    return pins


def commands(heading: str) -> list[str]:
    """The lines of the first code block under a heading of the README."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(rf"^## {heading}\n(?:(?!## ).*\n)*?```sh\n((?:(?!```).*\n)+)```", readme, re.MULTILINE)
    assert block, f"no commands under '{heading}'"
    return block[1].splitlines()


def test_one_command_runs_the_demo() -> None:
    assert commands("Run the demo") == [
        "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[examples]' "
        "&& .venv/bin/tritonnotes demo"
    ]


def test_one_command_runs_the_tests_and_ci_runs_the_same() -> None:
    (command,) = commands("Run the tests")
    ci = (ROOT / ".ci/run").read_text()
    assert f'readme_test_command="{command}"\n' in ci
    assert 'bash -c "$test_command"' in ci
    assert command.endswith("&& .venv/bin/pytest -n 2"), "the whole suite, with nothing deselected"


def test_ci_script_is_executable_and_parses() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_everything_asked_for_is_pinned() -> None:
    pins = constraints()
    assert pins["torch"] == "2.13.0"
    assert pins["triton"] == "3.7.1"
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"examples", "onnx", "notebook", "peers", "site", "test", "dev"}
    asked = {name_of(each) for group in [PROJECT["dependencies"], *extras.values()] for each in group}
    assert asked - {"tritonnotes"} <= set(pins)
    ci = (ROOT / ".ci/run").read_text()
    for name in ("torch", "triton"):
        assert f"{name}=={pins[name]} " in ci


def test_command_line_is_an_entry_point() -> None:
    assert PROJECT["scripts"] == {"tritonnotes": "tritonnotes.cli.commands:main"}


def test_licence_says_what_the_project_declares() -> None:
    assert PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_changelog_knows_the_version() -> None:
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git keeps of the sources, elsewhere: a build writes into the folder it builds."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("tritonnotes", "ir", "codegen"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def pip(*arguments: str, cwd: Path) -> None:
    # Nothing is downloaded: setuptools comes with the `test` extra, and dependencies are not asked for.
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", *arguments, *offline]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_holds_every_module_and_nothing_at_the_top_but_tritonnotes(clone: Path, tmp_path: Path) -> None:
    pip("wheel", ".", "--wheel-dir", str(tmp_path), cwd=clone)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in held} == {
        "tritonnotes",
        f"tritonnotes-{VERSION}.dist-info",
    }
    # rglob stops at the links, so what lies behind them is listed from the top level.
    on_disk = {path.relative_to(clone).as_posix() for path in (clone / "tritonnotes").rglob("*.py")}
    for link in ("ir", "codegen"):
        on_disk |= {f"tritonnotes/{path.relative_to(clone)}" for path in (clone / link).rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == on_disk
    templates = {path.relative_to(clone).as_posix() for path in (clone / "tritonnotes").glob("*/templates/*")}
    assert templates and templates <= held, "the page of the explorer is made of files"
    # Installed, it imports under one name and not under the other.
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert_imports(tmp_path / "site")


def test_editable_install_puts_nothing_generic_on_the_path(clone: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip("install", "--editable", ".", "--target", str(target), cwd=clone)
    assert_imports(target)


def assert_imports(site: Path) -> None:
    """tritonnotes comes from `site`, with ir and codegen inside; neither is to be had under its bare name."""
    # -I and -S leave out whatever else is installed for import, this very checkout perhaps; the dependencies
    # come back by their folder alone, which runs none of its .pth files.
    dependencies = [entry for entry in sys.path if entry.endswith("site-packages")]
    script = f"""
import importlib.util, site, sys
sys.path += {dependencies!r}
sys.path.insert(0, {str(site)!r})
site.addsitedir({str(site)!r})
spec = importlib.util.find_spec("tritonnotes")
assert not spec.origin.startswith({str(ROOT)!r}), spec
assert importlib.util.find_spec("ir") is None
assert importlib.util.find_spec("codegen") is None
sys.modules["tritonnotes"] = importlib.util.module_from_spec(spec)  # never run: it needs torch
import tritonnotes.ir.core.errors, tritonnotes.codegen.target.cache
print(tritonnotes.ir.core.errors.TritonNotesError.__name__)
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, cwd=site)
    assert done.stdout == "TritonNotesError\n", done.stderr
