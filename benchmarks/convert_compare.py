"""Compare conversions with the floor of inflating and writing: ``python benchmarks/convert_compare.py``."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # started as a file, also in its own child processes: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.convert_rows import Work, conversions_here, empty, prepare_loads
from benchmarks.machine import REPOSITORY, describe_commit, describe_machine, describe_versions, slug_of
from benchmarks.schema import COUNT, NUMBER, TEXT
from preprocessing import replicate
from preprocessing.cli import main
from preprocessing.dataset import Dataset
from preprocessing.errors import EXIT_DONE, InputError
from preprocessing.layouts import read_dataset
from preprocessing.phantom import DEFAULT_FOLDER, PhantomOptions, make_phantom

log = logging.getLogger(__name__)
Record = dict[str, Any]
OURS, FLOOR = "voxelfeed", "floor: inflate + write"
SPREAD = {"type": "object", "required": ["median", "min", "max"], "additionalProperties": NUMBER}
ROW = {"type": "object", "required": ["label", "cpu_s", "wall_s"], "properties": {"cpu_s": SPREAD, "wall_s": SPREAD}}
SCALING = {"type": "object", "required": ["workers", "cases", "cases_per_s"]}
SCHEMA = {
    "type": "object",
    "required": ["date", "machine", "commit", "versions", "data", "runs", "conversions", "loads", "scaling", "method"],
    "properties": {
        "runs": COUNT,
        "data": {"type": "object", "required": ["name", "cases"], "properties": {"name": TEXT, "cases": COUNT}},
        **{name: {"type": "array", "items": ROW, "minItems": 1} for name in ("conversions", "loads")},
        "scaling": {"type": "array", "items": SCALING},
    },
}
METHOD = [
    "One process; rounds: every row does every case once per round, one warm-up round, page cache warm.",
    "CPU seconds are of the whole process, all threads, per case; wall seconds include waiting for the disk.",
    "voxelfeed ends with fsync and rename, its peers do not; it checks, crops, summarises and makes checksums as well.",
    "cases/s: the whole command on hard-linked copies of the cases (MSD layout), start of its processes included.",
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time converting a case and loading an image: floors, voxelfeed, nibabel, MONAI, nnU-Net; table, JSON and PNG."""

    source: Path = DEFAULT_FOLDER
    """Data set in any layout. The default is the synthetic phantom, made on first use."""
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
    if options.source == DEFAULT_FOLDER and not options.source.exists():
        make_phantom(PhantomOptions(output=options.source))
    dataset = read_dataset(options.source)
    sources = [source for source in dataset.sources if source.label is not None][: options.cases]
    if not sources:
        raise InputError(f"{options.source}: no labelled case in it")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "case"
        works = [Work(dataset=dataset, source=source, folder=folder) for source in sources]
        conversions = _measure(
            {name: _each(work, works) for name, work in conversions_here().items()}, options.runs, len(works)
        )
        empty(folder)
        loads = _measure(prepare_loads(works[0]), options.runs, 1)
        scaling = [_scale(dataset, Path(scratch), options, workers) for workers in (1, 2) if options.scaling_cases]
    record = {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "data": {"name": dataset.name, "cases": len(sources), "channels": len(dataset.channel_names)},
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "runs": options.runs,
        "conversions": conversions,
        "loads": loads,
        "scaling": scaling,
        "method": METHOD,
    }
    _write(record, options.output)
    return EXIT_DONE


def _each(convert: Callable[[Work], None], works: Sequence[Work]) -> Callable[[], None]:
    def run() -> None:
        for work in works:
            empty(work.folder)
            convert(work)

    return run


def _measure(rows: dict[str, Callable[[], object]], runs: int, per_run: int) -> list[Record]:
    """Time every row once per round, per case; the first round warms up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(runs + 1):
        for name, run in rows.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            seconds[name].append(((time.process_time() - cpu) / per_run, (time.perf_counter() - wall) / per_run))
    return [
        {"label": name, "cpu_s": _spread([c for c, _ in timed[1:]]), "wall_s": _spread([w for _, w in timed[1:]])}
        for name, timed in seconds.items()
    ]


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _scale(dataset: Dataset, scratch: Path, options: Options, workers: int) -> Record:
    copies = scratch / "copies"
    if not copies.exists():
        replicate.replicate(replicate.Options(input=dataset.root, output=copies, cases=options.scaling_cases))
    flags = ["--input", str(copies), "--output", str(scratch / f"store_{workers}"), "--workers", str(workers)]
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "preprocessing.to_shards", *flags], cwd=REPOSITORY, check=True, capture_output=True
    )
    seconds = time.perf_counter() - begin
    return {"workers": workers, "cases": options.scaling_cases, "cases_per_s": options.scaling_cases / seconds}


def lines(record: Record) -> list[list[str]]:
    """Return the table: what, CPU seconds per case, wall seconds, times the floor, times as fast ours is."""
    rows = {row["label"]: row for row in record["conversions"]}
    floor, ours = (rows[name]["cpu_s"]["median"] for name in (FLOOR, OURS))
    made = [["conversion of a case", "CPU s", "wall s", "of the floor", "voxelfeed is faster by"]]
    for name, row in rows.items():
        cpu = row["cpu_s"]["median"]
        faster = "" if name == OURS or name.startswith("floor") else f"{cpu / ours:.1f}x"
        made.append([name, _text(row["cpu_s"]), _text(row["wall_s"]), f"{cpu / floor:.2f}x", faster])
    made += [[f"load {row['label']}", _text(row["cpu_s"]), _text(row["wall_s"]), "", ""] for row in record["loads"]]
    for row in record["scaling"]:
        made.append([f"voxelfeed, {row['workers']} workers", f"{row['cases_per_s']:.2f} cases/s", "", "", ""])
    return made


def _text(spread: dict[str, float]) -> str:
    return f"{spread['median']:.3f} ({spread['min']:.3f}..{spread['max']:.3f})"


def _write(record: Record, folder: Path) -> None:
    import jsonschema

    jsonschema.validate(record, SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"convert_{slug_of(record['machine'])}_{record['date'][:10]}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table, (head, *rows) = Table(box=box.SIMPLE_HEAD, pad_edge=False), lines(record)
    for name in head:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 130).print(table)
    machine, commit = record["machine"], record["commit"]
    notes = [
        f"Data: {record['data']['name']}, {record['data']['cases']} cases",
        f"Numbers: median (least..most) of {record['runs']} runs",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB",
        f"Code: {commit['hash'][:12] + ' with changes' * commit['dirty'] if commit else 'unknown'}, {record['date']}",
        "Load average of the machine before and after (its own work is about 1): {} and {}; when busy, trust CPU "
        "seconds, not wall seconds and cases/s".format(*record["load_average"]),
        *record["method"],
    ]
    body = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    text = [f"# Conversion: {record['data']['name']}", "", *body, "", f"![CPU seconds]({stem.name}.png)", ""]
    stem.with_suffix(".md").write_text("\n".join([*text, *(f"- {note}" for note in notes), ""]), encoding="utf-8")
    _plot(record, stem.with_suffix(".png"))
    log.info("written: %s.json, .md, .png", stem)


def _plot(record: Record, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(record["conversions"]):
        colour = "#2b6cb0" if row["label"] == OURS else "#a0aec0"
        axes.barh(place, row["cpu_s"]["median"], color=colour)
        axes.annotate(f" {row['cpu_s']['median']:.2f}", (row["cpu_s"]["median"], place), va="center")
    axes.set_yticks(range(len(record["conversions"])), [row["label"] for row in record["conversions"]])
    axes.invert_yaxis()
    axes.set_xlabel(f"CPU seconds per case, median of {record['runs']} runs; {record['machine']['cpu']}")
    axes.set_title(f"{record['data']['name']}: converting one case", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main(compare, Options)
