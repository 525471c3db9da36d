"""Write arrays that are normalised already into a store, one case at a time: what other tools have prepared.

The store's modality is ``prepared``: loaders deliver its numbers as they are (mean 0, deviation 1, no clipping), 0 is
the value outside a volume, and augmentation works on them as on any normalised image.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from preprocessing.console.errors import CaseError, InputError, check_known
from preprocessing.console.places import location, make_folder, read_file, remote_errors
from preprocessing.console.progress import shown
from preprocessing.conversion.finish import finish_store
from preprocessing.conversion.prepared_case import STORED_UNIT, PreparedCase, write_prepared_case
from preprocessing.conversion.single_writer import only_writer
from preprocessing.layouts.dataset import Dataset
from preprocessing.shards.commit import clear_unfinished, has_shard, new_shard
from preprocessing.shards.entries import CaseEntry
from preprocessing.shards.files import INDEX, parse_json, write_json
from preprocessing.shards.store import Store, open_store, read_index
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.statistics import ChannelStatistics

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WriterOptions:
    """How the arrays are stored: ``dtype`` is float32 (as they are), float16, or int16 in steps of 1/1024.

    The last two lose digits; the largest error is recorded for each case and in the manifest. A shard, of
    ``cases_per_shard`` cases, is what an interrupted run keeps.
    """

    dtype: str = "float32"
    cases_per_shard: int = 16

    def __post_init__(self) -> None:
        check_known("dtype", self.dtype, STORED_UNIT)
        if self.cases_per_shard < 1:
            raise InputError(f"cases_per_shard is {self.cases_per_shard}; it must be at least 1")


class StoreWriter:
    """Add cases one after the other; leaving the block closes the store, an error leaves only whole shards.

    ``dataset`` describes channels, labels and regions; its modality must be ``prepared``, and its list of sources is
    not used. Opened on the same folder again, the writer goes on: ``done`` names the cases that are there, to be left
    out. Cases in the same order give the same bytes, interrupted or not. Raises ``InputError`` where the folder holds
    shards of another description, or another process writes there.

    Example::

        with StoreWriter("data/prepared", dataset) as writer:
            for case_id in names:
                if case_id not in writer.done:
                    writer.add(PreparedCase(case_id=case_id, image=image, label=label))
    """

    def __init__(self, root: str | Path, dataset: Dataset, options: WriterOptions | None = None) -> None:
        if dataset.modality != "prepared":
            raise InputError(f'modality is "{dataset.modality}"; arrays that are normalised already are "prepared"')
        self.root, self.dataset, self.options = location(root), dataset, options or WriterOptions()
        self.done: set[str] = set()
        self._shards: list[str] = []
        self._lock, self._open = ExitStack(), ExitStack()
        self._folder: Path | None = None
        self._entries: list[CaseEntry] = []
        self._refused: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        """Lock the folder and find what is there."""
        make_folder(self.root)
        self._lock.enter_context(only_writer(self.root))
        try:
            with remote_errors(self.root):
                found = sorted(path.name for path in self.root.glob("shard-?????") if has_shard(path))
            for name in found:
                self._keep(name)
            clear_unfinished(self.root, [self._next_name()])
        except BaseException:
            self._lock.close()
            raise
        return self

    def add(self, case: PreparedCase) -> None:
        """Write a case; raises ``CaseError`` for arrays that do not fit the description, with nothing written."""
        if case.case_id in self.done:
            raise InputError(f"{self.root}: case {case.case_id} is there already; leave out what is in done")
        entry = write_prepared_case(self._shard(), case, self.dataset, self.options.dtype)
        self._entries.append(entry)
        self._count(case.case_id)

    def refuse(self, error: CaseError) -> None:
        """Leave a case out, and say why in errors.json."""
        self._shard()
        self._refused.append({"case_id": error.case_id, "reason": error.reason})
        self._count(error.case_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the last shard and the manifest; after an error, drop the shard that is not whole."""
        with self._lock:
            if error is not None:
                self._open.__exit__(kind, error, trace)
                return
            self._commit()
            options = ConvertOptions(dtype=self.options.dtype, crop_foreground=False)
            units = [self._unit] * len(self.dataset.channel_names)
            finish_store(self.root, sorted(self._shards), self.dataset, options, self.dataset.regions, channels=units)

    @property
    def _unit(self) -> ChannelStatistics:
        """Say how stored numbers become the values that were given: ``(x - mean) / std``."""
        unit = STORED_UNIT[self.options.dtype]
        return ChannelStatistics(voxels=0, mean=0.0, std=1 / unit, percentile_00_5=0.0, percentile_99_5=0.0)

    def _next_name(self) -> str:
        """Name the next shard; where one was deleted it is made again, of the same cases if their order is the same."""
        names = (f"shard-{number:05d}" for number in itertools.count())
        return next(name for name in names if name not in self._shards)

    def _keep(self, name: str) -> None:
        path = self.root / name / INDEX
        with remote_errors(path):
            before = parse_json(str(path), read_file(path)).get("made_from")
        for key, now in self._made_from().items():
            found = before.get(key) if isinstance(before, dict) else None
            if found != now:
                raise InputError(
                    f"{self.root / name} was made with {key} {found}, now {now}; delete the shard folders in "
                    f"{self.root}, or give another folder"
                )
        index = read_index(self.root / name)
        self.done |= {entry.case_id for entry in index.cases} | {entry["case_id"] for entry in index.refused}
        self._shards.append(name)

    def _shard(self) -> Path:
        if self._folder is None:
            self._folder = self._open.enter_context(new_shard(self.root / self._next_name()))
        return self._folder

    def _count(self, case_id: str) -> None:
        self.done.add(case_id)
        if len(self._entries) + len(self._refused) == self.options.cases_per_shard:
            self._commit()

    def _commit(self) -> None:
        if self._folder is None:
            return
        entries = [dataclasses.asdict(entry) for entry in self._entries]
        write_json(self._folder / INDEX, {"made_from": self._made_from(), "cases": entries, "refused": self._refused})
        self._open.close()
        self._shards.append(self._next_name())
        self._folder, self._entries, self._refused = None, [], []

    def _made_from(self) -> dict[str, Any]:
        """Describe what decides the bytes, as JSON gives it back."""
        described = self.dataset
        return {
            "dtype": self.options.dtype,
            "cases_per_shard": self.options.cases_per_shard,
            "channel_names": described.channel_names,
            "label_names": {str(number): name for number, name in described.label_names.items()},
            "label_remap": {str(number): stored for number, stored in described.label_remap.items()},
            "ignore_label": described.ignore_label,
            "modality": described.modality,
        }


def write_cases(
    root: str | Path,
    dataset: Dataset,
    cases: Mapping[str, Callable[[], PreparedCase]],
    options: WriterOptions | None = None,
    *,
    stop_on_error: bool = False,
) -> Store:
    """Write ``cases``, case id to the function that reads it, with a progress bar; go on where an earlier call ended.

    A case that raises ``CaseError`` is left out and named in errors.json, unless ``stop_on_error``. Returns the store.
    """
    with StoreWriter(root, dataset, options) as writer:
        for case_id in shown([name for name in cases if name not in writer.done], "writing cases"):
            _write_or_refuse(writer, cases[case_id], stop_on_error=stop_on_error)
    return open_store(root)


def _write_or_refuse(writer: StoreWriter, read: Callable[[], PreparedCase], *, stop_on_error: bool) -> None:
    try:
        writer.add(read())
    except CaseError as error:
        if stop_on_error:
            raise
        log.error("refused case %s: %s", error.case_id, error.reason)
        writer.refuse(error)
