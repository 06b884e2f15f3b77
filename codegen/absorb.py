"""Which matrix products are computed inside generated kernels: those whose reader so saves a launch and a tensor's way
to memory and back, for more than a library call would be faster by.

Done to the plan that was chosen, product by product, in their order: what a product joins is a kernel that reads it,
whose tile then is the product's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tritonnotes.ir.graph import Value

from .axes import known_product
from .clusters import Partition, in_order
from .cost import loads_of, memory_plan, refusal_of
from .fusion import Legality, Space
from .group_updates import update_groups
from .products import generated_bytes, is_generable, library_bytes, most_shares, tile_of
from .traffic import LAUNCH_BYTES, nominal_bytes
from .units import PARTIAL, PRODUCT, Unit, Units, generating, memory_of

if TYPE_CHECKING:
    from .choose import Choice

MOST_PRODUCTS = 2
"""Products that one kernel computes: each keeps a tile in registers, and its operands in shared memory."""

Kernel = frozenset[Unit]


def absorb_products(found: Choice) -> Choice:
    """The choice with products computed by kernels that read them, where that pays."""
    candidates = [u.value for u in found.units.units if u.is_library and is_generable(found.units.axes, u.value)]
    if not candidates:
        return found
    every = with_parts(found, dict.fromkeys(candidates, PRODUCT))
    partition, absorbed = every.partition, []
    shared = _shared_launches(every)
    for value in candidates:
        product = every.units.producer[value]
        trials = [
            (gain, i, joined)
            for i, kernel in enumerate(partition.kernels)
            if (gain := _gain(every, partition, product, kernel, shared)) > 0
            and (joined := _joined(every.legality, partition, product, kernel)) is not None
        ]
        if trials:
            _, _, partition = max(trials, key=lambda trial: (trial[0], -trial[1]))
            absorbed.append(value)
    made = with_parts(found, dict.fromkeys(absorbed, PRODUCT))
    back = {u: made.units.producer.get(u.value, u) for u in every.units.units if u.part == PRODUCT}
    return replace(made, partition=renamed(partition, back))


def tile_in(units: Units, space: Space, members: Iterable[Unit]) -> tuple[int, int]:
    """Rows and columns of the tile of a kernel with products; 0 for others."""
    members = list(members)
    dtypes = [u.value.dtype for u in members if u.part == PRODUCT]
    if not dtypes:
        return 0, 0
    whole = space.reduces_rows or any(u.part == PARTIAL and not units.axes.of(u.value) for u in members)
    return tile_of(dtypes[0], known_product(units.axes, space.cols), whole)


def shares_in(units: Units, space: Space, members: Iterable[Unit]) -> int:
    """How many programs may share the sum of a kernel's one product, 0 where it is not shared."""
    members = list(members)
    products = [u.value for u in members if u.part == PRODUCT]
    if space.reduces_rows or space.carries or len(products) != 1:
        return 0
    return most_shares(products[0], tile_in(units, space, members), frozenset(space.cols), units.axes)


def _gain(every: Choice, partition: Partition, product: Unit, kernel: Kernel, shared: dict[Kernel, int]) -> int:
    """What computing a product in a kernel saves, in bytes; 0 where the kernel does not read it or may not have it."""
    value, legality = product.value, every.legality
    if product in kernel or sum(u.part == PRODUCT for u in kernel) >= MOST_PRODUCTS:
        return 0
    if value not in loaded_by(legality, partition, kernel):
        return 0
    others = (k for k in partition.kernels if k is not kernel and product not in k)
    elsewhere = every.units.roots.union(*(loaded_by(legality, partition, k) for k in others))
    both = kernel | {product}
    space = legality.space(both, [u for u in both if u.part != PARTIAL and u.value in elsewhere])
    if not isinstance(space, Space):
        return 0
    is_stored = value in elsewhere
    saved = LAUNCH_BYTES // shared.get(kernel, 1) + nominal_bytes(value) * (1 if is_stored else 2)
    tile, axes, cols = tile_in(every.units, space, both), every.units.axes, frozenset(space.cols)
    shares = shares_in(every.units, space, both)
    return saved + library_bytes(value) - generated_bytes(value, tile, cols, axes, shares)


def loaded_by(legality: Legality, partition: Partition, kernel: Kernel) -> frozenset[Value]:
    """The memories that a kernel reads."""
    return frozenset(memory_of(v) for v in loads_of(legality, kernel, partition.again.get(kernel, ())))


def _joined(legality: Legality, partition: Partition, product: Unit, kernel: Kernel) -> Partition | None:
    """The partition with a product in a kernel, None where kernels would then wait for each other."""
    both = kernel | {product}
    kernels = tuple(both if k is kernel else k for k in partition.kernels if k != {product})
    again = {both if k is kernel else k: values for k, values in partition.again.items()}
    made = in_order(legality, Partition(kernels, again))
    return None if made is None or refusal_of(legality, made) is not None else made


def _shared_launches(choice: Choice) -> dict[Kernel, int]:
    """For each update that shares a launch, how many do: leaving saves the launch only if all leave."""
    if not choice.units.graph.updates:
        return {}
    memory = memory_plan(choice.units, choice.legality, choice.partition)
    groups = update_groups(choice.units, choice.legality, choice.partition, memory)
    kernels = ([k for alike in group for k in alike.kernels] for group in groups)
    return {k: len(group) for group in kernels for k in group}


def with_parts(choice: Choice, parts: Mapping[Value, str]) -> Choice:
    """The same choice over units of which some are products, or operands of them."""
    units, became = generating(choice.units, parts)
    legality = Legality(units, _pairs(choice.legality, became), choice.legality)
    wanted = [frozenset(became[u] for u in group) for group in choice.wanted]
    return replace(choice, units=units, legality=legality, wanted=wanted, partition=renamed(choice.partition, became))


def _pairs(legality: Legality, became: dict[Unit, Unit]) -> Iterator[tuple[Unit, Unit]]:
    for unit, others in legality.apart.items():
        yield from ((became[unit], became[other]) for other in others)


def renamed(partition: Partition, became: dict[Unit, Unit]) -> Partition:
    """The partition with other units in the place of some."""
    names = {k: frozenset(became.get(u, u) for u in k) for k in partition.kernels}
    return Partition(tuple(names.values()), {names[k]: values for k, values in partition.again.items()})
