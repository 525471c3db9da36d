"""Make one shard: the unit of work, of commit and of restart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.console.errors import CaseError
from preprocessing.console.places import absolute
from preprocessing.conversion.case import ConvertedCase, convert_case
from preprocessing.layouts.dataset import Dataset, Source
from preprocessing.shards.commit import new_shard
from preprocessing.shards.entries import CaseEntry, FileRecord
from preprocessing.shards.files import INDEX, write_json, write_npy
from preprocessing.volumes.geometry import stored_spacing
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.nifti import file_size


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to make: its name, its cases, and what decides its bytes; ``dataset`` lists no cases."""

    root: Path
    name: str
    sources: list[Source]
    dataset: Dataset
    options: ConvertOptions
    stop_on_error: bool


def plan_shards(
    root: Path, dataset: Dataset, options: ConvertOptions, *, cases_per_shard: int, stop_on_error: bool
) -> list[ShardJob]:
    """Deal the sorted cases into shards; the result depends on the cases alone, so every restart agrees.

    ``cases_per_shard`` 0 chooses about 64 shards of at most 64 cases.
    """
    count = len(dataset.sources)
    size = cases_per_shard or min(64, -(-count // 64))
    described = dataclasses.replace(dataset, sources=[], split={})  # or every job would carry every case to its worker
    return [
        ShardJob(
            root=root,
            name=f"shard-{number:05d}",
            sources=dataset.sources[first : first + size],
            dataset=described,
            options=options,
            stop_on_error=stop_on_error,
        )
        for number, first in enumerate(range(0, count, size))
    ]


def convert_shard(job: ShardJob) -> int:
    """Write one shard: all its cases, then its index, then its name (``preprocessing.shards.commit``).

    Returns the number of cases that were converted, without those refused. The same shard may be made twice at once, as
    clusters do with jobs whose worker they believe lost: both have the same bytes.
    """
    with new_shard(job.root / job.name) as folder:
        made = [_convert_or_refuse(folder, source, job) for source in job.sources]
        entries = [entry.to_json() for entry in made if isinstance(entry, CaseEntry)]
        refused = [reason for reason in made if isinstance(reason, dict)]
        write_json(folder / INDEX, {"made_from": made_from(job), "cases": entries, "refused": refused})
    return len(entries)


def _convert_or_refuse(folder: Path, source: Source, job: ShardJob) -> CaseEntry | dict[str, str]:
    try:
        return _write_case(folder, convert_case(source, job.dataset, job.options), job.dataset.root)
    except CaseError as error:
        if job.stop_on_error:
            raise
        return {"case_id": error.case_id, "reason": error.reason}


def made_from(job: ShardJob) -> dict[str, Any]:
    """Describe what decides a shard's bytes; the shard keeps it, and a restart (``restart.py``) compares."""
    return {
        "options": job.options.to_json(),
        "label_remap": {str(number): stored for number, stored in job.dataset.label_remap.items()},
        "label_names": {str(number): name for number, name in job.dataset.label_names.items()},
        "ignore_label": job.dataset.ignore_label,
        "channel_names": job.dataset.channel_names,
        "modality": job.dataset.modality,
        "sources": [[source.case_id, *map(file_size, source.files)] for source in job.sources],
    } | ({"schemes": job.dataset.own_schemes} if job.dataset.own_schemes else {})


def name_from(root: Path, path: Path) -> str:
    """Name a source file from the data set's root; one that lies elsewhere by its whole path or URL."""
    folder, whole = (str(absolute(place)) for place in (root, path))
    return whole.removeprefix(folder.rstrip("/") + "/")


def _write_case(folder: Path, case: ConvertedCase, root: Path) -> CaseEntry:
    name = case.source.case_id
    foreground = np.concatenate([np.empty((0, 3), np.uint16), *case.foreground.values()])
    volumes = [*case.image_volumes, *([] if case.label_volume is None else [case.label_volume])]
    geometry = case.image.geometry
    return CaseEntry(
        case_id=name,
        shape_dhw=case.image.voxels.shape[:3],
        image_dtype=str(case.image.voxels.dtype),
        max_abs_error=case.image.max_abs_error,
        nonfinite_voxels=case.image.nonfinite_voxels,
        spacing_mm=stored_spacing(case.image_volumes[0].spacing_mm, geometry),
        affine=geometry.affine.tolist(),
        geometry=geometry,
        source_shape_dhw=case.image.source_shape_dhw,
        origin_dhw=case.image.origin_dhw,
        channels=case.image.channels,
        labels=case.labels,
        foreground_counts={number: len(voxels) for number, voxels in case.foreground.items()},
        image=write_npy(folder / f"{name}.image.npy", case.image.voxels),
        label=write_npy(folder / f"{name}.label.npy", case.label) if case.label is not None else None,
        foreground=write_npy(folder / f"{name}.foreground.npy", foreground) if case.label is not None else None,
        sources=[
            FileRecord(name=name_from(root, v.path), size_bytes=v.source_bytes, xxh3=v.source_xxh3) for v in volumes
        ],
        notes=case.notes,
    )
