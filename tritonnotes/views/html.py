"""HTML of small parts. All text is escaped; what is HTML already says so by its type."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence


class Html(str):
    """Text that is HTML already."""


def as_html(part: object) -> Html:
    """HTML as it is; anything else as text."""
    return part if isinstance(part, Html) else Html(html.escape(str(part)))


def tag(name: str, *inside: object, **attributes: str) -> Html:
    """An element. An underscore in the name of an attribute stands for a hyphen, and one at its end for nothing."""
    said = "".join(f' {_attribute(key)}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{said}>{''.join(map(as_html, inside))}</{name}>")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> Html:
    """A table; the columns in `right` are numbers."""

    def row(cell: str, cells: Sequence[object]) -> Html:
        styles = ["text-align:right" if place in right else "text-align:left" for place in range(len(cells))]
        return tag("tr", *(tag(cell, part, style=style) for part, style in zip(cells, styles, strict=True)))

    head = tag("thead", row("th", headings))
    return tag("table", head, tag("tbody", *(row("td", cells) for cells in rows)))


def block(title: object, *parts: object) -> Html:
    """What a notebook shows of one object: a title over its parts."""
    return tag("div", tag("p", tag("strong", title)), *parts, class_="tritonnotes")


def folded(title: str, *parts: object) -> Html:
    """Parts that a click unfolds."""
    return tag("details", tag("summary", title), *parts)


def code(text: object) -> Html:
    return tag("code", text)


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")
