"""The last look at the built site: every relative link and picture of its HTML leads to a file and a place in it."""

from __future__ import annotations

import posixpath
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.exceptions import PluginError


class _Links(HTMLParser):
    """What a page links to, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.places.add(value)
            if (
                name in ("href", "src")
                and value is not None
                and not urlsplit(value).scheme
                and not urlsplit(value).netloc
            ):
                self.links.add(unquote(value))


def on_post_build(config: Any) -> None:
    """Stop the build at dead links."""
    site = Path(config["site_dir"])
    pages = {p.relative_to(site).as_posix(): _Links(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    files = {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()}
    dead = []
    for name, page in pages.items():
        if name == "404.html":  # its links begin at the root of a server
            continue
        for link in sorted(page.links):
            path, _, place = link.partition("#")
            goal = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            is_there = goal == "." or goal in files
            if not is_there or (place and goal in pages and place not in pages[goal].places):
                dead.append(f"{name}: {link}")
    if dead:
        raise PluginError("dead links: " + "; ".join(dead[:20]))
