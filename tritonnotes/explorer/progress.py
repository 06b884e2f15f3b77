"""A sign of life while machine code is made: a bar on a terminal, else one line, both on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Told = Callable[[str], None]
"""Is told of each kernel that is done."""


def tell_nobody(kernel: str) -> None:
    """Shows nothing."""


@contextmanager
def shown(count: int, arch: int, console: Console | None = None) -> Iterator[Told]:
    """Shows how many of `count` kernels are done."""
    console = console or Console(stderr=True)
    said = f"machine code for sm_{arch}"
    if not console.is_terminal:
        kernels = "1 kernel" if count == 1 else f"{count} kernels"
        console.print(f"tritonnotes: {said} of {kernels}, up to 2 seconds each", soft_wrap=True, highlight=False)
        yield tell_nobody
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(said, total=count)

        def told(kernel: str) -> None:
            bar.update(task, advance=1, description=f"{said}: {kernel}")

        yield told
