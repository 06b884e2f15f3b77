"""Statements of generated source: where blank lines stay, how bodies are indented, and what lines are of."""

from __future__ import annotations

from tritonnotes.codegen.support.expressions import Name, call, number
from tritonnotes.codegen.support.statements import (
    BLANK,
    Assign,
    CallFunction,
    Comment,
    Evaluate,
    For,
    If,
    Line,
    Return,
    Statement,
    every,
    names_of,
    written,
)

x, y, cols = map(Name, ("x", "y", "cols"))


def text(*statements: Statement) -> list[str]:
    return [line for line, _ in written(statements)]


def test_blank_lines_stand_neither_first_nor_twice_nor_below_the_head_of_a_loop() -> None:
    loop = For("start", call("range", 0, cols), (BLANK, Assign("y", x), BLANK))
    assert text(BLANK, Assign("x", number(1)), BLANK, BLANK, loop, BLANK, Return(y)) == [
        "x = 1",
        "",
        "for start in range(0, cols):",
        "    y = x",
        "",
        "return y",
    ]


def test_branches_and_loops_nest() -> None:
    first = If(x < 2, (Evaluate(call("tl.store", x, y)),))
    second = If(x < 3, (Assign("y", x, "+="),), "elif")
    last = If(None, (For("other", call("range", y), (Comment("again"), Line("pass"))),))
    assert text(first, second, last) == [
        "if x < 2:",
        "    tl.store(x, y)",
        "elif x < 3:",
        "    y += x",
        "else:",
        "    for other in range(y):",
        "        # again",
        "        pass",
    ]


def test_long_calls_of_generated_functions_are_broken_and_keep_their_statement() -> None:
    arguments = [Name(f"a_rather_long_argument_{letter}") for letter in "abcdef"]
    statement = CallFunction(call("tile", *arguments, BLOCK=128), "made")
    lines = written([statement])
    assert len(lines) > 1 and lines[0][0] == "made = tile(" and lines[-1][0] == ")"
    assert all(of is statement for _, of in lines)
    assert text(CallFunction(call("tile", x))) == ["tile(x)"]


def test_names_are_those_that_are_read_wherever_they_stand() -> None:
    loop = For("start", call("range", cols), (If(x < 2, (Assign("made", y),)),))
    assert names_of([loop]) == {"range", "cols", "x", "y"}
    assert [type(s).__name__ for s in every([loop])] == ["For", "If", "Assign"]
