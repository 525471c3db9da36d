"""Run everything that needs a CUDA device, and measure it: ``python benchmarks/gpu_check.py``."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import torch

from benchmarks.contenders.table import CEILING, FLOOR, TABLE, Contender, choose_installed
from benchmarks.measuring.data import ensure_store, parse_numbers, repeat_cases
from benchmarks.measuring.epochs import measure_bus
from benchmarks.measuring.origin import REPOSITORY, describe_data, num_cores
from benchmarks.measuring.processes import NoiseWatch, ProcessError, call_fresh
from benchmarks.measuring.rounds import Measured, measure
from benchmarks.measuring.rows import Assignment, Row
from benchmarks.reporting.comparison import ALONE, TRAINING, comparison_rows, describe_method, doubts, without_paths
from benchmarks.reporting.figure import INK, finish, lines, new_figure
from benchmarks.reporting.page import free_paths, publish, write_files
from benchmarks.reporting.result import Record, Spread, contents, make_record, make_row
from pipelines.config import LoaderConfig
from pipelines.dali.pool_budget import measure_need
from pipelines.loaders import open_plan
from pipelines.plan import AUGMENTS
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, Triple, main
from training.model.networks import NETWORKS

log = logging.getLogger(__name__)
TEST_PACKAGES = ("pytest", "pytest_timeout", "hypothesis")  # some of the extra dev: where one is missing, all are
BENCHMARK, TESTS, BUS = "gpu-check", "tests marked gpu", "bus and pool"
PARTS = ("tests", "bus", "loaders", "training")
METHOD = [
    "Loaders alone are measured as by loader_compare, one after the other: pools of several at a time would not fit.",
    "In training: the trainer's own step; the ceiling is the synthetic loader with the same network and cores.",
]
THREADS = 2  # of dali: what the targets are for


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run the tests marked gpu, then measure every way to feed the GPU, alone and in training; JSON, Markdown and PNG.

    About two hours on one GPU with the defaults. Exit code 1 when a test or a row fails. --device cpu rehearses it.
    """

    shards: Path = DEFAULT_SHARDS
    """Shard store, best of real cases, which repeat up to --cases. The default is the phantom, made on first use."""
    cases: int = 64
    """Cases to have."""
    patch: Triple = (128, 128, 128)
    """Patch size."""
    batch_sizes: str = "2,4"
    """Comma list of patches per batch; training takes the first."""
    augments: str = "basic,full"
    """Comma list of none, basic and full; training takes the last."""
    nets: str = "segresnet,dynunet"
    """Comma list of networks to train."""
    cores: str = "16,8,4,2,1"
    """Comma list of processor cores to train with, as far as there are so many; torch takes the same as workers."""
    loaders: str = "all"
    """all that are installed, auto, or a comma list of loaders; training needs synthetic, its ceiling."""
    parts: str = ",".join(PARTS)
    """Comma list of tests, bus, loaders and training."""
    runs: int = 5
    """Timed runs of each row, after its warm-up."""
    seconds: float = 2.0
    """Length of a run."""
    device: str = "gpu"
    """gpu, or cpu to rehearse."""
    output: Path = Path("benchmarks/results")
    """Folder for gpu-check_MACHINE_DATE.json, .md and .png."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that stand in one table, ``group``: alone, or in training ``net`` on ``num_cores`` processor cores."""

    group: str
    rows: list[Row]
    net: str = ""
    num_cores: int = 0


def check(options: Options) -> int:
    """Run the command; returns the exit code. What cannot be run is refused before anything is measured."""
    parts = _check_options(options)
    contenders, left_out = choose_installed(options.loaders)
    for missing in left_out:
        log.warning("left out: %s %s", missing.label, missing.reason)
    store, watch = ensure_store(options.shards), NoiseWatch()
    with repeat_cases(store, max(options.cases, len(store.labelled_ids))) as enough:
        config = LoaderConfig(store=enough.root, patch=options.patch, num_threads=THREADS, reuse_buffers=True)
        batch_size = parse_numbers("--batch-sizes", options.batch_sizes, least=1)[0]
        augment = options.augments.split(",")[-1]
        config = dataclasses.replace(config, batch_size=batch_size, augment=augment, device=options.device)
        open_plan(config)
        loaders = [one for one in contenders if one.name != FLOOR]
        comparisons = list(_comparisons(options, parts, config, loaders))
        method = [*METHOD, *describe_method([row for part in comparisons for row in part.rows])]
        given = {name: value for name, value in dataclasses.asdict(options).items() if not isinstance(value, Path)}
        described = given | {"patch": list(options.patch)}
        content = contents(describe_data(enough), described, options.runs, [], method)
        content["left_out"] = [one._asdict() for one in left_out]
        paths: list[Path] = []
        title = f"GPU check: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU, a rehearsal'}"
        for rows in _measure_parts(parts, config, comparisons, options):
            content["rows"] += rows
            content["doubts"] = doubts(content["rows"])
            record = make_record(BENCHMARK, content | {"unfinished": True}, watch)
            paths = paths or free_paths(record, options.output)
            write_files(record, paths, title, draw)
    publish(make_record(BENCHMARK, content, watch), title, draw, paths)
    return EXIT_UNEXPECTED if any(row["failure"] for row in content["rows"]) else EXIT_DONE


def _measure_parts(
    parts: Sequence[str], config: LoaderConfig, comparisons: Sequence[Comparison], options: Options
) -> Iterator[list[Record]]:
    """Yield the rows of one part after the other."""
    if "tests" in parts:
        counts = run_tests()
        failed = counts["failures"] + counts["errors"]
        summary = {name: [float(count)] for name, count in counts.items()}
        yield [make_row(TESTS, "pytest -m gpu", summary, failure=f"{failed} tests failed" if failed else None)]
    if "bus" in parts:
        row = Row(contender=TABLE["dali"], config=dataclasses.replace(config, crop="device", augment="basic"))
        try:
            yield [make_row(BUS, row.label, {name: [value] for name, value in call_fresh(measure_bus, row).items()})]
        except ProcessError as error:
            yield [make_row(BUS, row.label, {}, failure=without_paths(str(error), str(config.store)))]
    for part in comparisons:
        measured: list[Measured] = []
        for row in part.rows:  # one by itself: pools of several processes at a time would not fit
            log.info("%s: %s", part.group, row.label)
            assignment = Assignment(row=row, seconds=options.seconds, net=part.net, num_cores=part.num_cores)
            measured += measure([assignment], 0 if part.net else options.runs, trainings=options.runs)
        yield comparison_rows(measured, str(config.store), part.group, part.group)


def run_tests() -> dict[str, int]:
    """Run the tests marked gpu in a process of their own; returns how many there are and what came of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", "--timeout=600"]
        code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        if not report.exists():
            log.error("the tests ended without a report (exit code %d)", code)
            return {"tests": 0, "failures": 0, "errors": 1, "skipped": 0}
        suite = ET.parse(report).getroot()[0]
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def _comparisons(
    options: Options, parts: Sequence[str], config: LoaderConfig, loaders: Sequence[Contender]
) -> Iterator[Comparison]:
    """Choose the rows of every augmentation and batch size, then of every network and number of cores.

    Raises ``InputError`` where the plan of one cannot be made.
    """
    asked = parse_numbers("--cores", options.cores, least=1)
    cores = [count for count in asked if count <= num_cores()] or [num_cores()]
    for augment in options.augments.split(",") if "loaders" in parts else ():
        for batch_size in parse_numbers("--batch-sizes", options.batch_sizes, least=1):
            this = dataclasses.replace(config, augment=augment, batch_size=batch_size)
            open_plan(this)
            yield Comparison(group=f"{ALONE}, {augment}, batch {batch_size}", rows=loader_rows(this, loaders, cores))
    for net in options.nets.split(",") if "training" in parts else ():
        for count in cores:
            group = f"{TRAINING}, {count} core{'s' * (count > 1)}, {net}"
            rows = training_rows(config, loaders, count)
            yield Comparison(group=group, rows=rows, net=net, num_cores=count)


def loader_rows(config: LoaderConfig, loaders: Sequence[Contender], workers: Sequence[int]) -> list[Row]:
    """Return a row for each source of ``dali``, for ``torch`` with each number of workers, and for the others."""
    made = {"dali": _sources(config), "torch": [dataclasses.replace(config, num_workers=count) for count in workers]}
    return [Row(contender=one, config=way) for one in loaders for way in made.get(one.name, [config])]


def _sources(config: LoaderConfig) -> list[LoaderConfig]:
    """List the ways of ``dali``: one more with a pool of two windows, unless all volumes fit into that."""
    store, plan = open_plan(config)
    need = measure_need(plan, plan.lanes_of(0, 1), np.dtype(store.manifest.image_dtype).itemsize)
    limit = need.least_bytes + need.window_bytes
    rotating = [{"crop": "device", "gpu_cache": str(limit / 2**30)}] if limit < need.total_bytes else []
    ways = [{"crop": "device"}, *rotating, {"crop": "host"}, {"read": "dali"}]
    ways += [{"read": "gds"}, {"device": "cpu", "crop": "host"}] if config.device == "gpu" else []
    return [dataclasses.replace(config, **way) for way in ways]  # type: ignore[arg-type]  # all of them texts


def training_rows(config: LoaderConfig, loaders: Sequence[Contender], num_cores: int) -> list[Row]:
    """Return a row for each loader, to be trained from with ``num_cores``; one for each place where it can cut."""
    threads = min(num_cores, config.num_threads)
    some = dataclasses.replace(config, num_workers=num_cores, num_threads=threads)
    return [Row(contender=one, config=dataclasses.replace(some, crop=crop)) for one in loaders for crop in one.crops]


def _check_options(options: Options) -> list[str]:
    """Return the parts to measure; raises ``InputError`` for what the store need not be opened to refuse."""
    parts = options.parts.split(",")
    _check_names("--parts", options.parts, PARTS)
    _check_names("--augments", options.augments, AUGMENTS)
    if "training" in parts:
        _check_names("--nets", options.nets, NETWORKS)
    if options.runs < 1 or options.seconds <= 0:
        raise InputError(f"--runs {options.runs} --seconds {options.seconds:g}: at least 1 run of more than 0 s")
    missing = [name for name in TEST_PACKAGES if find_spec(name) is None]
    if "tests" in parts and missing:
        raise InputError(
            f'--parts {options.parts}: the tests need {", ".join(missing)}: pip install -e ".[dev]", or leave tests out'
        )
    if options.device == "gpu" and not torch.cuda.is_available():
        raise InputError("--device gpu: there is no CUDA device here; --device cpu rehearses the measurement")
    return parts


def _check_names(flag: str, given: str, known: Collection[str]) -> None:
    unknown = [name for name in given.split(",") if name not in known]
    if unknown:
        raise InputError(f"{flag} {given}: unknown {', '.join(unknown)!r}; known: {', '.join(known)}")


def draw(record: Record, path: Path) -> None:
    """Draw, for each network, every loader's share of the ceiling over the processor cores it had; if any trained."""
    nets: dict[str, dict[str, list[tuple[float, Spread]]]] = {}
    for row in record["rows"]:
        if "of_ceiling" in row["summary"] and row["details"]["loader"] != CEILING:
            series = nets.setdefault(row["details"]["net"], {}).setdefault(_series(row["label"]), [])
            series.append((row["details"]["cores"], row["summary"]["of_ceiling"]))
    if not nets:
        return
    figure = new_figure(7 * len(nets), 4)
    for axes, (net, found) in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets.items(), strict=True):
        lines(axes, found)
        axes.axhline(1, color=INK, linestyle="--", linewidth=1)
        axes.margins(x=0.3)
        axes.set(title=f"{net}: share of the synthetic ceiling", xlabel="processor cores", ylim=(0, None))
    finish(figure, record, path)


def _series(label: str) -> str:
    """Name a loader without the counts that go with the cores."""
    counts = ("thread", "threads", "worker", "workers")
    return ", ".join(part for part in label.split(", ") if not part.endswith(counts))


if __name__ == "__main__":
    main(check, Options)
