"""Recurrent layers: calls of torch, whose gates lie in another order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ...ir import primitives as P
from ...ir.core.graph import Value
from ...ir.core.types import Shape
from ...ir.ops import shapes
from ...ir.ops.activations import sigmoid
from .rows import Row, Table, ints, refuse
from .shapes import filled
from .torch_call import torch_call, torch_calls

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,), "GRU, step by step": (0, 1, 2)}
"""Where ONNX has each of torch's gates: input, forget, cell, output of an LSTM, which ONNX has as input, output,
forget, cell; reset, update, new of a GRU, which it has as update, reset, new. A GRU that resets before its product, as
torch's does not, is computed step by step, by gates in ONNX's order."""

USUAL = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",),
    "GRU, step by step": ("Sigmoid", "Tanh"),
}  # fmt: skip
CALLS = {"LSTM": "aten.lstm.input", "GRU": "aten.gru.input", "RNN": "aten.rnn_tanh.input"}
"""The activations of each direction that torch has, too."""


def _lstm(
    x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None, h: Value | None = None,
    c: Value | None = None, p: Value | None = None, input_forget: int = 0, **attrs: Any,
) -> Any:  # fmt: skip
    refuse(p is None, "has peepholes, which torch's LSTM has not")
    refuse(not input_forget, "couples its gates (input_forget), which torch's LSTM does not")
    return _recurrent("LSTM", x, w, r, b, sequence_lens, [h, c], **attrs)


def _gru(
    x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None, h: Value | None = None,
    linear_before_reset: int = 0, **attrs: Any,
) -> Any:  # fmt: skip
    if not linear_before_reset:
        return _recurrent("GRU, step by step", x, w, r, b, sequence_lens, [h], **attrs)
    return _recurrent("GRU", x, w, r, b, sequence_lens, [h], **attrs)


def _rnn(
    x: Value, w: Value, r: Value, b: Value | None = None, sequence_lens: Value | None = None, h: Value | None = None,
    **attrs: Any,
) -> Any:  # fmt: skip
    return _recurrent("RNN", x, w, r, b, sequence_lens, [h], **attrs)


def _recurrent(
    kind: str, x: Value, w: Value, r: Value, b: Value | None, sequence_lens: Value | None,
    first: Sequence[Value | None], hidden_size: int | None = None, direction: str = "forward",
    activations: Sequence[str] | None = None, layout: int = 0, clip: float = 0.0,
    activation_alpha: Any = None, activation_beta: Any = None,
) -> Any:  # fmt: skip
    """The states of all times, then the last ones."""
    directions = DIRECTIONS[direction]
    usual = USUAL[kind] * directions
    refuse(sequence_lens is None, "has sequences of several lengths; cut them first")
    refuse(
        activations is None or tuple(a.capitalize() for a in activations) == usual,
        f"has other activations than {usual}",
    )
    refuse(not clip, "clips what its gates take, which torch does not")
    if layout:
        x = shapes.transpose(x, 0, 1)
        first = [None if state is None else shapes.transpose(state, 0, 1) for state in first]
    steps, batch, _ = x.shape
    (hidden,) = ints(r.shape[-1:], "the hidden size")
    start = [_state(x, (directions, batch, hidden)) if state is None else state for state in first]
    weights = _weights(kind, w, r, b, directions, hidden)
    if kind not in CALLS:
        backwards = [False, True] if directions == 2 else [direction == "reverse"]
        y, *last = _step_by_step(x, start[0], weights, backwards, hidden)
    else:
        turned = torch_call("aten.flip.default", x, (0,)) if direction == "reverse" else x
        how = (b is not None, 1, 0.0, False, directions == 2, False)
        states = start if kind == "LSTM" else start[0]
        y, *last = torch_calls(CALLS[kind], turned, states, weights, *how, results=range(len(start) + 1))
        y = torch_call("aten.flip.default", y, (0,)) if direction == "reverse" else y
        y = P.reshape(y, (steps, batch, directions, hidden))
    if layout:
        return shapes.permute(y, (1, 0, 2, 3)), *(shapes.transpose(state, 0, 1) for state in last)
    return shapes.permute(y, (0, 2, 1, 3)), *last


def _step_by_step(
    x: Value, start: Value, weights: Sequence[Value], backwards: Sequence[bool], hidden: int
) -> tuple[Value, Value]:
    """The states (times, batch, directions, hidden), and the last ones, of GRUs that reset before their product."""
    (steps,) = ints(x.shape[:1], "the number of times")
    each = len(weights) // len(backwards)
    found, last = [], []
    for one, backward in enumerate(backwards):
        w, r, *biases = weights[one * each : (one + 1) * each]
        state, states = start[one], [start[one]] * steps
        for time in range(steps)[:: -1 if backward else 1]:
            state = _gru_step(x[time], state, w, r, biases, hidden)
            states[time] = state
        found.append(P.cat([P.reshape(s, (1, s.shape[0], 1, hidden)) for s in states], 0))
        last.append(P.reshape(state, (1, *state.shape)))
    return P.cat(found, 2), P.cat(last, 0)


def _gru_step(x: Value, state: Value, w: Value, r: Value, biases: Sequence[Value], hidden: int) -> Value:
    ahead = P.matmul(x, w, True)
    ahead = ahead + functools.reduce(P.add, biases) if biases else ahead
    gates = P.narrow(ahead, 1, 0, 2 * hidden) + P.matmul(state, P.narrow(r, 0, 0, 2 * hidden), True)
    update, reset = (sigmoid(P.narrow(gates, 1, place * hidden, hidden)) for place in (0, 1))
    product = P.matmul(reset * state, P.narrow(r, 0, 2 * hidden, hidden), True)
    new = P.tanh(P.narrow(ahead, 1, 2 * hidden, hidden) + product)
    return (1 - update) * new + update * state


def _state(x: Value, shape: Shape) -> Value:
    return filled(x.graph, 0.0, shape, x.dtype.name)


def _weights(kind: str, w: Value, r: Value, b: Value | None, directions: int, hidden: int) -> list[Value]:
    """For each direction the weights of inputs and of states, then their biases."""
    found = []
    gates = len(ORDER[kind])
    for one in range(directions):
        found += [_ordered(kind, given[one], hidden) for given in (w, r)]
        if b is not None:
            biases = b[one]
            parts = P.narrow(biases, 0, 0, gates * hidden), P.narrow(biases, 0, gates * hidden, gates * hidden)
            found += [_ordered(kind, part, hidden) for part in parts]
    return found


def _ordered(kind: str, gates: Value, hidden: int) -> Value:
    """Gates in torch's order."""
    return P.cat([P.narrow(gates, 0, place * hidden, hidden) for place in ORDER[kind]], 0)


RECURRENT: Table = {"LSTM": (Row(_lstm, 7),), "GRU": (Row(_gru, 7),), "RNN": (Row(_rnn, 7),)}
