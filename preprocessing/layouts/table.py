"""A table of cases, CSV or JSON: one row a case, one column a channel; for files that lie anywhere."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.console.places import named_in
from preprocessing.layouts.dataset import (
    Dataset,
    Source,
    modality_of,
    numbered_names,
    read_description,
    read_json,
    sorted_sources,
)
from preprocessing.volumes.nifti import case_id_of

ID, LABEL = "id", "label"
SUFFIXES = (".csv", ".json")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A list of cases as it is written: ``columns`` are its channel columns, ``described`` what lies around it."""

    columns: list[str]
    sources: list[Source]
    described: dict[str, Any]


def read_list(path: Path) -> Dataset:
    """Read ``path``: a CSV with a header line, a JSON list of objects, or a JSON object with that list as ``"cases"``.

    Columns ``id`` (else the first image's name) and ``label`` (may be empty) are reserved, every other is a channel.
    Label names come from ``"labels"`` in the object or in a ``dataset.json`` beside the list; ``"channel_names"`` there
    names the channels of a single column of 4D files. Relative paths start at the list's folder; a list may name files
    anywhere, because it is the user who wrote it. Raises ``InputError`` for a table that cannot be read.
    """
    table = read_rows(path)
    described, images = table.described, table.columns
    try:
        label_names = {int(number): str(name) for number, name in described.get("labels", {}).items()}
        named = described.get("channel_names", described.get("modality"))
        channel_names = images if named is None or len(images) > 1 else numbered_names(named)
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f'{path}: "labels" and "channel_names" are objects such as {{"0": "background"}} ({error})'
        ) from error
    if not label_names and any(source.label for source in table.sources):
        raise InputError(
            f'{path}: its labels have no names; write {{"labels": {{"0": "background", "1": "tumour"}}}} '
            f"into {path.parent / 'dataset.json'}"
        )
    return Dataset(
        name=str(described.get("name", path.stem)),
        root=path.parent,
        channel_names=channel_names,
        label_names=label_names,
        modality=modality_of(channel_names),
        sources=table.sources,
        without_label=f'leave its "{LABEL}" in {path.name} empty',
    )


def read_rows(path: Path) -> Table:
    """Read the rows of ``path`` as cases, in the order of their ids; raises ``InputError`` as ``read_list`` does."""
    described, rows = _read_table(path)
    columns = [column for column in dict.fromkeys(key for row in rows for key in row) if column not in (ID, LABEL)]
    if not columns:
        raise InputError(f"{path}: no channel column; write a header such as id,FLAIR,T1w,label")
    sources = [_source(path, number, row, columns) for number, row in enumerate(rows, start=1)]
    return Table(
        columns=columns, sources=sorted_sources(sources, path, "add one row for each case"), described=described
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
    images = tuple(named_in(path.parent, row[column]) for column in columns if row.get(column))
    case_id = row.get(ID) or (case_id_of(images[0]) if images else f"row {number}")
    return Source(
        case_id=case_id,
        images=images,
        label=named_in(path.parent, row[LABEL]) if row.get(LABEL) else None,
        problem=f"{path}: row {number} names no file for channel {missing[0]}; add it" if missing else "",
    )
