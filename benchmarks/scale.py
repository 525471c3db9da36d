"""How it scales to 48,884 cases, 64 ranks and a slower disk: ``python benchmarks/scale.py``."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.table import FLOOR, TABLE
from benchmarks.experiments.assumptions import (
    CASE_MB,
    GPUS,
    LARGE_CASES,
    PATCH_MB,
    SAMPLES_PER_CASE,
    STORAGES,
    Storage,
    fsx_size_tib,
    gpus_fed,
)
from benchmarks.experiments.scaling import make_plan, measure_opening, plan_store, time_samples
from benchmarks.measuring.data import ensure_store, median_patch, parse_numbers, patch_bytes, repeat_cases
from benchmarks.measuring.origin import describe_data, num_cores
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.measuring.rounds import Measured, measure
from benchmarks.measuring.rows import Assignment, Row
from benchmarks.reporting.comparison import comparison_rows
from benchmarks.reporting.figure import COLOURS, INK, LIMIT, bars, beside, finish, lines, new_figure
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import PROJECTED, Record, contents, groups_of, make_record, make_row, spread
from pipelines.config import LoaderConfig
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, main
from preprocessing.console.progress import shown
from preprocessing.shards.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPENING, RANKS, CASES = "opening a store", "plan, by ranks", "by cases in the store"
READING, STORAGE = "reading patches", "storage and GPUs"
BATCH_SIZE, MAX_RANKS, FEW = 2, 64, 10
PATCHES_PER_CASE = 16  # so that ten cases make an epoch of which starting and ending is a small part
OPEN_LIMIT_MS = 1000.0  # what opening a store of 48,884 cases may take
PAGE_CACHE = "page cache, this machine"
UNTHROTTLED = "plain numpy reading patches, with one thread for every core; cutting and standardising is part of it"
METHOD = [
    "Opening: open_store and the list of labelled cases in a fresh process, after its imports; page cache warm.",
    (
        f"Ranks: the plan's own epoch at a global batch of {BATCH_SIZE * MAX_RANKS}, one patch per case; processor "
        "times are of one rank at the end of an epoch. That ranks share the cases fairly is a test of the plan."
    ),
    (
        "By cases: the store's cases repeated as hard links, so both stores lie in the page cache; measured as by "
        "loader_compare, in rounds; the ratio is of the runs of one round."
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
    """Open stores of 10 to 48,884 cases, time the plan and dali on many cases, and say how many GPUs a disk feeds.

    Exit code 1 when a loader fails. Figures of GPUs, instances and storage are other people's
    (benchmarks/experiments/assumptions.py); what follows from them is marked as a projection.
    """

    shards: Path = DEFAULT_SHARDS
    """Shard store. The default is the synthetic phantom, made on first use."""
    output: Path = Path("benchmarks/results")
    """Folder for scale_MACHINE_DATE.json, .md and .png."""
    cases: str = f"10,100,1000,10000,{LARGE_CASES}"
    """Comma list of store sizes to open; the plan and dali are timed with the last."""
    runs: int = 5
    """Timed runs of everything."""
    seconds: float = 2.0
    """Length of a run that reads patches."""


def measure_scale(options: Options) -> int:
    """Run the command; returns the exit code."""
    sizes = parse_numbers("--cases", options.cases, least=1)
    if options.runs < 1 or options.seconds <= 0:
        raise InputError(f"--runs {options.runs} --seconds {options.seconds:g}: at least 1 run of more than 0 s")
    store, watch = ensure_store(options.shards), NoiseWatch()
    rows = list(_rows(store, sizes, options))
    described = {"patch": list(median_patch(store)), "seconds": options.seconds, "threads": num_cores()}
    content = contents(describe_data(store), described, options.runs, rows, METHOD)
    publish(make_record("scale", content, watch), f"Scale: {store.manifest.name}", draw, options.output)
    return EXIT_UNEXPECTED if any(row["failure"] for row in rows) else EXIT_DONE


def _rows(store: Store, sizes: list[int], options: Options) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as scratch:
        for size in shown(sizes, OPENING):
            path = plan_store(store, size, Path(scratch) / str(size))
            yield make_row(OPENING, f"{size} cases", measure_opening(path, options.runs))
    d, h, w = describe_data(store)["shape_dhw"]["median"]
    plan = make_plan(sizes[-1], BATCH_SIZE * MAX_RANKS, median_patch(store), (d, h, w))
    for world_size in shown([2**power for power in range(MAX_RANKS.bit_length())], RANKS):
        timed = time_samples(plan, world_size, options.runs) | {"steps": [plan.steps_per_epoch]}
        yield make_row(RANKS, f"{world_size} ranks", timed)
    config = LoaderConfig(store=store.root, patch=median_patch(store), num_threads=num_cores(), reuse_buffers=True)
    yield from _by_cases(store, config, sizes[-1], options)
    reading = _reading(dataclasses.replace(config, batch_size=1, window=1), patch_bytes(store, config) / 1e6, options)
    yield reading
    if not reading["failure"]:
        yield from _storage(reading["summary"]["mb_per_s"]["median"])


def _by_cases(store: Store, config: LoaderConfig, num_cases: int, options: Options) -> list[Record]:
    """Measure ``dali`` on few and on many cases, those of ``store`` repeated as hard links, in rounds."""
    with repeat_cases(store, FEW) as small, repeat_cases(store, num_cases) as large:
        made = dataclasses.replace(config, batch_size=BATCH_SIZE, samples_per_case=PATCHES_PER_CASE)
        configs = [dataclasses.replace(made, store=copy.root) for copy in (small, large)]
        measured = _measure("dali", configs, options)
    return by_cases_rows(measured, [FEW, num_cases])


def by_cases_rows(measured: list[Measured], counts: list[int]) -> list[Record]:
    """Make the rows; the second says what share of the first one's rate it has in the same round, if both have one."""
    few, many = comparison_rows(measured, str(measured[0].row.config.store), CASES)
    if few["summary"] and many["summary"]:
        rounds = zip(many["details"]["runs"], few["details"]["runs"], strict=True)
        many["summary"]["ratio"] = spread([run["patches_per_s"] / other["patches_per_s"] for run, other in rounds])
    return [row | {"label": f"dali, {count:,} cases"} for row, count in zip((few, many), counts, strict=True)]


def _measure(name: str, configs: list[LoaderConfig], options: Options) -> list[Measured]:
    rows = [Row(contender=TABLE[name], config=config) for config in configs]
    return measure([Assignment(row=row, seconds=options.seconds) for row in rows], options.runs)


def _reading(config: LoaderConfig, patch_mb: float, options: Options) -> Record:
    """Measure how fast plain numpy reads patches out of the page cache."""
    (measured,) = _measure(FLOOR, [config], options)
    rates = [run["patches_per_s"] for run in measured.runs]
    values = {"patches_per_s": rates, "mb_per_s": [rate * patch_mb for rate in rates]}
    return make_row(READING, PAGE_CACHE, {} if measured.failure else values, failure=measured.failure)


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


def draw(record: Record, path: Path) -> None:
    """Draw opening, ranks, many cases, and how many GPUs a storage feeds."""
    groups = groups_of(record)
    figure = new_figure(12, 9)
    opening, ranks, cases, storage = figure.subplots(2, 2).ravel()
    points = [(float(row["label"].split()[0]), row["summary"]) for row in groups[OPENING]]
    lines(opening, {"": [(place, summary["open_ms"]) for place, summary in points]})
    for place, summary in points:
        beside(opening, f"{summary['memory_mb']['median']:.0f} MB", (place, summary["open_ms"]["max"]))
    opening.loglog()
    opening.axhline(OPEN_LIMIT_MS, color=LIMIT, linestyle="--", linewidth=1, label=f"limit: {OPEN_LIMIT_MS:g} ms")
    opening.legend(frameon=False)
    opening.set(xlabel="cases in the store", ylabel="ms")
    opening.set_title("Opening a store: time, and memory beside each point", loc="left")
    points = [(float(row["label"].split()[0]), row["summary"]["plan_us_per_sample"]) for row in groups[RANKS]]
    lines(ranks, {"": points})
    ranks.set_xscale("log", base=2)
    ranks.set_xticks([place for place, _ in points], [f"{place:.0f}" for place, _ in points])
    ranks.set(ylim=(0, None), xlabel="ranks", ylabel="processor microseconds per sample")
    ranks.set_title("What the plan costs", loc="left")
    bars(cases, groups.get(CASES, []), "patches_per_s")
    cases.set_visible(CASES in groups)
    cases.set_title("dali on few and on many cases", loc="left")
    _draw_storage(storage, groups[STORAGE])
    finish(figure, record, path)


def _draw_storage(axes: Axes, rows: list[Record]) -> None:
    rates = np.geomspace(100, 30_000, 50)
    for colour, gpu in zip(COLOURS, GPUS, strict=False):
        volumes = [gpus_fed(gpu, CASE_MB / SAMPLES_PER_CASE, rate) for rate in rates]
        axes.plot(rates, volumes, color=colour, label=f"{gpu.name}, whole volumes, {SAMPLES_PER_CASE} patches each")
        patches = [gpus_fed(gpu, PATCH_MB, rate) for rate in rates]
        axes.plot(rates, patches, color=colour, linestyle=":", label=f"{gpu.name}, patch by patch")
    mlperf = GPUS[-1].mlperf_mb_per_s
    axes.plot(rates, rates / mlperf, color=LIMIT, linestyle="--", label=f"MLPerf unet3d, H100: {mlperf / 1e3:.2f} GB/s")
    names = {row["label"].rpartition(": ")[0]: row["summary"]["mb_per_s"]["median"] for row in rows}
    for name, rate in names.items():
        axes.axvline(rate, color=INK, linewidth=0.5)
        axes.text(rate, 0.005, name, rotation=90, ha="right", va="bottom", size=7, color=INK)
    axes.loglog()
    axes.set_ylim(0.004, 3e4)
    axes.legend(loc="upper left", fontsize=7, facecolor="white", framealpha=1, edgecolor="none")
    axes.set_title("Projection: GPUs that a storage keeps busy", loc="left")
    axes.set(xlabel="storage, MB/s", ylabel="GPUs")


if __name__ == "__main__":
    main(measure_scale, Options)
