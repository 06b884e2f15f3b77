"""Trees of generated source: what is printed means what the tree means, in no more parentheses than are read easily."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonnotes.codegen.support.expressions import (
    ONE,
    PRECEDENCE,
    ZERO,
    Attribute,
    Binary,
    Call,
    Conditional,
    Display,
    Expression,
    Literal,
    Name,
    Subscript,
    Unary,
    both,
    call,
    chained,
    holds,
    leftmost,
    names_in,
    number,
    product,
    total,
    walk,
)

a, b, c, row, col = map(Name, ("a", "b", "c", "row", "col"))
VARIABLES: dict[str, Any] = {"a": 7, "b": -3, "c": 2, "abs": abs, "max": max}
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "&": operator.and_, "|": operator.or_, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "**": operator.pow,
}  # fmt: skip


def meaning(tree: Expression) -> Any:
    """What a tree stands for, worked out without its text."""
    match tree:
        case Name(name):
            return VARIABLES[name]
        case Literal(written):
            return float(written) if "." in written else int(written)
        case Unary(_, value):
            return -meaning(value)
        case Binary(sign, left, right):
            return OPERATORS[sign](meaning(left), meaning(right))
        case Conditional(then, condition, otherwise):
            return meaning(then) if meaning(condition) else meaning(otherwise)
        case Attribute(value, name):
            return getattr(meaning(value), name)
        case Subscript(value, index):
            return meaning(value)[int(index)]
        case Display(items):
            return [meaning(item) for item in items]
        case Call(function, arguments, keywords):
            return meaning(function)(*map(meaning, arguments), **{name: meaning(v) for name, v in keywords})
    raise AssertionError(tree)


def outcome(work: Callable[[], Any]) -> Any:
    """A result with its type, or the error that there is none for."""
    try:
        result = work()
    except (ArithmeticError, TypeError, ValueError) as error:
        return type(error)
    return type(result), repr(result)


def read(node: ast.expr) -> Expression:
    """The tree that Python reads in a text."""
    match node:
        case ast.Name(name):
            return Name(name)
        case ast.Constant(value):
            return number(value)
        case ast.UnaryOp(ast.USub(), ast.Constant(value)):
            return number(-value)
        case ast.UnaryOp(ast.USub(), value):
            return Unary("-", read(value))
        case ast.BinOp(left, sign, right):
            return Binary(SIGNS[type(sign)], read(left), read(right))
        case ast.Compare(left, [sign], [right]):
            return Binary(SIGNS[type(sign)], read(left), read(right))
        case ast.Attribute(value, name):
            return Attribute(read(value), name)
        case ast.Subscript(value, index):
            return Subscript(read(value), ast.unparse(index))
        case ast.IfExp(condition, then, otherwise):
            return Conditional(read(then), read(condition), read(otherwise))
        case ast.List(items):
            return Display(tuple(map(read, items)))
        case ast.Call(function, arguments, keywords):
            named = tuple((k.arg or "", read(k.value)) for k in keywords)
            return Call(read(function), tuple(map(read, arguments)), named)
    raise AssertionError(ast.dump(node))


SIGNS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|", ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">",
    ast.GtE: ">=",
}  # fmt: skip

leaves = st.one_of(st.sampled_from([a, b, c]), st.integers(-4, 9).map(number), st.sampled_from([0.5, -2.0]).map(number))


def larger(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    pairs = st.tuples(parts, parts)
    signs = st.sampled_from(sorted(set(PRECEDENCE) - {"**"}))
    return st.one_of(
        st.builds(Binary, signs, parts, parts),
        st.builds(Binary, st.just("**"), parts, st.sampled_from([number(2), number(-1), c, Unary("-", c)])),
        st.builds(Unary, st.just("-"), parts.filter(lambda e: not isinstance(e, Literal))),
        parts.map(lambda e: Attribute(e, "real")),
        st.builds(Subscript, pairs.map(Display), st.sampled_from(["0", "1"])),
        pairs.map(lambda two: call("max", *two)),
        parts.map(lambda e: call("abs", e)),
        st.builds(Conditional, parts, parts, parts),
    )


trees = st.recursive(leaves, larger, max_leaves=12)


@settings(max_examples=400, deadline=None)
@given(trees)
def test_what_is_printed_is_worth_what_the_tree_is_worth(tree: Expression) -> None:
    assert outcome(lambda: eval(str(tree), {**VARIABLES})) == outcome(lambda: meaning(tree))


@settings(max_examples=400, deadline=None)
@given(trees)
def test_python_reads_the_tree_that_was_printed(tree: Expression) -> None:
    assert read(ast.parse(str(tree), mode="eval").body) == tree


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (a + b + c, "a + b + c"),
        (a + (b + c), "a + (b + c)"),
        (a - (b - c), "a - (b - c)"),
        ((a + b) * c, "(a + b) * c"),
        (a * b + c, "a * b + c"),
        (row // b * c, "(row // b) * c"),
        (row * b // c, "(row * b) // c"),
        (row // b % c, "row // b % c"),
        (row // (b * c), "row // (b * c)"),
        ((row < a) & (col < b), "(row < a) & (col < b)"),
        (((row < a) & b).subscript("None, :"), "((row < a) & b)[None, :]"),
        ((-a) ** b, "(-a)**b"),
        (-(a**b), "-a**b"),
        (a ** (-b), "a**(-b)"),
        (a - number(-1.0), "a - -1.0"),
        ((a / b).method("to", Name("tl.float32")), "(a / b).to(tl.float32)"),
        (number(2).method("to", Name("tl.float32")), "(2).to(tl.float32)"),
        ((a < b).equals(c), "(a < b) == c"),
        (call("tl.load", a + b, mask=row < c, other=0.0), "tl.load(a + b, mask=row < c, other=0.0)"),
        (number(float("-inf")), 'float("-inf")'),
        (Display((a, ONE)), "[a, 1]"),
    ],
)
def test_parentheses_stand_where_meaning_or_the_reader_needs_them(tree: Expression, text: str) -> None:
    assert str(tree) == text


def test_sums_and_products_of_integers_leave_out_what_changes_nothing() -> None:
    assert str(total(a, 0, total(b, c))) == "a + b + c"
    assert str(product(a, 1, product(b, c))) == "a * b * c"
    assert total() == ZERO and product() == ONE
    assert both(None, None) is None and both(None, row < a) == (row < a)


def test_trees_tell_what_they_are_made_of() -> None:
    tree = (row // b) * c + call("tl.load", col)
    assert names_in(tree) == {"row", "b", "c", "col", "tl.load"}
    assert leftmost(tree) == row and chained("*", a * b * c) == [a, b, c]
    assert holds(tree, "//") and not holds(tree, "%")
    assert [str(part) for part in walk(a + b * c)] == ["a + b * c", "a", "b * c", "b", "c"]


def test_a_tree_is_known_by_how_it_is_written() -> None:
    assert number(0) != number(0.0) and len({a + 1, a + 1, a + 1.0}) == 2
