"""What a function is called, and its variables, that several launches share: `linear_relu` for `linear_1_relu` and
`linear_2_relu_1`. The numbers by which layers are told apart are left out, and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

_WORDS = re.compile(r"([._]?\d+(?=[._]|$))")
"""A number that is a word of a name: the 2 of `linear_2`, not that of `fc2`."""

_DIGITS = re.compile(r"(\d+)")


def common_name(names: Sequence[str]) -> str:
    """The name of what has several: the first, without the numbers in which the others differ from it. Where they
    differ in more, most of them have this one."""
    if len(set(names)) == 1:
        return names[0]
    for numbers in (_WORDS, _DIGITS):
        made = Counter(_without_what_varies([numbers.split(name) for name in names]))
        common, count = made.most_common(1)[0]
        if common and 2 * count > len(names):
            return common
    return names[0]


def _without_what_varies(names: Sequence[Sequence[str]]) -> list[str]:
    """Names in pieces, each second one a number, without the numbers that are not the same in all. Where names differ
    in more, they are without numbers."""
    varies = [len(set(column)) > 1 for column in zip_longest(*names)]
    if any(varies[::2]):
        return ["".join(pieces[::2]) for pieces in names]
    return ["".join(p for p, varied in zip(pieces, varies, strict=True) if not varied) for pieces in names]
