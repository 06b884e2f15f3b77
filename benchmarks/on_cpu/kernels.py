"""Norms, softmax, GLU, GELU and losses, forward and backward together, on 2**16 to 2**24 numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .. import shapes
from ..kernel_peers import Judge, Problem
from ..kernel_peers import make_subject as torch_subject
from ..kernels import FAMILIES
from ..measure import Case, Subject
from ..peers import OURS
from ..shapes import Shape
from ..timing import Call
from .peers import COMPILED, EAGER, JAX, compiled, forget_compiled, missing

FAMILY = "kernels"

ROWS: tuple[Shape, ...] = ((64, 1024), (1024, 1024), (4096, 1024))
LARGE: Shape = (4096, 4096)
SIZES: dict[str, tuple[Shape, ...]] = {
    "softmax": (*ROWS, LARGE),
    "layer_norm": (*ROWS, LARGE),
    "rms_norm": ROWS,
    "batch_norm": ((1024, 64), (16, 64, 32, 32), (64, 64, 32, 32)),
    "cross_entropy": ((4096, 16), (1024, 1024), (128, 32768), (512, 32768)),
    "glu": ROWS,
    "gelu": ROWS,
}
"""Of each family 2**16, 2**20 and 2**22 numbers, of some 2**24."""

COMPILED_SHAPES = (ROWS[1], (16, 64, 32, 32))
"""Where torch.compile is timed: compiling takes some 10 s for each."""

QUICK = ("softmax", "layer_norm")


def cases(quick: bool) -> list[Case]:
    """Every family at every size, both directions in one run."""
    made = []
    for name in QUICK if quick else SIZES:
        for shape in SIZES[name][:1] if quick else SIZES[name]:
            moved = FAMILIES[name].bytes(shape, 4, "both")
            made.append(
                Case(FAMILY, f"{name} {shapes.text(shape)}", "float32", "both", moved, partial(make, name, shape))
            )
    return made


def make(name: str, shape: Shape, device: torch.device) -> Subject:
    """All peers of one family at one shape."""
    family = FAMILIES[name]
    problem = Problem(family, shape, "float32", "both", device)
    subject = torch_subject(family, shape, "float32", "both", device)
    # The program that computes a loss and its gradient together is what a user of ours takes.
    ours = subject.makers.get("tritonnotes joint", subject.makers[OURS])

    def torch_compile() -> Call:
        forget_compiled()
        return problem.call(compiled(family.torch))

    def jax() -> Call:
        from . import jax_peers

        run = jax_peers.both(name, problem.inputs, problem.trained, problem.upstream)
        return Call(lambda _: run())

    makers: dict[str, Callable[[], Call]] = {
        OURS: ours,
        EAGER: subject.makers["eager"],
        COMPILED: torch_compile,
        JAX: jax,
    }
    absent = missing()
    if shape not in COMPILED_SHAPES:
        absent.setdefault(COMPILED, "timed at 2**20 numbers alone: compiling is slow")
    judge = _as_tensors(Judge(problem))
    return Subject({p: m for p, m in makers.items() if p not in absent}, absent, judge)


def _as_tensors(judge: Judge) -> Callable[[str, Call], str | None]:
    """A judge that also knows JAX's arrays."""

    def judged(peer: str, call: Call) -> str | None:
        if peer != JAX:
            return judge(peer, call)
        from . import jax_peers

        def run(given: Any) -> list[torch.Tensor]:
            return [jax_peers.tensor(a) for a in call.run(given)]

        return judge(peer, Call(run, call.prepare))

    return judged
