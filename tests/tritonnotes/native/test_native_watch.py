"""Whether objects hold what they did: every change at every place is noticed, and nothing else is."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import on_the_cpu
from torch._subclasses.fake_tensor import FakeTensorMode

from tritonnotes.native.run import tensor_layout
from tritonnotes.native.run.watch import same_addresses, same_as_laid_out, same_items, same_tensors

pytestmark = on_the_cpu


class Thing:
    """An object with attributes."""


@pytest.mark.parametrize("count", [0, 1, 2, 7, 33])
def test_another_object_at_any_place_is_noticed(count: int) -> None:
    held = [{f"key{n}": object(), "other": object()} for n in range(count)]
    holds = same_items([(d, f"key{n}", d[f"key{n}"]) for n, d in enumerate(held)])
    assert holds()
    for n, d in enumerate(held):
        key, before = f"key{n}", d[f"key{n}"]
        d["other"] = None
        assert holds(), "what is not looked at"
        for another in (None, object(), 0):
            d[key] = another
            assert not holds()
        d.pop(key)
        assert not holds()
        d[key] = before
        assert holds()


def test_equal_objects_are_not_the_same() -> None:
    one = torch.ones(1)
    held = {"one": one}
    holds = same_items([(held, "one", one)])
    held["one"] = torch.ones(1)
    assert not holds()


def test_an_owner_with_other_attributes_is_noticed() -> None:
    owners: list[Any] = [Thing() for _ in range(3)]
    for owner in owners:
        owner.kept = object()
    holds = same_items([(vars(o), "kept", o.kept) for o in owners], [(o, vars(o)) for o in owners])
    assert holds()
    for owner in owners:
        before = owner.__dict__
        owner.__dict__ = dict(before)
        assert not holds()
        owner.__dict__ = before
        assert holds()


def test_it_keeps_what_is_found_and_no_owner() -> None:
    owner, found = Thing(), Thing()
    owner.__dict__["found"] = found
    gone, kept = weakref.ref(owner), weakref.ref(found)
    holds = same_items([(vars(owner), "found", found)], [(owner, vars(owner))])
    del owner, found
    gc.collect()
    assert gone() is None
    assert kept() is not None
    del holds
    assert kept() is None


def test_asking_counts_no_reference() -> None:
    owner, held = Thing(), {"key": object()}
    holds = same_items([(held, "key", held["key"])], [(owner, vars(owner))])
    counts = [sys.getrefcount(thing) for thing in (owner, vars(owner), held, held["key"])]
    for _ in range(1000):
        holds()
    assert counts == [sys.getrefcount(thing) for thing in (owner, vars(owner), held, held["key"])]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 33])
def test_a_tensor_that_lies_elsewhere_is_noticed(count: int) -> None:
    tensors = [torch.rand(3) for _ in range(count)]
    lie_there = same_addresses(tensors)
    assert lie_there is not None, "torch has the function that tells"
    assert lie_there()
    for tensor in tensors:
        before = tensor.data
        tensor.data = before.clone()
        assert not lie_there()
        tensor.data = before
        assert lie_there()
        tensor.untyped_storage().resize_(0)
        assert not lie_there()
        tensor.untyped_storage().resize_(12)
        tensor.data = torch.rand(3)
        lie_there = same_addresses(tensors)
        assert lie_there is not None and lie_there()


def _swapped(tensor: torch.Tensor) -> None:
    torch.utils.swap_tensors(tensor, torch.rand(3, 4))


def _with_other_data(tensor: torch.Tensor) -> None:
    tensor.data = tensor.data.t().contiguous().t()


CHANGES: dict[str, Callable[[torch.Tensor], object]] = {
    "turned": lambda t: t.transpose_(0, 1),
    "an axis more": lambda t: t.unsqueeze_(0),
    "shorter": lambda t: t.resize_(2, 4),
    "as long in another shape": lambda t: t.resize_(4, 3),
    "other strides": lambda t: t.as_strided_((3, 4), (4, 0)),
    "the same memory further on": lambda t: t.set_(t.untyped_storage(), 4, (2, 4), (4, 1)),
    "other memory": lambda t: setattr(t, "data", t.data.clone()),
    "other strides by its data": _with_other_data,
    "another dtype": lambda t: setattr(t, "data", t.data.view(torch.int32)),
    "negated when it is read": lambda t: setattr(t, "data", t.data._neg_view()),
    "freed": lambda t: t.untyped_storage().resize_(0),
    "a gradient wanted": lambda t: t.requires_grad_(),
    "another class": lambda t: setattr(t, "__class__", torch.nn.Parameter),
    "swapped with another": _swapped,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_tensor_that_is_another_is_noticed(change: str, place: int) -> None:
    tensors = [torch.rand(3, 4) for _ in range(7)]
    are_the_same = same_tensors(tensors)
    assert are_the_same is not None, "torch keeps what a tensor is where it is looked for"
    assert are_the_same()
    CHANGES[change](tensors[place])
    assert not are_the_same()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 1, 3, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_using_a_tensor_makes_no_other_of_it(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    wants = dtype.is_floating_point
    tensors = [torch.ones(shape, dtype=dtype).requires_grad_(wants) for _ in range(3)]
    are_the_same = same_tensors(tensors)
    assert are_the_same is not None and are_the_same()
    for tensor in tensors:
        held = [tensor, tensor.detach(), tensor.reshape(-1), tensor.clone()]
        with torch.no_grad():
            tensor.zero_()
            tensor.copy_(held[-1])
        if wants:
            (tensor.float() * 2).sum().backward()
            tensor.grad = None
        tensor.numpy(force=True) if dtype is not torch.bfloat16 else tensor.tolist()
        torch.autograd.graph.increment_version(tensor)
        del held
        gc.collect()
        assert are_the_same()


def test_of_many_axes_nothing_is_said() -> None:
    assert same_tensors([torch.ones(2), torch.ones(1, 1, 1, 1, 1, 1)]) is None


@pytest.mark.parametrize("answer", [0, 1])
def test_a_layout_that_shows_no_change_or_one_too_many_is_none(answer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_layout, "_found", [])
    assert tensor_layout.tensor_layout(lambda layout, tensors: lambda: answer) is None
    assert tensor_layout.tensor_layout(same_as_laid_out) is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_layout_is_found_whatever_the_default_dtype_is(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_layout, "_found", [])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert tensor_layout.tensor_layout(same_as_laid_out) is not None
    finally:
        torch.set_default_dtype(before)


def test_where_no_tensors_can_be_tried_nothing_is_said_and_nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_layout, "_found", [])
    with FakeTensorMode():
        assert tensor_layout.tensor_layout(same_as_laid_out) is None
    assert tensor_layout.tensor_layout(same_as_laid_out) is not None
