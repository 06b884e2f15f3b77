"""The page of all notes, `docs/ops.md`."""

from __future__ import annotations

from ..notes import Entry, entries

_HEAD = """\
# Ops

Written by `tritonnotes ops --write docs/ops.md` from the notes that stand beside the formulas; never edited by hand.
`tritonnotes note NAME` prints one of them, and with `--plot FILE` draws function and derivative. Arguments and defaults
are torch's where torch has the function. Every op also takes `name=`, which names its value; primitives do not.
`<declared>` means that the op declares the parameter itself, under its own name.
"""


def page() -> str:
    """All entries as a Markdown page."""
    listed = entries()
    families = {entry.family: [e for e in listed if e.family == entry.family] for entry in listed}
    parts = [_HEAD]
    parts.append("\n".join(f"- **{f}**: {', '.join(_link(e) for e in members)}" for f, members in families.items()))
    for family, members in families.items():
        parts.append(f"## {family.capitalize()}")
        parts += [_section(entry) for entry in members]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _link(entry: Entry) -> str:
    return f"[{entry.name}](#{entry.name})"


def _section(entry: Entry) -> str:
    kind = " (a primitive)" if entry.kind == "primitive" else ""
    said = {h: _code(t) if h in ("formula", "derivative") else _prose(t) for h, t in entry.lines().items()}
    listed = [f"- {heading}: {text}" for heading, text in said.items()]
    return "\n".join([f"### {entry.name}", "", f"`{entry.signature}`{kind}", "", *listed])


def _code(formula: str) -> str:
    return f"`{formula}`"


def _prose(text: str) -> str:
    """Text in which Markdown sees no markup."""
    for character in "\\*<[":
        text = text.replace(character, f"\\{character}")
    return text
