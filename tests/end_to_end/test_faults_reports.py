"""Reports say the same in every process, and the same as the plan."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from paths import ROOT

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.plan.chunk_loops import ChunkLoop
from tritonnotes.codegen.program.program import Program
from tritonnotes.codegen.report import kernel_reports
from tritonnotes.codegen.report.accesses import UNEXPLAINED
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.report.kernel_reports import make_reports
from tritonnotes.codegen.report.plan_data import plan_data
from tritonnotes.ir.core.rewrite import optimize
from tritonnotes.ir.passes.chunks import in_chunks
from tritonnotes.ir.passes.decompose import decompose
from tritonnotes.ir.passes.evaluation import evaluation_form
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.primitives import CHUNK_ROWS, copy
from tritonnotes.runtime.kernel_reports import program_reports

EXPLAIN = """
import hashlib, json, sys, types
from dataclasses import replace
from importlib import import_module
from pathlib import Path

# The compiler alone, without torch: twenty processes then start in little time.
package = types.ModuleType("tritonnotes")
package.__path__ = [sys.argv[1]]
sys.modules["tritonnotes"] = package

from tritonnotes.codegen.fusion.search import select
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.report.plan_data import plan_data
from tritonnotes.ir.optim.update_rules import adamw
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.text.json_form import from_json

for file in sorted(Path(sys.argv[1], "ir", "ops").glob("*.py")):
    import_module(f"tritonnotes.ir.ops.{file.stem}")
# Partitions are tried in the same order, however many are.
select.budget_of = lambda start: 1_000
for path in sys.argv[2:]:
    optimizer = replace(adamw(lr=1e-3), clip={"max_norm": 1.0})
    joint = joint_graph(from_json(Path(path).read_text()), "loss", optimizer)
    program = make_program(joint)
    texts = [str(joint), explain_plan(program.plan), str(program.plan), json.dumps(plan_data(program.plan))]
    for text in (*texts, str(program), program.source):
        print(hashlib.sha256(text.encode()).hexdigest())
"""
EXAMPLES = ["digits", "custom", "breast_cancer", "diabetes", "mixer", "language_model"]
ONE_OF_MANY = re.compile(r"\b1 (?!was\b|is\b|as\b|this\b|less\b)[a-z]+s\b")
"""One of something, in the plural."""


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_twenty_processes_explain_with_the_same_bytes(tmp_path: Path) -> None:
    """Steps with AdamW and clipping: graphs, plans, reports as text and as JSON, programs and sources."""
    script = tmp_path / "explain.py"
    script.write_text(EXPLAIN, encoding="utf-8")
    files = [tmp_path / f"{name}.json" for name in ("digits", "mixer")]
    for file in files:
        file.write_text(example(file.stem).graph().to_json(), encoding="utf-8")

    def explained(seed: int) -> list[str]:
        command = [sys.executable, str(script), str(ROOT / "tritonnotes"), *map(str, files)]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with ThreadPoolExecutor(2) as pool:
        first, *others = pool.map(explained, range(20))
    assert len(set(first)) == 6 * len(files)
    assert others == [first] * 19


# -- reports and plans --


@cache
def programs_of(name: str) -> list[Program]:
    """What the steps of an example run with two update rules, and what its model runs."""
    module = example(name)
    budget = 4 * module.CHUNK * module.WORDS if name == "language_model" else None
    rules = [module.lion(lr=1e-3) if name == "custom" else tn.adam(), tn.clip(tn.adamw(lr=1e-3), max_norm=1.0)]
    joints = [in_chunks(joint_graph(module.graph(), "loss", rule), budget)[0] for rule in rules]
    return [make_program(graph) for graph in (*joints, optimize(decompose(evaluation_form(module.graph()))))]


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of kernels that no compiler has seen: their bytes do not depend on machine code."""

    def compiled(program: Program, arch: int, *_: object) -> list[SimpleNamespace]:
        numbers = dict.fromkeys(("stack_bytes", "local_bytes", "shared_bytes"), 0)
        return [
            SimpleNamespace(name=s.name, arch=arch, num_warps=s.num_warps, registers=32, instructions=(), **numbers)
            for s in program.kernel_sources
        ]

    monkeypatch.setattr(kernel_reports, "compile_program", compiled)


def printed_bytes(pattern: str, text: str) -> dict[str, int]:
    return {name: int(count.replace(",", "")) for name, count in re.findall(pattern, text, re.MULTILINE)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_cards_plans_and_explanations_of_the_examples_agree_in_bytes(name: str, not_compiled: None) -> None:
    for program in programs_of(name):
        reports = program_reports(program, name)
        cards = printed_bytes(r"^(\S+): .*\n(?:  .*\n)*?  moves +([\d,]+) bytes", str(reports))
        assert cards == {r.name: r.traffic.total for r in reports} and list(cards) == [k.name for k in program.kernels]
        planned = printed_bytes(r"^  (\w+): [a-z -]+, ([\d,]+) bytes$", str(program.plan))
        assert list(planned) == [k.name for k in program.plan.launches]
        explained = printed_bytes(r"^    (\w+) +[a-z -]+? +([\d,]+)  ", explain_plan(program.plan))
        assert explained and explained.items() <= planned.items()
        data = {k["name"]: k["bytes"] for k in plan_data(program.plan)["launches"]}
        assert data == planned
        for kernel in program.plan.kernels:
            assert cards.pop(kernel.name) == planned[kernel.name]
        # What is left is of chunks: a card is of the launch for one of them.
        for loop in program.plan.launches:
            if isinstance(loop, ChunkLoop):
                for kernel in loop.plan.kernels:
                    assert cards.pop(kernel.name) == kernel.bytes_moved({CHUNK_ROWS.name: loop.rows, "batch": 256})
        assert not cards


@pytest.mark.parametrize("name", EXAMPLES)
def test_reports_of_the_examples_count_one_as_one(name: str, not_compiled: None) -> None:
    for program in programs_of(name):
        texts = [explain_plan(program.plan), str(program), str(program.plan), program.source]
        texts += [str(program_reports(program, name, batch=batch)) for batch in (1, 256)]
        assert ONE_OF_MANY.findall("\n".join(texts)) == []


@pytest.mark.parametrize("name", ["digits", pytest.param("mixer", marks=pytest.mark.slow)])
def test_machine_code_of_the_examples_has_tiles_and_reasons(name: str) -> None:
    for report in make_reports(programs_of(name)[0]):
        assert report.tiles or report.block or report.kind == "finalize", report.name
        assert not [a for a in report.accesses if a.reason == UNEXPLAINED and a.argument != "what no line names"]


def test_host_numbers_keep_their_parentheses() -> None:
    @tn.update_rule(reference=lambda p, g, *, lr: (p - (lr + 1) * 2 * g,))
    def doubled(p, g, *, lr):  # type: ignore[no-untyped-def]
        """p ← p − 2 · (lr + 1) · g"""
        return (p - copy(lr + 1) * 2 * g,)

    g = tn.Graph("host")
    g.output(loss=tn.sum(g.parameter("w", (3,), init=1.0) * g.input("x", (3,))))
    step = tn.compile_step(g, optimizer=doubled(lr=0.5))
    step(x=torch.ones(3))
    assert step.model.get_parameter("w").tolist() == [-2.0, -2.0, -2.0]


def test_one_of_anything_is_counted_as_one() -> None:
    g = tn.Graph("one")
    g.output(y=tn.exp(g.input("x", (tn.Dim("batch"), 4))))
    model = tn.compile(g)
    text = "\n".join([model.explain(), str(model.plan), str(model.program), model.source])
    assert "one: 1 launch (1 generated" in text and "1 kernel and 0 library calls" in text
    assert ONE_OF_MANY.findall(text) == []
