"""Pages that are made when the site is built: the tutorial from its notebook, and a page of the explorer."""

from __future__ import annotations

import json
from typing import Any

from gallery import EXPLORER, PAGE, explored
from mkdocs.structure.files import File, Files
from notebook import rendered


def on_files(files: Files, config: Any) -> Files:
    """The files of the site, and these."""
    (notebook,) = (file for file in files if file.src_uri == "tutorial.ipynb")
    (gallery,) = (file for file in files if file.src_uri == PAGE)
    cells = json.loads(notebook.content_string)["cells"]
    files.append(File.generated(config, "tutorial.md", content="\n".join(rendered(cells))))
    files.append(File.generated(config, EXPLORER, content=explored(gallery.content_string)))
    return files
