"""Links to files outside docs/ hold on the site, too.

A page that is linked (README.md, ARCHITECTURE.md, ...) becomes a page below `repository/`, any other file is copied
there. In the sources links stay as they are, so that they also hold where the repository is browsed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

HOME = "repository"

_CODE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$|`[^`\n]+`", re.MULTILINE | re.DOTALL)

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside docs/ that a page, or a page so added, links to, or that the navigation names."""
    named = re.findall(rf"{HOME}/[\w./]+", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [("docs/" + f.src_uri, f.content_string) for f in files.documentation_pages()]
    waiting = [name.removeprefix(f"{HOME}/") for name in named]
    waiting += [path for name, text in pages for path in outside(text, name)]
    added: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in added:
            continue
        added.add(path)
        if not (ROOT / path).is_file():
            raise PluginError(f"a page or mkdocs.yml names {path}, which is no file of the repository")
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, f"{HOME}/{path}", content=text))
            waiting += outside(text, path)
        else:
            files.append(File.generated(config, f"{HOME}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them."""
    here = page.file.src_uri
    place = in_repository(here)

    def moved(link: str) -> str:
        return posixpath.relpath(site_place(resolved(link, place)), posixpath.dirname(here) or ".")

    return with_links(markdown, moved)


def outside(text: str, place: str) -> list[str]:
    """The files outside docs/ that a page at `place` in the repository links to."""
    found: list[str] = []
    with_links(text, lambda link: found.append(resolved(link, place)) or link)
    return [path for path in found if not path.startswith("docs/")]


def resolved(link: str, place: str) -> str:
    """The path in the repository that a link of the file at `place` means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def in_repository(source: str) -> str:
    """The path in the repository of a page of the site."""
    return source.removeprefix(f"{HOME}/") if source.startswith(f"{HOME}/") else f"docs/{source}"


def site_place(path: str) -> str:
    """The place on the site of a file of the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{HOME}/{path}"


def with_links(text: str, change: Callable[[str], str]) -> str:
    """Text whose relative links, outside of code, are changed."""
    parts, start = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(lambda m: change(m[1]), text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*parts, _LINK.sub(lambda m: change(m[1]), text[start:])])
