"""Formulas of notes as MathML, which browsers typeset without any script.

A formula is one line of plain text: `(x − mean) / √(var + eps) · weight + bias, statistics per sample`. Quotients
become fractions, `√` a root, raised and lowered letters indices; what follows is read as words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁱⁿˣᵖᵀᵉʸᵏᵇᵗ", "0123456789+−inxpTeykbt", strict=True))


_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊ₚᵢⱼₖₙₜ", "0123456789+pijknt", strict=True))


_TOKEN = re.compile(
    rf"\s+|\d+(?:\.\d+)?|[{''.join(_RAISED)}]+|[{''.join(_LOWERED)}]+|[A-Za-zα-ωΑ-Ω½_][A-Za-z0-9_α-ω]*[\u0300-\u036f]?"
    "|'[^']*'|."
)


_CLOSING = {"(": ")", "[": "]", "|": "|", "‖": "‖"}


_PREFIXED = ("−", "-", "Σ")
"""What stands in front of what it is of."""


def mathml(formula: str) -> str:
    """The formula as a `<math>` element."""
    reader = _Reader(_TOKEN.findall(formula))
    shown = reader.sequence("")
    return f'<math displaystyle="true">{shown}</math>'


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.place = 0

    @property
    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def sequence(self, closing: str) -> str:
        """Everything up to `closing`, or to the end."""
        items: list[str] = []
        spaced = False
        while self.next and self.next != closing:
            if self.next.isspace():
                spaced = True
                self.place += 1
                continue
            if self.next == "/" and items:
                self.place += 1
                self._skip_spaces()
                below = self._factor() if self.next and self.next != closing else "<mrow></mrow>"
                items[-1] = f"<mfrac>{_without_fence(items[-1])}{_without_fence(below)}</mfrac>"
                continue
            factor = self._factor()
            if spaced and items and not _is_operator(items[-1]) and not _is_operator(factor):
                items.append('<mspace width="0.3em"/>')
            items.append(factor)
            spaced = False
        return f"<mrow>{''.join(items)}</mrow>"

    def _factor(self) -> str:
        """An atom with what is raised or lowered behind it."""
        made = self._atom()
        if made.startswith("<mi>") and self.next == "(" and ")" in self.tokens[self.place :]:
            made = f"<mrow>{made}{self._atom()}</mrow>"  # a function with its argument, as one in a fraction
        while self.next and (self.next[0] in _RAISED or self.next[0] in _LOWERED or self.next == "^"):
            token = self.next
            self.place += 1
            if token == "^":
                made = f"<msup>{made}{_without_fence(self._exponent())}</msup>"
            elif token[0] in _RAISED:
                made = f"<msup>{made}{_index(''.join(map(_RAISED.__getitem__, token)))}</msup>"
            else:
                made = f"<msub>{made}{_index(''.join(map(_LOWERED.__getitem__, token)))}</msub>"
        return made

    def _exponent(self) -> str:
        if self.next in _PREFIXED:
            sign = self.next
            self.place += 1
            return f"<mrow><mo>{sign}</mo>{self._atom()}</mrow>"
        return self._atom()

    def _atom(self) -> str:
        token = self.next
        self.place += 1
        if token == "√":
            self._skip_spaces()
            return f"<msqrt>{_without_fence(self._factor() if self.next else '<mrow></mrow>')}</msqrt>"
        if token == "Σ" and self.next.isspace() and _begins_a_factor(self.tokens[self.place + 1 : self.place + 2]):
            self._skip_spaces()
            return f'<mrow><mo>Σ</mo><mspace width="0.3em"/>{self._factor()}</mrow>'
        if token in _CLOSING and _CLOSING[token] in self.tokens[self.place :]:
            inside = self.sequence(_CLOSING[token])
            self.place += 1
            return f"<mrow><mo>{token}</mo>{inside}<mo>{_CLOSING[token]}</mo></mrow>"
        return _text(token)

    def _skip_spaces(self) -> None:
        while self.next.isspace():
            self.place += 1


def _begins_a_factor(tokens: Sequence[str]) -> bool:
    return any(_is_word(token) or token[0].isdigit() or token in _CLOSING or token in "√Σ" for token in tokens)


def _is_operator(made: str) -> bool:
    return made.startswith("<mo>")


def _is_word(token: str) -> bool:
    return token[0].isalpha() or token[0] == "_"


def _text(token: str) -> str:
    if not token:
        return "<mrow></mrow>"
    if token[0].isdigit():
        return f"<mn>{token}</mn>"
    if _is_word(token) or token[0] == "'":
        return f"<mi>{escape(token)}</mi>"
    return f"<mo>{escape(token)}</mo>"


def _index(text: str) -> str:
    """What is raised or lowered: a number, a name, or several of them with signs."""
    parts = [_text(part) for part in _TOKEN.findall(text)]
    return parts[0] if len(parts) == 1 else f"<mrow>{''.join(parts)}</mrow>"


def _without_fence(made: str) -> str:
    """A group without its parentheses, where a fraction or a root shows it as one anyway."""
    if made.startswith("<mrow><mo>(</mo>") and made.endswith("<mo>)</mo></mrow>"):
        return f"<mrow>{made[len('<mrow><mo>(</mo>') : -len('<mo>)</mo></mrow>')]}</mrow>"
    return made
