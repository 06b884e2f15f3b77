"""What the HTML of the built site links to and loads."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "link": "href",
    "source": "src",
    "use": "href",
    "image": "href",
}
"""The tags that make a browser load something, and the attribute that says what."""

FOLLOWED_BY = "canonical", "next", "prev", "alternate"
"""The kinds of `<link>` that nothing is loaded for."""


class Links(HTMLParser):
    """What a page links to inside the site, what in it can be linked to, and what it loads from other hosts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.foreign: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        if "id" in given:
            self.places.add(str(given["id"]))
        for name in ("href", "src"):
            if name not in given:
                continue
            value = str(given[name])
            if not is_elsewhere(value):
                self.links.add(unquote(value))
            elif LOADS.get(tag) == name and given.get("rel") not in FOLLOWED_BY and urlsplit(value).scheme != "data":
                self.foreign.add(value)


def is_elsewhere(link: str) -> bool:
    """Whether a link has a scheme or a host."""
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def faults(site: Path) -> Iterator[str]:
    """Of a site in a folder: links that lead nowhere, and what pages load from other hosts."""
    pages = {p.relative_to(site).as_posix(): Links(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    files = {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()}
    for name, page in pages.items():
        yield from (f"{name} loads {address}" for address in sorted(page.foreign))
        if name == "404.html":  # its links begin at the root of a server
            continue
        yield from (f"{name}: dead link {link}" for link in sorted(page.links) if is_dead(link, name, pages, files))


def is_dead(link: str, name: str, pages: Mapping[str, Links], files: set[str]) -> bool:
    """Whether the file that a link of page `name` leads to, or the place in it, is not there."""
    path, _, place = link.partition("#")
    goal = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    is_there = goal == "." or goal in files
    return not is_there or bool(place and goal in pages and place not in pages[goal].places)
