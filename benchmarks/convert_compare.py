"""Compare conversions with the floor of inflating and writing: ``python benchmarks/convert_compare.py``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contenders.converters import Work, conversions_here, remade
from benchmarks.measuring.data import read_labelled
from benchmarks.measuring.processes import NoiseWatch, run_command
from benchmarks.measuring.replicate import replicate
from benchmarks.measuring.rounds import time_rounds
from benchmarks.reporting.figure import draw_bars
from benchmarks.reporting.page import publish
from benchmarks.reporting.result import Record, contents, make_record, make_row
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import main
from preprocessing.layouts.dataset import Dataset
from preprocessing.phantom import DEFAULT_FOLDER

OURS, FLOOR = "voxelfeed", "floor: inflate + write"
CONVERSION, SCALING = "converting a case", "the whole command"
METHOD = [
    "One process; rounds: every row does every case once per round, one warm-up round, page cache warm.",
    "CPU seconds are of the whole process, all threads, per case; wall seconds include waiting for the disk.",
    "voxelfeed ends with fsync and rename, its peers do not; it also checks, crops, summarises and makes checksums.",
    "cases/s: the whole command on hard-linked copies of the cases (MSD layout), start of its processes included.",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time converting a case: floors, voxelfeed, nibabel, MONAI, nnU-Net; table, JSON and PNG."""

    source: Path = DEFAULT_FOLDER
    """Data set folder in MSD layout. The default is the synthetic phantom, made on first use."""
    output: Path = Path("benchmarks/results")
    """Folder for convert_MACHINE_DATE.json, .md and .png."""
    cases: int = 3
    """Labelled cases to convert in each run."""
    runs: int = 5
    """Timed runs, after a warm-up."""
    scaling_cases: int = 24
    """Cases of the cases/s runs with 1 and 2 workers; 0 leaves them out."""


def compare(options: Options) -> int:
    """Run the command; returns the exit code."""
    if options.runs < 1 or options.cases < 1 or options.scaling_cases < 0:
        raise InputError("--runs and --cases are at least 1, --scaling-cases at least 0")
    dataset = read_labelled(options.source)
    sources = dataset.sources[: options.cases]
    watch = NoiseWatch()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "case"
        works = [Work(dataset=dataset, source=source, folder=folder) for source in sources]
        conversions = {name: partial(_convert_all, work, works) for name, work in conversions_here().items()}
        rows = list(_conversion_rows(time_rounds(conversions, options.runs, len(works))))
        remade(folder)
        rows += [_scale(dataset, Path(scratch), options, workers) for workers in (1, 2) if options.scaling_cases]
    data = {"name": dataset.name, "cases": len(sources), "channels": len(dataset.channel_names)}
    content = contents(data, {"scaling_cases": options.scaling_cases}, options.runs, rows, METHOD)
    draw = partial(draw_bars, metric="cpu_s")
    publish(make_record("convert", content, watch), f"Conversion: {dataset.name}", draw, options.output)
    return EXIT_DONE


def _convert_all(convert: Callable[[Work], None], works: Sequence[Work]) -> None:
    for work in works:
        remade(work.folder)
        convert(work)


def _conversion_rows(timed: dict[str, dict[str, list[float]]]) -> Iterator[Record]:
    """Yield a row per conversion, with its CPU seconds as a multiple of the floor's and of ours."""
    cpu_s = {name: statistics.median(seconds["cpu_s"]) for name, seconds in timed.items()}
    for name, seconds in timed.items():
        ratios = {"times_floor": [cpu_s[name] / cpu_s[FLOOR]]}
        if name != OURS and not name.startswith("floor"):
            ratios["times_ours"] = [cpu_s[name] / cpu_s[OURS]]
        yield make_row(CONVERSION, name, seconds | ratios)


def _scale(dataset: Dataset, scratch: Path, options: Options, workers: int) -> Record:
    copies = scratch / "copies"
    if not copies.exists():
        replicate(dataset.root, copies, options.scaling_cases)
    flags = {"input": copies, "output": scratch / f"store_{workers}", "workers": workers}
    begin = time.perf_counter()
    run_command("preprocessing.to_shards", flags)
    seconds = time.perf_counter() - begin
    label = f"voxelfeed, {workers} worker{'s' * (workers > 1)}"
    return make_row(SCALING, label, {"cases_per_s": [options.scaling_cases / seconds]})


if __name__ == "__main__":
    main(compare, Options)
