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
from benchmarks.reporting.figure import bars, finish, new_panels, upright_line
from benchmarks.reporting.result import Record, groups_of, make_row
from pipelines.config import LoaderConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BENCHMARK, ALONE, TRAINING = "loader_compare", "delivered alone", "in training"
UNEVEN = 0.3  # spread of a row's runs, as a share of their median, from which it is doubted
METHOD = f"""\
One process per row, in rounds: every row runs once per round, in the table's order, while the others wait.
Checked: the first {CHECKED} batches, and a patch of each run's last one, against the plan and the numpy reference (to \
{TOLERANCE:g}) or, where a loader draws its own patches, by finding each in its volume (to {DRAWN_TOLERANCE:g}) and \
counting the cases.
MONAI's Dataset and PersistentDataset read a volume for each patch; TorchIO cuts {SAMPLES_PER_VOLUME} patches from one.
A run starts an epoch, waits for its first batch, takes what was made in advance untimed, and then times.
The streams of {{endless}} have no epochs: they go on, and no first batch of theirs is shown.
The consumer touches nothing; dali and numpy-floor reuse their buffers.
CPU time is of the loader's process and its workers; memory is the peak of the same, sampled in each run before \
timing, as {{memory}}.
"others" is what the rest of the machine used meanwhile, in cores: the less, the better the numbers.
The page cache is as the warm-up left it, warm for a store that fits in memory."""
SHOWN = ("patches_per_s", "mb_per_s", "cpu_ms_per_patch", "first_batch_ms", "peak_memory_mb", "others_cores")


def describe_method(rows: Sequence[Row]) -> list[str]:
    """Return how it was measured, and what each of ``rows`` was tuned with: a line for all that share it."""
    tuned: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if tuning := row.contender.tuning(row.config):
            tuned.setdefault((row.contender.name, tuning), []).append(row.settings or row.config.device)
    endless = " and ".join(name for name, contender in TABLE.items() if not contender.has_epochs)
    lines = METHOD.format(endless=endless, memory=memory_kind().upper()).splitlines()
    return [*(f"Tuned, {name} ({'; '.join(those)}): {tuning}" for (name, tuning), those in tuned.items()), *lines]


def describe_options(config: LoaderConfig) -> Record:
    """Return what a comparison was asked for."""
    chosen = {name: getattr(config, name) for name in ("batch_size", "augment", "samples_per_case", "seed")}
    return {"patch": list(config.patch), **chosen, "threads": config.num_threads, "workers": config.num_workers}


def comparison_rows(measured: Sequence[Measured], root: str, alone: str = ALONE, training: str = "") -> list[Record]:
    """Return a row for each of ``measured``, and after these one for each that was trained from as well.

    ``alone`` and ``training`` are their groups; of failures the store's folder ``root`` is called STORE.
    """
    delivered = [_row(one, measured, root, alone) for one in measured if one.runs or not one.trained]
    return delivered + [_trained_row(one, measured, training) for one in measured if one.trained]


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
    row, runs = one.row, one.runs
    details = _details(row) | {"start_s": one.start_s, "runs": runs}
    if one.failure is not None:
        return make_row(group, row.label, {}, failure=without_paths(one.failure, root), details=details)
    shown = [name for name in SHOWN if row.contender.has_epochs or name != "first_batch_ms"]
    summary = {name: [run[name] for run in runs] for name in shown}
    rates = summary["patches_per_s"]
    floors, ours = (_alike(everything, name, row.config.batch_size) for name in (FLOOR, "dali"))
    ours = [other for other in ours if other.row.config.device == row.config.device]
    if floors and row.contender.name != CEILING:
        # in the same round: a shared machine changes little within a minute, where whole comparisons differ by 10 %
        floor = [run["patches_per_s"] for run in floors[-1].runs]
        summary["of_floor"] = [rate / other for rate, other in zip(rates, floor, strict=True)]
    if ours and row.contender.name not in ("dali", CEILING):
        rate = statistics.median(run["patches_per_s"] for run in ours[0].runs)
        summary["dali_is"] = [rate / statistics.median(rates)]
    return make_row(group, row.label, summary, details=details)


def _alike(everything: Sequence[Measured], name: str, batch_size: int) -> list[Measured]:
    """Return what was measured of one loader at one batch size, alone and without a failure."""
    named = [one for one in everything if one.row.contender.name == name and one.row.config.batch_size == batch_size]
    return [one for one in named if one.runs and one.failure is None]


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


def _trained_row(one: Measured, everything: Sequence[Measured], group: str) -> Record:
    """Compare the training with that on the ceiling's batches, of the same size and on the same device."""
    config, ceilings = one.row.config, [other for other in everything if other.row.contender.name == CEILING]
    summary = {name: [run[name] for run in one.trained] for name in one.trained[0]}
    for other in ceilings:
        if (other.row.config.device, other.row.config.batch_size) == (
            config.device,
            config.batch_size,
        ) and other.trained:
            rates = [statistics.median(run["patches_per_s"] for run in which.trained) for which in (one, other)]
            summary["of_ceiling"] = [rates[0] / rates[1]]
    details = _details(one.row) | {"net": one.net, "cores": one.num_cores or num_cores()}
    return make_row(group, one.row.label, summary, details=details)


def draw(record: Record, path: Path) -> None:
    """Draw a bar per loader, the floor and the ceiling as lines; below, the same for each network in training."""
    groups = groups_of(record)
    figure, grid = new_panels(map(len, groups.values()))
    size = f"{' x '.join(map(str, record['options']['patch']))} x {record['data']['channels']}"
    for axes, (group, rows) in zip(grid, groups.items(), strict=True):
        axes.set_title(f"{record['data']['name']}, {group}: patches of {size}", loc="left", size=11)
        _draw_group(axes, rows)
    finish(figure, record, path)


def _draw_group(axes: Axes, rows: list[Record]) -> None:
    """Draw one table. The axis ends where the fastest loader or floor does; the ceiling is off the scale as a rule."""
    shown = [row for row in rows if row["details"]["loader"] not in (CEILING, FLOOR)]
    limits = [row for row in rows if row not in shown and row["summary"]]
    rates = {row["label"]: float(row["summary"]["patches_per_s"]["median"]) for row in limits}
    floors = [rates[row["label"]] for row in limits if row["details"]["loader"] == FLOOR]
    end = 1.3 * max(
        [*floors, *(row["summary"]["patches_per_s"]["max"] for row in shown if row["summary"])], default=1.0
    )
    far = [f"{label}: {rate:,.0f}, off the scale" for label, rate in rates.items() if rate > end]
    bars(axes, shown, "patches_per_s", note="; ".join(far))
    axes.set_xlim(0, end)
    axes.set_ylim(len(shown) - 0.4, -1.1)
    sides = cycle(["right", "left"])  # two floors close together keep their names apart: the slower one first
    for label, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        if rate <= end:
            upright_line(axes, rate, f"{label}: {rate:,.3g}", side=next(sides))
