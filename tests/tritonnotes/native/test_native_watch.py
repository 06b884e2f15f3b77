"""Whether objects hold what they did: every change at every place is noticed, and nothing else is."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import pytest
import torch
from devices import on_the_cpu

from tritonnotes.native.run.watch import same_addresses, same_items

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
