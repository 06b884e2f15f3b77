"""The last look at the built site: every link leads to a file and a place in it, and no page loads from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from html_links import faults
from mkdocs.exceptions import PluginError


def on_post_build(config: Any) -> None:
    """Stop the build at the first faults."""
    found = list(faults(Path(config["site_dir"])))
    if found:
        raise PluginError("; ".join(found[:20]))
