"""The one progress bar: on stderr beside the log lines, silent where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich import get_console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn, track

ItemT = TypeVar("ItemT")


def progress_bar(what: str, *columns: ProgressColumn, is_shown: bool = True) -> Progress:
    """Make a bar: ``what`` is done, the bar, further ``columns``, and the time left; it goes away at its end."""
    is_silent = not (is_shown and get_console().is_terminal)
    return Progress(TextColumn(what), BarColumn(), *columns, TimeRemainingColumn(), transient=True, disable=is_silent)


def shown(items: Sequence[ItemT], what: str) -> Iterable[ItemT]:
    """Yield ``items``, showing how many of them are done."""
    return track(items, description=what, transient=True, disable=not get_console().is_terminal)
