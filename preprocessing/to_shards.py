"""Convert a folder of NIfTI volumes into a shard store: ``python -m preprocessing.to_shards``."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from preprocessing.console.errors import EXIT_DONE, EXIT_REFUSED, InputError, check_known
from preprocessing.console.flags import DEFAULT_SHARDS, Flag, Place, Spacing, main
from preprocessing.console.places import absolute, is_remote, make_folder
from preprocessing.console.settings import settings_from
from preprocessing.conversion.contact_sheet import write_report
from preprocessing.conversion.engine import run_jobs
from preprocessing.conversion.finish import conclude, finish_store, refused_in
from preprocessing.conversion.partition import Conversion, Partition, write_part
from preprocessing.conversion.restart import check_earlier_shards
from preprocessing.conversion.shard_job import plan_shards
from preprocessing.conversion.single_writer import only_writer
from preprocessing.layouts.ids import consecutive_ids
from preprocessing.layouts.known import check_layout, read_dataset
from preprocessing.layouts.regions import describe_regions, resolve_regions
from preprocessing.phantom import DEFAULT_FOLDER, PhantomOptions, make_phantom
from preprocessing.shards.files import MANIFEST
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.statistics import CT, NONZERO

log = logging.getLogger(__name__)
MOST_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Options:
    """Convert nii.gz volumes into a shard store that training reads without decompressing anything.

    Cases that cannot be used are skipped and named in errors.json; the exit code is then 3. If the
    conversion is interrupted, run the same command again: finished shards are kept.
    """

    input: Place = DEFAULT_FOLDER
    """Data set folder (or s3://BUCKET/FOLDER), or a CSV or JSON list of cases. The default is a synthetic set, made
    on first use."""
    output: Place = DEFAULT_SHARDS
    """Store folder to write; s3://BUCKET/FOLDER works too."""
    layout: str = "auto"
    """How the data set is laid out on disk: auto, msd, nnunet, brats or list."""
    orientation: str = ConvertOptions.orientation
    """Order of the stored axes: source (as in the file), or RAS, LPS and the like (x, y, z to right, front, top)."""
    spacing: Spacing = ConvertOptions.spacing
    """Stored voxel size x,y,z in millimetres: source (as in the file) or for example 1.5,1.5,2.0."""
    crop_foreground: Flag = ConvertOptions.crop_foreground
    """Store only the box that holds every nonzero voxel (predictions still return to the whole grid). CT is stored
    whole: 0 is water there, not background."""
    dtype: str = ConvertOptions.dtype
    """Stored image type: auto (smallest lossless), uint8, int16, uint16, float32 or float16 (lossy, recorded)."""
    cases_per_shard: int = 0
    """Cases in one shard, the unit of commit and restart; 0 chooses about 64 shards of at most 64 cases."""
    workers: int = 0
    """Processes; each holds one case in memory. 0 means one for every core."""
    engine: str = "process"
    """process: on this machine. dask: on the cluster at --scheduler, which sees the same folders."""
    scheduler: str = ""
    """Address of a running Dask scheduler, for example tcp://host:8786."""
    partition: str = "1/1"
    """Convert one share of the shards, 2/4 for the second of four; preprocessing.merge then makes one store of them."""
    regions: str = "auto"
    """Overlapping regions to train: auto (from the label names), none, or for example WT=1+2+3,TC=2+3,ET=3."""
    ignore_affine: Flag = ConvertOptions.ignore_affine
    """Accept labels whose affine differs from their image's."""
    max_volume_gib: float = ConvertOptions.max_volume_gib
    """Refuse a file that would be larger than this in memory."""
    trust: str = ConvertOptions.trust
    """Which field of a header places its voxels, where they disagree: auto (sform, else qform), sform, qform, or pixdim
    (its sizes, in the directions of auto)."""
    on_error: str = "skip"
    """skip: leave a bad case out, name it, go on. stop: end at the first one."""
    report: Flag = False
    """Write STORE_report.html beside the store: slices with outlines, histograms, shapes, refused cases."""


def ensure_phantom(shards: Path) -> None:
    """Make the store from the synthetic phantom where ``shards`` is the default one and does not exist."""
    if shards == DEFAULT_SHARDS and not shards.exists():
        log.info("%s does not exist: making it from the synthetic phantom data set", shards)
        convert_all(Options(output=shards))


def convert_all(options: Options) -> None:
    """Convert every case; raises ``InputError`` where one is refused, which ``convert`` tells by its exit code."""
    if code := convert(options):
        raise InputError(
            f"{options.input}: not all of its cases could be converted (exit code {code}); see the lines above"
        )


def convert(options: Options) -> int:
    """Run the command; returns the exit code."""
    check_options(options)
    if options.input == DEFAULT_FOLDER and not options.input.exists():
        log.info("%s does not exist: making the synthetic phantom data set there", options.input)
        make_phantom(PhantomOptions(output=options.input))
    if options.engine == "dask":  # whose workers may run in another folder
        options = dataclasses.replace(options, input=absolute(options.input), output=absolute(options.output))
    dataset = read_dataset(options.input, options.layout)
    regions = resolve_regions(dataset.label_names, options.regions, dataset.regions)
    dataset = dataset if regions == dataset.regions else dataclasses.replace(dataset, region_ids={})
    if regions:
        log.info("regions: %s", describe_regions(regions, dataset.label_names))
    dataset, regions = consecutive_ids(dataset, regions)
    if changes := [f"{old} -> {new}" for old, new in dataset.label_remap.items() if old != new]:
        shown = ", ".join(changes[:MOST_SHOWN]) + " ..." * (len(changes) > MOST_SHOWN)
        log.info("%d labels are stored in other numbers: %s; predictions have the files'", len(changes), shown)
    if dataset.ignore_label is not None:
        log.info("label %d marks voxels that do not count, neither in training nor in scores", dataset.ignore_label)
    if parts := ", ".join(f"{part} ({len(names)})" for part, names in dataset.split.items()):
        log.info("the data set's own split is kept in %s: %s", MANIFEST, parts)
    settings = settings_from(options, ConvertOptions)
    if len({*dataset.schemes}) > 1:
        pairs = zip(dataset.channel_names, dataset.schemes, strict=True)
        log.info("each channel is normalised by its own scheme: %s", ", ".join(map(" ".join, pairs)))
    if settings.crop_foreground and {*dataset.schemes} != {NONZERO}:
        said = "CT is stored whole: 0 is water" if CT in dataset.schemes else "images are stored whole: 0 is a value"
        log.info("%s there, not background", said)
        settings = dataclasses.replace(settings, crop_foreground=False)
    share = Partition.parse(options.partition)
    folder = options.output if share.is_whole else options.output / share.folder
    root = options.output if is_remote(options.output) else folder  # merging renames, which an object store cannot
    make_folder(root)
    with only_writer(root) as lock:
        jobs = plan_shards(
            root,
            dataset,
            settings,
            cases_per_shard=options.cases_per_shard,
            stop_on_error=options.on_error == "stop",
        )
        plan = Conversion(dataset=dataset, options=settings, regions=regions, shard_names=[job.name for job in jobs])
        own = share.share(jobs, root)
        check_earlier_shards(root, own, others=[job.name for job in jobs if job not in own])
        begin = time.perf_counter()
        workers = options.workers or len(os.sched_getaffinity(0))
        done = run_jobs(own, workers, options.scheduler or None, lock)
        note = f"{done} converted now in {time.perf_counter() - begin:.1f} s"
        if not share.is_whole:
            write_part(folder, plan, own)
            log.info("%s: share %s, %d of %d shards, %s", folder, options.partition, len(own), len(jobs), note)
            return EXIT_REFUSED if any(refused_in(root, [job.name for job in own])) else EXIT_DONE
        store = finish_store(root, plan.shard_names, dataset, settings, regions)
    if options.report:
        log.info("%s: the contact sheet", write_report(root, store[1]))
    return conclude(root, store, note)


def check_options(options: Options) -> None:
    """Raise ``InputError`` for the first flag whose value cannot be; reads no file, so a launcher may ask it too."""
    check_layout(options.layout)
    settings_from(options, ConvertOptions)
    share = Partition.parse(options.partition)
    check_known("on-error", options.on_error, ("skip", "stop"))
    check_known("engine", options.engine, ("process", "dask"))
    if options.scheduler and not re.fullmatch(r"(tcp|tls|ws|wss|ucx)://\S+:\d+", options.scheduler):
        raise InputError(f"--scheduler {options.scheduler}: not an address such as tcp://HOST:8786")
    if (options.engine == "dask") != bool(options.scheduler):
        raise InputError("--engine dask needs --scheduler tcp://HOST:PORT, and --scheduler needs --engine dask")
    if options.cases_per_shard < 0 or options.workers < 0:
        raise InputError("--cases-per-shard and --workers are 0 (choose) or positive")
    if options.report and not share.is_whole:
        raise InputError(
            f"--report true --partition {options.partition}: a share is not a store; merge, then run again without "
            "--partition"
        )
    if options.report and is_remote(options.output):
        raise InputError(f"--report true: {options.output} is an object store; stage it and report from the copy")
    if options.input.resolve() == options.output.resolve():
        raise InputError(f"--output {options.output} is the input folder; give another one")


if __name__ == "__main__":
    main(convert, Options)
