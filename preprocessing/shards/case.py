"""One stored case: its arrays as memory maps, and what the index says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocessing.console.errors import InputError
from preprocessing.shards.entries import CaseEntry, FileRecord
from preprocessing.shards.files import DATA_OFFSET
from preprocessing.volumes.geometry import Geometry
from preprocessing.volumes.grid import Array, Int3


@dataclass(frozen=True)
class Case:
    """One stored case; arrays are read-only memory maps, opened when asked for."""

    folder: str
    entry: CaseEntry

    def image(self) -> Array:
        """Map the image [D,H,W,C] in the case's own dtype."""
        return self._map(self.entry.image, self.entry.image_dtype, (*self.shape_dhw, len(self.entry.channels)))

    def label(self) -> npt.NDArray[np.uint8] | None:
        """Map the label [D,H,W,1] uint8, or return ``None`` for an unlabelled case."""
        return None if self.entry.label is None else self._map(self.entry.label, "uint8", (*self.shape_dhw, 1))

    def foreground(self) -> dict[int, npt.NDArray[np.uint16]]:
        """Read the sampled voxels of each label: label id to coordinates uint16 [n,3] in D,H,W order."""
        if self.entry.foreground is None:
            return {}
        counts = self.entry.foreground_counts
        rows = np.array(self._map(self.entry.foreground, "uint16", (sum(counts.values()), 3)))
        ends = np.cumsum(list(counts.values()), dtype=np.int64)
        return {number: rows[end - counts[number] : end] for number, end in zip(counts, ends, strict=True)}

    def check_files(self) -> None:
        """Raise ``InputError`` when image or label no longer has the bytes that the index says.

        Whoever keeps maps asks before each use: to touch what a file has lost ends the process with SIGBUS, wordless.
        """
        for record in (self.entry.image, self.entry.label):
            if record is not None:
                self._check_size(record)

    def _check_size(self, record: FileRecord) -> None:
        path = f"{self.folder}/{record.name}"
        try:
            size = os.stat(path).st_size  # noqa: PTH116  # twice for every patch, and a Path takes as long again
        except OSError as error:
            raise self._damaged(path, str(error)) from error
        if size != record.size_bytes:
            raise self._damaged(path, f"it has {size} bytes, the index says {record.size_bytes}")

    def _damaged(self, path: str, reason: str) -> InputError:
        return InputError(f"case {self.case_id}: {path} is missing or damaged ({reason}); run preprocessing.check")

    def _map(self, record: FileRecord, dtype: str, shape: tuple[int, ...]) -> Array:
        """Map a file by what the index says of it.

        ``np.load`` would parse the header, which threads cannot do at the same time before Python 3.11.8: now and then
        one ends with "AST constructor recursion depth mismatch" (CPython's issue 106905).
        """
        self._check_size(record)
        path = f"{self.folder}/{record.name}"
        try:
            return np.memmap(path, dtype, "r", DATA_OFFSET, shape)
        except (OSError, ValueError) as error:
            raise self._damaged(path, str(error)) from error

    @property
    def case_id(self) -> str:
        """Name of the case, unique in its store."""
        return self.entry.case_id

    @property
    def shape_dhw(self) -> Int3:
        """Voxels of the stored box along D, H, W."""
        return self.entry.shape_dhw

    @property
    def origin_dhw(self) -> Int3:
        """First voxel of the stored box in the source grid, which is the file's, reoriented and resampled."""
        return self.entry.origin_dhw

    @property
    def source_shape_dhw(self) -> Int3:
        """Voxels of the whole source grid along D, H, W."""
        return self.entry.source_shape_dhw

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a stored voxel along D, H, W."""
        return self.entry.spacing_mm

    @property
    def geometry(self) -> Geometry:
        """How the file's grid became the source grid."""
        return self.entry.geometry

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Map of source voxels x,y,z,1 to millimetres (R, A, S positive) [4,4]."""
        return np.asarray(self.entry.affine)

    @property
    def channel_mean(self) -> npt.NDArray[np.float32]:
        """Mean of each channel over its nonzero voxels (CT: its labelled ones) [C]."""
        return np.array([channel.mean for channel in self.entry.channels], np.float32)

    @property
    def channel_std(self) -> npt.NDArray[np.float32]:
        """Standard deviation over the same voxels, 1 for a constant channel [C]."""
        return np.array([channel.std for channel in self.entry.channels], np.float32)
