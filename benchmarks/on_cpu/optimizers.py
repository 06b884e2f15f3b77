"""Optimizer steps on one large tensor and on 1,000 small ones, beside torch's own and optax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tritonnotes import optim
from tritonnotes.judge.tolerance import compare

from ..measure import Case, Subject
from ..optimizers import FUSED as HAS_FUSED
from ..optimizers import JUDGED_SHAPES, JUDGED_STEPS, RULES, STATES, shapes_of
from ..peers import OURS
from ..timing import Call
from .peers import COMPILED, FOREACH, FUSED, JAX, compiled, forget_compiled, missing

FAMILY = "optimizers"
CHOSEN = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
SIZES = ("1x2**24", "1000x1024")
QUICK_SIZE = "100x1024"
COMPILED_RULE = "Adam"
"""The rule whose compiled step is timed, on one tensor: TorchInductor takes minutes for a thousand."""

Maker = Callable[[list[torch.Tensor]], Callable[[], Any]]


def cases(quick: bool) -> list[Case]:
    """Every rule at every size."""
    rules, sizes = (("Adam",), (QUICK_SIZE,)) if quick else (CHOSEN, SIZES)
    made = []
    for rule in rules:
        for size in sizes:
            elements = sum(torch.Size(shape).numel() for shape in shapes_of(size))
            moved = elements * 4 * (3 + 2 * STATES.get(rule, 2))
            made.append(Case(FAMILY, f"{rule} {size}", "float32", "step", moved, partial(make, rule, size)))
    return made


def make(rule: str, size: str, device: torch.device) -> Subject:
    """Every peer's step on the same parameters, each with state of its own."""
    params = parameters(shapes_of(size))
    found, absent = makers(rule, size)
    calls: dict[str, Callable[[], Call]] = {peer: partial(_call, make, params) for peer, make in found.items()}
    return Subject(calls, absent, Judge(rule, found))


def parameters(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    return made


def makers(rule: str, size: str) -> tuple[dict[str, Maker], dict[str, str]]:
    """For each peer what makes its step on given parameters; and why others have none."""
    how, theirs, ours = RULES[rule], getattr(torch.optim, rule), getattr(optim, rule)

    def compiled_step(params: list[torch.Tensor]) -> Callable[[], Any]:
        forget_compiled()
        return compiled(theirs(params, foreach=True, **how).step)

    def jax(params: list[torch.Tensor]) -> Callable[[], Any]:
        from . import jax_peers

        return jax_peers.Updates(rule, params)

    found: dict[str, Maker] = {
        OURS: lambda params: ours(params, **how).step,
        FOREACH: lambda params: theirs(params, foreach=True, **how).step,
        FUSED: lambda params: theirs(params, fused=True, **how).step,
        COMPILED: compiled_step,
        JAX: jax,
    }
    absent = missing()
    if rule not in HAS_FUSED:
        absent[FUSED] = f"torch has no fused {rule}"
    if (rule, size) not in ((COMPILED_RULE, SIZES[0]), (COMPILED_RULE, QUICK_SIZE)):
        absent.setdefault(COMPILED, f"timed of {COMPILED_RULE} on one tensor alone: compiling is slow")
    if rule == "Adagrad":
        absent.setdefault(JAX, "optax starts Adagrad's sums elsewhere than torch")
    return {peer: make for peer, make in found.items() if peer not in absent}, absent


def _call(make: Maker, params: list[torch.Tensor]) -> Call:
    step = make(params)
    return Call(lambda _: step())


class Judge:
    """Holds some steps of a peer, on small parameters, to torch's plain loop and to the same in float64.

    All parameters are compared as one tensor: torch's error on a single number may be 0 by luck, and allows nothing.
    """

    def __init__(self, rule: str, makers: dict[str, Maker]) -> None:
        self._makers = makers

        def plain(params: list[torch.Tensor]) -> Callable[[], Any]:
            step: Callable[[], Any] = getattr(torch.optim, rule)(params, foreach=False, **RULES[rule]).step
            return step

        self._eager = self._after(plain, torch.float32)
        self._exact = self._after(plain, torch.float64)

    def __call__(self, peer: str, call: Call) -> str | None:
        """What is wrong with a peer's parameters, or None."""
        comparison = compare(self._after(self._makers[peer], torch.float32), self._eager, self._exact)
        return None if comparison.ok else f"parameters are farther from float64 than torch's loop allows: {comparison}"

    def _after(self, make: Maker, dtype: torch.dtype) -> torch.Tensor:
        """The parameters after the judged steps, one after the other in one tensor."""
        params = parameters(list(JUDGED_SHAPES), dtype)
        step = make(params)
        for _ in range(JUDGED_STEPS):
            step()
        held = getattr(step, "params", None)
        if held is None:
            return torch.cat([p.detach().flatten() for p in params])
        from . import jax_peers

        return torch.cat([jax_peers.tensor(p).flatten() for p in held])
