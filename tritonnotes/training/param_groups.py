"""Parameter groups, as users of torch.optim give them: parameters, also by name, with numbers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from ..ir.core.errors import DeclarationError
from ..ir.core.optimizer import GroupOptimizer, Optimizer

Options = Mapping[str, Any]
Groups = Sequence[Options] | Callable[[str], Options | None]
"""Dicts with `params`, which are names, patterns such as '*.bias', a function of a name, or parameters of the module
that is trained, and options of the rule; or a function from the name of a parameter to its options."""


def with_groups(
    optimizer: Optimizer, groups: Groups | None, parameters: Sequence[str], tensors: Mapping[str, Tensor] | None = None
) -> Optimizer:
    """The optimizer with `groups` of the graph's `parameters`; what no group names keeps the optimizer's own numbers.
    `tensors` are those of the module that is trained, by their names in the graph.
    Raises `DeclarationError` for names that the graph does not have, or that two groups have, and for options that the
    rule does not take."""
    if groups is None:
        return optimizer
    if callable(groups):
        listed = _by_options(groups, parameters)
    elif isinstance(groups, Sequence) and all(isinstance(g, Mapping) for g in groups):
        listed = [_chosen(group, parameters, tensors or {}) for group in groups]
    else:
        raise DeclarationError(
            f"param_groups is {groups!r}; give a list of dicts, as in [{{'params': ['*.bias'], 'weight_decay': 0.0}}], "
            "or a function from a parameter's name to such options"
        )
    taken: dict[str, int] = {}
    for number, (names, _) in enumerate(listed, 1):
        for name in names:
            if taken.setdefault(name, number) != number:
                raise DeclarationError(
                    f"param_groups: {name!r} is in the groups {taken[name]} and {number}; a parameter is in one of them"
                )
    made = (GroupOptimizer(tuple(names), _with_options(optimizer, options)) for names, options in listed)
    return replace(optimizer, groups=tuple(made))


def _by_options(
    options_of: Callable[[str], Options | None], parameters: Sequence[str]
) -> list[tuple[list[str], Options]]:
    """The parameters that a function gives the same options, in their order; those without any are in no group."""
    found: dict[str, tuple[list[str], Options]] = {}
    for name in parameters:
        options = options_of(name) or {}
        if not isinstance(options, Mapping):
            raise DeclarationError(f"param_groups: gives {options!r} for {name!r}; it must give a dict of options")
        if options:
            found.setdefault(repr(sorted(options.items())), ([], options))[0].append(name)
    return list(found.values())


def _chosen(group: Options, parameters: Sequence[str], tensors: Mapping[str, Tensor]) -> tuple[list[str], Options]:
    if "params" not in group:
        raise DeclarationError(f"param_groups: {dict(group)!r} lacks 'params': names, or patterns such as '*.bias'")
    options = {name: value for name, value in group.items() if name != "params"}
    params = group["params"]
    if callable(params):
        return [name for name in parameters if params(name)], options
    wanted = [params] if isinstance(params, str | Tensor) or hasattr(params, "name") else params
    if not isinstance(wanted, Iterable):
        raise DeclarationError(f"param_groups: params is {params!r}; give names, or patterns such as '*.bias'")
    names: dict[str, None] = {}
    for entry in wanted:
        given = _tensor_in(entry)
        pattern = getattr(entry, "name", entry) if given is None else _name_of(given, tensors)
        found = [n for n in parameters if n == pattern or (isinstance(pattern, str) and fnmatchcase(n, pattern))]
        if not found:
            raise DeclarationError(
                f"param_groups: {pattern!r} names no parameter of the graph; it has {', '.join(parameters) or 'none'}"
            )
        names |= dict.fromkeys(found)
    return list(names), options


def _tensor_in(entry: object) -> Tensor | None:
    """The parameter that an entry is, or a pair of `named_parameters()` has."""
    if isinstance(entry, tuple) and len(entry) == 2:
        entry = entry[1]
    return entry if isinstance(entry, Tensor) else None


def _name_of(given: Tensor, tensors: Mapping[str, Tensor]) -> str:
    """The name in the graph of a parameter of the module."""
    found = next((name for name, tensor in tensors.items() if tensor is given), None)
    if found is None:
        raise DeclarationError(
            f"param_groups: a tensor of shape {tuple(given.shape)} is no parameter of the module that is trained; give "
            "its parameters, names, or patterns such as '*.bias'"
        )
    return found


def _with_options(optimizer: Optimizer, options: Options) -> Optimizer:
    """The same rule with some other numbers. `betas` are torch's name for beta1 and beta2."""
    given = dict(options)
    betas = given.pop("betas", None)
    if betas is not None and {"beta1", "beta2"} <= set(optimizer.settings):
        given["beta1"], given["beta2"] = betas
    known = {name for part in optimizer.parts for name in part.hyperparameters}
    unknown = sorted(set(given) - known | ({"betas"} if betas is not None and "beta1" not in given else set()))
    if unknown:
        raise DeclarationError(
            f"param_groups: {optimizer.rule.name} does not take {', '.join(unknown)} for a group; it takes "
            f"{', '.join(sorted(known))}"
        )
    parts = [_of_part(part, given) for part in optimizer.parts]
    return replace(parts[0], maximize=optimizer.maximize, clip=optimizer.clip, then=tuple(parts[1:]), groups=())


def _of_part(part: Optimizer, given: Options) -> Optimizer:
    numbers = {**part.hyperparameters, **{n: v for n, v in given.items() if n in part.hyperparameters}}
    return replace(part, hyperparameters=part.rule(**numbers).hyperparameters, then=())


class ParamGroup(MutableMapping[str, Any]):
    """One group of a step: `params`, the names of its parameters, and its numbers, which may be set between steps."""

    def __init__(self, params: Sequence[str], numbers: dict[str, float | bool]) -> None:
        self._params, self._numbers = list(params), numbers

    def __getitem__(self, name: str) -> Any:
        return list(self._params) if name == "params" else self._numbers[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._numbers:
            raise DeclarationError(
                f"a parameter group has no number {name!r} to set; it has {', '.join(self._numbers)}. Which parameters "
                "are in it is compiled"
            )
        self._numbers[name] = value

    def __delitem__(self, name: str) -> None:
        raise DeclarationError(f"{name!r} of a parameter group is compiled; set it instead")

    def __iter__(self) -> Iterator[str]:
        return iter(("params", *self._numbers))

    def __len__(self) -> int:
        return 1 + len(self._numbers)

    def __repr__(self) -> str:
        return repr(dict(self))
