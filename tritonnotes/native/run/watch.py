"""Whether Python objects hold what they did, asked of many at once: one foreign call, at the speed of memory.

Objects are compared by identity: the dicts of attributes, the items of dicts. Tensors are asked where they lie, and
their own memory is compared with what it was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..llvm.engine import Loaded, Object, compile_object, kept_object, object_key
from .tensor_layout import MOST_AXES, TensorLayout, tensor_layout

Item = tuple[dict[str, Any], str, object]
"""A dict, a key, and what is found there."""

Owner = tuple[object, Mapping[str, Any]]
"""An object, and the dict of its attributes."""

Holds = Callable[[], int]

_ADDRESS_OF: int = getattr(torch._C._dynamo.guards, "_torchinductor_pyobject_tensor_data_ptr", 0)
"""Where the function of C lies that Inductor's callers of machine code ask for the address of a tensor; 0 for a torch
that keeps it elsewhere."""


def same_items(items: Sequence[Item], owners: Sequence[Owner] = ()) -> Holds:
    """Says later whether all dicts hold these very objects, and the owners these dicts. What is found is kept until
    then, and so are the dicts; owners and their dicts are not, they must be there when it is asked."""
    words = [number for owner, held in owners for number in (id(owner), id(held))]
    words += [id(thing) for item in items for thing in item]
    owned = {id(held) for _, held in owners}
    kept = [(key, found, None if id(held) in owned else held) for held, key, found in items]
    return _asked("same_items", (len(owners), len(items), *_functions_of_python()), words, kept)


def same_addresses(tensors: Sequence[Tensor]) -> Holds | None:
    """Says later whether the memory of all these tensors lies where it did, of tensors that have an address. They are
    kept until then. None where this torch has no function for it."""
    if not _ADDRESS_OF:
        return None
    words = [number for tensor in tensors for number in (id(tensor), tensor.data_ptr())]
    return _asked("same_addresses", (len(tensors), _ADDRESS_OF), words, [*tensors])


def same_tensors(tensors: Sequence[Tensor]) -> Holds | None:
    """Says later whether each of these tensors is of the class that it was, has the same shape, strides, dtype, device
    and dispatch keys, wants a gradient as before, and lies where it did. They are kept until then. None for tensors of
    which that cannot be seen, and for a torch that keeps it elsewhere."""
    layout = tensor_layout(same_as_laid_out) if _ADDRESS_OF else None
    if layout is None or any(tensor.dim() > MOST_AXES for tensor in tensors):
        return None
    return same_as_laid_out(layout, tensors)


def same_as_laid_out(layout: TensorLayout, tensors: Sequence[Tensor]) -> Holds:
    """As `same_tensors`, for tensors that have this layout and at most `MOST_AXES` axes."""
    places = (layout.of_class, layout.of_tensor, layout.first)
    head = (len(tensors), layout.words, *places, layout.wants_gradient, _ADDRESS_OF)
    words: list[int] = []
    for tensor in tensors:
        words += (id(tensor), id(type(tensor)), tensor._cdata, tensor.requires_grad, tensor.data_ptr())
        words += (ctypes.c_uint64 * layout.words).from_address(tensor._cdata + layout.first)
    return _asked("same_tensors", head, words, [*tensors])


def _asked(name: str, head: Sequence[int], words: Sequence[int], kept: object) -> Holds:
    block = (ctypes.c_uint64 * (len(head) + len(words)))(*head, *words)
    made = _Asked(_functions()[name], ctypes.c_void_p(ctypes.addressof(block)))
    made.kept = block, kept
    return made


class _Asked(partial[int]):
    """A call of machine code, and what must be there for it."""

    kept: object


@cache
def _functions_of_python() -> tuple[int, ...]:
    """The addresses of what gives the dict of an object's attributes, lets go of it, and gives what is under a key."""
    api = ctypes.pythonapi
    used = (api.PyObject_GenericGetDict, api.Py_DecRef, api.PyDict_GetItemWithError)
    return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in used)


@cache
def _functions() -> dict[str, Any]:
    """They hold the interpreter's lock, since they touch its objects."""
    names = ("same_items", "same_addresses", "same_tensors")
    made = kept_object(object_key(watch=_TEXT), lambda: Object({}, compile_object(_TEXT, "the look at objects")))
    library = Loaded((made.code,), names)
    _kept.append(library)
    return {name: ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(library[name]) for name in names}


_kept: list[Loaded] = []

_TEXT = """
define i32 @same_items(ptr %known) {
entry:
  %owners = load i64, ptr %known
  %at1 = getelementptr i64, ptr %known, i64 1
  %items = load i64, ptr %at1
  %at2 = getelementptr i64, ptr %known, i64 2
  %dict_of = load ptr, ptr %at2
  %at3 = getelementptr i64, ptr %known, i64 3
  %let_go = load ptr, ptr %at3
  %at4 = getelementptr i64, ptr %known, i64 4
  %get = load ptr, ptr %at4
  %first_owner = getelementptr i64, ptr %known, i64 5
  %double = mul i64 %owners, 2
  %first_item = getelementptr i64, ptr %first_owner, i64 %double
  br label %owner
owner:
  %n = phi i64 [0, %entry], [%after_n, %ask_owner]
  %has_owner = icmp ult i64 %n, %owners
  br i1 %has_owner, label %ask_owner, label %item
ask_owner:
  %pair = mul i64 %n, 2
  %at_object = getelementptr i64, ptr %first_owner, i64 %pair
  %object = load ptr, ptr %at_object
  %at_dict = getelementptr i64, ptr %at_object, i64 1
  %known_dict = load ptr, ptr %at_dict
  %dict = call ptr %dict_of(ptr %object, ptr null)
  call void %let_go(ptr %dict)
  %after_n = add i64 %n, 1
  %is_dict = icmp eq ptr %dict, %known_dict
  br i1 %is_dict, label %owner, label %differs
item:
  %m = phi i64 [0, %owner], [%after_m, %ask_item]
  %has_item = icmp ult i64 %m, %items
  br i1 %has_item, label %ask_item, label %all
ask_item:
  %triple = mul i64 %m, 3
  %at_holder = getelementptr i64, ptr %first_item, i64 %triple
  %holder = load ptr, ptr %at_holder
  %at_key = getelementptr i64, ptr %at_holder, i64 1
  %key = load ptr, ptr %at_key
  %at_wanted = getelementptr i64, ptr %at_holder, i64 2
  %wanted = load ptr, ptr %at_wanted
  %found = call ptr %get(ptr %holder, ptr %key)
  %after_m = add i64 %m, 1
  %is_found = icmp eq ptr %found, %wanted
  br i1 %is_found, label %item, label %differs
differs:
  ret i32 0
all:
  ret i32 1
}
define i32 @same_addresses(ptr %known) {
entry:
  %count = load i64, ptr %known
  %at1 = getelementptr i64, ptr %known, i64 1
  %address_of = load ptr, ptr %at1
  %first = getelementptr i64, ptr %known, i64 2
  br label %tensor
tensor:
  %n = phi i64 [0, %entry], [%after, %ask]
  %more = icmp ult i64 %n, %count
  br i1 %more, label %ask, label %all
ask:
  %pair = mul i64 %n, 2
  %at_tensor = getelementptr i64, ptr %first, i64 %pair
  %object = load ptr, ptr %at_tensor
  %at_address = getelementptr i64, ptr %at_tensor, i64 1
  %wanted = load ptr, ptr %at_address
  %found = call ptr %address_of(ptr %object)
  %after = add i64 %n, 1
  %is_same = icmp eq ptr %found, %wanted
  br i1 %is_same, label %tensor, label %differs
differs:
  ret i32 0
all:
  ret i32 1
}
define i32 @same_tensors(ptr %known) {
entry:
  %count = load i64, ptr %known
  %at1 = getelementptr i64, ptr %known, i64 1
  %words = load i64, ptr %at1
  %at2 = getelementptr i64, ptr %known, i64 2
  %of_class = load i64, ptr %at2
  %at3 = getelementptr i64, ptr %known, i64 3
  %of_tensor = load i64, ptr %at3
  %at4 = getelementptr i64, ptr %known, i64 4
  %first = load i64, ptr %at4
  %at5 = getelementptr i64, ptr %known, i64 5
  %wants_gradient = load ptr, ptr %at5
  %at6 = getelementptr i64, ptr %known, i64 6
  %address_of = load ptr, ptr %at6
  %records = getelementptr i64, ptr %known, i64 7
  %size = add i64 %words, 5
  br label %tensor
tensor:
  %n = phi i64 [0, %entry], [%after, %ask_address]
  %more = icmp ult i64 %n, %count
  br i1 %more, label %look, label %all
look:
  %at = mul i64 %n, %size
  %at_object = getelementptr i64, ptr %records, i64 %at
  %object = load ptr, ptr %at_object
  %at_class = getelementptr i64, ptr %at_object, i64 1
  %class = load ptr, ptr %at_class
  %at_tensor = getelementptr i64, ptr %at_object, i64 2
  %held = load ptr, ptr %at_tensor
  %at_its_class = getelementptr i8, ptr %object, i64 %of_class
  %its_class = load ptr, ptr %at_its_class
  %at_its_tensor = getelementptr i8, ptr %object, i64 %of_tensor
  %its_tensor = load ptr, ptr %at_its_tensor
  %is_class = icmp eq ptr %its_class, %class
  %is_tensor = icmp eq ptr %its_tensor, %held
  %is_both = and i1 %is_class, %is_tensor
  br i1 %is_both, label %its_words, label %differs
its_words:
  %known_words = getelementptr i64, ptr %at_object, i64 5
  %now_words = getelementptr i8, ptr %held, i64 %first
  br label %word
word:
  %m = phi i64 [0, %its_words], [%after_m, %word]
  %unlike = phi i64 [0, %its_words], [%now_unlike, %word]
  %at_known_word = getelementptr i64, ptr %known_words, i64 %m
  %known_word = load i64, ptr %at_known_word
  %at_now_word = getelementptr i64, ptr %now_words, i64 %m
  %now_word = load i64, ptr %at_now_word
  %changed = xor i64 %known_word, %now_word
  %now_unlike = or i64 %unlike, %changed
  %after_m = add i64 %m, 1
  %has_word = icmp ult i64 %after_m, %words
  br i1 %has_word, label %word, label %compared
compared:
  %is_alike = icmp eq i64 %now_unlike, 0
  br i1 %is_alike, label %ask_gradient, label %differs
ask_gradient:
  %at_wanted = getelementptr i64, ptr %at_object, i64 3
  %wanted = load i64, ptr %at_wanted
  %wants = call zeroext i1 %wants_gradient(ptr %held)
  %now_wanted = zext i1 %wants to i64
  %is_wanted = icmp eq i64 %now_wanted, %wanted
  br i1 %is_wanted, label %ask_address, label %differs
ask_address:
  %at_address = getelementptr i64, ptr %at_object, i64 4
  %address = load ptr, ptr %at_address
  %lies_at = call ptr %address_of(ptr %object)
  %after = add i64 %n, 1
  %is_same = icmp eq ptr %lies_at, %address
  br i1 %is_same, label %tensor, label %differs
differs:
  ret i32 0
all:
  ret i32 1
}
"""
