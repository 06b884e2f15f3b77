"""Tables of segments: what a row holds, for kernels and for the host."""

from __future__ import annotations

from tritonnotes.codegen.support.tables import Table

TABLE = Table(("size", "aligned"))


def test_addresses_stand_behind_the_numbers() -> None:
    assert (TABLE.place("size"), TABLE.place("aligned"), TABLE.addresses) == (0, 1, 2)
    assert TABLE.row([4096, 8192], aligned=1, size=15) == [15, 1, 4096, 8192]


def test_a_row_is_as_wide_as_its_numbers_and_addresses() -> None:
    assert TABLE.width(4) == 6 and TABLE.row_bytes(4) == 48
