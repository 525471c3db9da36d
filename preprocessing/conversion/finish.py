"""Close a store: gather what the shards' indices say into errors.json and the manifest, and say what came out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED
from preprocessing.console.places import remote_errors
from preprocessing.conversion.notes import say_notes
from preprocessing.layouts.dataset import Dataset
from preprocessing.layouts.regions import Regions
from preprocessing.shards.entries import CaseEntry, Manifest, ShardEntry
from preprocessing.shards.files import ERRORS, FORMAT_VERSION, MANIFEST, write_json, write_manifest, write_source
from preprocessing.shards.store import read_index
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.statistics import CT, DTYPES, ChannelStatistics

log = logging.getLogger(__name__)


def finish_store(
    root: Path,
    shard_names: Sequence[str],
    dataset: Dataset,
    options: ConvertOptions,
    regions: Regions | None,
    channels: list[ChannelStatistics] | None = None,
) -> tuple[Manifest, list[dict[str, str]]]:
    """Collect the shards' indices into errors.json and the manifest, which is written last.

    ``channels`` are what the manifest says of each channel where they are given, instead of what the cases add up to.
    """
    refused: list[dict[str, str]] = []
    shards: list[ShardEntry] = []
    entries: list[CaseEntry] = []
    for name in shard_names:
        index = read_index(root / name)
        refused += index.refused
        entries += index.cases
        shards.append(ShardEntry.of_cases(name, index.cases, index.xxh3))
    stored = {entry.case_id for entry in entries}
    say_notes(entries, options)
    labelled = [entry for entry in entries if entry.label is not None] or entries
    # Of CT only cases with a label are pooled: others count air and table, which would drown them.
    counted = [labelled if scheme == CT else entries for scheme in dataset.schemes]
    with remote_errors(root):
        (root / ERRORS).unlink(missing_ok=True)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=dataset.name,
        channel_names=dataset.channel_names,
        label_names=dataset.label_names,
        label_remap=dataset.label_remap,
        modality=dataset.modality,
        schemes=dataset.own_schemes,
        ignore_label=dataset.ignore_label,
        regions=None if regions is None else {region: list(numbers) for region, numbers in regions.items()},
        image_dtype=common_dtype([entry.image_dtype for entry in entries]),
        max_abs_error=max((entry.max_abs_error for entry in entries), default=0.0),
        channels=channels or [_pool([entry.channels[c] for entry in pooled]) for c, pooled in enumerate(counted)],
        options=options.to_json(),
        shards=shards,
        split={part: [name for name in names if name in stored] for part, names in dataset.split.items()},
        region_ids=dataset.region_ids,
        errors=write_json(root / ERRORS, {"refused": refused}) if refused else None,
    )
    write_source(root, str(dataset.root.resolve()))
    write_manifest(root, manifest)
    return manifest, refused


def refused_in(root: Path, shard_names: Sequence[str]) -> list[dict[str, str]]:
    """List the refused cases of some shards, each with its reason."""
    return [entry for name in shard_names for entry in read_index(root / name).refused]


def common_dtype(names: list[str]) -> str:
    """Return the smallest stored dtype that holds all of ``names`` without loss: uint8 with float32 gives float32."""
    joined = np.result_type(*names) if names else np.dtype("int16")
    return str(joined) if str(joined) in DTYPES else "float32"


def _pool(parts: list[ChannelStatistics]) -> ChannelStatistics:
    voxels = sum(part.voxels for part in parts)
    if voxels == 0:
        return ChannelStatistics(voxels=0, mean=0.0, std=1.0, percentile_00_5=0.0, percentile_99_5=0.0)
    weights = [part.voxels / voxels for part in parts]
    mean = sum(w * part.mean for w, part in zip(weights, parts, strict=True))
    variance = sum(w * (part.spread**2 + (part.mean - mean) ** 2) for w, part in zip(weights, parts, strict=True))
    return ChannelStatistics(
        voxels=voxels,
        mean=mean,
        std=variance**0.5 or 1.0,
        percentile_00_5=sum(w * part.percentile_00_5 for w, part in zip(weights, parts, strict=True)),
        percentile_99_5=sum(w * part.percentile_99_5 for w, part in zip(weights, parts, strict=True)),
    )


def conclude(root: Path, store: tuple[Manifest, list[dict[str, str]]], note: str) -> int:
    """Name the refused cases and sum up a finished store; returns the exit code."""
    manifest, refused = store
    for entry in refused:
        log.error("refused case %s: %s", entry["case_id"], entry["reason"])
    shards = manifest.shards
    cases, size_mb = sum(len(shard.case_ids) for shard in shards), sum(shard.size_bytes for shard in shards) / 1e6
    note += f"; {len(refused)} refused, see {root / ERRORS}" if refused else ""
    log.info("%s: %d cases in %d shards, %.1f MB, %s", root / MANIFEST, cases, len(shards), size_mb, note)
    return EXIT_REFUSED if refused else EXIT_DONE
