"""What must hold for ever: many cases, many batches, the speed of a copy: ``python benchmarks/steady_state.py``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file, also in its own child processes: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich import get_console
from rich.progress import Progress

from benchmarks.experiments.assumptions import LARGE_CASES
from benchmarks.measuring.data import LARGEST, ensure_store
from benchmarks.measuring.origin import describe_cases, describe_data, num_cores
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import Record, make_record, make_row
from benchmarks.steady import by_cases, growth, host_copy
from benchmarks.steady.plot import draw
from pipelines.config import LoaderConfig
from pipelines.loaders import open_plan
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError, RunError
from preprocessing.console.flags import DEFAULT_SHARDS, AutoTriple, main
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Int3

BATCH_SIZE = 2
SAMPLES_PER_CASE = 16  # so that ten cases make an epoch of which starting and ending is a small part
COPIES = 128  # patches of an epoch that is copied, at least
CASES_AIM, COPY_AIM = 0.95, 0.8  # at least, of the row above
METHOD = [
    (
        "By cases: the store's cases repeated as hard links, so both stores lie in the page cache; measured as by "
        f"loader_compare, in rounds; the ratio is of the runs of one round. Aim: {CASES_AIM:g} of the row above."
    ),
    (
        f"Over many batches: minor page faults and resident memory of a fresh process, after {growth.WARM} batches to "
        "warm up; a batch in fresh memory would take as many faults as it has pages."
    ),
    (
        f"Host path alone: pipelines/dali/host_patches.py, {host_copy.THREADS} threads, no DALI, and as many threads "
        f"that copy the same patches, drawn before, from the same maps into as many reused buffers; at least {COPIES} "
        f"patches a run, in rounds, in one process. The first epoch's voxels are compared. Aim: {COPY_AIM:g}."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what dali keeps up: with many cases, over many batches, against a plain copy; table, JSON and PNG.

    Exit code 1 when a loader fails, or delivers anything but what it should.
    """

    shards: Path = DEFAULT_SHARDS
    """Shard store. The default is the synthetic phantom, made on first use."""
    output: Path = Path("benchmarks/results")
    """Folder for steady-state_MACHINE_DATE.json, .md and .png."""
    patch: AutoTriple = None
    """Patch size. auto takes the largest that every volume holds, at most 128 a side."""
    cases: int = LARGE_CASES
    """Cases of the large store."""
    batches: int = 2000
    """Batches over which page faults and memory are counted."""
    runs: int = 5
    """Timed runs."""
    seconds: float = 4.0
    """Length of a run on the small and the large store."""


def measure_steady_state(options: Options) -> int:
    """Run the command; returns the exit code."""
    if min(options.cases, options.batches, options.runs) < 1 or options.seconds <= 0:
        raise InputError("--cases, --batches and --runs are at least 1, --seconds is above 0")
    store = ensure_store(options.shards)
    config = _configure(store, _choose_patch(options, store))
    watch, rows = NoiseWatch(), []
    with Progress(disable=not get_console().is_terminal, transient=True) as progress:
        bar = progress.add_task("measuring", total=None)
        for row in _rows(store, config, options):
            rows.append(row)
            progress.update(bar, advance=1, description=f"{row['group']}: {row['label']}")
    content = {
        "data": describe_cases(store),
        "options": {"patch": list(config.patch), "batch_size": BATCH_SIZE, "threads": config.num_threads},
        "runs": options.runs,
        "rows": rows,
        "method": METHOD,
    }
    publish(make_record("steady-state", content, watch), f"Steady state: {store.manifest.name}", draw, options.output)
    return EXIT_UNEXPECTED if any(row["failure"] for row in rows) else EXIT_DONE


def _choose_patch(options: Options, store: Store) -> Int3:
    """Return a patch that lies in every volume, as a copy loop needs it; raises ``InputError`` for a larger one."""
    least: list[int] = describe_data(store)["shape_dhw"]["min"]
    d, h, w = least
    if options.patch is None:
        return min(d, LARGEST), min(h, LARGEST), min(w, LARGEST)
    if any(side > size for side, size in zip(options.patch, least, strict=True)):
        asked, there = (",".join(map(str, sides)) for sides in (options.patch, least))
        raise InputError(f"--patch {asked}: volumes of {store.root} are as small as {there}; give at most that")
    return options.patch


def _configure(store: Store, patch: Int3) -> LoaderConfig:
    config = LoaderConfig(
        store=store.root,
        patch=patch,
        batch_size=BATCH_SIZE,
        samples_per_case=max(SAMPLES_PER_CASE, -(-COPIES // len(store.labelled_ids))),
        num_threads=num_cores(),
        reuse_buffers=True,
    )
    open_plan(config)
    return config


def _rows(store: Store, config: LoaderConfig, options: Options) -> Iterator[Record]:
    yield from by_cases.rows_by_cases(store, config, options.cases, options.runs, options.seconds)
    yield from growth.growth_rows(config, options.batches)
    copying = dataclasses.replace(config, augment="none")
    try:
        yield from host_copy.copy_rows(copying, options.runs)
    except RunError as error:
        yield make_row(host_copy.GROUP, "host path", {}, failure=str(error))


if __name__ == "__main__":
    main(measure_steady_state, Options)
