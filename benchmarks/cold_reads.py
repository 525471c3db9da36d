"""What reading costs when the page cache is cold, by each way to ask for it: ``python benchmarks/cold_reads.py``."""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from benchmarks.default_data import ensure_store
from preprocessing.cli import main
from preprocessing.errors import EXIT_DONE
from preprocessing.shards import Store
from preprocessing.to_shards import DEFAULT_SHARDS

PAGE = 4096
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Drop the files of a store from the page cache and read them in one way after the other."""

    shards: Path = DEFAULT_SHARDS
    """Shard store on the disk in question. The default is the synthetic phantom, made on first use."""
    runs: int = 5
    """Rounds over all ways."""


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
    paths = volume_paths(ensure_store(options.shards))
    buffer = np.frombuffer(mmap.mmap(-1, _whole_pages(max(path.stat().st_size for path in paths))), np.uint8)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.runs):
        for way, read in WAYS.items():
            drop(paths)
            begin = time.perf_counter()
            for path in paths:
                size = path.stat().st_size
                read(path, buffer[: _whole_pages(size) if read is direct else size])
            rates[way].append(sum(path.stat().st_size for path in paths) / (time.perf_counter() - begin) / 1e6)
    for way, values in rates.items():
        print(f"{way:18} {statistics.median(values):8.0f} MB/s ({min(values):.0f}..{max(values):.0f})")
    return EXIT_DONE


def volume_paths(store: Store) -> list[Path]:
    """Return the files of all labelled cases, image and label."""
    cases = [store.case(case_id) for case_id in store.labelled_ids]
    return [
        Path(case.folder) / record.name for case in cases for record in (case.entry.image, case.entry.label) if record
    ]


def drop(paths: Sequence[Path]) -> None:
    """Ask the kernel to forget the files' pages; it does, where nobody has them mapped or dirty."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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
