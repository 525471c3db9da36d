"""What becomes of it at 48,884 cases, 64 ranks and a slower disk: ``python benchmarks/scale.py``."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich import get_console
from rich.progress import Progress

from benchmarks.experiments.assumptions import (
    CASE_MB,
    GPUS,
    LARGE_CASES,
    PATCH_MB,
    SAMPLES_PER_CASE,
    STORAGES,
    Storage,
)
from benchmarks.experiments.opening import measure_opening, plan_store
from benchmarks.experiments.ranks import check_ranks, check_same_batches, check_sticky, deal, make_plan, time_samples
from benchmarks.experiments.storage import Reader, fsx_size_tib, gpus_fed, patches_per_s
from benchmarks.measuring.check import CheckError
from benchmarks.measuring.data import ensure_store, median_patch, parse_numbers
from benchmarks.measuring.origin import describe_cases, num_cores
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import PROJECTED, Record, make_record, make_row
from benchmarks.scaling.plot import OPENING, POINTS, RANKS, STORAGE, draw
from benchmarks.scaling.throttled_reads import measure_points, patch_bytes
from pipelines.config import LoaderConfig
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, main
from preprocessing.shards.store import Store

BATCH_SIZE, MAX_RANKS = 2, 64
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the unthrottled reading rate: where the storage model is checked
PAGE_CACHE = "page cache, this machine"
UNTHROTTLED = "the storage points when not throttled; cutting and standardising the patches is part of it"
METHOD = [
    "Opening: open_store and the list of labelled cases in a fresh process, after its imports; page cache warm.",
    (
        f"Ranks: the plan's own epoch at a global batch of {BATCH_SIZE * MAX_RANKS}, one patch per case, checked for "
        "every number of ranks: each slot on one rank, equal numbers of samples, every case read, by one rank only, "
        "and the ranks' batches together the global batch; with sticky lanes, the same cases in two epochs. Processor "
        "times are of one rank at the end of an epoch."
    ),
    (
        "Storage points: plain numpy with one thread per core, its reads held back by a token bucket; predicted by "
        "min(1/S, N/(S+Z)), with Z from the run without a bucket."
    ),
    (
        "GPUs fed: rate of the storage / (patches/s of the GPU x MB per patch); patch by patch "
        f"{PATCH_MB:.1f} MB (4 x 128^3 int16 and label), whole volumes {CASE_MB / SAMPLES_PER_CASE:.1f} MB "
        f"({CASE_MB} MB for {SAMPLES_PER_CASE} patches). FSx of the smallest size that holds {LARGE_CASES} such cases."
    ),
    f"{PAGE_CACHE}: {UNTHROTTLED}",
    *dict.fromkeys(f"{item.name}: {item.source}" for item in (*GPUS, *STORAGES)),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Open stores of 10 to 48,884 cases, check and time the plan for 1 to 64 ranks, and say how many GPUs a disk feeds.

    Exit code 1 when the plan breaks a promise. Figures of GPUs, instances and storage are other people's
    (benchmarks/experiments/assumptions.py); what follows from them is marked as a projection.
    """

    shards: Path = DEFAULT_SHARDS
    """Shard store. The default is the synthetic phantom, made on first use."""
    output: Path = Path("benchmarks/results")
    """Folder for scale_MACHINE_DATE.json, .md and .png."""
    cases: str = f"10,100,1000,10000,{LARGE_CASES}"
    """Comma list of store sizes to open; the plan is checked with the last."""
    runs: int = 5
    """Timed runs of everything."""
    seconds: float = 2.0
    """Length of a run with throttled reads."""


def measure_scale(options: Options) -> int:
    """Run the command; returns the exit code."""
    sizes = parse_numbers("--cases", options.cases, least=1)
    if options.runs < 1 or options.seconds <= 0:
        raise InputError(f"--runs {options.runs} --seconds {options.seconds:g}: at least 1 run of more than 0 s")
    store = ensure_store(options.shards)
    watch = NoiseWatch()
    rows = []
    with Progress(disable=not get_console().is_terminal, transient=True) as progress:
        bar = progress.add_task("measuring", total=None)
        for row in _rows(store, sizes, options):
            rows.append(row)
            progress.update(bar, advance=1, description=f"{row['group']}: {row['label']}")
    content = {
        "data": describe_cases(store),
        "options": {"patch": list(median_patch(store)), "seconds": options.seconds, "threads": num_cores()},
        "runs": options.runs,
        "rows": rows,
        "method": METHOD,
    }
    record = make_record("scale", content, watch)
    publish(record, f"Scale: {store.manifest.name}", draw, options.output)
    return EXIT_UNEXPECTED if any(row["failure"] for row in rows) else EXIT_DONE


def _rows(store: Store, sizes: list[int], options: Options) -> Iterator[Record]:
    yield from _opening(store, sizes, options.runs)
    yield from _ranks(store, sizes[-1], options.runs)
    unthrottled, *throttled = _points(store, options)
    yield unthrottled
    yield from throttled
    yield from _storage(unthrottled["summary"]["mb_per_s"]["median"])


def _opening(store: Store, sizes: list[int], runs: int) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            path = plan_store(store, size, Path(scratch) / str(size))
            yield make_row(OPENING, f"{size} cases", measure_opening(path, runs))


def _ranks(store: Store, num_cases: int, runs: int) -> Iterator[Record]:
    shape = describe_cases(store)["median_dhw"]
    plan, sticky = (
        make_plan(num_cases, BATCH_SIZE * MAX_RANKS, median_patch(store), (shape[0], shape[1], shape[2]), sticky=keeps)
        for keeps in (False, True)
    )
    dealt, kept = deal(plan, 0), [deal(sticky, epoch) for epoch in (0, 1)]
    for world_size in (2**power for power in range(MAX_RANKS.bit_length())):
        failure = None
        try:
            check_ranks(plan, dealt, world_size)
            check_same_batches(plan, dealt, world_size)
            check_sticky(sticky, kept, world_size)
        except CheckError as error:
            failure = str(error)
        timed = {} if failure else time_samples(plan, world_size, runs) | {"steps": [plan.steps_per_epoch]}
        yield make_row(RANKS, f"{world_size} ranks", timed, failure=failure)


def _points(store: Store, options: Options) -> Iterator[Record]:
    """Measure the yardstick at shares of its own reading rate; the full rate shows how long a patch takes."""
    threads = num_cores()
    config = LoaderConfig(
        store=Path(store.root), patch=median_patch(store), batch_size=1, num_threads=threads, window=1
    )
    patch_mb = patch_bytes(store, config) / 1e6
    ((pilot,),) = measure_points(config, [None], 1, options.seconds)
    rates = [share * pilot * patch_mb for share in SHARES]
    full, *throttled = measure_points(config, [None, *rates], options.runs, options.seconds)
    yield make_row(POINTS, "not throttled", {"patches_per_s": full, "mb_per_s": [rate * patch_mb for rate in full]})
    reader = Reader(patch_mb=patch_mb, threads=threads, work_s=threads / statistics.median(full))
    for rate, measured in zip(rates, throttled, strict=True):
        predicted = patches_per_s(reader, rate)
        summary = {
            "patches_per_s": measured,
            "predicted_patches_per_s": [predicted],
            "error_percent": [100 * abs(predicted / one - 1) for one in measured],
            "mb_per_s": [rate],
        }
        yield make_row(POINTS, f"{rate:.3g} MB/s", summary)


def _storage(page_cache_mb_per_s: float) -> Iterator[Record]:
    size_tib = fsx_size_tib(LARGE_CASES * CASE_MB)
    for storage in (Storage(name=PAGE_CACHE, mb_per_s=page_cache_mb_per_s, source=UNTHROTTLED), *STORAGES):
        for gpu in GPUS:
            rate = storage.rate_mb_per_s(size_tib)
            summary = {
                "mb_per_s": [rate],
                "gpus_patches": [gpus_fed(gpu, PATCH_MB, rate)],
                "gpus_volumes": [gpus_fed(gpu, CASE_MB / SAMPLES_PER_CASE, rate)],
                "gpus_mlperf": [rate / gpu.mlperf_mb_per_s],
            }
            if storage.usd_per_gb_month:
                summary["usd_per_month"] = [storage.usd_per_gb_month * size_tib * 1024]
            yield make_row(STORAGE, f"{storage.name}: {gpu.name}", summary, kind=PROJECTED)


if __name__ == "__main__":
    main(measure_scale, Options)
