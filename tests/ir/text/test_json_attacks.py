"""A hostile file ends in one typed error: in linear time, before anything is built, with nothing in it run."""

from __future__ import annotations

import copy
import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from counted_work import counted
from graphs_for_text import levels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritonnotes.ir import Graph
from tritonnotes.ir.core.compare import same_graph
from tritonnotes.ir.core.errors import FormatError
from tritonnotes.ir.core.op import op
from tritonnotes.ir.core.verify import verify
from tritonnotes.ir.text.json_form import from_json, to_json
from tritonnotes.ir.text.loading import MAX_CHARS, MAX_VALUES

# -- hostile files -----------------------------------------------------------------------------------------------------

SOUND: dict[str, Any] = {
    "format": "tritonnotes.graph",
    "version": 1,
    "name": "m",
    "level": "declared",
    "values": [
        {"name": "x", "op": "input", "dtype": "float32", "shape": ["batch", 4]},
        {"name": "w", "op": "parameter", "dtype": "float32", "shape": [4], "attrs": {"init": "zeros"}},
        {"name": "y", "op": "mul", "dtype": "float32", "shape": ["batch", 4], "args": ["x", "w"]},
        {
            "name": "z",
            "op": "layer_norm",
            "dtype": "float32",
            "shape": ["batch", 4],
            "args": ["y", "w", None],
            "attrs": {"dims": 1, "eps": {"float": "1e-05"}},
        },
    ],
    "outputs": {"z": "z"},
    "updates": {},
}


def test_the_file_that_is_broken_below_reads_as_it_is() -> None:
    verify(from_json(json.dumps(SOUND)))


def refused(text: str | bytes, message: str) -> None:
    """One FormatError, of a length that a person reads, after work that is linear in the text."""
    with pytest.raises(FormatError, match=message) as caught:
        from_json(text)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def changed(**parts: Any) -> str:
    return json.dumps({**SOUND, **parts})


def with_value(index: int | None = None, **fields: Any) -> str:
    """The sound file with fields of one value changed (… removes one), or with one more value."""
    document = copy.deepcopy(SOUND)
    if index is None:
        document["values"].append(fields)
    else:
        document["values"][index].update(fields)
        document["values"][index] = {k: v for k, v in document["values"][index].items() if v is not ...}
    return json.dumps(document)


def constant(dtype: str, value: Any) -> str:
    return with_value(name="c", op="constant", dtype=dtype, shape=[], attrs={"value": value})


SURROGATE = '"\\ud800"'
DEEP = 10**5
NOT_THE_JSON_MEANT = {
    "nothing": ("", "not JSON at line 1"),
    "no JSON": ("{'a': 1}", "not JSON at line 1, column 2"),
    "half a file": (json.dumps(SOUND)[:-20], "not JSON"),
    "a second document": (json.dumps(SOUND) + "{}", "not JSON"),
    "a byte order mark": ("\ufeff" + json.dumps(SOUND), "not JSON"),
    "bytes that are no UTF-8": (b'{"format": "\xff"}', "not UTF-8 at byte 12"),
    "UTF-16": (json.dumps(SOUND).encode("utf-16"), "not UTF-8"),
    "a list": ("[]", "must be an object"),
    "null": ("null", "must be an object"),
    "NaN": (constant("float32", "@").replace('"@"', "NaN"), "'NaN'; write"),
    "Infinity": (constant("float32", "@").replace('"@"', "-Infinity"), "'-Infinity'; write"),
    "1e999": (constant("float32", "@").replace('"@"', "1e999"), "'1e999'; a float is written"),
    "a bare float": (constant("float32", "@").replace('"@"', "0.5"), "'0.5'; a float is written"),
    "a duplicate key": (
        json.dumps(SOUND).replace('"version": 1', '"version": 2, "version": 1'),
        "'version' is given twice",
    ),
    "a duplicate value field": (
        json.dumps(SOUND).replace('"name": "y"', '"name": "v", "name": "y"'),
        "'name' is given",
    ),
    "a duplicate attribute": (json.dumps(SOUND).replace('"dims": 1', '"dims": 2, "dims": 1'), "'dims' is given twice"),
    "a duplicate output": (json.dumps(SOUND).replace('"z": "z"', '"z": "x", "z": "z"'), "'z' is given twice"),
    "10⁵ lists deep": ("[" * DEEP + "]" * DEEP, "nests more than 12 deep"),
    "10⁵ objects deep": ('{"a":' * DEEP + "1" + "}" * DEEP, "nests more than 12 deep"),
    "10⁵ deep and never closed": ("[" * DEEP, "nests more than 12 deep"),
    "10⁶ deep within an attribute": (constant("float32", "@").replace('"@"', "[" * 10**6 + "]" * 10**6), "nests more"),
    "an int of 5,000 digits": (changed(version="@").replace('"@"', "9" * 5000), "an int must fit int64"),
    "a size of 10⁶ digits": (with_value(0, shape=["@"]).replace('"@"', "-" + "9" * 10**6), "an int must fit int64"),
    "an int of 65 bits": (constant("int64", 2**64), "an int must fit int64"),
    "an exponent of 5,000 digits": (constant("float32", "@").replace('"@"', "1e" + "9" * 5000), "a float is written"),
    "quotes without end": ('{"a": "' + '\\"' * 10**6, "not JSON"),
    "backslashes without end": ('{"a": "' + "\\" * (10**6 + 1), "not JSON"),
}


@pytest.mark.parametrize(("text", "message"), NOT_THE_JSON_MEANT.values(), ids=list(NOT_THE_JSON_MEANT))
def test_what_json_itself_lets_through_is_refused(text: str | bytes, message: str) -> None:
    refused(text, message)


def test_deep_nesting_is_refused_whatever_the_recursion_limit() -> None:
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(10**8)  # json.loads would now overrun the C stack
        refused("[" * 10**6, "nests more than 12 deep")
    finally:
        sys.setrecursionlimit(limit)


NOT_THE_SCHEMA = {
    "another format": (changed(format="onnx"), "format 'onnx'"),
    "a later version": (changed(version=2), "version 2; this reads"),
    "a version that is true": (changed(version=True), "version is a bool; it must be a int"),
    "another level": (changed(level="kernel"), "level is 'kernel'"),
    "an unknown field": (changed(hooks=[]), "unknown field 'hooks'"),
    "no values": (json.dumps({k: v for k, v in SOUND.items() if k != "values"}), "lacks values"),
    "values in an object": (changed(values={}), "values is a dict; it must be a list"),
    "a value that is a number": (changed(values=[1]), r"values\[0\]: a value: is a int"),
    "an unknown field of a value": (with_value(2, run="id"), r"values\[2\] 'y': .*unknown field 'run'"),
    "a value without dtype": (with_value(2, dtype=...), "lacks dtype"),
    "a dtype that is a number": (with_value(2, dtype=32), "dtype is a int"),
    "an unknown dtype": (with_value(2, dtype="object"), "unknown dtype 'object'"),
    "a host input": (with_value(0, dtype="host"), "host is for the numbers that the host knows"),
    "args in an object": (with_value(2, args={}), "args is a dict"),
    "an argument that is a number": (with_value(2, args=["x", 2]), "holds a int; arguments are names"),
    "attrs in a list": (with_value(2, attrs=[]), "attrs is a list"),
    "null for an attribute": (with_value(3, attrs={"dims": 1, "eps": None}), "a NoneType is no attribute"),
    "an unknown tag": (with_value(3, attrs={"dims": 1, "eps": {"pickle": "gASV"}}), "a dict is no attribute"),
    "two tags": (with_value(3, attrs={"dims": 1, "eps": {"float": "1.0", "dtype": "int64"}}), "a dict is no attribute"),
    "a shape with a bool": (with_value(0, shape=[True]), "shape: holds a bool"),
    "a shape with null": (with_value(0, shape=[None]), "shape: holds a NoneType"),
    "a shape with a list": (with_value(0, shape=[[]]), "shape: holds a list"),
    "a hint that is code": (with_value(2, hint="y)\nimport os"), "hint .* is no name"),
    "a scope of two": (with_value(2, scope=["y", "mul"]), "three strings"),
    "a scope of an unknown op": (with_value(2, scope=["y", "os.system", "forward"]), "unknown op 'os.system'"),
    "a scope with code for a name": (with_value(2, scope=["y\nPWN=1", "mul", "forward"]), "is no name"),
    "an output that is a number": (changed(outputs={"z": 3}), "outputs 'z': is a int"),
    "an output of nothing": (changed(outputs={"z": "gone"}), "outputs 'z': 'gone' names no value"),
    "an update of nothing": (changed(updates={"gone": "y"}), "updates 'gone': 'gone' names no value"),
    "an update to nothing": (changed(updates={"w": "gone"}), "updates 'w': 'gone' names no value"),
    "an update of an input": (changed(updates={"x": "y"}), "no parameter, buffer or slot"),
    "an update that does not fit": (changed(updates={"w": "y"}), "does not fit"),
    "a region of a declared graph": (changed(regions=[{"op": "relu", "args": ["x"], "out": "y"}]), "has no regions"),
}


@pytest.mark.parametrize(("text", "message"), NOT_THE_SCHEMA.values(), ids=list(NOT_THE_SCHEMA))
def test_what_the_schema_does_not_name_is_refused(text: str, message: str) -> None:
    refused(text, message)


NO_GRAPH = {
    "a cycle": (with_value(2, args=["x", "z"]), r"values\[2\] 'y': 'z' names no value that comes before"),
    "a value of itself": (with_value(2, args=["x", "y"]), "'y' names no value that comes before"),
    "a forward reference": (with_value(1, op="tanh", args=["y"], attrs={}), "'y' names no value that comes before"),
    "a dangling reference": (with_value(2, args=["x", "gone"]), "'gone' names no value that comes before"),
    "a name twice": (with_value(1, name="x"), "'x' is given twice"),
    "an op outside the set": (with_value(2, op="os.system"), "unknown op 'os.system'"),
    "a class path": (with_value(2, op="torch.nn.modules.linear.Linear"), "unknown op 'torch.nn.modules"),
    "a dunder": (with_value(2, op="__class__"), "unknown op '__class__'"),
    "an undeclared custom op": (with_value(2, op="custom.evil"), "declared with @tn.op before"),
    "an op that is 10⁶ letters": (with_value(2, op="a" * 10**6), "unknown op 'aaaa"),
    "too few arguments": (with_value(2, args=["x"]), "takes 2 arguments"),
    "too many arguments": (with_value(3, args=["y", "w", "w", "w"]), r"takes 3 arguments \(x, weight, bias\), got 4"),
    "an absent argument that is needed": (with_value(3, args=[None, "w", "w"]), "argument 1 of .* is absent"),
    "an argument for an input": (with_value(1, args=["x"]), "takes 0 arguments"),
    "another shape": (
        with_value(2, shape=["batch", 5]),
        r"says float32\[batch, 5\], but mul .* is float32\[batch, 4\]",
    ),
    "another rank": (with_value(3, shape=[4]), r"says float32\[4\]"),
    "another dtype": (with_value(3, dtype="float64"), r"says float64\[batch, 4\]"),
    "dtypes that were never cast": (with_value(1, dtype="float64"), "must have one dtype"),
    "a product past 2⁶²": (with_value(0, shape=[2**31, 2**32]), r"more than 2\*\*62 elements"),
    "a product past 2⁶² of an op": (
        changed(
            values=[
                {"name": "a", "op": "input", "dtype": "float32", "shape": [2**40, 1]},
                {"name": "b", "op": "input", "dtype": "float32", "shape": [1, 2**40]},
                {"name": "c", "op": "add", "dtype": "float32", "shape": [2**40, 2**40], "args": ["a", "b"]},
            ],
            outputs={},
        ),
        r"more than 2\*\*62 elements",
    ),
    "a size below 0": (with_value(0, shape=[-1]), "sizes are ints ≥ 0"),
    "10⁵ dims": (with_value(0, shape=[1] * 10**5), "at most 64"),
    "a Dim that nothing binds": (
        with_value(name="n", op="dim_size", dtype="host", shape=[], attrs={"dim": "length"}),
        "uses length",
    ),
    "axes without end": (with_value(3, attrs={"dims": 2**62, "eps": {"float": "1e-05"}}), "dims is .*from 1 to 64"),
    "an iota of rank 10⁹": (
        with_value(name="i", op="iota", dtype="int64", shape=[4], attrs={"size": 4, "before": 10**9, "after": 0}),
        "a count of axes",
    ),
    "an attribute too many": (with_value(2, attrs={"approximate": "tanh"}), "does not take approximate"),
    "an attribute too few": (with_value(3, attrs={"dims": 1}), "lacks eps; its attributes are dims, eps"),
    "a string for an int": (with_value(3, attrs={"dims": "1", "eps": {"float": "1e-05"}}), "dims is '1', a str"),
    "a bool for an int": (with_value(3, attrs={"dims": True, "eps": {"float": "1e-05"}}), "dims is True, a bool"),
    "an int for a float": (with_value(3, attrs={"dims": 1, "eps": 1}), "eps is 1, a int; it must be a float"),
    "a wrong choice": (
        with_value(name="l", op="mse_loss", dtype="float32", shape=[], args=["x", "x"], attrs={"reduction": "eval"}),
        "use 'mean', 'sum' or 'none'",
    ),
    "axes out of order": (
        with_value(name="s", op="sum", dtype="float32", shape=[1, 1], args=["x"], attrs={"axes": [1, 0]}),
        "axes of a value with 2 dims",
    ),
    "a cast to nothing": (
        with_value(
            name="s", op="cast", dtype="host", shape=["batch", 4], args=["x"], attrs={"dtype": {"dtype": "host"}}
        ),
        "dtype is host",
    ),
    "a float that is no float": (constant("float32", {"float": "__import__('os')"}), "no float as this form writes it"),
    "a float past the largest": (constant("float32", {"float": "1e999"}), "no float as this form writes it"),
    "a float with underscores": (constant("float32", {"float": "1_0.0"}), "no float as this form writes it"),
    "a float in other digits": (constant("float32", {"float": "١"}), "no float as this form writes it"),
    "a float of 10⁶ digits": (constant("float32", {"float": "1" * 10**6}), "no float as this form writes it"),
    "an int constant for a float": (constant("float32", 1), "value 1 is no float32"),
    "a bool constant for an int": (constant("int64", True), "value True is no int64"),
    "a constant too large": (constant("int32", 2**31), "is no int32"),
    "an unknown init": (with_value(1, attrs={"init": "torch.load"}), "init 'torch.load'"),
    "an init with other numbers": (
        with_value(1, attrs={"init": "zeros", "value": {"float": "1.0"}}),
        "init 'zeros' with",
    ),
    "a parameter of ints": (with_value(1, dtype="int64"), "only floats can be trained"),
    "a string of 10⁶ letters": (with_value(1, attrs={"init": "a" * 10**6}), "init"),
}


@pytest.mark.parametrize(("text", "message"), NO_GRAPH.values(), ids=list(NO_GRAPH))
def test_what_is_no_graph_is_refused(text: str, message: str) -> None:
    refused(text, message)


NAMES = [
    "m\nPWN=1",
    "x=globals().__setitem__('PWN',1)",
    "a b",
    "",
    ".",
    "a..b",
    "a-b",
    "ﬁ",
    "σ",
    "a\u0000",
    "a\u202e",
    "ａ",
    "x" * 500,
    "../../etc/passwd",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_injected_names_are_refused_wherever_a_name_stands(name: str) -> None:
    refused(changed(name=name), "name")
    refused(with_value(0, name=name), "name")
    refused(with_value(2, name=name), "name")
    refused(with_value(2, args=["x", name]), "name")
    refused(with_value(0, shape=[name]), "name")
    refused(changed(outputs={name: "z"}), "name")
    refused(changed(updates={name: "z"}), "name")
    refused(with_value(2, op=name), "unknown op")
    refused(with_value(2, attrs={name: 1}), "does not take")


@pytest.mark.parametrize("name", ["lambda", "tl", "__import__", "class", "None", "x_ptr", "eval"])
def test_reserved_words_are_names_like_any_other(name: str) -> None:
    text = json.dumps(SOUND).replace('"y"', f'"{name}"')
    graph = from_json(text)
    assert graph[name].op.name == "mul"
    assert same_graph(from_json(to_json(graph)), graph)


@pytest.mark.parametrize("where", ['"m"', '"x"', '"batch"', '"z"', '"mul"', '"zeros"', '"float32"', '"1e-05"', '"eps"'])
def test_lone_surrogates_are_refused_wherever_a_string_stands(where: str) -> None:
    refused(json.dumps(SOUND).replace(where, SURROGATE), ".")
    refused(json.dumps(SOUND).replace(where, '"\ud800"'), ".")


def test_a_fi_ligature_is_another_name_than_fi_and_never_lands_in_a_graph() -> None:
    refused(json.dumps(SOUND, ensure_ascii=False).replace('"x"', '"ﬁ"'), "is no name")
    assert from_json(json.dumps(SOUND).replace('"x"', '"fi"'))["fi"].op.name == "input"


def test_size_is_refused_before_the_text_is_looked_at() -> None:
    refused(" " * (MAX_CHARS + 1), "characters; at most")
    refused(b"[" * (MAX_CHARS + 1), "characters; at most")


def test_too_many_values_are_refused_before_one_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ",".join(["0"] * (MAX_VALUES + 1))
    built: list[object] = []

    def make(*args: Any, **kwargs: Any) -> Graph:
        built.append(args)
        return Graph(*args, **kwargs)

    with pytest.raises(FormatError, match="100,001 values; at most 100,000 are read"):
        from_json(changed(values="@").replace('"@"', f"[{values}]"), make=make)
    assert not built


def test_a_claimed_size_allocates_nothing() -> None:
    text = with_value(name="big", op="parameter", dtype="float64", shape=[2**30, 2**31], attrs={"init": "ones"})
    from_json(text)
    gc.collect()
    tracemalloc.start()
    from_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def chain(count: int, op: str) -> str:
    entry = {"op": op, "dtype": "float32", "shape": [4]}
    values = [{"name": "x", "op": "input", "dtype": "float32", "shape": [4]}]
    # One stem for all names: the worst case for whoever tells names apart by counting.
    values += [{"name": f"{op}_{i}", "args": [f"{op}_{i - 1}" if i else "x"], **entry} for i in range(count)]
    return changed(values=values, outputs={})


@pytest.mark.parametrize("op", ["tanh", "relu"])
def test_reading_takes_linear_work(op: str) -> None:
    def lines(count: int) -> int:
        text = chain(count, op)
        graph, lines = counted(lambda: from_json(text))
        assert len(graph.values) == count + 1
        return lines

    assert lines(2_000) < 8.5 * lines(250)


def test_a_formula_that_chokes_on_a_files_attributes_ends_in_one_typed_error() -> None:
    @op(domain=(-1, 1), custom=True)
    def choosy(x, *, table):
        return x * {1: 2.0}[table] if table != "deep" else choosy.formula(x, table=table)

    document = {**SOUND, "outputs": {}}
    document["values"] = [SOUND["values"][0]]
    for table, message in ((1, ""), (2, "KeyError"), ("deep", "RecursionError"), ([], "KeyError")):
        value = {"name": "c", "op": "custom.choosy", "dtype": "float32", "shape": ["batch", 4], "args": ["x"]}
        text = json.dumps({**document, "values": [*document["values"], {**value, "attrs": {"table": table}}]})
        if message:
            refused(text, f"formula cannot take these: {message}")
        else:
            from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    return [at, *(path for key in keys for path in paths(node[key], (*at, key)))]


def put(node: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(node)
    copied = copy.copy(node)
    copied[path[0]] = put(node[path[0]], path[1:], change)
    return copied


WHOLE = {level: json.loads(to_json(graph)) for level, graph in levels().items()}
WHOLE["sound"] = SOUND


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_file_changed_anywhere_reads_or_is_refused(data: st.DataObject) -> None:
    """Never another exception, and what reads is a graph that verifies."""
    level = data.draw(st.sampled_from(sorted(WHOLE)))
    document = WHOLE[level]
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths(document)))
        donor = data.draw(st.sampled_from(paths(WHOLE[level])))
        new = data.draw(JSON) if data.draw(st.booleans()) else None
        if new is None:
            new = WHOLE[level]
            for key in donor:
                new = new[key]
        document = put(document, path, lambda _, new=new: new)
    try:
        graph = from_json(json.dumps(document))
    except FormatError:
        return
    verify(graph)
