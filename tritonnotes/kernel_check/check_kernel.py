"""Judges a kernel that somebody wrote: `tn.check(kernel, reference, *tensors)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import interpreter, native
from ..ir.core.errors import DeclarationError, KernelError, TritonNotesError, VerificationError, first_line
from ..judge.tolerance import Comparison, compare, pooled
from .cases import Arguments, drawn_again, layout_cases, normal_draw, shape_cases, untried, value_cases
from .entry import check_call, name_of
from .findings import Findings, Watched, folded, is_fault, is_race
from .repeats import FILLS, Repeats, repeats
from .result import FAILS, OK, REFUSED, Case, KernelCertificate, shape_of
from .running import Filled, Ran, Raw, Results, copied, is_kernel, ran
from .worst import Worst, worst

GIVEN = "tensors given"

Compared = dict[str, tuple[Comparison, Worst | None]]
"""Of each result how far it is from the truth, and where it is furthest."""

MOST_PROGRAMS = 1024
"""Programs of a launch that the strict interpreter looks at: it takes a millisecond or more for each."""

FEW, DRAWS = 32, 16
"""Results of fewer numbers than this are compared over so many draws as one, so that no luck decides."""


def check_kernel(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    arguments: Arguments,
    *,
    grid: Any = None,
    constexprs: Mapping[str, Any] | None = None,
    outputs: Sequence[int] | None = None,
    edge_cases: bool = True,
    deterministic: bool = True,
    seed: int = 0,
) -> KernelCertificate:
    """Compare a kernel with its reference; `tn.check` says what is looked at, and what the arguments are."""
    launched = {"grid": grid, "constexprs": constexprs, "outputs": outputs}
    check_call(kernel, reference, arguments, **launched, deterministic=deterministic)
    subject = _Subject.of(kernel, reference, arguments, grid, constexprs, outputs)
    _settle_what_is_written(subject, arguments, seed)
    look = _Look()
    cases = [_case(subject, GIVEN, arguments, look, seed)]
    if edge_cases and cases[0].verdict != REFUSED:
        cases += [_case(subject, name, made, look, seed) for name, made in _others(subject, arguments, seed)]
    cases = [case for case in cases if case.verdict]
    again = Repeats((), (), 0)
    if cases[0].comparisons:
        again = _repeats(subject, arguments, look.sums, None if deterministic else cases[0])
    how = {**(launched if is_kernel(kernel) else {}), **({} if deterministic else {"deterministic": False})}
    return KernelCertificate(
        subject.name, tuple(cases), look.findings.lines(), look.watched, again.differences, again.runs,
        (*dict.fromkeys(subject.left_out), *folded(look.left_out), *again.left_out), subject.how,
        (kernel, reference, how), _untried(subject, arguments, cases) if edge_cases else "", deterministic,
    )  # fmt: skip


@dataclass
class _Subject:
    """The function that is judged, and its reference."""

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    outputs: frozenset[int]
    """The arguments that are results of the kernel, as places: those that it writes."""
    how: str
    written_by_reference: frozenset[int] = frozenset()
    is_settled: bool = False
    """Whether a run has shown what the kernel writes."""
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
        name = name_of(kernel)
        is_on_gpu = any(isinstance(a, Tensor) and a.is_cuda for a in arguments)
        how = "run as Triton on a GPU" if is_on_gpu else "run as machine code on the CPU"
        if not is_kernel(kernel):
            return cls(name, kernel, reference, frozenset(), how)
        return cls(name, Raw(kernel, grid, constexprs or {}), reference, frozenset(outputs or ()), how)

    def reference_of(self, arguments: Arguments, *, exact: bool) -> Ran:
        """The reference on the arguments, in eager PyTorch or in float64."""
        taken = tuple(
            a.double() if exact and isinstance(a, Tensor) and a.is_floating_point() else a
            for place, a in enumerate(arguments)
            if not isinstance(self.function, Raw) or (isinstance(a, Tensor) and place not in self.outputs)
        )
        return ran(self.reference, taken)

    def results(self, kernel: Ran, eager: Ran, exact: Ran) -> tuple[Results, Results, Results]:
        """What is compared. Where both write in their arguments, each argument that one of them writes is a result of
        both; where one writes and the other returns, these are put side by side. An argument that either changes in
        this run alone is a result of both, too: what one leaves alone, so must the other."""
        mine, theirs = self.outputs if self.is_settled else kernel.changed, self.written_by_reference
        if not isinstance(self.function, Raw):
            both = mine | theirs if mine and theirs else frozenset()
            both |= (kernel.changed | eager.changed) - mine - theirs
            mine, theirs = mine | both, theirs | both
        return kernel.results(mine), eager.results(theirs), exact.results(theirs)


def _settle_what_is_written(subject: _Subject, arguments: Arguments, seed: int) -> None:
    """Which arguments kernel and reference write, once for all cases: those that change on the tensors given or on
    normal numbers. In one case alone nothing may change, as zeros that are scaled."""
    is_raw = isinstance(subject.function, Raw)
    draws = (arguments, normal_draw(arguments, seed))
    subject.is_settled = bool(subject.outputs)
    if not subject.is_settled:
        for draw in draws:
            try:
                subject.outputs |= _run(subject, draw).changed
                subject.is_settled = True
            except Exception as error:
                # Of a function the cases tell what is wrong with it.
                if is_raw and draw is arguments:
                    raise _stopped(subject, error) from error
    if is_raw and not subject.outputs:
        raise DeclarationError(
            f"check of {subject.name}: it changes none of its arguments; name those that it writes, as in outputs=(1,)"
        )
    for draw in draws:
        try:
            subject.written_by_reference |= subject.reference_of(draw, exact=False).changed
        except Exception:  # the first case tells it
            continue


def _stopped(subject: _Subject, error: Exception) -> Exception:
    if not isinstance(error, KernelError):
        return error
    return KernelError(
        f"check of {subject.name}: its first run, which shows what it writes, was stopped: {first_line(error)}; "
        "name what it writes, as in outputs=(1,), to have the certificate"
    )


class _Look:
    """What the strict interpreter saw so far, and the faults that anything stopped."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.left_out: list[tuple[str, str]] = []
        """Cases that it did not see, each with the reason."""
        self.sums: dict[str, None] = {}
        """Where kernels add floats by atomic operations."""
        self._seen = 0
        self._idle = 0

    @property
    def watched(self) -> Watched:
        return Watched(self._seen, self._idle, len(self.left_out))

    def at(self, subject: _Subject, name: str, arguments: Arguments) -> bool:
        """Look at one case; whether it may run as machine code, too."""
        here = copied(tuple(a.cpu() if isinstance(a, Tensor) and a.is_cuda else a for a in arguments))
        try:
            with (
                interpreter.enabled(strict=True, most_programs=MOST_PROGRAMS) as launched,
                interpreter.atomic_sums() as found,
            ):
                subject.function(*here)
            self.sums |= found
            self._seen += bool(launched)
            self._idle += not launched
        except interpreter.TooManyProgramsError as error:
            self.left_out.append((name, str(error)))
        except KernelError as error:
            if _is_fault(error):
                self._seen += 1
                self.findings.add(name, _shapes(here), str(error))
                if is_race(str(error)):
                    _look_beyond(subject, name, arguments, self)
                return False
            self.left_out.append((name, first_line(error)))
        except Exception as error:
            self.left_out.append((name, f"{type(error).__name__}: {first_line(error)}"))
        return True

    def stopped(self, name: str, arguments: Arguments, error: Exception) -> None:
        """The sanitizer of machine code stopped a case."""
        self.findings.add(name, _shapes(arguments), first_line(error))

    def forget(self, name: str) -> None:
        """A case that its launcher refuses is none to look at."""
        self.left_out = [(case, reason) for case, reason in self.left_out if case != name]


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


def _untried(subject: _Subject, arguments: Arguments, cases: Sequence[Case]) -> str:
    if isinstance(subject.function, Raw):
        return (
            "sizes other than those given were not tried: pass a function that launches the kernel to have them tried"
        )
    return untried(arguments, {case.name for case in cases if case.verdict != REFUSED})


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
                f"{_taken(subject, arguments)}"
            ) from error
        return Case(name, "")
    if name == GIVEN:
        _check_gives(subject, eager)
    if not look.at(subject, name, arguments):
        return Case(name, FAILS, reason="the strict interpreter stopped it", arguments=arguments)
    try:
        compared = _compared(subject, arguments, eager, exact)
        if any(math.prod(c.shape) < FEW for c, _ in compared.values()) and not _is_special(name):
            compared = _over_draws(subject, arguments, compared, seed)
    except VerificationError as error:
        return Case(name, FAILS, reason=str(error), arguments=arguments)
    except DeclarationError:
        raise
    except Exception as error:
        # A tile that cannot be made, or an assertion, is the launcher's own.
        if _is_stop(error):
            look.stopped(name, arguments, error)
            return Case(name, FAILS, reason="the sanitizer stopped it", arguments=arguments)
        has_no_cause = isinstance(error, KernelError) and error.__cause__ is None
        verdict = FAILS if has_no_cause or name == GIVEN else REFUSED
        if verdict == REFUSED:
            look.forget(name)
        return Case(name, verdict, reason=_said(error), arguments=arguments)
    comparisons = {what: c for what, (c, _) in compared.items()}
    wrong = {what: at for what, (c, at) in compared.items() if at is not None and not c.ok}
    return Case(name, FAILS if wrong else OK, comparisons, worst=wrong, arguments=arguments)


def _is_stop(error: Exception) -> bool:
    """Whether the sanitizer of machine code stopped a kernel: an error of its own, which nothing else has caused."""
    return isinstance(error, KernelError) and error.__cause__ is None and is_fault(str(error))


def _look_beyond(subject: _Subject, name: str, arguments: Arguments, look: _Look) -> None:
    """What the sanitizer says of a case that a race has ended: a store that meets another program's elements may leave
    the tensor in a later program."""
    if subject.is_interpreted or any(isinstance(a, Tensor) and a.is_cuda for a in arguments):
        return
    try:
        with native.enabled(sanitize=True):
            ran(subject.function, arguments)
    except Exception as error:  # what else stops it is told where it is judged
        if _is_stop(error):
            look.stopped(name, arguments, error)


def _taken(subject: _Subject, arguments: Arguments) -> str:
    """What the reference of a kernel with its own arguments gets, for a message."""
    if not isinstance(subject.function, Raw):
        return ""
    taken = [str(i) for i, a in enumerate(arguments) if isinstance(a, Tensor) and i not in subject.outputs]
    written = ", ".join(map(str, sorted(subject.outputs)))
    return (
        f"; it gets the tensors that the kernel does not write (arguments {', '.join(taken) or 'none'}, without "
        f"{written}). Where a kernel reads what it writes, pass a function around it, and all that it takes"
    )


def _check_gives(subject: _Subject, eager: Ran) -> None:
    """Raises `DeclarationError` where the reference gives nothing to compare with."""
    given = eager.results(subject.written_by_reference)
    if any(t.numel() for t in given.values()):
        return
    said = "gives empty tensors alone" if given else "returns no tensor and changes no argument"
    remedy = "pass tensors that have elements" if given else "return tensors from it, or write in its arguments"
    raise DeclarationError(
        f"check of {subject.name}: nothing is compared: on the tensors given its reference {said}; {remedy}"
    )


def _said(error: Exception) -> str:
    """What an error says in a line. Triton's compiler shows the code first, and what is wrong with it last."""
    told = error.__cause__ if isinstance(error, KernelError) and error.__cause__ is not None else error
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    kind = "" if isinstance(told, TritonNotesError) else f"{type(told).__name__}: "
    return f"{kind}{lines[0 if told is error else -1] if lines else ''}"


def _is_special(name: str) -> bool:
    return " in argument " in name


def _over_draws(subject: _Subject, arguments: Arguments, first: Compared, seed: int) -> Compared:
    """Each result as one over all draws, with the worst element of any."""
    found = [first]
    for draw in range(1, DRAWS):
        made = drawn_again(arguments, seed + draw)
        eager, exact = (subject.reference_of(made, exact=exact) for exact in (False, True))
        found.append(_compared(subject, made, eager, exact))
    whole = {}
    for what in first:
        _, worst_at = max((draw[what] for draw in found), key=lambda pair: (not pair[0].special, pair[0].max_error))
        whole[what] = pooled([draw[what][0] for draw in found]), worst_at
    return whole


def _compared(subject: _Subject, arguments: Arguments, eager: Ran, exact: Ran) -> Compared:
    with Filled(*FILLS[0]):  # else what no program writes may hold an earlier result, which is right
        run = _run(subject, arguments)
    return _against(subject, run, eager, exact)


def _against(subject: _Subject, run: Ran, eager: Ran, exact: Ran) -> Compared:
    results, expected, truths = subject.results(run, eager, exact)
    compared = {}
    for what, name in _paired(results, expected).items():
        result, wanted, truth = results[what], expected[name], truths[name]
        if result.shape != wanted.shape or result.dtype != wanted.dtype:
            raise VerificationError(f"{what} is {shape_of(result)}, the reference gives {shape_of(wanted)}")
        if truth.is_floating_point() and truth.dtype is not torch.float64:
            raise DeclarationError(
                f"check of {subject.name}: given float64, its reference gives {truth.dtype}; write it so that dtypes "
                "follow those of its arguments"
            )
        compared[what] = compare(result, wanted, truth), worst(result, wanted, truth)
    return compared


def _paired(results: Results, eager: Results) -> dict[str, str]:
    """The name of each result with that of what it is compared with: the same name, or in order where the kernel writes
    in its arguments what the reference returns."""
    if results.keys() == eager.keys():
        return {what: what for what in results}
    if len(results) == len(eager):
        return dict(zip(results, eager, strict=True))
    had, wanted = (", ".join(found) or "nothing" for found in (results, eager))
    raise VerificationError(f"it gives {had}, where the reference gives {wanted}")


def _run(subject: _Subject, arguments: Arguments) -> Ran:
    """The kernel on copies of the arguments."""
    if not subject.is_interpreted:
        try:
            with native.enabled(sanitize=True):
                return ran(subject.function, arguments)
        except native.UnsupportedError as error:
            subject.is_interpreted, subject.how = True, "run by the interpreter"
            subject.left_out.append(f"machine code: {first_line(error)}")
    with interpreter.enabled(strict=True):
        return ran(subject.function, arguments)


def _repeats(subject: _Subject, arguments: Arguments, sums: Iterable[str], judged: Case | None) -> Repeats:
    """Runs on the tensors given. They must agree in every bit or, given what they were `judged` to be, be as close to
    the truth."""
    looked_at = subject.outputs if isinstance(subject.function, Raw) else frozenset(range(len(arguments)))
    added = " and ".join(sums)
    why = f"; {added} adds floats by atomic operations, in no fixed order: deterministic=False allows that"
    right = None if judged is None else _nearness(subject, arguments, judged)
    return repeats(lambda: _run(subject, arguments), looked_at, why=why if added else "", judged=right)


def _nearness(subject: _Subject, arguments: Arguments, judged: Case) -> Callable[[Ran], list[str]]:
    """What is wrong with the numbers of a run, where they were `judged` once. Results of few elements may err as much
    as in any of the draws there."""
    eager, exact = (subject.reference_of(arguments, exact=exact) for exact in (False, True))

    def said(run: Ran) -> list[str]:
        compared = _against(subject, run, eager, exact)
        allowed = {what: c.max_allowed for what, c in judged.comparisons.items()}
        return [
            f"{what}: error {c.max_error:.2e}, allowed {allowed[what]:.2e}  {at}"
            for what, (c, at) in compared.items()
            if not c.ok and not (c.special and c.max_error <= allowed[what])
        ]

    return said if judged.verdict == OK else lambda run: []


def _shapes(arguments: Arguments) -> str:
    return ", ".join(map(shape_of, arguments))
