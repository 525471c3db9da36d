"""Choose what is measured: the rows of the comparison, and those left out because they need a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.batch import Loader
from pipelines.loaders import LOADERS, LoaderBuilder, LoaderConfig
from pipelines.plan import Plan
from preprocessing.errors import InputError
from preprocessing.shards import Store

FLOOR, CEILING = "numpy-floor", "synthetic"
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result: a loader of the table under one configuration."""

    loader: str
    config: LoaderConfig

    @property
    def follows_plan(self) -> bool:
        """Whether its batches are the plan's, so that the reference can tell what is in them."""
        return self.loader != CEILING

    @property
    def settings(self) -> str:
        """Say what the row was given to work with, as far as it uses it."""
        threads, workers = _count(self.config.num_threads, "thread"), _count(self.config.num_workers, "worker")
        return {"dali": threads + self._source, FLOOR: threads, "torch": workers}.get(self.loader, "")

    @property
    def _source(self) -> str:
        """Say where ``dali`` gets its patches from, unless it is the file."""
        if self.config.read != "mmap":
            return f", read {self.config.read}"
        if self.config.where_to_crop == "host":
            return ", host path" if self.config.device == "gpu" else ""
        limit = self.config.gpu_cache_gib
        return ", volumes on the device" + ("" if limit is None else f", at most {limit:.3g} GiB")

    @property
    def label(self) -> str:
        """Name the row: ``dali, cpu, 2 threads``."""
        return ", ".join(part for part in (self.loader, self.config.device, self.settings) if part)


def _floor(store: Store, plan: Plan, config: LoaderConfig, rank: int, world_size: int) -> Loader:
    from benchmarks.numpy_floor import NumpyFloor

    return NumpyFloor(store, plan, config, rank, world_size)


TABLE: dict[str, LoaderBuilder] = {**LOADERS, FLOOR: _floor}


def choose_rows(
    names: str, config: LoaderConfig, device: str, table: Mapping[str, LoaderBuilder], *, has_gpu: bool
) -> tuple[list[Row], list[Row]]:
    """Return the rows to measure and the rows that only the lack of a GPU keeps out.

    ``names`` is ``"all"`` or a comma list of keys of ``table``. ``device`` auto measures on the CPU, and on the GPU
    as well where there is one. Raises ``InputError`` for unknown names and for a GPU that is not there.
    """
    chosen = chosen_names(names, table)
    if device not in DEVICES:
        raise InputError(f"--device {device}: unknown; known: {', '.join(DEVICES)}")
    if device == "gpu" and not has_gpu:
        raise InputError("--device gpu: there is no CUDA device here; use --device cpu")
    on_cpu = [row for name in chosen for row in _cpu_rows(name, config)] if device != "gpu" else []
    on_gpu = [
        Row(loader=name, config=dataclasses.replace(config, device="gpu"))
        for name in chosen
        if name != FLOOR and device != "cpu"
    ]
    if not on_cpu and not on_gpu:
        raise InputError(f"--loaders {names} --device {device}: nothing to measure, {FLOOR} runs on the CPU only")
    return (on_cpu + on_gpu, []) if has_gpu else (on_cpu, on_gpu)


def chosen_names(names: str, table: Mapping[str, LoaderBuilder]) -> Sequence[str]:
    """Return the keys of ``table`` that ``names`` lists, or all; raises ``InputError`` for unknown ones."""
    if names == "all":
        return list(table)
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in table]
    if unknown or not chosen:
        raise InputError(f"--loaders {names}: unknown {', '.join(unknown)!r}; known: all, {', '.join(table)}")
    return chosen


def _cpu_rows(name: str, config: LoaderConfig) -> list[Row]:
    """Make the row of one loader; the floor has one for a single thread as well."""
    threads = sorted({1, config.num_threads}) if name == FLOOR else [config.num_threads]
    return [Row(loader=name, config=dataclasses.replace(config, device="cpu", num_threads=count)) for count in threads]


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
