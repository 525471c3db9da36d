"""What a comparison of loaders adds to the form of all results: its rows, what to doubt of them, its picture."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders.table import BY_SEARCH, CEILING, FLOOR, SAMPLES_PER_VOLUME, TABLE
from benchmarks.measuring.check import DRAWN_TOLERANCE, TOLERANCE
from benchmarks.measuring.measure import CHECKED
from benchmarks.measuring.origin import num_cores
from benchmarks.measuring.processes import QUIET_CORES, memory_kind
from benchmarks.measuring.rounds import Measured
from benchmarks.measuring.rows import Row
from benchmarks.reporting.figure import LIMIT, Panel, bars, finish, new_figure, upright_line
from benchmarks.reporting.result import Record, make_row
from pipelines.config import LoaderConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BENCHMARK, ALONE, TRAINING = "loader_compare", "delivered alone", "in training"
UNEVEN = 0.3  # spread of a row's runs, as a share of their median, from which it is doubted
SHOWN = ("patches_per_s", "mb_per_s", "cpu_ms_per_patch", "first_batch_ms", "peak_memory_mb", "others_cores")


def describe_method(rows: Sequence[Row]) -> list[str]:
    """Return how it was measured, and what each of ``rows`` was tuned with: a line for all that share it."""
    tuned: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if tuning := row.contender.tuning(row.config):
            tuned.setdefault((row.contender.name, tuning), []).append(row.settings or row.config.device)
    endless = " and ".join(name for name, contender in TABLE.items() if not contender.has_epochs)
    return [
        *(f"Tuned, {name} ({'; '.join(settings)}): {tuning}" for (name, tuning), settings in tuned.items()),
        "One process per row, in rounds: every row runs once per round, in the table's order, while the others wait.",
        (
            f"Checked: the first {CHECKED} batches, and a patch of each run's last one; against the plan and the numpy "
            f"reference (image to {TOLERANCE:g}), or, where a loader draws its own patches, by finding each in its "
            f"volume (to {DRAWN_TOLERANCE:g}) and counting the cases."
        ),
        (
            "MONAI's Dataset and PersistentDataset read a volume for each patch; TorchIO cuts "
            f"{SAMPLES_PER_VOLUME} patches from one."
        ),
        "A run starts an epoch, waits for its first batch, takes what was made in advance untimed, and then times.",
        f"The streams of {endless} have no epochs: they go on, and no first batch of theirs is shown.",
        "The consumer touches nothing; dali and numpy-floor reuse their buffers.",
        (
            "CPU time is of the loader's process and its workers; memory is the peak of the same, sampled in each run "
            f"before timing, as {memory_kind().upper()}."
        ),
        '"others" is what the rest of the machine used meanwhile, in cores: the less, the better the numbers.',
        "The page cache is as the warm-up left it, warm for a store that fits in memory.",
    ]


def describe_options(config: LoaderConfig, **more: object) -> Record:
    """Return what a comparison was asked for."""
    names = ("batch_size", "augment", "samples_per_case", "seed")
    chosen = {"patch": list(config.patch)} | {name: getattr(config, name) for name in names}
    return {**chosen, "threads": config.num_threads, "workers": config.num_workers, **more}


def comparison_rows(
    measured: Sequence[Measured], root: str, alone: str = ALONE, training: str = TRAINING
) -> list[Record]:
    """Return a row for each of ``measured``, and after these one for each that was trained from as well.

    ``alone`` and ``training`` are their groups; of failures the store's folder ``root`` is called STORE.
    """
    delivered = [_row(one, measured, root, alone) for one in measured if one.runs or not one.trained]
    return delivered + [
        _trained_row(one, measured, f"{training}, {one.trained[0].net}") for one in measured if one.trained
    ]


def doubts(rows: Sequence[Record]) -> list[str]:
    """Say why numbers are to be doubted, if they are, and of which rows."""
    cores = num_cores()
    disturbed, uneven = [], []
    for row in rows:
        if "others_cores" not in row["summary"]:
            continue
        others, rate = row["summary"]["others_cores"]["median"], row["summary"]["patches_per_s"]
        if others > QUIET_CORES * cores:
            disturbed.append(f"{row['label']} ({others:.1f})")
        if (spread := (rate["max"] - rate["min"]) / rate["median"]) > UNEVEN:
            uneven.append(f"{row['label']} ({spread:.0%})")
    found = [f"other processes took some of the {cores} cores from {'; '.join(disturbed)}"] if disturbed else []
    return [*found, f"runs lie far apart of {'; '.join(uneven)}"] if uneven else found


def without_paths(message: str, root: str) -> str:
    """Say STORE for the store, and leave only the name of any other file that an absolute path leads to."""
    return re.sub(r"(?<![\w.])(/[^\s/:'\"]+)+/", "", message.replace(root, "STORE"))


def _row(one: Measured, everything: Sequence[Measured], root: str, group: str) -> Record:
    row, runs = one.row, _runs(one)
    details = _details(row) | {"start_s": one.start_s, "runs": runs}
    if one.failure is not None:
        return make_row(group, row.label, {}, failure=without_paths(one.failure, root), details=details)
    summary = {
        name: [run[name] for run in runs] for name in SHOWN if row.contender.has_epochs or name != "first_batch_ms"
    }
    alike = [other for other in everything if other.runs and other.failure is None and _is_alike(other.row, row)]
    floors = [other for other in everything if other.row.contender.name == FLOOR and other.failure is None]
    floors = [other for other in floors if other.row.config.batch_size == row.config.batch_size]
    ours = [other for other in alike if other.row.contender.name == "dali"]
    rates = summary["patches_per_s"]
    if floors and row.contender.name != CEILING:
        # in the same round: a shared machine changes little within a minute, where whole comparisons differ by 10 %
        floor = [run["patches_per_s"] for run in _runs(floors[-1])]
        summary["of_floor"] = [rate / other for rate, other in zip(rates, floor, strict=True)]
    if ours and row.contender.name not in ("dali", CEILING):
        rate = statistics.median(run["patches_per_s"] for run in _runs(ours[0]))
        summary["dali_is"] = [rate / statistics.median(rates)]
    return make_row(group, row.label, summary, details=details)


def _runs(one: Measured) -> list[dict[str, float]]:
    """Return the figures of each run."""
    size = one.row.config.batch_size
    return [
        {
            "batches": run.batches,
            "wall_s": run.wall_s,
            "patches_per_s": run.batches * size / run.wall_s,
            "mb_per_s": run.batches * run.batch_bytes / run.wall_s / 1e6,
            "cpu_ms_per_patch": 1e3 * run.cpu_s / (run.batches * size),
            "first_batch_ms": 1e3 * run.first_batch_s,
            "peak_memory_mb": memory / 1e6,
            "others_cores": run.others_cpu_s / run.wall_s,
        }
        for run, memory in zip(one.runs, one.memory_bytes, strict=True)
    ]


def _details(row: Row) -> Record:
    """Return what is known of a row besides its figures."""
    return {
        "loader": row.contender.name,
        "device": row.config.device,
        "settings": row.settings,
        "tuning": row.contender.tuning(row.config),
        "batch_size": row.config.batch_size,
        "workers": row.num_workers,
        "checked": row.contender.checked,
        "is_ours": row.contender.checked != BY_SEARCH,
    }


def _is_alike(one: Row, other: Row) -> bool:
    return (one.config.device, one.config.batch_size) == (other.config.device, other.config.batch_size)


def _trained_row(one: Measured, everything: Sequence[Measured], group: str) -> Record:
    """Compare the training with that on the ceiling's batches, of the same size and on the same device."""
    trained = one.trained
    ceilings = [other for other in everything if other.trained and other.row.contender.name == CEILING]
    ceilings = [other for other in ceilings if _is_alike(other.row, one.row)]
    measured: dict[str, list[float]] = {
        "gpu_utilisation": [run.gpu_utilisation for run in trained if run.gpu_utilisation is not None],
        "gpu_memory_mb": [run.gpu_memory_mb for run in trained if run.gpu_memory_mb is not None],
        "of_ceiling": [_rate(one) / _rate(ceilings[0])] if ceilings else [],
    }
    summary: dict[str, list[float]] = {
        "steps": [sum(run.steps for run in trained)],
        "patches_per_s": [run.patches_per_s for run in trained],
        "waiting": [run.waiting for run in trained],
        **{name: values for name, values in measured.items() if values},
    }
    return make_row(group, one.row.label, summary, details=_details(one.row))


def _rate(measured: Measured) -> float:
    return statistics.median(run.patches_per_s for run in measured.trained)


def draw(record: Record, path: Path) -> None:
    """Draw a bar per loader, the floor and the ceiling as lines; below, the same for each network in training."""
    groups = list(dict.fromkeys(row["group"] for row in record["rows"]))
    parts = [[row for row in record["rows"] if row["group"] == group] for group in groups]
    heights = [1.2 + 0.36 * len(rows) for rows in parts]
    figure = new_figure(9.5, 0.3 + sum(heights))
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights).ravel()
    size = f"{' x '.join(map(str, record['options']['patch']))} x {record['data']['channels']}"
    for axes, group, rows in zip(grid, groups, parts, strict=True):
        _draw_group(axes, f"{record['data']['name']}, {group}: patches of {size}", rows)
    finish(figure, record, path)


def _draw_group(axes: Axes, title: str, rows: list[Record]) -> None:
    shown = [row for row in rows if row["details"]["loader"] not in (CEILING, FLOOR)]
    limits = [row for row in rows if row["details"]["loader"] in (CEILING, FLOOR) and row["summary"]]
    limits.sort(key=lambda row: float(row["summary"]["patches_per_s"]["median"]))
    rates = {id(row): float(row["summary"]["patches_per_s"]["median"]) for row in limits}
    top = [row["summary"]["patches_per_s"]["max"] for row in shown if row["summary"]]
    top += [rates[id(row)] for row in limits if row["details"]["loader"] == FLOOR]
    end = 1.3 * max(top, default=1.0)  # room for the figure of the longest bar
    far = [f"{row['label']}: {rates[id(row)]:,.0f}, off the scale" for row in limits if rates[id(row)] > end]
    bars(axes, Panel(title=title, rows=shown, metric="patches_per_s", note=", ".join(["patches/s", *far])))
    axes.set_xlim(0, end)
    axes.set_ylim(len(shown) - 0.4, -1.1)
    sides = cycle(["right", "left"])  # two floors close together keep their names apart: the slower one first
    for row in limits:
        if rates[id(row)] <= end:
            upright_line(axes, rates[id(row)], f"{row['label']}: {rates[id(row)]:,.3g}", LIMIT, next(sides))
