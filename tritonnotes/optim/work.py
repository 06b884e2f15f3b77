"""The parameters that a launch updates, remembered from step to step, and the rows of numbers that the host works out.

A model has a thousand parameters, and a step of theirs takes a GPU ten microseconds: what is done here for each of them
is one look at it, at the speed of `map`, and the tables are left alone as long as nothing has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from ..ir.core.optimizer import Optimizer
from ..ir.optim.update import G_NAME, MASTER, P_NAME, Extras
from ..runtime.held import as_they_were, guards, same_items
from ..runtime.vetting import are_plain, has_dual_level, vet, vet_held
from .counting import CountPlan
from .launching import LoadedUpdate
from .plan import LaunchPlan, is_there
from .tables import real, upload

Row = tuple[float, ...]
"""What a row of numbers is worked out from besides the hyperparameters: the step, and the rule's own numbers."""

State = dict[str, Any]

_GRADIENT, _IS_SPARSE = attrgetter("grad"), attrgetter("is_sparse")


@dataclass(frozen=True, eq=False)
class Known:
    """What a plan was made for: `are_as_they_were` says whether the parameters and their state are; `gradients` are
    addresses, since gradients themselves are not held. `Work` looks at the kind of gradients."""

    extras: Extras
    rows: list[int]
    are_as_they_were: Callable[[], int]
    gradients: list[int]


@dataclass(eq=False)
class Work:
    """The parameters of one group on one device that have a gradient, and the rule that they follow.

    `places` are their indices in the group. `counts` says whether steps are counted on the device. `fresh` says of each
    parameter whether this is its first step, as far as its state tells, `was_fresh` of the step before. `kept` is all
    their state by name, `held` what of it a kernel updates, `counted` what the host counts for all of them at once.
    `resolved` are the gradients that kernels cannot read as they are, such as negated views, beside the plain ones that
    stand for them in `gradients`.
    """

    optimizer: Optimizer
    counts: bool
    places: list[int] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    was_fresh: list[bool] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    resolved: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    on_device: Mapping[str, Tensor] = field(default_factory=dict)
    plan: LaunchPlan | None = None
    counting: CountPlan | None = None
    counted: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, list[Tensor | None]] = field(default_factory=dict)
    held: dict[str, list[Tensor | None]] = field(default_factory=dict)
    _known: Known | None = None
    _is_kept: Callable[[], int] = bool
    _left_out: list[tuple[State, str]] = field(default_factory=list)
    _all_states: tuple[list[Tensor], list[State]] = field(default_factory=lambda: ([], []))
    _like_gradients: Callable[..., bool] | None = None
    _are_alike: bool = False

    @property
    def device(self) -> torch.device:
        return self.params[0].device

    def take_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Take in the gradients of a step. Raises `FeedError` for those that kernels cannot read."""
        self.resolved = []
        like = self._like_gradients
        self._are_alike = like is not None and not has_dual_level() and like(*gradients)
        if self._are_alike:
            self.gradients = [*gradients]
            return
        self._known = None  # it is of other gradients, and this step may fail before there is another plan
        if are_plain(gradients):
            self._like_gradients = guards(gradients)
        else:
            self._like_gradients, given = None, gradients
            gradients = [vet(g, f"gradient of parameter {i}") for i, g in zip(self.places, given, strict=True)]
            self.resolved = [(g, plain) for g, plain in zip(given, gradients, strict=True) if g is not plain]
        self.gradients = list(gradients)

    def forget_gradients(self, *, were_written: bool) -> None:
        """Hand back what a launch left in gradients, and hold none of them, lest they outlive `zero_grad`."""
        for gradient, plain in self.resolved if were_written else ():
            gradient.copy_(plain)
        self.gradients, self.resolved = [], []

    def settle(self) -> None:
        """Take in the state of all parameters, once they are known.

        Counts that the host keeps become views of one tensor, which counts for all parameters at once.
        """
        names = [name for name in ("step", *self.optimizer.numbers) if name in self.states[0]]
        for name in [] if self.counts else names:
            counts = torch.stack([state[name].cpu() for state in self.states])
            for state, count in zip(self.states, counts.unbind(), strict=True):
                state[name] = count
            self.counted[name] = counts
        masters = [MASTER] if any(MASTER in state for state in self.states) else []
        kept = [*names, *masters, *self.optimizer.state]
        self.kept = {name: [state.get(name) for state in self.states] for name in kept}
        held = {name: self.kept[name] for name in (*masters, *self.optimizer.state)}
        self.held = {n: [None if t is None else real(t) for t in column] for n, column in held.items()}
        found = [(s, n, t) for n, column in self.kept.items() for s, t in zip(self.states, column, strict=True)]
        self._is_kept = same_items([each for each in found if each[2] is not None])
        self._left_out = [(state, name) for state, name, tensor in found if tensor is None]

    def holds(self, states: Mapping[Tensor, State]) -> bool:
        """Whether the state is that of the last step, every tensor of it."""
        if not self.kept:
            return True
        if not self._is_kept() or any(state.get(name) is not None for state, name in self._left_out):
            return False
        # torch hashes tensors in Python, so that they are looked up only where all that is kept has changed.
        params, found = [*states], [*states.values()]
        known_params, known = self._all_states
        if len(params) == len(known_params) and all(map(is_, params, known_params)) and all(map(is_, found, known)):
            return True
        self._all_states = (params, found)
        if all(map(is_, map(states.get, self.params), self.states)):
            return True
        self._all_states = ([], [])
        return False

    def remember(self, extras: Extras, rows: list[int]) -> None:
        """The plan holds for the tensors as they are now."""
        tensors = (*self.params, *(t for column in self.held.values() for t in column if t is not None))
        self._known = None
        if not any(map(Tensor.is_complex, tensors)):
            addresses = [*map(Tensor.data_ptr, self.gradients)]
            self._known = Known(extras, rows, as_they_were(tensors), addresses)

    def is_known(self, extras: Extras, rows: list[int]) -> bool:
        """Whether the plan of the last step holds, where that can be seen at once: the parameters and their state are
        as they were, and gradients of the same kind lie where those of the last step did."""
        known = self._known
        return (
            known is not None
            and self._are_alike
            and known.extras == extras
            and known.rows == rows
            and bool(known.are_as_they_were())
            and [*map(Tensor.data_ptr, self.gradients)] == known.gradients
        )

    def columns(self) -> dict[str, list[Tensor | None]]:
        """Every tensor of every parameter, complex ones as pairs of numbers."""
        params, gradients = self.params, self.gradients
        if any(map(Tensor.is_complex, params)):
            params, gradients = [real(p) for p in params], [real(g) for g in gradients]
        return {P_NAME: [*params], G_NAME: [*gradients], **self.held}

    # -- numbers --

    def rows(self) -> tuple[list[int], list[Row]]:
        """Count a step of each parameter; then, for each, the row of numbers that it takes, and all rows. Parameters
        that have taken equally many steps share one. On the device, each has its own."""
        if self.counts:
            return list(range(len(self.params))), []
        if not self.optimizer.numbers:
            steps = self._steps()
            if steps.count(steps[0]) == len(steps):
                return [0] * len(steps), [(steps[0],)]
            return _numbered([(step,) for step in steps])
        counts = [self._steps(), *(self.counted[name].tolist() for name in self.optimizer.numbers)]
        keys: list[Row] = list(zip(*counts, strict=True))
        return _numbered(keys)

    def take_back(self) -> None:
        """Uncount the step that `rows` counted, where it could not be taken."""
        if "step" in self.counted:
            self.counted["step"].sub_(1)
        else:
            self.fresh = self.was_fresh

    def host_numbers(self, loaded: LoadedUpdate, rows: Sequence[int], distinct: Sequence[Row]) -> Tensor:
        """The table of numbers, float64; the rule's own are left in the state."""
        settings, own = self.optimizer.settings, tuple(self.optimizer.numbers)
        table = []
        for row in distinct:
            given = {**settings, **dict(zip(("step", *own), row, strict=True))}
            table.append(loaded.module.number_row(*(float(given[name]) for name in loaded.update.settings)))
        for place, name in enumerate(own, -len(own)):
            self.counted[name].copy_(torch.tensor([table[row][place] for row in rows], device="cpu"))
        return upload(torch.tensor(table, dtype=torch.float64, device="cpu"), self.device)

    def _steps(self) -> list[float]:
        if "step" in self.counted:
            return self.counted["step"].add_(1).tolist()
        steps = [1.0 if is_fresh else 2.0 for is_fresh in self.fresh]
        self.was_fresh, self.fresh = self.fresh, [False] * len(self.fresh)
        return steps


def _numbered(keys: list[Row]) -> tuple[list[int], list[Row]]:
    """For each row its number among those that are distinct, and these."""
    found: dict[Row, int] = {}
    return [found.setdefault(key, len(found)) for key in keys], list(found)


@dataclass(frozen=True, eq=False)
class Gathered:
    """The work in a group, one for each device, and the parameters whose gradients are sparse."""

    formula: Hashable
    params: list[Tensor]
    present: list[bool]
    works: tuple[Work, ...]
    sparse: tuple[Tensor, ...]

    def holds(self, formula: Hashable, params: Sequence[Tensor], states: Mapping[Tensor, State]) -> bool:
        """Whether the same parameters have gradients as in the last step, and the state is where it was. Takes the new
        gradients in."""
        grads = [*map(_GRADIENT, params)]
        if (
            self.formula != formula
            or len(params) != len(self.params)
            or not all(map(is_, params, self.params))
            or self.present != [*map(is_there, grads)]
            or any(map(_IS_SPARSE, filter(is_there, grads)))
            or not all(work.holds(states) for work in self.works)
        ):
            return False
        for work in self.works:
            work.take_gradients([*map(grads.__getitem__, work.places)])
        return True


def gather(
    params: Sequence[Tensor],
    formula: Hashable,
    begin: Callable[[], Work],
    complete: Callable[[Tensor], tuple[State, bool]],
) -> Gathered:
    """Sort the parameters of a group by device. `begin` makes empty work, `complete` gives a parameter's whole state,
    and whether it is new."""
    works: dict[torch.device, Work] = {}
    gradients: dict[torch.device, list[Tensor]] = {}
    sparse = []
    for place, p in enumerate(params):
        g = p.grad
        if g is None:
            continue
        if g.is_sparse:
            sparse.append(p)
            continue
        vet_held(p, f"parameter {place}")
        work = works.get(p.device)
        if work is None:
            works[p.device] = work = begin()
        state, is_fresh = complete(p)
        work.places.append(place)
        work.params.append(p)
        work.states.append(state)
        work.fresh.append(is_fresh)
        gradients.setdefault(p.device, []).append(g)
    for device, work in works.items():
        work.take_gradients(gradients[device])
        work.settle()
    present = [p.grad is not None for p in params]
    return Gathered(formula, list(params), present, tuple(works.values()), tuple(sparse))
