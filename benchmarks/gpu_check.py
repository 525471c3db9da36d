"""Run everything that needs a CUDA device, and measure it: ``python benchmarks/gpu_check.py``."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

if not __package__:  # started as a file, also in its own child processes: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.comma_lists import parse_numbers
from benchmarks.comparison.contenders import FLOOR, TABLE, chosen_names
from benchmarks.comparison.measure import Task
from benchmarks.comparison.record import Protocol, Record, describe_data, make_record, without_paths
from benchmarks.comparison.rounds import Measured, measure
from benchmarks.comparison.rows import Row
from benchmarks.gpu.bus import measure_bus
from benchmarks.gpu.report import write_check
from benchmarks.gpu.rows import loader_rows, training_rows
from benchmarks.reporting.machine import REPOSITORY, num_cores
from pipelines.loaders import LoaderConfig
from preprocessing import replicate
from preprocessing.cli import Triple, main
from preprocessing.errors import EXIT_DONE, EXIT_UNEXPECTED, InputError
from preprocessing.shards import Store, open_store

log = logging.getLogger(__name__)
PARTS = ("tests", "bus", "loaders", "training")
THREADS = 2  # of dali: what the targets are for


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run the tests marked gpu, then measure every way to feed the GPU, alone and in training; JSON, Markdown and PNG.

    About two hours on one GPU with the defaults. Exit code 1 when a test or a row fails. --device cpu rehearses it.
    """

    shards: Path = Path("data/shards")
    """Shard store, best of real cases; repeated until it has --cases."""
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
    """Comma list of loaders; training needs synthetic, its ceiling."""
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
    """Run the command; returns the exit code."""
    parts = _parts(options.parts)
    if options.device == "gpu" and not torch.cuda.is_available():
        raise InputError("--device gpu: there is no CUDA device here; --device cpu rehearses the measurement")
    with tempfile.TemporaryDirectory(dir=options.shards.resolve().parent) as folder:  # where hard links reach
        store = _enough_cases(options, Path(folder))
        config = LoaderConfig(
            store=store.root,
            patch=options.patch,
            batch_size=parse_numbers("--batch-sizes", options.batch_sizes, least=1)[0],
            augment=options.augments.split(",")[-1],
            device=options.device,
            num_threads=THREADS,
            reuse_buffers=True,
        )
        measured = {
            "tests": run_tests() if "tests" in parts else None,
            "bus": _bus(config) if "bus" in parts else None,
            "loaders": _loaders(options, config, store) if "loaders" in parts else [],
            "training": _training(options, config, store) if "training" in parts else [],
        }
        described = {"data": describe_data(store), "options": _plain(options)}
    record = write_check(described | measured, options.output)
    return EXIT_UNEXPECTED if _has_failures(record) else EXIT_DONE


def run_tests() -> dict[str, int]:
    """Run the tests marked gpu in a process of their own; returns how many there are and what came of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", "--timeout=600"]
        subprocess.run(command, cwd=REPOSITORY, check=False)
        suite = ET.parse(report).getroot()[0]
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


def _bus(config: LoaderConfig) -> dict[str, Any]:
    row = Row(loader="dali", config=dataclasses.replace(config, crop="device", augment="basic"))
    return _alone(measure_bus, row, str(config.store))


def _loaders(options: Options, config: LoaderConfig, store: Store) -> list[Record]:
    """Measure every row of every augmentation and batch size."""
    records = []
    for augment in options.augments.split(","):
        for batch_size in parse_numbers("--batch-sizes", options.batch_sizes, least=1):
            this = dataclasses.replace(config, augment=augment, batch_size=batch_size)
            rows = loader_rows(this, _names(options), _possible(options.cores))
            measured = [_measure(row, options) for row in rows]
            records.append(make_record(store, this, _protocol(options, "none"), measured, []))
    return records


def _training(options: Options, config: LoaderConfig, store: Store) -> list[Record]:
    """Train each network from each loader with each number of cores."""
    records = []
    for net in options.nets.split(","):
        for count in _possible(options.cores):
            rows = training_rows(config, _names(options), count)
            measured = [_measure(row, options, net, count) for row in rows]
            compared = make_record(store, config, _protocol(options, net), measured, [])
            records.append({"cores": count, "comparison": compared})
    return records


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


def _protocol(options: Options, net: str) -> Protocol:
    return Protocol(runs=options.runs, seconds=options.seconds, device=options.device, train=net)


def _alone(work: Callable[[Any], dict[str, Any]], task: Any, root: str) -> dict[str, Any]:
    """Do ``work`` in a fresh process; what it raises becomes its ``failure``."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, task).result() | {"failure": None}
        except Exception as error:  # noqa: BLE001  # whatever breaks a row is a result
            return {"failure": without_paths(f"{type(error).__name__}: {error}", root)}


def _enough_cases(options: Options, folder: Path) -> Store:
    """Open the store, or a copy of it (hard links) whose cases repeat."""
    store = open_store(options.shards)
    if len(store.labelled_ids) >= options.cases:
        return store
    replicate.replicate(replicate.Options(input=options.shards, output=folder / "store", cases=options.cases))
    return open_store(folder / "store")


def _names(options: Options) -> list[str]:
    return [name for name in chosen_names(options.loaders, TABLE) if name != FLOOR]


def _parts(given: str) -> list[str]:
    unknown = [part for part in given.split(",") if part not in PARTS]
    if unknown:
        raise InputError(f"--parts {given}: unknown {', '.join(unknown)!r}; known: {', '.join(PARTS)}")
    return given.split(",")


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
