"""The three files that a result is kept in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reporting.machine import slug_of


def free_paths(record: dict[str, Any], prefix: str, folder: Path) -> list[Path]:
    """Return PREFIX + MACHINE_DATE.json, .md and .png in ``folder``, numbered where there is another of the day."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{prefix}{slug_of(record['machine'])}_{record['date'][:10]}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    free = next(name for name in names if not (folder / f"{name}.json").exists())
    return [folder / f"{free}.{ending}" for ending in ("json", "md", "png")]


def write_files(
    record: dict[str, Any],
    paths: list[Path],
    page: Callable[[str], str],
    draw: Callable[[dict[str, Any], Path], None],
) -> list[Path]:
    """Write a record to the ``paths`` of ``free_paths`` and return them; ``page`` makes Markdown of the picture's name.

    A record that grows may be written again.
    """
    partial = paths[0].with_suffix(".tmp")  # a kill here must not take what was there
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(paths[0])
    paths[1].write_text(page(paths[2].name), encoding="utf-8")
    draw(record, paths[2])
    return paths
