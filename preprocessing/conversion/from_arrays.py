"""Pairs of ``CASE_x.npy`` and ``CASE_y.npy`` into a store, as NVIDIA's nnU-Net example and MIST prepare them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.console.errors import CaseError, InputError, check_known
from preprocessing.conversion.prepared import WriterOptions, write_cases
from preprocessing.conversion.prepared_case import PreparedCase
from preprocessing.layouts.dataset import Dataset
from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Array, Float3

IMAGE, LABEL = "_x.npy", "_y.npy"
CHANNELS = ("first", "last")


@dataclass(frozen=True, kw_only=True)
class ArrayPairs:
    """A folder of pairs, and what they do not say themselves.

    Arrays are [C,D,H,W] (``channels`` first, NVIDIA's) or [D,H,W,C] (last, MIST's); a label may come without its
    channel. ``spacing_mm`` is along D,H,W. ``label_names`` must name every id there is, 0 included.
    """

    folder: Path
    channel_names: Sequence[str]
    label_names: Mapping[int, str]
    channels: str = "first"
    spacing_mm: Float3 = (1.0, 1.0, 1.0)

    def read(self, case_id: str) -> PreparedCase:
        """Read a case; raises ``CaseError`` naming the file that cannot be used."""
        paths = [self.folder / f"{case_id}{ending}" for ending in (IMAGE, LABEL)]
        image, label = (self._load(case_id, path) for path in paths)
        return PreparedCase(
            case_id=case_id,
            image=self._channels_last(image),
            label=label[..., None] if label.ndim == 3 else self._channels_last(label),
            spacing_mm=self.spacing_mm,
            sources=paths,
        )

    def _load(self, case_id: str, path: Path) -> Array:
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise CaseError(case_id, f"{path}: cannot be read ({error}); prepare the case again") from error

    def _channels_last(self, array: Array) -> Array:
        return np.moveaxis(array, 0, -1) if self.channels == "first" and array.ndim == 4 else array


def import_arrays(pairs: ArrayPairs, output: str | Path, options: WriterOptions | None = None) -> Store:
    """Write a store of all pairs in a folder; an interrupted call goes on.

    Raises ``InputError`` where there is none. A case that cannot be used is named in errors.json.
    """
    check_known("channels", pairs.channels, CHANNELS)
    ids = sorted(file.name[: -len(IMAGE)] for file in pairs.folder.glob(f"*{IMAGE}"))
    if not ids:
        raise InputError(f"{pairs.folder}: no *{IMAGE} there; give the folder of the prepared arrays")
    dataset = Dataset(
        name=pairs.folder.name,
        root=pairs.folder,
        channel_names=list(pairs.channel_names),
        label_names=dict(pairs.label_names),
        modality="prepared",
        sources=[],
    )
    cases: dict[str, Callable[[], PreparedCase]] = {name: functools.partial(pairs.read, name) for name in ids}
    return write_cases(output, dataset, cases, options)
