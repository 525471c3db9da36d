"""What reading costs when the page cache is cold, by each way to ask for it: ``python benchmarks/cold_reads.py``."""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from benchmarks.measuring.data import ensure_store, forget
from benchmarks.measuring.origin import describe_cases
from benchmarks.measuring.processes import NoiseWatch
from benchmarks.reporting.figure import INK, PEER, finish, new_figure, whiskers
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import Record, make_record, make_row
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, main
from preprocessing.shards.store import Store

PAGE = 4096
GROUP = "reading with a cold page cache"
METHOD = [
    (
        "Image and label files of all labelled cases, one after the other, one thread; before each way the kernel was "
        "asked to forget them. The caches of the disk and of what lies below it stay as they are."
    ),
]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Drop a store's files from the page cache and read them in one way after the other; table, JSON and PNG."""

    shards: Path = DEFAULT_SHARDS
    """Shard store on the disk in question. The default is the synthetic phantom, made on first use."""
    runs: int = 5
    """Rounds over all ways."""
    output: Path = Path("benchmarks/results")
    """Folder for cold-reads_MACHINE_DATE.json, .md and .png."""


def mapped(path: Path, out: Bytes) -> None:
    """Copy from a map; the kernel reads ahead as it sees fit."""
    np.copyto(out, np.memmap(path, np.uint8, "r"))


def advised(path: Path, out: Bytes) -> None:
    """Copy from a map of which the kernel was told that all of it is needed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        view.madvise(mmap.MADV_WILLNEED)
        out.data[:] = view


def plain(path: Path, out: Bytes) -> None:
    """Read into the buffer, through the page cache."""
    with path.open("rb", buffering=0) as file:
        _fill(file.fileno(), out)


def direct(path: Path, out: Bytes) -> None:
    """Read into the buffer, past the page cache; buffer, offset and length are multiples of a page."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        _fill(descriptor, out)
    finally:
        os.close(descriptor)


WAYS: dict[str, Callable[[Path, Bytes], None]] = {
    "mapped": mapped,
    "madvise(WILLNEED)": advised,
    "read": plain,
    "O_DIRECT": direct,
}


def compare(options: Options) -> int:
    """Run the command; returns the exit code."""
    if options.runs < 1:
        raise InputError(f"--runs {options.runs}: it must be at least 1")
    store, watch = ensure_store(options.shards), NoiseWatch()
    rates = read_cold(volume_paths(store), options.runs)
    content = {
        "data": describe_cases(store),
        "options": {},
        "runs": options.runs,
        "rows": [make_row(GROUP, way, {"mb_per_s": values}) for way, values in rates.items()],
        "method": METHOD,
    }
    record = make_record("cold-reads", content, watch)
    publish(record, f"Cold reads: {store.manifest.name}", draw, options.output)
    return EXIT_DONE


def read_cold(paths: Sequence[Path], runs: int) -> dict[str, list[float]]:
    """Read all files in one way after the other, forgotten each time; returns MB/s of the rounds."""
    sizes = [path.stat().st_size for path in paths]
    buffer = np.frombuffer(mmap.mmap(-1, _whole_pages(max(sizes))), np.uint8)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way, read in WAYS.items():
            forget(paths)
            begin = time.perf_counter()
            for path, size in zip(paths, sizes, strict=True):
                read(path, buffer[: _whole_pages(size) if read is direct else size])
            rates[way].append(sum(sizes) / (time.perf_counter() - begin) / 1e6)
    return rates


def draw(record: Record, path: Path) -> None:
    """Draw a bar for each way."""
    figure = new_figure(9, 3)
    axes = figure.add_subplot()
    for place, row in enumerate(record["rows"]):
        values = row["summary"]["mb_per_s"]
        axes.barh(place, values["median"], xerr=whiskers(values), color=PEER, ecolor=INK, height=0.6, capsize=3)
    axes.set_yticks(range(len(WAYS)), list(WAYS))
    axes.invert_yaxis()
    axes.set_title(f"{record['data']['name']}: reading with a cold page cache, MB/s", loc="left")
    finish(figure, record, path)


def volume_paths(store: Store) -> list[Path]:
    """Return the files of all labelled cases, image and label."""
    cases = [store.case(case_id) for case_id in store.labelled_ids]
    return [
        Path(case.folder) / record.name for case in cases for record in (case.entry.image, case.entry.label) if record
    ]


def _fill(descriptor: int, out: Bytes) -> None:
    done, left = 0, out.data
    while done < len(left):
        count = os.preadv(descriptor, [left[done:]], done)
        if count == 0:
            return
        done += count


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE) * PAGE


if __name__ == "__main__":
    main(compare, Options)
