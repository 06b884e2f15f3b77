"""Reports say the same in every process, and the same as the plan."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from paths import ROOT

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_program
from tritonnotes.codegen.report.accesses import UNEXPLAINED
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.codegen.report.kernel_reports import make_reports
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.primitives import copy

EXPLAIN = """
import hashlib, sys, types

# The compiler alone, without torch: twenty processes then start in little time.
package = types.ModuleType("tritonnotes")
package.__path__ = [sys.argv[1]]
sys.modules["tritonnotes"] = package

from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.codegen.report.explain import explain_plan
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.types import Dim
from tritonnotes.ir.ops.batch_statistics import batch_norm
from tritonnotes.ir.ops.linear import linear
from tritonnotes.ir.ops.normalization import layer_norm
from tritonnotes.ir.optim import update_rules
from tritonnotes.ir.passes.joint import joint_graph
from tritonnotes.ir.primitives import copy
from dataclasses import replace

g = Graph("digits")
h = g.input("x", (Dim("batch"), 64))
for name in ("fc1",):
    h = layer_norm(linear(h, 32, name=name), name=f"ln_{name}")
error = linear(h, 10, name="fc2") - g.input("y", (Dim("batch"), 10))
g.output(loss=(error * error).mean(), largest=error.amax(1))
optimizer = replace(update_rules.adamw(lr=1e-3), clip={"max_norm": 1.0})
plan = make_plan(joint_graph(g, "loss", optimizer))
text = explain_plan(plan) + str(plan)
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_twenty_processes_explain_with_the_same_bytes(tmp_path: Path) -> None:
    script = tmp_path / "explain.py"
    script.write_text(EXPLAIN, encoding="utf-8")

    def explained(seed: int) -> str:
        command = [sys.executable, str(script), str(ROOT / "tritonnotes")]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(explained, range(20)))) == 1


# -- reports and plans --


@pytest.mark.parametrize("name", ["digits"])
def test_kernel_reports_of_the_examples_agree_with_their_plans_in_bytes(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = make_program(joint_graph(module.graph(), "loss", tn.adam()))
    planned = {k.name: k.bytes_moved() for k in program.plan.launches}
    reports = make_reports(program)
    assert [(r.name, r.traffic.total) for r in reports] == [(k.name, planned[k.name]) for k in program.kernels]
    for report in reports:
        assert report.tiles or report.block or report.kind == "finalize", report.name
        assert not [a for a in report.accesses if a.reason == UNEXPLAINED and a.argument != "what no line names"]
    text = "".join(explain_plan(program.plan)) + str(program) + program.source
    assert re.findall(r"\b1 (?:kernels|launches|buffers|library calls|programs|warps|rows|chunks)\b", text) == []


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
    assert re.findall(r"\b1 (?:kernels|launches|buffers|library calls|generated kernels)\b", text) == []
