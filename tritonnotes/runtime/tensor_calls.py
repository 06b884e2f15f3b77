"""Ops called on tensors: at once by the kernels of a cached program, or as one op of torch where something traces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ir.core.graph import Value, bind
from ..ir.core.op import Op, refuse_tensors
from ..tensors.seeds import fresh_seed
from .calls import FUNCTIONS, MOST_KNOWN, Call, call_key, call_of, call_text, tensor_at
from .traced import constant_result, forward
from .vetting import are_plain, vet


def also_of_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Values that takes tensors in their place, too."""
    name = function.__name__
    FUNCTIONS[name] = function

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        if sees_tensors(args, kwargs):
            return of_tensors(name, args, kwargs)
        refuse_tensors(f"tn.{name}", (*args, *kwargs.values()))
        return function(*args, **kwargs)

    return either


def sees_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is one of tensors: some argument is one, and none a Value of a graph."""
    found = False
    for arg in (*args, *kwargs.values()):
        for part in arg if isinstance(arg, list | tuple) else (arg,):
            if isinstance(part, Value):
                return False
            found = found or isinstance(part, Tensor)
    return found


def of_tensors(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What the op `name` makes of tensors, differentiable: a tensor, or a tuple where it gives several."""
    tensors: list[Tensor] = []
    if torch.compiler.is_compiling():
        marked = [_marked(arg, tensors) for arg in args]
        marked_too = {key: _marked(arg, tensors) for key, arg in kwargs.items()}
        return _traced(_constant_text(name, marked, marked_too), tensors)
    key = call_key(name, args, kwargs, tensors)
    text = None if key is None else _texts.get(key)
    if text is None:
        tensors.clear()
        marked = [_marked(arg, tensors) for arg in args]
        text = call_text(name, marked, {n: _marked(arg, tensors) for n, arg in kwargs.items()})
        if key is not None:
            if len(_texts) >= MOST_KNOWN:
                _texts.clear()
            _texts[key] = text
    return _at_once(call_of(text), tensors)


_texts: dict[tuple[Any, ...], str] = {}
"""The texts of calls, by what is found of a call without writing one."""


bind(Op, sees_tensors=staticmethod(sees_tensors), of_tensors=staticmethod(of_tensors))


def _marked(arg: Any, tensors: list[Tensor]) -> Any:
    """An argument with a mark in the place of each tensor, which is added to `tensors`."""
    if isinstance(arg, Tensor):
        tensors.append(arg)
        return tensor_at(len(tensors) - 1)
    if isinstance(arg, list | tuple):
        return [_marked(part, tensors) for part in arg]
    return arg


def _at_once(call: Call, tensors: Sequence[Tensor]) -> Any:
    if are_plain(tensors):
        plain, compiled = tensors, call.known_form(tensors)
    else:
        plain = [vet(tensor, f"tn.{call.name}: {call.names[place]!r}") for place, tensor in enumerate(tensors)]
        compiled = call.form(plain)
    form = compiled.form
    given = dict(zip(form.leaves, (plain[index] for index in call.order), strict=True))
    feeds = {name: given[name] for name in form.inputs}
    state = {name: given[name] for name in form.held_names}
    with compiled.turns.lock:
        outputs = form.run(feeds, state, _seeds, compiled.turns)
    results = tuple(outputs.values())
    return results[0] if len(results) == 1 else results


def _seeds(names: Sequence[str]) -> dict[str, int]:
    return dict.fromkeys(names, fresh_seed()) if names else {}


def _traced(text: str, tensors: Sequence[Tensor]) -> Any:
    order, moved, results, draws, is_constant = _told(text)
    leaves = [tensors[index].detach() if is_constant else tensors[index] for index in order]
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu") if draws else None
    wanted = [torch.is_grad_enabled() and leaf.requires_grad for leaf in leaves]
    found = forward(leaves, seed, text, wanted)
    for place, index in enumerate(moved):
        tensors[index].copy_(found[len(found) - len(moved) + place].detach())
    return found[0] if results == 1 else tuple(found[:results])


@constant_result
def _constant_text(name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    return call_text(name, args, kwargs)


@constant_result
def _told(text: str) -> tuple[list[int], list[int], int, bool, bool]:
    """What a tracer must know of a call before its tensors have numbers."""
    call = call_of(text)
    return call.order, call.moved, call.results, bool(call.draws), call.is_constant
