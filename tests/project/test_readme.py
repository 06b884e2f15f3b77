"""The documents: their snippets run, the kernel shown is a real one, and the grammar lists every primitive."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from typing import Any

import pytest
import torch
from paths import ROOT

import tritonnotes as tn
from tritonnotes.cli.choices import STAGES
from tritonnotes.cli.commands import _parser
from tritonnotes.cli.demo import digits
from tritonnotes.ir.core.op import OPS
from tritonnotes.ir.core.registry import PRIMITIVES

README = "README.md"


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(language: str, document: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(document), re.MULTILINE | re.DOTALL)


def run_blocks(document: str) -> dict[str, Any]:
    """What a document's Python leaves, block after block."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {}
    for number, block in enumerate(blocks("python", document), 1):
        exec(compile(block, f"{document}, block {number}", "exec"), shared)
    return shared


def test_the_readme_is_read_in_a_few_minutes() -> None:
    text = text_of(README)
    assert len(text.splitlines()) <= 105 and len(text.split()) <= 900


def test_the_python_of_the_readme_runs() -> None:
    assert "@triton.jit" in run_blocks(README)["step"].source


def test_the_python_about_graphs_runs_and_learns() -> None:
    shared = run_blocks("docs/declaring.md")
    assert float(shared["result"]["accuracy"]) > 0.9
    assert "@triton.jit" in shared["source"]
    assert shared["model"].get_parameter("fc1.weight").grad is not None
    assert shared["mish"].name == "custom.mish"


def test_the_module_shown_is_the_one_that_the_example_times() -> None:
    shared: dict[str, Any] = {}
    exec(blocks("python")[0].partition("step = ")[0], shared)
    assert str(shared["net"]) == str(runpy.run_path(str(ROOT / "examples" / "from_torch.py"))["mlp"]())


def test_the_kernel_shown_is_a_generated_one() -> None:
    (kernel,) = blocks("py")
    source = tn.compile_step(digits(), optimizer=tn.adam()).source
    assert kernel in source, "the generated code has changed: put the new lines into README.md"


def test_the_commands_shown_parse() -> None:
    page = text_of("docs/command_line.md")
    shown = blocks("sh", "docs/command_line.md") + re.findall(r"`(tritonnotes explore [^`]*)`", text_of(README))
    lines = [line.partition(" > ")[0] for block in shown for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("tritonnotes ")]
    lines += [c.replace("TARGET", "a.py:f") for c in re.findall(r"^\| `(tritonnotes [^`]*)`", page, re.MULTILINE)]
    assert len(lines) >= 5
    for line in lines:
        _parser().parse_args(shlex.split(line)[1:])
    for stage in STAGES:
        assert f"--emit {stage}" in page


def test_every_command_has_a_row() -> None:
    listed = re.findall(r"^\| `tritonnotes (\w+)", text_of("docs/command_line.md"), re.MULTILINE)
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert sorted(set(listed)) == sorted(commands.choices)


def test_the_lines_that_the_explorer_page_looks_up_are_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("python", "docs/explorer.md")
    exec(compile(block, "docs/explorer.md", "exec"), {"tn": tn, "graph": digits()})
    (said,) = re.findall(r"print\(line.launch.*\)  # (.*)", block)
    assert capsys.readouterr().out.splitlines()[0] == said
    (plan,) = re.findall(r"`(tn\.compile\([^`]*\))`", text_of("docs/explorer.md"))
    first = eval(plan, {"tn": tn, "graph": digits()}).plan.launches[0].name
    assert "fc1_ln1" in first


def test_every_op_is_in_the_table_of_what_is_covered() -> None:
    table = text_of("docs/coverage.md")
    for name, op in OPS.items():
        assert op.custom or f"`{name}`" in table, f"docs/coverage.md does not say that {name} works"


def test_the_grammar_lists_every_primitive_and_no_other() -> None:
    grammar = text_of("docs/grammar.md")
    cells = re.findall(r"^\| ((?:`\w+` ?)+)\|", grammar, re.MULTILINE)
    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(PRIMITIVES)


def test_the_files_that_the_documents_name_exist() -> None:
    for document in (README, "ARCHITECTURE.md", "docs/grammar.md"):
        for path in re.findall(
            r"`((?:ir|codegen|tritonnotes|tests|examples|docs)/[\w/]*(?:\.\w+)?)`", text_of(document)
        ):
            assert path == "tritonnotes-demo/" or (ROOT / path).exists(), f"{document} names {path}"
