"""Judges a kernel that somebody wrote: `tn.check(kernel, reference, *tensors)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import interpreter, native
from ..ir.core.errors import DeclarationError, KernelError, TritonNotesError, VerificationError, first_line
from ..judge.tolerance import Comparison, compare, pooled
from .cases import Arguments, drawn_again, layout_cases, shape_cases, value_cases
from .result import FAILS, OK, REFUSED, Case, KernelCertificate, shape_of
from .running import Filled, Raw, Results, copied, is_kernel, results_of, same_bits, threads

GIVEN = "tensors given"

MOST_PROGRAMS = 1024
"""Programs of a launch that the strict interpreter looks at: it takes a millisecond or more for each."""

FEW, DRAWS = 32, 16
"""Results of fewer numbers than this are compared over so many draws as one, so that no luck decides."""

REPEATS = 3
"""Runs on all threads, whose bits are compared; one more is on a single thread, and two in memory that is filled."""


def check_kernel(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    arguments: Arguments,
    *,
    grid: Any = None,
    constexprs: Mapping[str, Any] | None = None,
    outputs: Sequence[int] | None = None,
    edge_cases: bool = True,
    seed: int = 0,
) -> KernelCertificate:
    """Compare a kernel with its reference; `tn.check` says what is looked at, and what the arguments are."""
    subject = _Subject.of(kernel, reference, arguments, grid, constexprs, outputs)
    look = _Look()
    cases = [_case(subject, GIVEN, arguments, look, seed)]
    if edge_cases and cases[0].verdict != REFUSED:
        cases += [_case(subject, name, made, look, seed) for name, made in _others(subject, arguments, seed)]
    cases = [case for case in cases if case.verdict]
    differences, runs = _differences(subject, arguments) if cases[0].comparisons else ([], 0)
    how = {"grid": grid, "constexprs": constexprs, "outputs": outputs} if is_kernel(kernel) else {}
    return KernelCertificate(
        subject.name, tuple(cases), look.findings, look.runs, tuple(differences), runs,
        tuple(dict.fromkeys([*subject.left_out, *look.left_out])), subject.how, (kernel, reference, how),
    )  # fmt: skip


@dataclass
class _Subject:
    """The function that is judged, and its reference."""

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    outputs: frozenset[int]
    how: str
    left_out: list[str] = field(default_factory=list)
    is_interpreted: bool = False
    """Whether machine code does not cover the kernel, so that the interpreter computes its numbers."""

    @classmethod
    def of(
        cls,
        kernel: Callable[..., Any],
        reference: Callable[..., Any],
        arguments: Arguments,
        grid: Any,
        constexprs: Mapping[str, Any] | None,
        outputs: Sequence[int] | None,
    ) -> _Subject:
        name = str(getattr(kernel, "__name__", None) or type(kernel).__name__)
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        if not callable(reference):
            raise DeclarationError(f"check of {name}: the reference is {reference!r}; pass a function in plain torch")
        if not tensors:
            raise DeclarationError(f"check of {name}: no tensors are given; pass those that kernel and reference take")
        devices = {tensor.device for tensor in tensors}
        if len(devices) > 1:
            where = " and ".join(sorted(map(str, devices)))
            raise DeclarationError(f"check of {name}: tensors lie on {where}; move them to one device")
        how = "run as Triton on a GPU" if tensors[0].is_cuda else "run as machine code on the CPU"
        if not is_kernel(kernel):
            if not callable(kernel):
                raise DeclarationError(
                    f"check: the kernel is {kernel!r}; pass a function that launches one, or a @triton.jit kernel and "
                    "grid="
                )
            if grid is not None or constexprs is not None or outputs is not None:
                raise DeclarationError(
                    f"check of {name}: grid, constexprs and outputs go with a @triton.jit kernel; {name} launches its "
                    "own"
                )
            return cls(name, kernel, reference, frozenset(), how)
        if grid is None:
            raise DeclarationError(
                f"check of {name}: a @triton.jit kernel needs grid=, as in grid=(triton.cdiv(n, 256),); or pass a "
                "function that takes tensors and launches it"
            )
        raw = Raw(kernel, grid, constexprs or {})
        made = cls(name, raw, reference, frozenset(outputs or ()), how)
        if outputs is None:
            try:
                changed = _run(made, arguments, {})
            except KernelError as error:
                raise KernelError(
                    f"check of {name}: its first run, which shows what it writes, was stopped: {first_line(error)}; "
                    "name what it writes, as in outputs=(1,), to have the certificate"
                ) from error
            made.outputs = frozenset(int(what.split()[1]) for what in changed)
            if not made.outputs:
                raise DeclarationError(
                    f"check of {name}: it changes none of its arguments; name those that it writes, as in outputs=(1,)"
                )
        return made

    def reference_of(self, arguments: Arguments, *, exact: bool) -> Results:
        """What the reference makes of the arguments, in eager PyTorch or in float64."""
        taken = tuple(
            a.double() if exact and isinstance(a, Tensor) and a.is_floating_point() else a
            for place, a in enumerate(arguments)
            if not isinstance(self.function, Raw) or (isinstance(a, Tensor) and place not in self.outputs)
        )
        return results_of(self.reference, taken)


class _Look:
    """What the strict interpreter saw so far."""

    def __init__(self) -> None:
        self.runs = 0
        self.left_out: list[str] = []
        self._found: dict[tuple[str, str], list[str]] = {}

    @property
    def findings(self) -> tuple[str, ...]:
        """Each with the first case that shows it. One line of a kernel is one finding."""
        more = (f" (and in {len(where) - 1} more cases)" if len(where) > 1 else "" for where in self._found.values())
        return tuple(f"{where[0]}{others}" for where, others in zip(self._found.values(), more, strict=True))

    def at(self, subject: _Subject, name: str, arguments: Arguments) -> bool:
        """Look at one case; whether it may run as machine code, too."""
        here = copied(tuple(a.cpu() if isinstance(a, Tensor) and a.is_cuda else a for a in arguments))
        try:
            with interpreter.enabled(strict=True, most_programs=MOST_PROGRAMS) as launched:
                subject.function(*here)
            self.runs += bool(launched)
            if not launched and name == GIVEN:
                self.left_out.append("no kernel was launched on these tensors, so the strict interpreter saw none")
        except interpreter.TooManyProgramsError as error:
            self.left_out.append(f"strict look at {name}: {error}")
        except KernelError as error:
            if _is_fault(error):
                self.runs += 1
                kernel, _, rest = str(error).partition(",")
                line = rest.partition(", line ")[2].partition(":")[0]
                self._found.setdefault((kernel, line), []).append(f"{name}, {_shapes(here)}: {error}")
                return False
            if name == GIVEN or "bfloat16" in str(error):
                self.left_out.append(f"strict look at {name}: {first_line(error)}")
        except Exception as error:
            # What the launcher itself refuses is told where the numbers are judged.
            if name == GIVEN:
                self.left_out.append(f"strict look at {name}: {type(error).__name__}: {first_line(error)}")
        return True


def _is_fault(error: KernelError) -> bool:
    """Whether the interpreter found a fault: it raises one itself, in the midst of a program. An operation that it does
    not know, or bfloat16 arithmetic, which it does not do, is none; nor is a tile that cannot be made."""
    return isinstance(error.__cause__, KernelError | AssertionError) and "bfloat16" not in str(error)


def _others(subject: _Subject, arguments: Arguments, seed: int) -> Iterator[tuple[str, Arguments]]:
    """The awkward cases. A kernel with its own arguments has its sizes among them, so only numbers change there."""
    if isinstance(subject.function, Raw):
        yield from value_cases(arguments)
        return
    yield from shape_cases(arguments, seed)
    yield from layout_cases(arguments)
    yield from value_cases(arguments)


def _case(subject: _Subject, name: str, arguments: Arguments, look: _Look, seed: int) -> Case:
    """One case, judged; with the verdict '' where the reference says that it is none."""
    try:
        eager, exact = (subject.reference_of(arguments, exact=exact) for exact in (False, True))
    except TritonNotesError:
        raise
    except Exception as error:
        if name == GIVEN:
            raise DeclarationError(
                f"check of {subject.name}: its reference fails on the tensors given: {type(error).__name__}: {error}"
            ) from error
        return Case(name, "")
    if not look.at(subject, name, arguments):
        return Case(name, FAILS, reason="the strict interpreter stopped it", arguments=arguments)
    try:
        comparisons = _compared(subject, arguments, eager, exact)
        if any(math.prod(c.shape) < FEW for c in comparisons.values()) and not _is_special(name):
            comparisons = _over_draws(subject, arguments, comparisons, seed)
    except VerificationError as error:
        return Case(name, FAILS, reason=str(error), arguments=arguments)
    except DeclarationError:
        raise
    except Exception as error:
        # What the sanitizer stops has no cause. A tile that cannot be made, or an assertion, is the launcher's own.
        is_fault = isinstance(error, KernelError) and error.__cause__ is None
        verdict = FAILS if is_fault or name == GIVEN else REFUSED
        return Case(name, verdict, reason=_said(error), arguments=arguments)
    verdict = OK if all(c.ok for c in comparisons.values()) else FAILS
    return Case(name, verdict, comparisons, arguments=arguments)


def _said(error: Exception) -> str:
    """What an error says in a line. Triton's compiler shows the code first, and what is wrong with it last."""
    told = error.__cause__ if isinstance(error, KernelError) and error.__cause__ is not None else error
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    kind = "" if isinstance(told, TritonNotesError) else f"{type(told).__name__}: "
    return f"{kind}{lines[0 if told is error else -1] if lines else ''}"


def _is_special(name: str) -> bool:
    return " in argument " in name


def _over_draws(
    subject: _Subject, arguments: Arguments, first: dict[str, Comparison], seed: int
) -> dict[str, Comparison]:
    found = [first]
    for draw in range(1, DRAWS):
        made = drawn_again(arguments, seed + draw)
        eager, exact = (subject.reference_of(made, exact=exact) for exact in (False, True))
        found.append(_compared(subject, made, eager, exact))
    return {what: pooled([draw[what] for draw in found]) for what in first}


def _compared(subject: _Subject, arguments: Arguments, eager: Results, exact: Results) -> dict[str, Comparison]:
    results = _paired(subject, _run(subject, arguments, eager), eager)
    compared = {}
    for what, (result, expected) in results.items():
        if result.shape != eager[expected].shape or result.dtype != eager[expected].dtype:
            raise VerificationError(f"{what} is {shape_of(result)}, the reference gives {shape_of(eager[expected])}")
        truth = exact[expected]
        if truth.is_floating_point() and truth.dtype is not torch.float64:
            raise DeclarationError(
                f"check of {subject.name}: given float64, its reference gives {truth.dtype}; write it so that dtypes "
                "follow those of its arguments"
            )
        compared[what] = compare(result, eager[expected], truth)
    return compared


def _paired(subject: _Subject, results: Results, eager: Results) -> dict[str, tuple[Tensor, str]]:
    """Each result with the name of what it is compared with: of one name, or in order where the kernel writes in its
    arguments what the reference returns."""
    if results.keys() == eager.keys():
        return {what: (result, what) for what, result in results.items()}
    if len(results) == len(eager):
        return {what: (result, expected) for (what, result), expected in zip(results.items(), eager, strict=True)}
    had, wanted = (", ".join(found) or "nothing" for found in (results, eager))
    raise VerificationError(f"it gives {had}, where the reference gives {wanted}")


def _run(subject: _Subject, arguments: Arguments, eager: Results) -> Results:
    """The kernel's results on copies of the arguments."""
    if not subject.is_interpreted:
        try:
            with native.enabled(sanitize=True):
                results = results_of(subject.function, arguments)
        except native.UnsupportedError as error:
            subject.is_interpreted, subject.how = True, "run by the interpreter"
            subject.left_out.append(f"machine code: {first_line(error)}")
    if subject.is_interpreted:
        with interpreter.enabled(strict=True):
            results = results_of(subject.function, arguments)
    if isinstance(subject.function, Raw) and subject.outputs:
        # An output that holds the right numbers already does not change.
        given = {f"argument {place}": arguments[place] for place in sorted(subject.outputs)}
        return {what: results.get(what, before) for what, before in given.items()}
    return results


def _differences(subject: _Subject, arguments: Arguments) -> tuple[list[str], int]:
    """Runs on the tensors given that differ from the first in some bit."""
    first = _run(subject, arguments, {})
    found = []
    for repeat in range(REPEATS):
        found += _apart(first, _run(subject, arguments, {}), f"run {repeat + 2} differs from run 1")
    with threads(1):
        found += _apart(first, _run(subject, arguments, {}), "a run on one thread differs")
    for number in (float("nan"), 3.0):
        with Filled(number):
            made = _run(subject, arguments, {})
        found += _apart(first, made, f"it depends on what memory held that torch.empty gave it ({number})")
    return list(dict.fromkeys(found)), REPEATS + 4


def _apart(one: Results, other: Results, what: str) -> list[str]:
    return [f"{name}: {what}" for name in one if name not in other or not same_bits(one[name], other[name])]


def _shapes(arguments: Arguments) -> str:
    return ", ".join(map(shape_of, arguments))
