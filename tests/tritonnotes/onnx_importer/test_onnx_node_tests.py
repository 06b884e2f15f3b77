"""ONNX's own node tests, through `tn.from_onnx`."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator

import onnx
import pytest
from onnx_node_tests import NodeTest, compiled, eager, node_tests
from paths import ROOT

import tritonnotes as tn
from tritonnotes.ir.core.errors import ModelImportError
from tritonnotes.ir.ops.gates import silu
from tritonnotes.onnx_importer.operators.rows import Row
from tritonnotes.onnx_importer.operators.table import TABLE
from tritonnotes.onnx_importer.reading import OLDEST

DRAWN = ("test_training_dropout", "test_training_dropout_default")
"""What these drop is drawn from numpy's generator."""

REASONS = {
    r"unknown dtype": "dtype",
    r"is none of the operators|is of the domain": "operator",
    r"it is written in operator set": "operator set",
    r"is a optional_type|is a sequence_type": "no tensor",
}
"""Why a test may be refused, and what that is called here; all other reasons are counted by operator."""

COUNTED = "1.23.2"
PASSED = 1296
REFUSED = {
    "AveragePool": 6, "Dropout": 3, "If": 1, "LSTM": 1, "LpPool": 1, "MaxPool": 1, "ReduceMax": 2, "ReduceMin": 1,
    "Resize": 5, "ScatterND": 5, "dtype": 185, "no tensor": 3, "operator": 139, "operator set": 10,
}  # fmt: skip
"""How many tests of the version of onnx that was `COUNTED` pass, and how many are refused why."""


def reason(test: NodeTest, error: tn.TritonNotesError) -> str:
    found = (name for text, name in REASONS.items() if re.search(text, str(error)))
    return next(found, test.op_type)


@functools.cache
def results() -> tuple[list[str], Counter[str], list[str]]:
    """The names of those that pass, what is refused by reason, and what is wrong."""
    passed, refused, wrong = [], Counter[str](), []
    for test in node_tests():
        if test.name in DRAWN:
            continue
        try:
            found = test.wrong(eager)
        except tn.TritonNotesError as error:
            refused[reason(test, error)] += 1
        else:
            wrong += [f"{test.name}: {line}" for line in found]
            passed += [] if found else [test.name]
    return passed, refused, wrong


COMPILED = (
    "test_gemm_all_attributes", "test_softmax_axis_1", "test_layer_normalization_2d_axis1", "test_where_example",
    "test_batchnorm_epsilon_training_mode", "test_nllloss_NCd1_weight_ii", "test_basic_conv_with_padding",
    "test_lstm_with_initial_bias", "test_clip_expanded", "test_attention_3d_expanded", "test_affine_grid_2d",
)  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_read_compiles(name: str) -> None:
    (test,) = (test for test in node_tests() if test.name == name)
    assert test.wrong(compiled) == []


def mutants(test: NodeTest) -> Iterator[onnx.ModelProto]:
    """The model with a node that is not as it was: other numbers and words, an input less, and one of another rank."""
    node = test.model.graph.node[0]
    for place in range(len(node.attribute)):
        for number in (99, -99, 0):
            model = copied(test.model)
            given = model.graph.node[0].attribute[place]
            given.i, given.s, given.f = number, str(number).encode(), number
            given.ints[:] = [number] * len(given.ints)
            yield model
    for left in range(len(node.input)):
        model = copied(test.model)
        model.graph.node[0].input[:] = node.input[:left]
        yield model
    for place in range(len(test.model.graph.input)):
        model = copied(test.model)
        shape = model.graph.input[place].type.tensor_type.shape
        shape.dim.add().dim_value = 3
        yield model
        del shape.dim[:]
        yield model


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def test_a_broken_node_ends_in_one_error_that_names_it() -> None:
    first = {test.op_type: test for test in reversed(node_tests()) if len(test.model.graph.node) == 1}
    refused = 0
    for test in first.values():
        if test.op_type not in TABLE or test.model.opset_import[0].version < OLDEST:
            continue
        for model in mutants(test):
            try:
                tn.from_onnx(model)
            except ModelImportError as error:
                refused += 1
                assert test.op_type in str(error) or "input" in str(error)
    assert refused > len(TABLE)


def test_the_docs_list_the_operators() -> None:
    section = (ROOT / "docs/onnx.md").read_text()
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(TABLE)
    assert f"for these {len(TABLE)} operators" in section


def test_a_wrong_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for op_type, other in (("Relu", silu), ("Gelu", lambda x, approximate="none": x)):
        monkeypatch.setitem(TABLE, op_type, (Row(other),))
        tests = [test for test in node_tests() if [n.op_type for n in test.model.graph.node] == [op_type]]
        assert tests and all(test.wrong(eager) for test in tests)


def test_what_is_read_gives_what_onnx_expects(record_property: Callable[[str, object], None]) -> None:
    passed, refused, wrong = results()
    record_property("passed", len(passed))
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(onnx.__version__ != COUNTED, reason=f"onnx {onnx.__version__} has other tests than {COUNTED}")
def test_as_many_are_read_as_are_known_to_be() -> None:
    passed, refused, _ = results()
    assert (len(passed), dict(refused)) == (PASSED, REFUSED)
