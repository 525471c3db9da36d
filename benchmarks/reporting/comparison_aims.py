"""What ``dali`` has to reach on the reference work, and whether it did: the table says where it did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contenders.table import DEFAULTS, OWN_DRAWS
from benchmarks.reporting.result import Record
from pipelines.loaders import MONAI

OURS = "dali"
REFERENCE = {"patch": [128, 128, 128], "augment": "basic"}


@dataclass(frozen=True, kw_only=True)
class Aim:
    """``dali`` is better than the best of ``peers`` by ``factor``, in a metric of which more or less is better."""

    whom: str
    peers: Sequence[str]
    factor: float
    metric: str
    unit: str
    less_is_better: bool = False


AIMS = (
    Aim(whom="the best tuned MONAI loader", peers=tuple(MONAI), factor=2.5, metric="patches_per_s", unit="patches/s"),
    Aim(whom="MONAI's defaults", peers=(DEFAULTS,), factor=6, metric="patches_per_s", unit="patches/s"),
    Aim(whom="nnU-Net", peers=("nnunet",), factor=4.5, metric="patches_per_s", unit="patches/s"),
    Aim(whom="TorchIO", peers=("torchio",), factor=10, metric="patches_per_s", unit="patches/s"),
    Aim(
        whom="the best peer", peers=OWN_DRAWS, factor=1, metric="cpu_s_per_patch", unit="CPU time", less_is_better=True
    ),
    Aim(whom="the best peer", peers=OWN_DRAWS, factor=1, metric="peak_memory_mb", unit="memory", less_is_better=True),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """By how much ``dali`` was better, of medians, and than which row."""

    aim: Aim
    times: float
    label: str

    @property
    def is_reached(self) -> bool:
        """Whether the aim is; with a factor of 1 to be equal is not enough."""
        return self.times > 1 if self.aim.factor == 1 else self.times >= self.aim.factor


def outcomes(record: Record) -> list[Outcome]:
    """Compare the rows on the CPU, at the batch size of the options, with every aim whose peers were measured.

    Nothing where the work is not the reference work, or ``dali`` has no figures.
    """
    options = record["options"]
    if any(options[name] != value for name, value in REFERENCE.items()):
        return []
    rows = [
        row
        for row in record["rows"]
        if row["summary"] and row["device"] == "cpu" and row["batch_size"] == options["batch_size"]
    ]
    ours = [row for row in rows if row["loader"] == OURS]
    return [found for aim in AIMS for found in _compare(aim, ours, rows)]


def _compare(aim: Aim, ours: Sequence[Record], rows: Sequence[Record]) -> Iterator[Outcome]:
    peers = [row for row in rows if row["loader"] in aim.peers]
    if not ours or not peers:
        return
    choose: Callable[..., Record] = min if aim.less_is_better else max
    mine, best = (choose(group, key=lambda row: _median(row, aim.metric)) for group in (ours, peers))
    times = _median(mine, aim.metric) / _median(best, aim.metric)
    yield Outcome(aim=aim, times=1 / times if aim.less_is_better else times, label=best["label"])


def _median(row: Record, metric: str) -> float:
    return float(row["summary"][metric]["median"])


def aim_lines(record: Record) -> list[str]:
    """Say what was aimed at and measured, a line for each aim."""
    return [
        f"Aim {'reached' if found.is_reached else 'MISSED'}: {_wanted(found.aim)}; measured {found.times:.2f} times"
        f"{' less' * found.aim.less_is_better} ({found.label})"
        for found in outcomes(record)
    ]


def missed_aims(record: Record) -> str:
    """Write the aims that were missed in one sentence, empty if there is none."""
    missed = [f"{_wanted(found.aim)} ({found.times:.2f})" for found in outcomes(record) if not found.is_reached]
    return f"Aims missed: {'; '.join(missed)}." if missed else ""


def _wanted(aim: Aim) -> str:
    if aim.less_is_better:
        return f"less {aim.unit} than {aim.whom}"
    return f"{aim.factor:g} times the {aim.unit} of {aim.whom}"
