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
    check_once,
    modality_of,
    named_after,
    named_labels,
    numbered_names,
    read_description,
    read_json,
    sorted_sources,
)
from preprocessing.volumes.nifti import SUFFIXES as NIFTI

ID, LABEL, FOLD = RESERVED = ("id", "label", "fold")
CALLED = {
    ID: ("case", "case_id", "name", "patient", "patient_id", "subject", "subject_id"),
    LABEL: ("annotation", "gt", "ground_truth", "labels", "mask", "seg", "segmentation", "target", "truth"),
    FOLD: ("folds", "set", "split", "subset"),
}
"""What people call the reserved columns."""
SUFFIXES = (".csv", ".json")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A list of cases as it is written: ``columns`` are its channel columns, ``described`` what lies around it.

    ``split`` lists the cases of each fold.
    """

    columns: list[str]
    sources: list[Source]
    described: dict[str, Any]
    split: dict[str, list[str]]


def read_list(path: Path) -> Dataset:
    """Read ``path``: a CSV with a header line, a JSON list of objects, or a JSON object with that list as ``"cases"``.

    Columns ``id`` (else the first image's name), ``label`` and ``fold`` (may be empty) are reserved, every other is a
    channel.
    Label names come from ``"labels"`` in the object or in a ``dataset.json`` beside the list; ``"channel_names"`` there
    names the channels of a single column of 4D files. Relative paths start at the list's folder; a list may name files
    anywhere, because it is the user who wrote it. Raises ``InputError`` for a table that cannot be read.
    """
    table = read_rows(path)
    described, images = table.described, table.columns
    try:
        label_names = named_labels(path, described.get("labels", {}))
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
        split=table.split,
        without_label=f'leave its "{LABEL}" in {path.name} empty',
    )


def read_rows(path: Path) -> Table:
    """Read the rows of ``path`` as cases, in the order of their ids; raises ``InputError`` as ``read_list`` does."""
    described, rows = _read_table(path)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _check_header(path, columns)
    channels = [column for column in columns if column not in RESERVED]
    if not channels:
        raise InputError(f"{path}: no channel column; write a header such as id,FLAIR,T1w,label")
    sources = [_source(path, number, row, channels) for number, row in enumerate(rows, start=1)]
    split: dict[str, list[str]] = {}
    for source, fold in sorted((source.case_id, row.get(FOLD, "")) for source, row in zip(sources, rows, strict=True)):
        if fold:
            split.setdefault(f"fold {fold}" if fold.isdecimal() else fold, []).append(source)
    return Table(
        columns=channels,
        sources=sorted_sources(sources, path, "add one row for each case"),
        described=described,
        split=dict(sorted(split.items())),
    )


def _check_header(path: Path, columns: list[str]) -> None:
    """Raise ``InputError`` for a header that is none, or a name close to a reserved one: it would be a channel."""
    if any(column.lower().endswith(NIFTI) for column in columns):
        raise InputError(f"{path}: its first line names files; write a header above it such as id,FLAIR,T1w,label")
    for reserved, others in CALLED.items():
        for column in columns:
            plain = column.lower().replace(" ", "_")
            if column != reserved and (plain == reserved or (plain in others and reserved not in columns)):
                raise InputError(f"{path}: column {column!r} would be a channel; did you mean {reserved!r}? Rename it")


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
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            check_once(path, filter(None, header), "column")
            if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), "")):
                raise InputError(f"{path}: its header is separated by {mark!r}; write it with commas")
            rows = [_clean(path, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from error
    return described, rows


def _clean(path: Path, row: dict[Any, Any]) -> dict[str, str]:
    if None in row:
        raise InputError(f"{path}: a row has more fields than the header: {row[None]}; quote fields with commas")
    if row.get("", ""):
        raise InputError(f"{path}: {row['']!r} stands below a column without a name; name it in the header")
    return {str(key).strip(): (value or "").strip() for key, value in row.items() if key}


def _source(path: Path, number: int, row: dict[str, str], columns: list[str]) -> Source:
    missing = [column for column in columns if not row.get(column)]
    images = tuple(named_in(path.parent, row[column]) for column in columns if row.get(column))
    given = row.get(ID) or ("" if images else f"row {number}")
    named = {"case_id": given} if given else named_after(images[0])
    if missing:
        named["problem"] = f"{path}: row {number} names no file for channel {missing[0]}; add it"
    label = named_in(path.parent, row[LABEL]) if row.get(LABEL) else None
    return Source(**named, images=images, label=label)
