"""What tile programs are for in their launch, and what differs with that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Purpose:
    """What a tile program is for.

    `about` is the docstring of its function, with `{}` for what it computes. `is_launched`: a grid of programs runs it;
    others are called by the function that is. `cuts_axes`: its axes may be cut into rows and columns as suits it.
    `adds_groups`: the partial sums that it adds up are those of groups of programs, where they have columns.
    """

    about: str
    is_launched: bool = False
    cuts_axes: bool = True
    adds_groups: bool = False


LAUNCHED = Purpose("{}.", is_launched=True)
"""The kernel of a launch."""


GROUP_MEMBER = Purpose("{}.")
"""One of several kernels in one launch, called for each of its tiles."""


LAST_BLOCK = Purpose("Finalizes {}.", adds_groups=True)
"""Finishes sums, in the last program of a launch."""


REPLICATED_SUM = Purpose("A reduction of {} that is replicated: every program computes it.")
"""A sum that each program takes for itself."""


MATMUL_OPERAND = Purpose("{}, of a block that is multiplied.", cuts_axes=False)
"""An operand of a matrix product, computed for the rows and columns of a block."""
