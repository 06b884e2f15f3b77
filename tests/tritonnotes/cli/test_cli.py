"""The command line: every stage prints, JSON parses, and a user's mistake is one line on stderr."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import tritonnotes as tn
from tritonnotes.cli.actions import ACTIONS
from tritonnotes.cli.choices import COMPILED_STAGES, OPTIMIZERS, STAGES
from tritonnotes.cli.commands import main
from tritonnotes.ir.core.graph import Graph
from tritonnotes.ir.core.op import catalogue
from tritonnotes.ir.core.optimizer import UPDATE_RULES, Optimizer
from tritonnotes.ir.version import VERSION
from tritonnotes.notes import find

DIGITS = f"{ROOT}/examples/digits.py:graph"

SMALL = """
import tritonnotes as tn

def graph():
    print("noise from the target")
    g = tn.Graph("small")
    x = g.input("x", (tn.Dim("batch"), 8))
    y = g.input("y", (tn.Dim("batch"),), dtype="int64")
    g.output(loss=tn.cross_entropy(tn.linear(x, 4, name="fc"), y))
    return g

def forward_only() -> tn.Graph:
    g = tn.Graph("forward")
    g.output(y=tn.relu(g.input("x", (tn.Dim("batch"), 8))))
    return g

def wrong_shape() -> "tn.Graph":
    g = tn.Graph("wrong")
    return g.input("x", (3,)) + g.input("z", (4,))

def breaks() -> tn.Graph:
    return {}["missing"]

def not_a_graph():
    return 7

def with_argument(size) -> tn.Graph:
    return None

def stops() -> tn.Graph:
    raise SystemExit("enough")

def train():
    raise AssertionError("it was called")

def main() -> None:
    train()

def graph_of_losses() -> dict[str, float]:
    train()
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.py"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


def line_of(text: str) -> int:
    return SMALL.splitlines().index(text) + 1


def fails(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    """The one line on stderr of a command that must fail with `code` and print nothing to stdout."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err and err.count("\n") == 1, err
    return err


# -- stages ------------------------------------------------------------------------------------------------------------

EXPECTED = {
    "graph": "fc1: float32[batch, 128] = linear(x, fc1.weight, fc1.bias)",
    "prims": "= matmul(x, fc1.weight, transpose_b=true)",
    "joint": "update fc1.weight = ",
    "plan": "plan of digits: ",
    "kernel": "kernel fc1_ln1_relu: row",
    "triton": "def fc1_ln1_relu(",
    "ptx": ".target sm_90a",
    "sass": "EXIT",
    "asm": "# fc1_ln1_relu for ",
}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_prints(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", DIGITS, "--emit", stage, *(["--arch", "90"] if stage in COMPILED_STAGES else [])]) == 0
    out, err = capsys.readouterr()
    assert EXPECTED[stage] in out
    assert err == ""


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_json_for_programs(stage: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"{small}:graph", "--emit", stage, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["stage"] == stage
    assert "noise from the target" in err
    match stage:
        case "graph" | "prims" | "joint":
            assert Graph.from_json(json.dumps(found["graph"])).name == "small"
        case "plan":
            assert found["bytes"] == sum(launch["bytes"] for launch in found["launches"]) > 0
            assert all(verdict["reason"] for verdict in found["verdicts"])
        case "triton":
            assert {"signature", "constexprs"} <= set(found["kernels"][0])
        case "asm":
            assert all(any(i["lines"] for i in kernel["instructions"]) for kernel in found["kernels"])
        case "ptx" | "sass":
            assert all(k[stage] and k["registers"] > 0 and not k["spills"] for k in found["kernels"])


def test_graph_text_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", DIGITS, "--emit", "joint"])
    text = capsys.readouterr().out
    assert str(Graph.from_text(text)) == text


@pytest.mark.parametrize("stage", ["plan", "kernel", "triton"])
def test_one_kernel_alone(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", DIGITS, "--emit", stage, "--kernel", "fc1_ln1_relu"]) == 0
    out = capsys.readouterr().out
    assert "fc1_ln1_relu" in out and "fc2_weight_adam" not in out


def test_compiled_stages_say_what_was_assumed(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"{small}:graph", "--emit", "ptx", "--arch", "80", "--optimizer", "sgd"]) == 0
    out = capsys.readouterr().out
    assert ".target sm_80" in out and "divisible by 16" in out and "registers" in out


def test_the_optimizer_is_in_the_step(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", f"{small}:graph", "--emit", "joint", "--optimizer", "sgd"])
    assert "sgd.lr" in capsys.readouterr().out


def test_a_graph_that_cannot_be_trained_shows_its_forward_run(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"{small}:forward_only", "--emit", "triton"]) == 0
    out, err = capsys.readouterr()
    assert "def relu(" in out or "relu" in out
    assert "graph forward has no parameters, so this is its forward run" in err


def test_module_targets_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "tritonnotes.cli.demo:digits"]) == 0
    assert "Not fused (the value goes through memory):" in capsys.readouterr().out


def test_plan_for_a_cpu_is_asked_for(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given, said in (([], "gpu"), (["--target", "cpu"], "cpu")):
        assert main(["explain", f"{small}:graph", *given]) == 0
        assert f"(target={said!r})" in capsys.readouterr().out
        assert main(["show", f"{small}:graph", "--emit", "plan", "--json", *given]) == 0
        assert json.loads(capsys.readouterr().out)["planned_for"] == said


def test_explain_as_json_tells_every_edge_and_its_opposite(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{small}:graph", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["launches"]) >= found["kernels"] > 0
    assert all(v["reason"] and v["opposite"].keys() == {"launches", "bytes", "impossible"} for v in found["verdicts"])
    assert any(v["fused"] and v["opposite"]["launches"] > 0 for v in found["verdicts"])


def test_the_triton_stage_runs_on_its_own(tmp_path: Path) -> None:
    """With torch and triton alone: isolated, in another folder, with tritonnotes made impossible to import."""
    shown = run("show", DIGITS, "--emit", "triton")
    (tmp_path / "step.py").write_text(shown.stdout, encoding="utf-8")
    script = (
        "import runpy, sys; sys.modules['tritonnotes'] = None; sys.modules['ir'] = None; "
        f"runpy.run_path({str(tmp_path / 'step.py')!r}, run_name='__main__')"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "fc1.weight: (128, 64), mean " in done.stdout
    assert "nan" not in done.stdout


@pytest.mark.parametrize("arch", ["80", "sm_80"])
@pytest.mark.parametrize("command", [["show", "--emit", "ptx"], ["report"]])
def test_an_architecture_is_written_with_or_without_its_prefix(
    command: list[str], arch: str, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], f"{small}:forward_only", *command[1:], "--arch", arch, "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) and set(re.findall(r'"arch": (\S+?),?\n', out)) == {"80"}


def test_machine_code_stands_under_the_lines_it_comes_from(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"{small}:forward_only", "--emit", "triton"]) == 0
    source = capsys.readouterr().out.splitlines()
    assert main(["show", f"{small}:forward_only", "--emit", "sass"]) == 0
    code = capsys.readouterr().out
    told = re.findall(r"^\t// (\d+): (.*)$", code, re.MULTILINE)
    assert told and all(source[int(number) - 1].strip() == line for number, line in told)
    above = ""
    for line in code.splitlines():
        above = line if line.startswith("\t// ") else above
        for instruction, wanted in (("LDG", "tl.load("), ("STG", "tl.store(")):
            assert instruction not in line or wanted in above, f"{line} stands under {above}"
    assert "LDG" in code and "STG" in code


# -- help --------------------------------------------------------------------------------------------------------------

COMMANDS = ("demo", "show", "report", "check", "explain", "explore", "ops", "note")
HEAVY = ("torch", "triton", "numpy", "networkx", "rich", "tritonnotes.face", "importlib.metadata")


def test_every_command_is_known_here() -> None:
    assert set(ACTIONS) == set(COMMANDS)


def test_help_imports_nothing_that_a_command_needs() -> None:
    """One process asks for every help, and for what is refused by its form alone."""
    asked = [["--help"], *([command, "--help"] for command in COMMANDS), ["bake"], ["show", DIGITS, "--emit", "llvm"]]
    script = f"""
import sys
from tritonnotes.cli.commands import main
codes = [main(argv) for argv in {asked!r}]
print(codes, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.stderr.splitlines()[-1] == f"{[0] * (len(asked) - 2) + [2, 2]} []"
    assert done.stdout.count("usage: tritonnotes") == len(asked) - 2


def test_the_package_is_its_command_line() -> None:
    command = [sys.executable, "-m", "tritonnotes", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.stdout == f"tritonnotes {VERSION}\n" and done.stderr == ""


def test_a_command_in_a_process_of_its_own_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """There nothing has used a name of the package before."""
    asked = (["ops", "--json"], ["note", "gelu", "--json"], ["note", "exp", "--json"], ["note", "adam", "--json"])
    for argv in asked:
        assert main(argv) == 0
    here = capsys.readouterr().out
    script = f"from tritonnotes.cli.commands import main; print([main(argv) for argv in {asked!r}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.stdout == f"{here}[0, 0, 0, 0]\n" and done.stderr == ""


def test_every_optimizer_offered_is_one() -> None:
    assert all(isinstance(getattr(tn, name)(), Optimizer) for name in OPTIMIZERS)


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_prints_the_certificate(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{small}:graph", "--batch", "64", "--optimizer", "adam"]) == 0
    out = capsys.readouterr().out
    assert "certificate of small at batch=64" in out and "update adam p" in out


def test_check_as_json(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{small}:graph", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True and found["sizes"] == {"batch": 33}


def test_check_fails_where_a_formula_and_its_reference_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = """
import torch, tritonnotes as tn

@tn.op(reference=torch.sin, domain=(-1, 1))
def almost_sin(x):
    return tn.sin(x) * 1.001

def graph():
    g = tn.Graph("wrong")
    g.output(y=almost_sin(g.input("x", (8,))))
    return g
"""
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    assert main(["check", f"{tmp_path}/wrong.py:graph"]) == 1
    assert "FAILS" in capsys.readouterr().out


# -- notes -------------------------------------------------------------------------------------------------------------


def test_ops_lists_every_op_by_family(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["ops"]) == 0
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if line.startswith("│")]
    listed = {name: formula for _, name, formula in rows if name}
    assert listed.keys() >= {*catalogue(), *(n for n, r in UPDATE_RULES.items() if not r.custom)}
    assert listed["sigmoid"] == "1 / (1 + e⁻ˣ)" and err == ""


def test_ops_of_one_family_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--family", "losses", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["ops"]
    assert {entry["family"] for entry in found} == {"losses"}
    huber = next(entry for entry in found if entry["name"] == "huber_loss")
    assert huber["signature"] == "tn.huber_loss(input, target, *, delta=1.0, reduction='mean')"
    assert huber["derivative"] == "e limited to ±delta, over count" and "float64" in huber["dtypes"]


def test_ops_writes_the_page_that_the_documents_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--write", str(tmp_path / "ops.md")]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "wrote" in err
    assert (tmp_path / "ops.md").read_text() == (ROOT / "docs/ops.md").read_text()


@pytest.mark.parametrize("name, said", [
    ("gelu", "x · Φ(x), Φ the normal distribution function"), ("layer_norm", "weight=<declared>"),
    ("accuracy", "share of rows"), ("adam", "exp_avg, exp_avg_sq"), ("cat", "end to end"),
])  # fmt: skip
def test_note_prints_all_there_is_to_say(name: str, said: str, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["note", name]) == 0
    out = capsys.readouterr().out
    assert said in out and f"tn.{name}(" in out
    for line in find(name).lines().values():
        assert line in out


def test_note_draws_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "loss.svg"
    assert main(["note", "mse_loss", "--plot", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["plot"] == {
        "file": str(file), "over": "input", "fixed": "target = 1", "curves": ["mse_loss"]
    }  # fmt: skip
    assert file.read_text().startswith("<?xml") and err == ""
    assert main(["note", "mse_loss", "--plot", str(file)]) == 0
    assert f"drew mse_loss over input, with target = 1 to {file}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["note", "gleu"], 2, "no op, loss, metric or update rule 'gleu'; did you mean 'glu'?"),
        (["ops", "--family", "loss"], 2, "no family 'loss'; did you mean 'losses'?"),
        (["ops", "--family", "losses", "--write", "ops.md"], 2, "--write goes without"),
        (["note"], 2, "NAME"),
        (["note", "linear", "--plot", "linear.png"], 1, "linear: nothing to draw, "),
        (["note", "adam", "--plot", "adam.png"], 1, "adam: an update rule is a step"),
        (["note", "gelu", "--plot", "gelu.xyz"], 1, "no picture can be written with this suffix"),
        (["note", "gelu", "--plot", "no/such/folder/gelu.png"], 1, "No such file or directory"),
        (["ops", "--write", "no/such/folder/ops.md"], 1, "No such file or directory"),
    ],
)
def test_a_note_that_cannot_be_had(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in fails(capsys, code, *arguments)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", DIGITS, "--emit", "llvm"], "invalid choice: 'llvm'"),
        (["show", DIGITS], "--emit"),
        (["show", "examples/digits.py", "--emit", "plan"], "write path/file.py:function"),
        (["show", DIGITS, "--emit", "graph", "--kernel", "fc1"], "--kernel goes with"),
        (["show", DIGITS, "--emit", "plan", "--arch", "80"], "--arch goes with"),
        (["show", DIGITS, "--emit", "ptx", "--arch", "75"], "'75' is none of sm_80, sm_90, sm_100"),
        (["check", DIGITS, "--batch", "-1"], "whole number"),
        (["demo", "--epochs", "0"], "1 or more"),
        (["bake"], "invalid choice: 'bake'"),
        ([], "COMMAND"),
    ],
)
def test_a_command_that_makes_no_sense(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(capsys, 2, *arguments)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.py:graph", "no file 'nowhere.py'"),
        ("no.such.module:graph", "no module 'no.such.module'"),
        ("..x:graph", "no name of a module"),
        ("{small}:grph", "has no function 'grph'; it has graph, "),
        ("{small}:not_a_graph", "returned int; a target returns a tn.Graph"),
        ("{small}:with_argument", "cannot be called without arguments"),
        ("{small}:tn", "is module; a target is a function"),
        ("{small}:train", "train is not called: it may train"),
        ("{small}:main", "by its annotation it returns None; a target returns a tn.Graph"),
        ("{small}:graph_of_losses", "by its annotation it returns dict[str, float]"),
    ],
)
def test_a_target_that_is_no_graph(target: str, said: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(capsys, 1, "show", target.format(small=small), "--emit", "plan")


@pytest.mark.parametrize(
    ("function", "line", "said"),
    [
        ("wrong_shape", '    return g.input("x", (3,)) + g.input("z", (4,))', "do not broadcast"),
        ("breaks", '    return {}["missing"]', "KeyError: 'missing'"),
        ("stops", '    raise SystemExit("enough")', "enough"),
    ],
)
def test_what_a_target_raises_is_told_with_its_own_line(
    function: str, line: str, said: str, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    err = fails(capsys, 1, "check", f"{small}:{function}")
    assert f"{small}:{line_of(line)}: " in err and said in err


def test_a_target_that_does_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("def graph(:\n", encoding="utf-8")
    assert f"{tmp_path}/broken.py:1: SyntaxError" in fails(capsys, 1, "check", f"{tmp_path}/broken.py:graph")


def test_a_target_imports_what_lies_beside_it(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    beside = Path(small).with_name("beside.py")
    beside.write_text("from small import graph\n", encoding="utf-8")
    before = list(sys.path)
    assert main(["show", f"{beside}:graph", "--emit", "graph"]) == 0
    assert sys.path == before
    sys.modules.pop("small")


def test_mistakes_that_the_compiler_finds(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{small}:graph"
    assert "no kernel 'nope'" in fails_after_noise(capsys, "show", target, "--emit", "triton", "--kernel", "nope")
    assert "'nope' is no output" in fails_after_noise(capsys, "show", target, "--emit", "plan", "--loss", "nope")


def fails_after_noise(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m tritonnotes.cli show {DIGITS} --emit triton | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.stdout.startswith("# Triton kernels") and done.stderr == ""


def test_output_survives_a_terminal_without_unicode() -> None:
    done = run("show", DIGITS, "--emit", "prims", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u2212" in done.stdout


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritonnotes.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(**(env or {})))
