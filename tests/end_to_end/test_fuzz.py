"""Random graphs through `tn.compile`, its autograd and `tn.compile_step`, against plain torch and float64.

`python tests/fuzz --graphs 20000` tries more of them; a graph that fails is cut down and printed as a script.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from case_maker import random_case
from case_ops import MENU
from case_script import script
from case_shrinker import shrink
from compiled import draw, judge
from fuzz_runs import Result, report, run_all, shrunk, tried
from graph_cases import Case, Leaf, Step, exact_values, feeds_of
from paths import ROOT
from trials import try_case

import tritonnotes as tn
from tritonnotes.codegen.support.facets import FACETS, calls
from tritonnotes.ir.core.graph import Graph

QUICK = 40
MANY = 1000
EACH = 50


def assert_agree(seeds: range) -> None:
    found = [tried(seed) for seed in seeds]
    failed = [r for r in found if r.complaints]
    if failed:
        pytest.fail(f"{report(found, 0)}\n\n{shrunk(failed[0].seed)}", pytrace=False)
    assert sum(r.undecided for r in found) <= len(found) / 10


def test_random_graphs_agree_with_torch() -> None:
    assert_agree(range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, EACH))
def test_a_thousand_random_graphs_agree_with_torch(first: int) -> None:
    assert_agree(range(first, first + EACH))


# -- what failed once --------------------------------------------------------------------------------------------------

REGRESSIONS: dict[str, tuple[dict[str, int], str]] = {
    # A library call was to compute its small operand again, which it cannot.
    "operand of a library call": (
        {},
        """
        graph regression declared
        x: float16[1] = input()
        sign: float16[1] = sign(x)
        mul: float16[1] = mul(x, x)
        constant: float16[] = constant(value=1.0)
        add: float16[1] = add(mul, constant)
        fc.weight: float16[8, 1] = parameter(init='normal', mean=0.0, std=1.0)
        fc: float16[8] = linear(sign, fc.weight, none)
        output result = fc
        output beside = add
        """,
    ),
    # Two finished sums that are stored in two orders: the offset of one was overwritten by that of the other.
    "sums stored in two orders": (
        {"height": 5},
        """
        graph regression declared
        x: float32[3, 7, height] = input()
        a: float32[height, 7] = input()
        b: float32[1, 7, height] = input()
        turned: float32[3, height, 7] = transpose(x, axes=(0, 2, 1))
        result: float32[3, 7, height] = add(x, b)
        beside: float32[3, height, 7] = add(turned, a)
        output result = result
        output beside = beside
        """,
    ),
    # Both halves of a gradient went to their places, the second half twice.
    "halves stored side by side": (
        {"batch": 5},
        """
        graph regression declared
        x: bfloat16[batch, 6] = input()
        y: bfloat16[batch, 3] = glu(x, dim=1)
        output result = y
        """,
    ),
}


@pytest.mark.parametrize("fusion", ["optimal", "off"])
@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_failed_once_holds(name: str, fusion: str) -> None:
    sizes, text = REGRESSIONS[name]
    graph = Graph.from_text("\n".join(line.strip() for line in text.strip().splitlines()))
    judged = judge(graph, draw(graph, **sizes), model=tn.compile(graph, fusion=fusion))
    assert all(j.ok for j in judged), "\n".join(map(str, judged))


# -- the test itself ---------------------------------------------------------------------------------------------------


def test_random_graphs_have_every_op_and_every_way_of_compiling() -> None:
    cases = [random_case(seed) for seed in range(400)]
    drawn = {step.drawn_by for case in cases for step in case.steps}
    assert drawn >= {draw_one.__name__ for draw_one, _ in MENU}
    settings = Counter(
        word
        for case in cases
        for word in (case.fusion, *(leaf.dtype for leaf in case.leaves), *(name for name, _ in case.options))
    )
    wanted = ("optimal", "greedy", "off", "float16", "bfloat16", "float32", "float64", "int64", "accumulate")
    assert all(settings[word] for word in wanted), settings
    assert len({case.optimizer for case in cases if case.loss}) > 8
    assert any(len(case.dims) > 2 for case in cases)
    assert any(is_shared(case) for case in cases)
    assert sum(bool(case.loss) for case in cases) > 150


def is_shared(case: Case) -> bool:
    """Whether a parameter is used in several steps."""
    used = Counter(n for step in case.steps for n in set(step.operands))
    return any(leaf.kind == "parameter" and used[leaf.name] > 1 for leaf in case.leaves)


PLANTED = Case(
    seed=3,
    sizes=((("batch", 5),), (("batch", 3),)),
    leaves=(Leaf("x", "input", ("batch", 7), "float16"), Leaf("w", "parameter", (7,), "float32")),
    steps=(
        Step("t", ("x",), "tn.tanh({0})", "torch.tanh({0})"),
        Step("s", ("t",), "tn.sin({0})", "torch.sin({0})"),
        Step("m", ("s", "w"), "{0} * {1}", "{0} * {1}"),
        Step("mean", ("m",), "tn.mean({0})", "torch.mean({0})"),
    ),
    outputs=("t",),
    loss="mean",
    fusion="greedy",
    optimizer=3,
)


def test_a_planted_fault_is_found_and_cut_down_to_a_script_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert try_case(PLANTED).complaints == ()
    monkeypatch.setitem(FACETS, "sin", replace(FACETS["sin"], triton=calls("tl.cos")))  # type: ignore[index]
    verdict = try_case(PLANTED)
    assert any(c.startswith("model output loss") for c in verdict.complaints)
    assert any(c.startswith("step weight w") for c in verdict.complaints)
    small = shrink(PLANTED, lambda case: try_case(case).kind == verdict.kind)
    assert [step.name for step in small.steps] == ["s"]
    assert [leaf.dtype for leaf in small.leaves] == ["float32"]
    path = tmp_path / "script.py"
    path.write_text(script(small, try_case(small).complaints))
    assert "tn.sin(" in path.read_text() and "FAIL" in path.read_text()
    done = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("compiled {'s': tensor(")


def test_a_script_of_a_step_runs(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(script(replace(PLANTED, optimizer=12)))
    done = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("compiled") == done.stdout.count("torch {") == 2


def test_numbers_depend_on_the_seed_and_the_name_alone() -> None:
    fewer = replace(PLANTED, leaves=PLANTED.leaves[:1], steps=PLANTED.steps[:1], loss="", outputs=("t",))
    assert torch.equal(feeds_of(PLANTED, 0)["x"], feeds_of(fewer, 0)["x"])
    assert exact_values(PLANTED) == {"x", "w"}


def test_a_run_is_taken_up_again(tmp_path: Path) -> None:
    known = Result(1, "model output", ("model output y: FAIL",))
    (tmp_path / "00000000.jsonl").write_text('{"begun": 1}\n' + json.dumps(known.__dict__) + "\n")
    found = run_all(0, 3, 2, tmp_path)
    assert sorted(r.seed for r in found) == [0, 1, 2]
    assert known in found
    assert "3 graphs" in report(found, 1.0)
