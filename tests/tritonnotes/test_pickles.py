"""Pickles and copies of public objects: functions and ops by name, all else as what it is made of."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

import tritonnotes as tn
from tritonnotes.codegen.pipeline import make_plan
from tritonnotes.ir.passes.joint import joint_graph

B = tn.Dim("batch")

CALLED = [name for name in tn.__all__ if not isinstance(getattr(tn, name), types.ModuleType)]


@pytest.mark.parametrize("name", CALLED)
def test_public_names_are_pickled_by_name_and_copied_as_themselves(name: str) -> None:
    thing = getattr(tn, name)
    assert pickle.loads(pickle.dumps(thing)) is thing
    assert copy.copy(thing) is thing and copy.deepcopy(thing) is thing
    assert len(pickle.dumps(thing)) < 200, "a pickle of it holds no formula"


@cache
def graph() -> tn.Graph:
    g = tn.Graph("pickled")
    x, y = g.input("x", (B, 8)), g.input("y", (B,), dtype="int64")
    h = tn.gelu(tn.layer_norm(tn.linear(x, 16, name="fc1"), name="ln"), name="act")
    g.output(loss=tn.cross_entropy(tn.linear(h, 4, name="fc2"), y))
    return g


def plan(fusion: str = "optimal") -> Any:
    return make_plan(joint_graph(graph(), "loss", tn.adam()), fusion)


def forward() -> tn.Graph:
    g = tn.Graph("forward")
    g.output(y=tn.tanh(tn.linear(g.input("x", (B, 8)), 4, name="fc")))
    return g


MADE: dict[str, Callable[[], Any]] = {
    "graph": graph,
    "value": lambda: graph()["ln"],
    "dim": lambda: B,
    "size": lambda: 3 * B,
    "optimizer": lambda: tn.ema(tn.clip(tn.adamw(lr=0.1), max_norm=1.0)),
    "update rule": lambda: tn.adam().rule,
    "searched plan": plan,
    "greedy plan": lambda: plan("greedy"),
    "launch": lambda: plan().launches[0],
    "verdict": lambda: plan().verdicts[-1],
    "opposite": lambda: plan().verdicts[-1].opposite,
    "certificate": lambda: tn.check(forward(), sizes={"batch": 3}),
    "reports": lambda: tn.compile(forward()).reports(),
    "report": lambda: tn.compile(forward()).reports().reports[0],
    "note": lambda: tn.note("gelu"),
    "scaler": tn.GradScaler,
    "line map": lambda: tn.compile(forward()).program.line_map,
}


@pytest.mark.parametrize("what", MADE)
def test_what_users_hold_is_pickled_and_copied(what: str) -> None:
    made = MADE[what]()
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
        assert type(other) is type(made)
        assert str(other) == str(made)


def test_a_plan_from_a_pickle_plans_the_same_and_can_be_asked() -> None:
    made = plan()
    other = pickle.loads(pickle.dumps(made))
    assert other.candidate.options == made.candidate.options and other.bytes_moved(77) == made.bytes_moved(77)
    assert [str(v) for v in other.verdicts] == [str(v) for v in made.verdicts]
    verdict = pickle.loads(pickle.dumps(made.verdicts[0]))
    assert verdict.opposite == made.verdicts[0].opposite


def test_a_plan_under_constraints_is_planned_under_them_again() -> None:
    made = tn.compile(forward(), forbid=[("fc", "y")]).plan
    assert str(pickle.loads(pickle.dumps(made))) == str(made) != str(tn.compile(forward()).plan)


def test_a_program_says_what_to_pickle_in_its_place() -> None:
    program = tn.compile(forward()).program
    assert copy.deepcopy(program) is program
    with pytest.raises(pickle.PicklingError, match="pickle the model or the step that runs it, or its `plan`"):
        pickle.dumps(program)


def test_another_process_reads_what_this_one_pickled() -> None:
    given = pickle.dumps([tn.gelu, tn.where, tn.adam().rule, graph()["ln"]])
    script = (
        f"import pickle, sys; gelu, where, rule, value = pickle.loads({given!r})\n"
        "import tritonnotes as tn; print(gelu is tn.gelu, where is tn.where, rule is tn.adam().rule, value.name)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True True True ln\n", done.stderr


def test_an_op_that_is_not_declared_here_says_how_to_read_its_pickle() -> None:
    @tn.op(reference=lambda x: x * 2.0)
    def only_here(x: tn.Value) -> tn.Value:
        return x * 2.0

    given = pickle.dumps(only_here)
    assert pickle.loads(given) is only_here
    from tritonnotes.ir.core.op import OPS

    del OPS[only_here.name]
    with pytest.raises(tn.TritonNotesError, match="only_here'; a custom op must be declared with @tn.op before"):
        pickle.loads(given)
