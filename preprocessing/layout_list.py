"""A table of cases, CSV or JSON: one row a case, one column a channel; for files that lie anywhere."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from preprocessing.dataset import (
    Dataset,
    Source,
    modality_of,
    numbered_names,
    read_description,
    read_json,
    sorted_sources,
)
from preprocessing.errors import InputError
from preprocessing.nifti import case_id_of

ID, LABEL = "id", "label"
SUFFIXES = (".csv", ".json")


def read_list(path: Path) -> Dataset:
    """Read ``path``: a CSV with a header line, a JSON list of objects, or a JSON object with that list as ``"cases"``.

    Columns ``id`` (else the first image's name) and ``label`` (may be empty) are reserved, every other is a channel.
    Label names come from ``"labels"`` in the object or in a ``dataset.json`` beside the list; ``"channel_names"`` there
    names the channels of a single column of 4D files. Relative paths start at the list's folder; a list may name files
    anywhere, because it is the user who wrote it. Raises ``InputError`` for a table that cannot be read.
    """
    described, rows = _read_table(path)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    images = [column for column in columns if column not in (ID, LABEL)]
    if not images:
        raise InputError(f"{path}: no channel column; write a header such as id,FLAIR,T1w,label")
    try:
        label_names = {int(number): str(name) for number, name in described.get("labels", {}).items()}
        named = described.get("channel_names", described.get("modality"))
        channel_names = images if named is None or len(images) > 1 else numbered_names(named)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f'{path}: "labels" and "channel_names" are objects such as {{"0": "background"}} ({error})'
        ) from error
    if not label_names and any(row.get(LABEL) for row in rows):
        raise InputError(
            f'{path}: its labels have no names; write {{"labels": {{"0": "background", "1": "tumour"}}}} '
            f"into {path.parent / 'dataset.json'}"
        )
    sources = [_source(path, number, row, images) for number, row in enumerate(rows, start=1)]
    return Dataset(
        name=str(described.get("name", path.stem)),
        root=path.parent,
        channel_names=channel_names,
        label_names=label_names,
        modality=modality_of(channel_names),
        sources=sorted_sources(sources, path, "add one row for each case"),
    )


def _read_table(path: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    beside = path.parent / "dataset.json"
    described = read_description(beside) if beside.is_file() and beside != path else {}
    if path.suffix == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            described, content = described | content, content.get("cases")
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise InputError(f'{path}: expected a JSON list of objects, or an object with that list under "cases"')
        return described, [{str(k): "" if v is None else str(v) for k, v in row.items()} for row in content]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [_clean(path, row) for row in csv.DictReader(file, skipinitialspace=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error
    return described, rows


def _clean(path: Path, row: dict[Any, Any]) -> dict[str, str]:
    if None in row:
        raise InputError(f"{path}: a row has more fields than the header: {row[None]}; quote fields with commas")
    return {str(key).strip(): (value or "").strip() for key, value in row.items()}


def _source(path: Path, number: int, row: dict[str, str], columns: list[str]) -> Source:
    missing = [column for column in columns if not row.get(column)]
    images = tuple(path.parent / row[column] for column in columns if row.get(column))
    case_id = row.get(ID) or (case_id_of(images[0]) if images else f"row {number}")
    return Source(
        case_id=case_id,
        images=images,
        label=path.parent / row[LABEL] if row.get(LABEL) else None,
        problem=f"{path}: row {number} names no file for channel {missing[0]}; add it" if missing else "",
    )
