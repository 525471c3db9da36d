"""The three files that a result is kept in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reporting.machine import slug_of


def write_files(
    record: dict[str, Any],
    prefix: str,
    page: Callable[[str], str],
    draw: Callable[[dict[str, Any], Path], None],
    folder: Path,
) -> list[Path]:
    """Write PREFIX + MACHINE_DATE.json, .md and .png; another result of the day stays, this one is numbered.

    ``page`` makes the Markdown from the picture's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{prefix}{slug_of(record['machine'])}_{record['date'][:10]}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    free = next(name for name in names if not (folder / f"{name}.json").exists())
    paths = [folder / f"{free}.{ending}" for ending in ("json", "md", "png")]
    paths[0].write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(page(paths[2].name), encoding="utf-8")
    draw(record, paths[2])
    return paths
