"""The bar that every benchmark shows on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich import get_console
from rich.progress import Progress


@contextlib.contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[str], None]]:
    """Show a bar of ``total`` steps until the block ends; call what it yields after each, with what was done."""
    with Progress(disable=not get_console().is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, advance=1, description=done)
