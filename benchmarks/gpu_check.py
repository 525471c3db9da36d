"""Run everything that needs a CUDA device, and measure it: ``python benchmarks/gpu_check.py``."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

if not __package__:  # started as a file, also in its own child processes: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.contenders.table import FLOOR, TABLE
from benchmarks.gpu.bus import measure_bus
from benchmarks.gpu.rows import Comparison, loader_rows, training_rows
from benchmarks.measuring.data import ensure_store, parse_numbers, repeat_cases
from benchmarks.measuring.messages import Task
from benchmarks.measuring.origin import REPOSITORY, describe_data, num_cores
from benchmarks.measuring.rounds import Measured, measure
from benchmarks.measuring.rows import LeftOut, Row, choose_installed
from benchmarks.reporting.comparison import Protocol, make_record, without_paths
from benchmarks.reporting.gpu_check import BENCHMARK, begin_check, write_check
from benchmarks.reporting.page import free_paths
from benchmarks.reporting.result import Record
from pipelines.config import LoaderConfig
from pipelines.loaders import open_plan
from pipelines.plan import AUGMENTS
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.console.flags import DEFAULT_SHARDS, Triple, main
from preprocessing.shards.store import Store

log = logging.getLogger(__name__)
TEST_PACKAGES = ("pytest", "pytest_timeout", "hypothesis")  # some of the extra dev: where one is missing, all are
PARTS = ("tests", "bus", "loaders", "training")
THREADS = 2  # of dali: what the targets are for


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run the tests marked gpu, then measure every way to feed the GPU, alone and in training; JSON, Markdown and PNG.

    About two hours on one GPU with the defaults. Exit code 1 when a test or a row fails. --device cpu rehearses it.
    """

    shards: Path = DEFAULT_SHARDS
    """Shard store, best of real cases; repeated until it has --cases. The default is the synthetic phantom, made on
    first use."""
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


def check(options: Options) -> int:
    """Run the command; returns the exit code. What cannot be run is refused before anything is measured."""
    parts = _check_options(options)
    names, left_out = choose_installed(options.loaders)
    for missing in left_out:
        log.warning("left out: %s %s", missing.label, missing.reason)
    store = ensure_store(options.shards)
    with repeat_cases(store, max(options.cases, len(store.labelled_ids))) as enough:
        config = LoaderConfig(
            store=enough.root,
            patch=options.patch,
            batch_size=parse_numbers("--batch-sizes", options.batch_sizes, least=1)[0],
            augment=options.augments.split(",")[-1],
            device=options.device,
            num_threads=THREADS,
            reuse_buffers=True,
        )
        open_plan(config)
        comparisons = list(_comparisons(options, parts, config, [name for name in names if name != FLOOR]))
        record = begin_check(describe_data(enough), _plain(options))
        paths = free_paths(record, f"{BENCHMARK}_", options.output)
        write_check(record, paths)
        if "tests" in parts:
            record["tests"] = run_tests()
            write_check(record, paths)
        if "bus" in parts:
            record["bus"] = _bus(config)
            write_check(record, paths)
        for comparison in comparisons:
            compared = _compare(comparison, options, enough, left_out)
            if comparison.net:
                record["training"].append({"cores": comparison.num_cores, "comparison": compared})
            else:
                record["loaders"].append(compared)
            write_check(record, paths)
    del record["unfinished"]
    write_check(record, paths)
    log.info("written: %s", ", ".join(str(path) for path in paths if path.exists()))
    return EXIT_UNEXPECTED if _has_failures(record) else EXIT_DONE


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


def _bus(config: LoaderConfig) -> dict[str, Any]:
    row = Row(loader="dali", config=dataclasses.replace(config, crop="device", augment="basic"))
    return _alone(measure_bus, row, str(config.store))


def _comparisons(
    options: Options, parts: Sequence[str], config: LoaderConfig, names: Sequence[str]
) -> Iterator[Comparison]:
    """Choose the rows of every augmentation and batch size, then of every network and number of cores.

    Raises ``InputError`` where the plan of one cannot be made.
    """
    cores = _possible(options.cores)
    for augment in options.augments.split(",") if "loaders" in parts else ():
        for batch_size in parse_numbers("--batch-sizes", options.batch_sizes, least=1):
            this = dataclasses.replace(config, augment=augment, batch_size=batch_size)
            open_plan(this)
            yield Comparison(config=this, rows=loader_rows(this, names, cores))
    for net in options.nets.split(",") if "training" in parts else ():
        for count in cores:
            yield Comparison(config=config, rows=training_rows(config, names, count), net=net, num_cores=count)


def _compare(comparison: Comparison, options: Options, store: Store, left_out: Sequence[LeftOut]) -> Record:
    measured = [_measure(row, options, comparison.net, comparison.num_cores) for row in comparison.rows]
    protocol = Protocol(
        runs=options.runs, seconds=options.seconds, device=options.device, train=comparison.net or "none"
    )
    return make_record(store, comparison.config, protocol, measured, left_out)


def _measure(row: Row, options: Options, net: str = "", num_cores: int = 0) -> Measured:
    """Measure a row by itself, alone or in training: pools of several processes at a time would not fit."""
    log.info("%s", ", ".join(filter(None, (net, f"{num_cores} cores" if num_cores else "", row.label))))
    task = Task(
        row=row,
        build=TABLE[row.loader],
        seconds=options.seconds,
        worker_start_method=multiprocessing.get_start_method(),
        net=net,
        num_cores=num_cores,
    )
    (measured,) = measure([task], 0 if net else options.runs, lambda _: None, trainings=options.runs)
    return measured


def _alone(work: Callable[[Any], dict[str, Any]], task: Any, root: str) -> dict[str, Any]:
    """Do ``work`` in a fresh process; what it raises becomes its ``failure``."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, task).result() | {"failure": None}
        except Exception as error:  # noqa: BLE001  # whatever breaks a row is a result
            return {"failure": without_paths(f"{type(error).__name__}: {error}", root)}


def _check_options(options: Options) -> list[str]:
    """Return the parts to measure; raises ``InputError`` for what the store need not be opened to refuse."""
    parts = options.parts.split(",")
    _check_names("--parts", options.parts, PARTS)
    _check_names("--augments", options.augments, AUGMENTS)
    if "training" in parts:
        from training.model.networks import NETWORKS  # MONAI's, not needed in the processes that this one starts

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


def _possible(cores: str) -> list[int]:
    """Return the numbers of cores that there are; all of them where fewer than the least are asked for."""
    return [count for count in parse_numbers("--cores", cores, least=1) if count <= num_cores()] or [num_cores()]


def _plain(options: Options) -> dict[str, Any]:
    given = dataclasses.asdict(options)
    return {name: value for name, value in given.items() if not isinstance(value, Path)} | {
        "patch": list(options.patch)
    }


def _has_failures(record: Record) -> bool:
    tests, bus = record["tests"], record["bus"]
    compared = record["loaders"] + [part["comparison"] for part in record["training"]]
    failed_tests = bool(tests and tests["failures"] + tests["errors"])
    return (
        failed_tests or bool(bus and bus["failure"]) or any(row["failure"] for part in compared for row in part["rows"])
    )


if __name__ == "__main__":
    main(check, Options)
