"""Turn measurements into the record that a result file holds, checked against its schema."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Sequence

from benchmarks.contenders.settings import SAMPLES_PER_VOLUME
from benchmarks.contenders.table import CEILING, WITHOUT_EPOCHS
from benchmarks.contenders.tuning import tuning_of
from benchmarks.measuring.check import TOLERANCE
from benchmarks.measuring.check import TOLERANCE as DRAWN_TOLERANCE
from benchmarks.measuring.measure import CHECKED
from benchmarks.measuring.messages import Run
from benchmarks.measuring.origin import describe_data, num_cores
from benchmarks.measuring.processes import QUIET_CORES, memory_kind
from benchmarks.measuring.rounds import Measured
from benchmarks.measuring.rows import LeftOut
from benchmarks.reporting.comparison_schema import BENCHMARK, FORMAT_VERSION, METRICS, SCHEMA
from benchmarks.reporting.result import Record, describe_origin, spread
from pipelines.config import LoaderConfig
from preprocessing.shards.store import Store

UNEVEN = 0.3  # spread of a row's runs, as a share of their median, from which it is doubted
METHOD = f"""\
One process per row, and rounds: every row runs once per round in the order of the table while the others idle.
Checked: the first {CHECKED} batches, a patch of each run's last; with plan and reference (image to {TOLERANCE:g}), or,
where a loader draws for itself, by finding each patch in its volume (to {DRAWN_TOLERANCE:g}) and counting the cases.
MONAI's Dataset and PersistentDataset read a volume for each patch; TorchIO cuts {SAMPLES_PER_VOLUME} patches from one.
A run starts an epoch, waits for its first batch, lets what was made in advance flow by untimed, then times.
The streams of {" and ".join(WITHOUT_EPOCHS)} have no epochs: they go on, and no first batch of theirs is shown.
The consumer touches nothing; dali and numpy-floor reuse their buffers.
CPU time is of the loader's process and its workers; memory is the peak of the same, sampled in each run before timing.
"others" is what the rest of the machine used meanwhile, in cores: the less, the better the numbers.
The page cache is as the warm-up left it, warm for a store that fits in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How it was measured: number of runs, seconds of each, the device asked for, the network trained (or none)."""

    runs: int
    seconds: float
    device: str
    train: str = "none"


def make_record(
    store: Store, config: LoaderConfig, protocol: Protocol, measured: Sequence[Measured], left_out: Sequence[LeftOut]
) -> Record:
    """Return the record of one comparison. It names no host and no path; raises ``ValidationError`` off the schema."""
    import jsonschema

    record: Record = {
        "format_version": FORMAT_VERSION,
        "benchmark": BENCHMARK,
        **describe_origin(),
        "data": describe_data(store),
        "options": _describe_options(config, protocol),
        "method": METHOD.splitlines(),
        "memory_kind": memory_kind(),
        "rows": [_describe_row(row, measured, store.root) for row in measured],
        "left_out": [dataclasses.asdict(row) for row in left_out],
    }
    record["noisy"] = _doubts(record["rows"])
    jsonschema.validate(record, SCHEMA)
    return record


def _describe_options(config: LoaderConfig, protocol: Protocol) -> Record:
    names = ("patch", "batch_size", "augment", "samples_per_case", "seed")
    chosen = {name: getattr(config, name) for name in names} | {"patch": list(config.patch)}
    return {**chosen, "threads": config.num_threads, "workers": config.num_workers, **dataclasses.asdict(protocol)}


def _doubts(rows: Sequence[Record]) -> list[str]:
    """Say why numbers are to be doubted, if they are, and of which rows."""
    cores = num_cores()
    disturbed, uneven = [], []
    for row in rows:
        if row["summary"] is None:
            continue
        others, rate = row["summary"]["others_cores"]["median"], row["summary"]["patches_per_s"]
        if others > QUIET_CORES * cores:
            disturbed.append(f"{row['label']} ({others:.1f})")
        spread = (rate["max"] - rate["min"]) / rate["median"]
        if spread > UNEVEN:
            uneven.append(f"{row['label']} ({spread:.0%})")
    doubts = [f"other processes took some of the {cores} cores from {'; '.join(disturbed)}"] if disturbed else []
    return [*doubts, f"runs lie far apart of {'; '.join(uneven)}"] if uneven else doubts


def _describe_row(measured: Measured, everything: Sequence[Measured], root: str) -> Record:
    row = measured.row
    runs = [
        _describe_run(run, memory, row.config) for run, memory in zip(measured.runs, measured.memory_bytes, strict=True)
    ]
    return {
        "label": row.label,
        "loader": row.loader,
        "device": row.config.device,
        "settings": row.settings,
        "tuning": tuning_of(row),
        "batch_size": row.config.batch_size,
        "workers": row.num_workers,
        "checked": row.checked,
        "failure": measured.failure and without_paths(measured.failure, root),
        "start_s": measured.start_s,
        "runs": runs,
        "summary": summarize(runs) if runs and measured.failure is None else None,
        "training": _describe_training(measured, everything),
    }


def _describe_training(measured: Measured, everything: Sequence[Measured]) -> Record | None:
    """Compare the training with that on the ceiling's batches, of the same size and on the same device."""
    trained, config = measured.trained, measured.row.config
    if not trained:
        return None
    ceilings = [
        _training_rate(other)
        for other in everything
        if other.trained
        and other.row.loader == CEILING
        and (other.row.config.device, other.row.config.batch_size) == (config.device, config.batch_size)
    ]
    busy = [run.gpu_utilisation for run in trained if run.gpu_utilisation is not None]
    memory = [run.gpu_memory_mb for run in trained if run.gpu_memory_mb is not None]
    return {
        "net": trained[0].net,
        "steps": sum(run.steps for run in trained),
        "wall_s": sum(run.wall_s for run in trained),
        "patches_per_s": spread([run.patches_per_s for run in trained]),
        "waiting": spread([run.waiting for run in trained]),
        "gpu_utilisation": statistics.median(busy) if busy else None,
        "gpu_memory_mb": max(memory, default=None),
        "of_ceiling": _training_rate(measured) / ceilings[0] if ceilings else None,
    }


def _training_rate(measured: Measured) -> float:
    return statistics.median(run.patches_per_s for run in measured.trained)


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
    return {name: spread([run[name] for run in runs]) for name in METRICS}
