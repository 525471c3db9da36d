"""Choose what is measured: the rows of the comparison, and those left out with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders.table import BY_SEARCH, FLOOR, TABLE, Contender, LeftOut, choose_installed
from pipelines.config import LoaderConfig
from preprocessing.console.errors import InputError, check_known

DEVICES = ("auto", "cpu", "gpu")
ALL_CASES = 1_000_000  # a window that no data set fills


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result: a contender under one configuration."""

    contender: Contender
    config: LoaderConfig
    names_batch: bool = False

    @property
    def num_workers(self) -> int | None:
        """Its worker processes, ``None`` where it has no say in them."""
        return self.config.num_workers if self.contender.has_workers else None

    @property
    def num_ready(self) -> int:
        """Count the batches that may have been made in advance, at most."""
        return 8 if self.num_workers is None else 2 * self.num_workers + 2 + self.contender.num_cached

    @property
    def cycle(self) -> int:
        """Count the batches after which its work repeats."""
        return -(-self.contender.cycle_patches // self.config.batch_size)

    @property
    def settings(self) -> str:
        """Say what the row was given to work with, as far as it uses it."""
        parts = [_count(self.config.num_threads, "thread")] if self.contender.has_threads else []
        parts += self._source if len(self.contender.crops) > 1 else []
        parts += [] if self.num_workers is None else [_count(self.num_workers, "worker")]
        return ", ".join([*parts, f"batch {self.config.batch_size}"] if self.names_batch else parts)

    @property
    def _source(self) -> list[str]:
        """Say where it gets its patches from, unless it is the file."""
        if self.config.read != "mmap":
            return [f"read {self.config.read}"]
        if self.config.where_to_crop == "host":
            return ["host path"] if self.config.device == "gpu" else []
        limit = self.config.gpu_cache_gib
        return ["volumes on the device"] + ([] if limit is None else [f"at most {limit:.3g} GiB"])

    @property
    def label(self) -> str:
        """Name the row: ``dali, cpu, 2 threads``."""
        return ", ".join(part for part in (self.contender.name, self.config.device, self.settings) if part)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a measuring process is told: the row, the length of a run, the network to train from it, if any.

    ``num_cores`` is how many cores the process and all that it starts may use; 0 leaves it all.
    """

    row: Row
    seconds: float
    net: str = ""
    num_cores: int = 0


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What every loader is tried with; no ``workers`` means what suits the loader: one for every core."""

    batch_sizes: Sequence[int]
    workers: Sequence[int] = ()


def choose_rows(
    names: str,
    config: LoaderConfig,
    sweep: Sweep,
    device: str,
    table: Mapping[str, Contender] = TABLE,
    *,
    has_gpu: bool,
) -> tuple[list[Row], list[LeftOut]]:
    """Return the rows to measure and what is left out.

    ``names`` is ``"auto"`` (ours and the best of MONAI), ``"all"`` or a comma list of keys of ``table``. ``device``
    auto measures on the CPU, and on the GPU as well where there is one. Raises ``InputError`` for unknown names, for a
    GPU that is not there, and for a loader that is asked for by name and whose package is not installed.
    """
    installed, left_out = choose_installed(names, table)
    check_known("device", device, DEVICES)
    if device == "gpu" and not has_gpu:
        raise InputError("--device gpu: there is no CUDA device here; use --device cpu")
    on_cpu = [row for one in installed for row in _rows_of(one, config, sweep)] if device != "gpu" else []
    on_gpu = [
        dataclasses.replace(row, config=dataclasses.replace(row.config, device="gpu", crop=crop))
        for one in installed
        if "gpu" in one.devices and device != "cpu"
        for row in _rows_of(one, config, sweep)
        for crop in one.crops
    ]
    if not on_cpu and not on_gpu:
        raise InputError(f"--loaders {names} --device {device}: nothing to measure, {FLOOR} runs on the CPU only")
    if not has_gpu:
        left_out += [LeftOut(row.label, "needs a GPU") for row in on_gpu]
    if names == "auto":
        known = {one.name for one in installed}
        left_out += [LeftOut(name, "needs --loaders all") for name in table if name not in known]
    return on_cpu + (on_gpu if has_gpu else []), left_out


def _rows_of(contender: Contender, config: LoaderConfig, sweep: Sweep) -> Iterator[Row]:
    """Make the rows of one loader on the CPU: batch sizes times threads or workers."""
    threads, workers = [config.num_threads], [config.num_workers]
    if contender.has_workers:
        workers = list(sweep.workers) or sorted({*contender.also, *workers})
    else:
        threads = sorted({*contender.also, *threads})
    window = ALL_CASES if contender.checked == BY_SEARCH else config.window  # so that a cache is soon filled
    for batch_size in sweep.batch_sizes:
        made = dataclasses.replace(config, device="cpu", batch_size=batch_size, window=window)
        for num_threads in threads:
            for num_workers in workers:
                counted = dataclasses.replace(made, num_threads=num_threads, num_workers=num_workers)
                yield Row(contender=contender, config=counted, names_batch=len(sweep.batch_sizes) > 1)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
