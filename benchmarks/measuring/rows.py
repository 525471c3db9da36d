"""Choose what is measured: the rows of the comparison, and those left out with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders.settings import NUM_CACHED, QUEUE_LENGTH
from benchmarks.contenders.table import CEILING, DEFAULTS, FLOOR, OWN_DRAWS, PEERS, TABLE, chosen_names, is_installed
from pipelines.config import LoaderConfig
from pipelines.loaders import LoaderBuilder
from preprocessing.console.errors import InputError

THREADED = ("dali", FLOOR)
WITHOUT_WORKERS = (*THREADED, CEILING, "monai-thread")
DEVICES = ("auto", "cpu", "gpu")
ALL_CASES = 1_000_000  # a window that no data set fills


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result: a loader of the table under one configuration."""

    loader: str
    config: LoaderConfig
    names_batch: bool = False

    @property
    def follows_plan(self) -> bool:
        """Whether its batches are the plan's, so that the reference can tell what is in them."""
        return self.loader not in (CEILING, *OWN_DRAWS)

    @property
    def reaches_over(self) -> bool:
        """Whether its patches may reach over the far borders of the volume, by up to half a patch."""
        return self.loader == "nnunet"

    @property
    def fills_lazily(self) -> bool:
        """Whether a case is slow the first time that it is read, and fast from then on."""
        return self.loader == "monai-persistent"

    @property
    def checked(self) -> str:
        """Say how its batches are checked."""
        if self.loader == CEILING:
            return "shape and dtype"
        return "voxels against the reference" if self.follows_plan else "voxels found in the volume"

    @property
    def num_workers(self) -> int | None:
        """Its worker processes, ``None`` where it has no say in them."""
        return None if self.loader in WITHOUT_WORKERS else self.config.num_workers

    @property
    def num_ready(self) -> int:
        """Count the batches that may have been made in advance, at most."""
        if self.num_workers is None:
            return 8
        return 2 * self.num_workers + 2 + (2 * NUM_CACHED if self.loader == "nnunet" else 0)

    @property
    def cycle(self) -> int:
        """Count the batches after which its work repeats: TorchIO's queue is filled at once, then emptied."""
        return -(-QUEUE_LENGTH // self.config.batch_size) if self.loader == "torchio" else 1

    @property
    def settings(self) -> str:
        """Say what the row was given to work with, as far as it uses it."""
        parts = []
        if self.loader in THREADED:
            parts.append(_count(self.config.num_threads, "thread"))
        if self.loader == "dali":
            parts += self._source
        if self.num_workers is not None:
            parts.append(_count(self.num_workers, "worker"))
        if self.names_batch:
            parts.append(f"batch {self.config.batch_size}")
        return ", ".join(parts)

    @property
    def _source(self) -> list[str]:
        """Say where ``dali`` gets its patches from, unless it is the file."""
        if self.config.read != "mmap":
            return [f"read {self.config.read}"]
        if self.config.where_to_crop == "host":
            return ["host path"] if self.config.device == "gpu" else []
        limit = self.config.gpu_cache_gib
        return ["volumes on the device"] + ([] if limit is None else [f"at most {limit:.3g} GiB"])

    @property
    def label(self) -> str:
        """Name the row: ``dali, cpu, 2 threads``."""
        return ", ".join(part for part in (self.loader, self.config.device, self.settings) if part)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What is not measured, and why."""

    label: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What every loader is tried with; no ``workers`` means what suits the loader: one for every core."""

    batch_sizes: Sequence[int]
    workers: Sequence[int] = ()


def choose_installed(names: str, table: Mapping[str, LoaderBuilder] = TABLE) -> tuple[list[str], list[LeftOut]]:
    """Return the loaders that ``names`` lists (``chosen_names``), and those left out whose package is not installed.

    Raises ``InputError`` for unknown names, and for one left out that was asked for by name.
    """
    chosen = chosen_names(names, table)
    installed = [name for name in chosen if is_installed(name)]
    left_out = [_not_installed(name) for name in chosen if name not in installed]
    if left_out and names != "all":
        raise InputError(f"--loaders {names}: {left_out[0].label} {left_out[0].reason}")
    return installed, left_out


def choose_rows(
    names: str,
    config: LoaderConfig,
    sweep: Sweep,
    device: str,
    table: Mapping[str, LoaderBuilder] = TABLE,
    *,
    has_gpu: bool,
) -> tuple[list[Row], list[LeftOut]]:
    """Return the rows to measure and what is left out.

    ``names`` is ``"auto"`` (ours and the best of MONAI), ``"all"`` or a comma list of keys of ``table``. ``device``
    auto measures on the CPU, and on the GPU as well where there is one. Raises ``InputError`` for unknown names, for a
    GPU that is not there, and for a loader that is asked for by name and whose package is not installed.
    """
    installed, left_out = choose_installed(names, table)
    if device not in DEVICES:
        raise InputError(f"--device {device}: unknown; known: {', '.join(DEVICES)}")
    if device == "gpu" and not has_gpu:
        raise InputError("--device gpu: there is no CUDA device here; use --device cpu")
    on_cpu = [row for name in installed for row in _rows_of(name, config, sweep)] if device != "gpu" else []
    on_gpu = [
        dataclasses.replace(row, config=dataclasses.replace(row.config, device="gpu", crop=crop))
        for name in installed
        if name != FLOOR and device != "cpu"
        for row in _rows_of(name, config, sweep)
        for crop in (("device", "host") if name == "dali" else ("auto",))
    ]
    if not on_cpu and not on_gpu:
        raise InputError(f"--loaders {names} --device {device}: nothing to measure, {FLOOR} runs on the CPU only")
    if not has_gpu:
        left_out += [LeftOut(label=row.label, reason="needs a GPU") for row in on_gpu]
    if names == "auto":
        left_out += [LeftOut(label=name, reason="needs --loaders all") for name in table if name not in installed]
    return on_cpu + (on_gpu if has_gpu else []), left_out


def _not_installed(name: str) -> LeftOut:
    return LeftOut(label=name, reason=f'needs the package {PEERS[name]}: pip install -e ".[peers]"')


def _rows_of(name: str, config: LoaderConfig, sweep: Sweep) -> Iterator[Row]:
    """Make the rows of one loader on the CPU: batch sizes times threads (the floor) or workers."""
    threads = sorted({1, config.num_threads}) if name == FLOOR else [config.num_threads]
    workers = [config.num_workers] if name in WITHOUT_WORKERS else sweep.workers or _usual_workers(name, config)
    window = ALL_CASES if name in OWN_DRAWS else config.window  # so that a cache is soon filled
    for batch_size in sweep.batch_sizes:
        for num_threads in threads:
            for num_workers in workers:
                made = dataclasses.replace(
                    config,
                    device="cpu",
                    batch_size=batch_size,
                    window=window,
                    num_threads=num_threads,
                    num_workers=num_workers,
                )
                yield Row(loader=name, config=made, names_batch=len(sweep.batch_sizes) > 1)


def _usual_workers(name: str, config: LoaderConfig) -> Sequence[int]:
    """One per core. Caches of MONAI also without: its DataLoader's default, and its guide's advice for light work."""
    return sorted({0, config.num_workers}) if name in ("monai-cache", DEFAULTS) else [config.num_workers]


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
