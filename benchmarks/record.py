"""Turn measurements into the record that a result file holds, checked against its schema."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.check_batches import TOLERANCE
from benchmarks.machine import describe_commit, describe_machine, describe_versions
from benchmarks.measure import CHECKED, Run
from benchmarks.process_tree import memory_kind
from benchmarks.rounds import Measured
from benchmarks.rows import Row
from benchmarks.schema import FORMAT_VERSION, METRICS, SCHEMA
from pipelines.loaders import LoaderConfig
from preprocessing.errors import InputError
from preprocessing.shards import Store

Record = dict[str, Any]
METHOD = f"""\
One process per row, and rounds: every row runs once per round in the order of the table while the others idle.
Checked with plan and reference: the first {CHECKED} batches, a patch of each run's last; image to {TOLERANCE:g}.
A run starts an epoch, waits for its first batch, lets what was made in advance flow by untimed, then times.
The consumer touches nothing; dali and numpy-floor reuse their buffers.
CPU time is of the loader's process and its workers; memory is the peak of the same, sampled in each run before timing.
"others" is what the rest of the machine used meanwhile, in cores: the less, the better the numbers.
The page cache is as the warm-up left it, warm for a store that fits in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How it was measured: number of runs, seconds of each, and the device asked for."""

    runs: int
    seconds: float
    device: str


def make_record(
    store: Store, config: LoaderConfig, protocol: Protocol, measured: Sequence[Measured], left_out: Sequence[Row]
) -> Record:
    """Return the record of one comparison. It names no host and no path; raises ``ValidationError`` off the schema."""
    import jsonschema

    record = {
        "format_version": FORMAT_VERSION,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "data": describe_data(store),
        "options": _describe_options(config, protocol),
        "method": METHOD.splitlines(),
        "memory_kind": memory_kind(),
        "rows": [_describe_row(row, store.root) for row in measured],
        "left_out": [{"label": row.label, "reason": "needs a GPU"} for row in left_out],
    }
    jsonschema.validate(record, SCHEMA)
    return record


def describe_data(store: Store) -> Record:
    """Return the data set's name, its labelled cases, and the least, median and largest side of them along each axis.

    Raises ``InputError`` when no case has a label.
    """
    shapes = np.array([store.case(case_id).shape_dhw for case_id in store.labelled_ids])
    if not len(shapes):
        raise InputError(f"{store.root}: no case has a label, there is nothing to train on")
    middle = np.sort(shapes, axis=0)[len(shapes) // 2]
    return {
        "name": store.manifest.name,
        "cases": len(shapes),
        "channels": len(store.manifest.channel_names),
        "image_dtype": store.manifest.image_dtype,
        "stored_mb": round(sum(shard.size_bytes for shard in store.manifest.shards) / 1e6, 1),
        "shape_dhw": {"min": shapes.min(0).tolist(), "median": middle.tolist(), "max": shapes.max(0).tolist()},
    }


def _describe_options(config: LoaderConfig, protocol: Protocol) -> Record:
    names = ("patch", "batch_size", "augment", "samples_per_case", "seed")
    chosen = {name: getattr(config, name) for name in names} | {"patch": list(config.patch)}
    return {**chosen, "threads": config.num_threads, "workers": config.num_workers, **dataclasses.asdict(protocol)}


def _describe_row(measured: Measured, root: str) -> Record:
    row = measured.row
    runs = [
        _describe_run(run, memory, row.config) for run, memory in zip(measured.runs, measured.memory_bytes, strict=True)
    ]
    return {
        "label": row.label,
        "loader": row.loader,
        "device": row.config.device,
        "settings": row.settings,
        "checked": "voxels against the reference" if row.follows_plan else "shape and dtype",
        "failure": measured.failure and without_paths(measured.failure, root),
        "start_s": measured.start_s,
        "runs": runs,
        "summary": summarize(runs) if runs and measured.failure is None else None,
    }


def without_paths(message: str, root: str) -> str:
    """Say STORE for the store, and leave only the name of any other file that an absolute path leads to."""
    return re.sub(r"(?<![\w.])(/[^\s/:'\"]+)+/", "", " ".join(message.replace(root, "STORE").split()))


def _describe_run(run: Run, memory_bytes: int, config: LoaderConfig) -> Record:
    patches = run.batches * config.batch_size
    return {
        "batches": run.batches,
        "wall_s": run.wall_s,
        "patches_per_s": patches / run.wall_s,
        "mb_per_s": run.batches * run.batch_bytes / run.wall_s / 1e6,
        "cpu_s_per_patch": run.cpu_s / patches,
        "first_batch_s": run.first_batch_s,
        "peak_memory_mb": memory_bytes / 1e6,
        "others_cores": run.others_cpu_s / run.wall_s,
    }


def summarize(runs: Sequence[Record]) -> Record:
    """Return median, smallest and largest value of every metric."""
    columns = {name: [run[name] for run in runs] for name in METRICS}
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in columns.items()
    }
