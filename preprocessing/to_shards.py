"""Convert a folder of NIfTI volumes into a shard store: ``python -m preprocessing.to_shards``."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preprocessing.cli import Flag, main
from preprocessing.convert import DTYPES, ConvertedCase, ConvertOptions, convert_case
from preprocessing.errors import EXIT_DONE, EXIT_REFUSED, CaseError, InputError, RunError
from preprocessing.layouts import Dataset, Source, read_dataset
from preprocessing.phantom import DEFAULT_FOLDER, PhantomOptions, make_phantom
from preprocessing.regions import describe_regions, resolve_regions
from preprocessing.shards import (
    ERRORS,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    CaseEntry,
    FileRecord,
    Manifest,
    ShardEntry,
    open_store,
    parse_json,
    sync_folder,
    write_json,
    write_manifest,
    write_npy,
)
from preprocessing.single_writer import FolderLock, ctrl_c_held_back, join_converter, only_writer
from preprocessing.statistics import ChannelStatistics

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Convert nii.gz volumes into a shard store that training reads without decompressing anything.

    Cases that cannot be used are skipped and named in errors.json; the exit code is then 3. Interrupted conversions
    continue where they stopped when the same command is given again.
    """

    input: Path = DEFAULT_FOLDER
    """Data set folder. The default is a synthetic one, made on first use."""
    output: Path = Path("data/shards")
    """Store folder to write."""
    layout: str = "auto"
    """How the data set lies on disk: auto or msd."""
    crop_foreground: Flag = True
    """Store only the box that holds every nonzero voxel (predictions still return to the whole grid)."""
    dtype: str = "auto"
    """Stored image type: auto (smallest lossless), uint8, int16, uint16, float32 or float16 (lossy, recorded)."""
    cases_per_shard: int = 0
    """Cases in one shard, the unit of commit and restart; 0 chooses about 64 shards of at most 64 cases."""
    workers: int = 0
    """Processes; each holds one case in memory. 0 means one for every core."""
    regions: str = "auto"
    """Overlapping regions to train: auto (from the label names), none, or for example WT=1+2+3,TC=2+3,ET=3."""
    ignore_affine: Flag = False
    """Accept labels whose affine differs from their image's."""
    max_volume_gib: float = 16.0
    """Refuse a file whose header promises more than this."""
    on_error: str = "skip"
    """skip: leave a bad case out, name it, go on. stop: end at the first one."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to make: its number, its cases, and what decides its bytes."""

    root: Path
    name: str
    sources: list[Source]
    dataset: Dataset
    options: ConvertOptions
    stop_on_error: bool


def convert(options: Options) -> int:
    """Run the command; returns the exit code."""
    _check_options(options)
    if options.input == DEFAULT_FOLDER and not options.input.exists():
        log.info("%s does not exist: making the synthetic phantom data set there", options.input)
        make_phantom(PhantomOptions(output=options.input))
    dataset = read_dataset(options.input, options.layout)
    regions = resolve_regions(dataset.label_names, options.regions)
    if regions:
        log.info("regions: %s", describe_regions(regions, dataset.label_names))
    settings = ConvertOptions(
        crop_foreground=options.crop_foreground,
        dtype=options.dtype,
        ignore_affine=options.ignore_affine,
        max_volume_gib=options.max_volume_gib,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    with only_writer(options.output) as lock:
        jobs = _plan_shards(dataset, settings, options)
        _check_earlier_shards(options.output, jobs)
        begin = time.perf_counter()
        done = _run(jobs, options.workers or len(os.sched_getaffinity(0)), lock)
        store = _finish(options.output, jobs, dataset, settings, regions)
    return _conclude(options.output, store, done, time.perf_counter() - begin)


def _check_options(options: Options) -> None:
    if options.dtype not in DTYPES:
        raise InputError(f"--dtype {options.dtype}: unknown; known: {', '.join(DTYPES)}")
    if options.on_error not in ("skip", "stop"):
        raise InputError(f"--on-error {options.on_error}: unknown; known: skip, stop")
    if options.cases_per_shard < 0 or options.workers < 0:
        raise InputError("--cases-per-shard and --workers are 0 (choose) or positive")
    if options.input.resolve() == options.output.resolve():
        raise InputError(f"--output {options.output} is the input folder; give another one")


def _plan_shards(dataset: Dataset, settings: ConvertOptions, options: Options) -> list[ShardJob]:
    """Deal the sorted cases into shards; the result depends on the cases alone, so every restart agrees."""
    count = len(dataset.sources)
    size = options.cases_per_shard or min(64, -(-count // 64))
    return [
        ShardJob(
            root=options.output,
            name=f"shard-{number:05d}",
            sources=dataset.sources[first : first + size],
            dataset=dataset,
            options=settings,
            stop_on_error=options.on_error == "stop",
        )
        for number, first in enumerate(range(0, count, size))
    ]


def _check_earlier_shards(root: Path, jobs: list[ShardJob]) -> None:
    """Refuse to mix shards of other options, other cases or changed files into a store; clear half-made ones."""
    for leftover in root.glob("shard-*.tmp"):
        shutil.rmtree(leftover)
    expected = {job.name: job for job in jobs}
    checksums = _checksums_of_finished_store(root)
    for folder in sorted(root.glob("shard-*")):
        raw = (folder / INDEX).read_bytes()
        found = xxhash.xxh3_64_hexdigest(raw)
        if checksums.get(folder.name, found) != found:
            raise InputError(f"{folder / INDEX} was damaged after it was written; delete {folder} and convert again")
        job = expected.get(folder.name)
        if job is None or parse_json(str(folder / INDEX), raw).get("made_from") != _made_from(job):
            raise InputError(
                f"{folder} was made with other options, from other cases or from files that changed since; "
                f"delete {root} or give another --output"
            )


def _checksums_of_finished_store(root: Path) -> dict[str, str]:
    try:
        return {shard.name: shard.index_xxh3 for shard in open_store(root).manifest.shards}
    except InputError:
        return {}  # not finished yet, or a manifest that this run replaces


def _made_from(job: ShardJob) -> dict[str, Any]:
    def size(path: Path | None) -> int | None:
        return path.stat().st_size if path is not None and path.exists() else None

    return {
        "options": dataclasses.asdict(job.options),
        "label_names": {str(number): name for number, name in job.dataset.label_names.items()},
        "channel_names": job.dataset.channel_names,
        "sources": [[source.case_id, size(source.image), size(source.label)] for source in job.sources],
    }


def _run(jobs: list[ShardJob], workers: int, lock: FolderLock) -> int:
    """Convert the shards that are not there yet; returns how many cases were converted now."""
    todo = [job for job in jobs if not (job.root / job.name).exists()]
    if len(todo) < len(jobs):
        log.info("%d of %d shards are there already", len(jobs) - len(todo), len(jobs))
    total = sum(len(job.sources) for job in todo)
    console = Console(stderr=True)
    columns = (
        TextColumn("converting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cases"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("cases", total=total)
        converted = 0
        if workers == 1 or len(todo) <= 1:
            for job in todo:
                converted += convert_shard(job)
                progress.advance(bar, len(job.sources))
            return converted
        with ProcessPoolExecutor(
            min(workers, len(todo)),
            mp_context=get_context("spawn"),
            initializer=join_converter,
            initargs=(lock,),
        ) as pool:
            with ctrl_c_held_back():  # which workers inherit: it is the converter's to decide
                waiting = {pool.submit(convert_shard, job): job for job in todo}
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        converted += future.result()
                        progress.advance(bar, len(waiting.pop(future).sources))
            except BrokenProcessPool as error:
                raise RunError(
                    "a worker process was killed, perhaps for want of memory; finished shards are kept: "
                    "give the same command with fewer --workers"
                ) from error
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return converted


def convert_shard(job: ShardJob) -> int:
    """Write one shard: all its cases and its index into a temporary folder, synced, then renamed into place.

    Returns the number of cases that were converted, without those refused.
    """
    temporary = job.root / f"{job.name}.tmp"
    temporary.mkdir()
    made = [_convert_or_refuse(temporary, source, job) for source in job.sources]
    entries = [dataclasses.asdict(entry) for entry in made if isinstance(entry, CaseEntry)]
    content = {
        "made_from": _made_from(job),
        "cases": entries,
        "refused": [reason for reason in made if isinstance(reason, dict)],
    }
    write_json(temporary / INDEX, content)
    sync_folder(temporary)
    temporary.rename(job.root / job.name)
    sync_folder(job.root)
    return len(entries)


def _convert_or_refuse(folder: Path, source: Source, job: ShardJob) -> CaseEntry | dict[str, str]:
    try:
        return _write_case(folder, convert_case(source, job.dataset, job.options))
    except CaseError as error:
        if job.stop_on_error:
            shutil.rmtree(folder)
            raise
        return {"case_id": error.case_id, "reason": error.reason}


def _write_case(folder: Path, case: ConvertedCase) -> CaseEntry:
    name = case.source.case_id
    rows = list(case.foreground.values())
    labelled = case.label is not None
    volumes = [volume for volume in (case.image_volume, case.label_volume) if volume is not None]
    return CaseEntry(
        case_id=name,
        shape_dhw=case.image.voxels.shape[:3],
        image_dtype=str(case.image.voxels.dtype),
        max_abs_error=case.image.max_abs_error,
        nonfinite_voxels=case.image.nonfinite_voxels,
        spacing_mm=case.image_volume.spacing_mm,
        affine=case.image_volume.affine.tolist(),
        source_shape_dhw=case.image.source_shape_dhw,
        origin_dhw=case.image.origin_dhw,
        channels=case.image.channels,
        labels=case.labels,
        foreground_counts={number: len(voxels) for number, voxels in case.foreground.items()},
        image=write_npy(folder / f"{name}.image.npy", case.image.voxels),
        label=write_npy(folder / f"{name}.label.npy", case.label) if case.label is not None else None,
        foreground=write_npy(
            folder / f"{name}.foreground.npy", np.concatenate(rows) if rows else np.empty((0, 3), np.uint16)
        )
        if labelled
        else None,
        sources=[
            FileRecord(name=f"{v.path.parent.name}/{v.path.name}", size_bytes=v.source_bytes, xxh3=v.source_xxh3)
            for v in volumes
        ],
    )


def _finish(
    root: Path,
    jobs: list[ShardJob],
    dataset: Dataset,
    settings: ConvertOptions,
    regions: dict[str, tuple[int, ...]] | None,
) -> tuple[Manifest, list[dict[str, str]]]:
    """Collect the shards' indices into errors.json and the manifest, which is written last."""
    refused: list[dict[str, str]] = []
    shards: list[ShardEntry] = []
    entries: list[CaseEntry] = []
    for job in jobs:
        raw = (root / job.name / INDEX).read_bytes()
        content = json.loads(raw)
        cases = [CaseEntry.from_json(entry) for entry in content["cases"]]
        refused += content["refused"]
        entries += cases
        shards.append(
            ShardEntry(
                name=job.name,
                case_ids=[case.case_id for case in cases],
                unlabelled=[case.case_id for case in cases if case.label is None],
                size_bytes=sum(record.size_bytes for case in cases for record in case.files),
                index_xxh3=xxhash.xxh3_64_hexdigest(raw),
            )
        )
    (root / ERRORS).unlink(missing_ok=True)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=dataset.name,
        channel_names=dataset.channel_names,
        label_names=dataset.label_names,
        modality=dataset.modality,
        regions=None if regions is None else {name: list(numbers) for name, numbers in regions.items()},
        image_dtype=common_dtype([entry.image_dtype for entry in entries]),
        max_abs_error=max((entry.max_abs_error for entry in entries), default=0.0),
        channels=[_pool([entry.channels[c] for entry in entries]) for c in range(len(dataset.channel_names))],
        options=dataclasses.asdict(settings),
        shards=shards,
        errors=write_json(root / ERRORS, {"refused": refused}) if refused else None,
    )
    write_manifest(root, manifest)
    return manifest, refused


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


def _conclude(root: Path, store: tuple[Manifest, list[dict[str, str]]], done: int, seconds: float) -> int:
    manifest, refused = store
    for entry in refused:
        log.error("refused case %s: %s", entry["case_id"], entry["reason"])
    count = sum(len(shard.case_ids) for shard in manifest.shards)
    size = sum(shard.size_bytes for shard in manifest.shards)
    log.info(
        "%s: %d cases in %d shards, %.1f MB, %d converted now in %.1f s%s",
        root / MANIFEST,
        count,
        len(manifest.shards),
        size / 1e6,
        done,
        seconds,
        f"; {len(refused)} refused, see {root / ERRORS}" if refused else "",
    )
    return EXIT_REFUSED if refused else EXIT_DONE


if __name__ == "__main__":
    main(convert, Options)
