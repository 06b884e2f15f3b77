"""What a check of a kernel found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..codegen.support.text import counted
from ..ir.core.errors import KernelError
from ..judge.tolerance import Comparison
from ..views.html import block, table, tag
from .findings import Watched
from .pattern import shared_by_failing
from .repro import reproduction
from .worst import Worst

OK, REFUSED, FAILS = "ok", "refused", "FAILS"


@dataclass(frozen=True)
class Case:
    """The kernel on one set of tensors. `verdict` is 'ok', 'FAILS', or 'refused' where the kernel raises an error of
    its own, as for sizes that it does not take; `reason` says why there is no result. `comparisons` are those of the
    results, by name."""

    name: str
    verdict: str
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    reason: str = ""
    worst: dict[str, Worst] = field(default_factory=dict)
    """Of each result that fails, the element that is furthest off."""
    arguments: tuple[Any, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, repr=False)
class KernelCertificate:
    """How far the results of a kernel are from float64, beside its reference in eager PyTorch, on the tensors given and
    on awkward ones (`cases`); faults in memory (`findings`), and how many runs the strict interpreter saw (`watched`);
    whether runs agree in every bit (`differences`), and what was not judged (`left_out`). `ok`: no case fails, no
    finding, no difference in what was judged."""

    kernel: str
    cases: tuple[Case, ...]
    findings: tuple[str, ...]
    watched: Watched
    differences: tuple[str, ...]
    runs: int
    left_out: tuple[str, ...]
    how: str
    called: tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]] = field(repr=False, compare=False)
    untried: str = ""
    """Which sizes no case has, as a sentence."""
    is_deterministic: bool = True
    """Whether all runs had to agree in every bit."""

    @property
    def ok(self) -> bool:
        return not self.failing and not self.findings and not self.differences

    @property
    def looks(self) -> int:
        """Runs that the strict interpreter saw all programs of."""
        return self.watched.seen

    @property
    def failing(self) -> list[Case]:
        """The cases that fail."""
        return [case for case in self.cases if case.verdict == FAILS]

    @property
    def pattern(self) -> str:
        """What the sizes of failing cases have in common that those of right ones have not; '' where nothing does."""
        sized = [case for case in self.cases if " argument " not in f" {case.name} "]
        wrong, right = ([c.arguments for c in sized if c.verdict == verdict] for verdict in (FAILS, OK))
        return shared_by_failing(wrong, right)

    def __repr__(self) -> str:
        kinds = {"failing case": self.failing, "finding": self.findings, "difference": self.differences}
        wrong = [counted(len(found), what) for what, found in kinds.items() if found]
        held = "OK" if self.ok else f"FAILS: {', '.join(wrong)}"
        return f"KernelCertificate({self.kernel!r}: {counted(len(self.cases), 'case')}, {held})"

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, *_ in rows) + 1
        lines = [f"certificate of {self.kernel}, {self.how}"]
        lines.append(f"  {'':{width}} {'error':>10} {'eager error':>12} {'allowed':>10}")
        for name, errors, verdict in rows:
            shown = " ".join(f"{error:>{size}}" for error, size in zip(errors, (10, 12, 10), strict=True))
            lines.append(f"  {name:{width}} {shown}  {verdict}".rstrip())
        lines += [f"  {line}" for line in self._remarks()]
        return "\n".join([*lines, f"  {self._verdict()}"])

    def _repr_html_(self) -> str:
        rows = [(name, *errors, verdict) for name, errors, verdict in self._rows()]
        shown = table(("case", "error", "eager error", "allowed", ""), rows, right=(1, 2, 3))
        return block(repr(self), shown, tag("ul", *(tag("li", line) for line in self._remarks())))

    def to_dict(self) -> dict[str, Any]:
        """For programs: ok, each case with its errors and worst elements, findings, differences, what was left out."""
        cases = [
            {
                "name": c.name,
                "verdict": c.verdict,
                "reason": c.reason,
                "results": dict(map(_data, c.comparisons.items())),
                "worst": {what: at.to_dict() for what, at in c.worst.items()},
            }
            for c in self.cases
        ]
        said = {
            "kernel": self.kernel,
            "ok": self.ok,
            "cases": cases,
            "strict_looks": self.watched.seen,
            "strict_runs": self.watched.runs,
        }
        found = {
            "findings": list(self.findings),
            "differences": list(self.differences),
            "left_out": list(self.left_out),
            "pattern": self.pattern or None,
            "untried": self.untried or None,
        }
        return {**said, **found}

    def reproduction(self, case: Case | None = None) -> str:
        """A script that shows what fails by itself: the source of kernel and reference, and the tensors of `case` (the
        smallest that fails). Raises `KernelError` where nothing fails and no case is given, where there is no source,
        or where the tensors are large."""
        if case is None and self.ok:
            raise KernelError(
                f"reproduction: nothing fails in the check of {self.kernel}; pass a case to have it as a script, as in "
                "certificate.reproduction(certificate.cases[0])"
            )
        kernel, reference, how = self.called
        shown = case or min(self.failing or self.cases[:1], key=_elements)
        return reproduction(kernel, reference, shown.arguments, how, f"{self.kernel}, case {shown.name!r}")

    def write_reproduction(self, file: str | Path, case: Case | None = None) -> Path:
        """Write `reproduction(case)` to `file`. Raises `KernelError` as it does, and then writes nothing."""
        text = self.reproduction(case)
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def _rows(self) -> list[tuple[str, tuple[str, str, str], str]]:
        rows = []
        for case in self.cases:
            if not case.comparisons:
                rows.append((case.name, ("", "", ""), f"{case.verdict}  {case.reason}".rstrip()))
            for what, c in case.comparisons.items():
                name = case.name if len(case.comparisons) == 1 else f"{case.name}: {what}"
                errors = (f"{c.max_error:.2e}", f"{c.eager_max_error:.2e}", f"{c.max_allowed:.2e}")
                special = "" if c.special else "  NaN or inf misplaced"
                at = f"  {case.worst[what]}" if what in case.worst else ""
                rows.append((name, errors, f"{OK if c.ok else FAILS}{special}{at}"))
        return rows

    def _verdict(self) -> str:
        if not self.ok:
            return "FAILS: see what fails above"
        held = "every result errs at most twice as much as eager, plus two units in the last place"
        if self.watched.seen:
            return f"OK: {held}"
        return f"OK for numbers and bits alone: {held}. Bounds, masked lanes and races are not judged"

    def _remarks(self) -> list[str]:
        lines = [f"sizes: {self.pattern}"] if self.pattern else []
        lines += [self.watched.line(len(self.findings))]
        lines += [f"FAILS: {finding}" for finding in self.findings]
        right = "the same bits" if self.is_deterministic else "right, and the same bits on one thread"
        agree = right if not self.differences else counted(len(self.differences), "difference")
        lines += [f"{counted(self.runs, 'run')} of the tensors given: {agree}"] if self.runs else []
        lines += [f"FAILS: {difference}" for difference in self.differences]
        lines += [f"left out: {reason}" for reason in self.left_out]
        return [*lines, *([self.untried] if self.untried else [])]


def _elements(case: Case) -> int:
    return sum(a.numel() for a in case.arguments if isinstance(a, Tensor))


def _data(result: tuple[str, Comparison]) -> tuple[str, dict[str, object]]:
    what, c = result
    errors = {"max_error": c.max_error, "eager_max_error": c.eager_max_error, "allowed": c.max_allowed}
    return what, {"ok": c.ok, **errors}


def shape_of(argument: Any) -> str:
    """An argument as a message shows it."""
    if not isinstance(argument, Tensor):
        return repr(argument)
    return f"{str(argument.dtype).removeprefix('torch.')}{list(argument.shape)}"
