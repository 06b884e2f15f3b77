"""`tn.check` has the strict interpreter look at kernels whose numbers it judges as machine code."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import on_the_cpu
from rich.console import Console

import tritonnotes as tn
from tritonnotes import strict_look
from tritonnotes.cli.commands import main
from tritonnotes.cli.rich_tables import certificate_table
from tritonnotes.codegen.program import program as programs
from tritonnotes.interpreter.ownership import Ownership
from tritonnotes.ir.core.errors import KernelError
from tritonnotes.ir.core.graph import Graph
from tritonnotes.runtime.executors import interpreted
from tritonnotes.runtime.executors.execution import Execution
from tritonnotes.runtime.form import form_of
from tritonnotes.runtime.runner import Runner

B = tn.Dim("batch")


def doubled() -> Graph:
    g = tn.Graph("doubled")
    g.output(y=tn.gelu(g.input("x", (B, 6))) * 2)
    return g


def normed() -> Graph:
    g = tn.Graph("normed")
    g.output(loss=tn.mean(tn.gelu(tn.layer_norm(g.input("x", (B, 6)), name="ln"))))
    return g


def plant(monkeypatch: pytest.MonkeyPatch, fault: str, instead: str) -> list[int]:
    """Have the emitter write something else, in every place; how many places there were, program by program."""
    places: list[int] = []
    render = programs.render_module

    def planted(*given: Any) -> Any:
        sources, parts = render(*given)
        replaced = [re.subn(fault, instead, part.text) for part in parts]
        places.append(sum(count for _, count in replaced))
        return sources, tuple(replace(part, text=text) for part, (text, _) in zip(parts, replaced, strict=True))

    monkeypatch.setattr(programs, "render_module", planted)
    return places


NO_MASK = r"(tl\.load\(x_ptr \+ [^,]+), mask=[^)]*\)", r"\1)"
NO_ORDER = 'sem="acq_rel"', 'sem="relaxed"'


def numbers_are_right(certificate: tn.Certificate) -> bool:
    return all(row.comparison.ok for row in certificate.rows)


def test_kernels_without_a_fault_are_looked_at_on_few_rows() -> None:
    certificate = tn.check(normed(), optimizer=tn.adam(lr=0.1))
    look = certificate.strict
    assert (certificate.ok, look.findings, look.left_out, look.sizes) == (True, (), "", {"batch": 5})
    assert look.kernels == 3, "forward, backward and the update"
    assert "bounds, memory and races: right (strict interpreter: 3 kernels at batch=5)" in str(certificate)


def test_a_load_without_its_mask_fails_though_the_numbers_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    places = plant(monkeypatch, *NO_MASK)
    certificate = tn.check(doubled(), sizes={"batch": 10})
    assert any(places) and numbers_are_right(certificate) and not certificate.ok
    for finding in certificate.strict.findings:
        assert re.search(r"^kernel gelu\w*, program \(1, 0, 0\) \([\w.]+, line \d+\): .*x_ptr", finding), finding
    text = str(certificate)
    assert f"FAILS: {certificate.strict.findings[0]}" in text and "FAILS: see what fails above" in text


@pytest.mark.parametrize(("kind", "is_watched"), [("model", True), ("step", False)])
def test_a_race_fails_though_the_numbers_are_right(
    kind: str, is_watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of machine code run in turn here, so that the last one finds what the others left."""
    places = plant(monkeypatch, *NO_ORDER)
    if not is_watched:
        monkeypatch.setattr(Ownership, "access", lambda *anything: None)
    made = tn.compile(normed()) if kind == "model" else tn.compile_step(normed(), optimizer=tn.adam(lr=0.1))
    certificate = tn.check(made)
    assert any(places) and numbers_are_right(certificate) and not certificate.ok
    assert re.search(
        r"kernel \w+, program \(1, 0, 0\) \([\w.]+, line \d+\): .*(race|nothing has written)", str(certificate)
    )


def test_an_update_alone_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    g = doubled()
    g.output(z=tn.linear(g["x"], 2, name="fc"))
    places = plant(monkeypatch, r"(tl\.load\(exp_avg_sq_ptr \+ [^,]+), mask=[^)]*\)", r"\1)")
    certificate = tn.check(g, optimizer=tn.adam())
    assert any(places) and numbers_are_right(certificate) and not certificate.ok
    (finding,) = certificate.strict.findings
    assert "exp_avg_sq_ptr" in finding


def test_a_step_is_left_as_it_is_and_each_of_its_programs_looked_at() -> None:
    step = tn.compile_step(normed(), optimizer=tn.adam(lr=0.1), accumulate=2)
    step(x=torch.ones(3, 6))
    before = step.state_dict()
    look = tn.check(step).strict
    assert look.ok and not look.left_out
    assert step.gathering is not None
    assert look.kernels == len(step.gathering.kernels) + len(step.program.kernels)
    after = step.state_dict()
    assert all(torch.equal(t, after["model"][n]) for n, t in before["model"].items())
    assert after["gathered"] == before["gathered"] == 1 and not step.model.execution.strict


def test_what_would_take_long_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_look, "MOST_BYTES", 100)
    certificate = tn.check(doubled())
    look = certificate.strict
    assert certificate.ok and look.kernels == 0 and not look.sizes
    assert re.fullmatch(r"[\d,]+ bytes are moved at batch=5, and more than 100 take long", look.left_out)
    assert f"bounds, memory and races: not judged (strict interpreter: {look.left_out})" in str(certificate)


def test_the_interpreter_does_not_look_at_itself() -> None:
    look = tn.check(doubled(), strict=True).strict
    assert look.left_out == "the strict interpreter made these numbers itself"


def test_where_an_op_refuses_few_rows_those_that_were_compared_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    g = tn.Graph("normed")
    g.output(y=tn.batch_norm(g.input("x", (B, 3)), name="bn"))
    model = tn.compile(g, training=True)
    monkeypatch.setattr(strict_look, "SMALL", (1,))
    look = tn.check(model, sizes={"batch": 9}).strict
    assert look.sizes == {"batch": 9} and look.ok and not look.left_out
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert tn.check(model, feeds={"x": x}).strict.sizes == {"batch": 6}


def test_small_sizes_are_no_larger_than_those_that_were_asked_for() -> None:
    assert tn.check(doubled(), sizes={"batch": 3}).strict.sizes == {"batch": 3}


def test_a_launch_is_split_however_small_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one program there is nothing to race with."""
    program = tn.compile(doubled(), device="cpu").program
    grids = []
    interpret = interpreted.interpret

    def noted(kernel: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
        grids.append(grid)
        interpret(kernel, grid, *given, **options)

    monkeypatch.setattr(interpreted, "interpret", noted)
    for is_split in (False, True):
        how = Execution(strict=True, split=is_split)
        Runner(program, torch.device("cpu"), how).run({"x": torch.ones(5, 6)}, {"batch": 5})
    assert grids == [(1,), (2,)]


def test_the_command_line_shows_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = "g = tn.Graph('doubled'); g.output(y=g.input('x', (tn.Dim('batch'), 6)) * 2); return g"
    text = f"import tritonnotes as tn\ndef graph(): {declared}\n"
    (tmp_path / "graphs.py").write_text(text, encoding="utf-8")
    target = f"{tmp_path}/graphs.py:graph"
    assert main(["check", target, "--json"]) == 0
    seen = {"ok": True, "sizes": {"batch": 5}, "kernels": 2, "findings": [], "left_out": None}
    assert json.loads(capsys.readouterr().out)["strict"] == seen
    plant(monkeypatch, *NO_MASK)
    assert main(["check", target, "--batch", "10"]) == 1
    assert re.search(r"FAILS: kernel \w+, program .* \([\w.]+, line \d+\): out-of-bounds load", capsys.readouterr().out)
    assert main(["check", target, "--batch", "10", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False and "out-of-bounds load" in found["strict"]["findings"][0]


def test_the_table_of_the_demo_shows_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, *NO_MASK)
    certificate = tn.check(doubled(), sizes={"batch": 10})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(certificate_table(certificate))
    assert "out-of-bounds load" in console.export_text()


def test_what_one_run_finds_stays_found_where_another_refuses_the_sizes() -> None:
    model = tn.compile(doubled())

    def racing(_: object) -> None:
        raise KernelError("race at line 3")

    def refusing(_: object) -> None:
        raise RuntimeError("needs 100 rows")

    runs = [strict_look.Run([model.program], racing), strict_look.Run([model.program], refusing)]
    look = strict_look.strict_look(doubled(), runs, model, sizes={"batch": 10_000_000}, feeds=None, seed=0)
    assert not look.ok and look.findings == ("race at line 3",)
    assert "needs 100 rows" in look.left_out and "FAILS: race at line 3" in [*look.lines()]


@on_the_cpu
def test_a_form_that_runs_another_way_is_found_under_its_own_text() -> None:
    """A traced call finds its form so."""
    form = tn.compile(doubled())._form
    strict = form.under(Execution(strict=True))
    assert strict.spec != form.spec and form_of(strict.spec) is strict and form_of(form.spec) is form
