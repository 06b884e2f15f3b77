"""What a user wants fused, met by a change of the kernels that are found without it, or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice

from ..analysis.units import Unit
from ..fusion.candidate import Candidate
from ..fusion.constraints import Fusion, Unmet
from ..fusion.horizontal import missed_wish
from ..fusion.legality import Refusal
from ..fusion.merge import Clusters
from .opposites import NOT_SELECTED, together, why_apart

MOST_PAIRS = 100
"""Pairs of units that are looked at for a reason."""


def fused_as_asked(found: Candidate, options: Fusion) -> Candidate:
    """The candidate with the pairs that `fuse` in `options` asks for brought together one after the other, as far as a
    change of a few kernels does."""
    tried: set[tuple[str, ...]] = set()
    while (missed := missed_wish(found, options)) is not None:
        pair = next((ends for ends in _pairs(missed) if _names(ends) not in tried), None)
        other = None if pair is None else together(found, *pair)
        if pair is None or other is None:
            return found
        tried.add(_names(pair))
        found = other
    return found


def refusal_of(found: Candidate, options: Fusion) -> Refusal | None:
    """Why the first pair that `fuse` asks for and `found` computes apart is apart: the rule and the reason that its
    verdict has, of several pairs those of the first that is illegal. None where no pair is apart."""
    missed = missed_wish(found, options)
    if missed is None:
        return None
    clusters = Clusters(found.legality, found.partition.kernels)
    pairs = (pair for link in missed.links for pair in combinations(_in_order(link), 2))
    apart = ((p, r) for p, r in pairs if clusters.of[p] is not clusters.of[r])
    reasons = [why_apart(found, clusters, *pair) for pair in islice(apart, MOST_PAIRS)]
    return next((why for why in reasons if why != NOT_SELECTED), reasons[0] if reasons else None)


def _pairs(missed: Unmet) -> Iterator[tuple[Unit, Unit]]:
    """Of what is apart each value with what reads it."""
    for link in missed.links:
        if len(link) == 2:
            producer, reader = _in_order(link)
            yield producer, reader


def _in_order(link: frozenset[Unit]) -> list[Unit]:
    return sorted(link, key=lambda unit: unit.value.index)


def _names(pair: tuple[Unit, Unit]) -> tuple[str, str]:
    producer, reader = pair
    return producer.value.name, reader.value.name
