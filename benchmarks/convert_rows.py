"""What convert_compare times: the floors, this project's conversion and its peers; each does one case, start to end."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.convert import ConvertOptions
from preprocessing.dataset import Dataset, Source
from preprocessing.shard_job import convert_shard, plan_shards


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case to do and a folder to do it in, empty at the start."""

    dataset: Dataset
    source: Source
    folder: Path

    @property
    def paths(self) -> list[Path]:
        """Image and label as they lie on disk."""
        return self.source.files


def inflate_and_write(work: Work) -> None:
    """Unpack with libdeflate, CRC checked, and write the bytes: the least that any conversion does."""
    import deflate

    for number, path in enumerate(work.paths):
        (work.folder / f"{number}.raw").write_bytes(_unpack(path, deflate.gzip_decompress))


def inflate_and_write_slowly(work: Work) -> None:
    """Do the same with Python's own gzip."""
    for number, path in enumerate(work.paths):
        (work.folder / f"{number}.raw").write_bytes(_unpack(path, gzip.decompress))


def inflate_summarise_and_write(work: Work) -> None:
    """Floor with statistics: mean and deviation of nonzero voxels by channel, the coordinates of labelled voxels."""
    from preprocessing.nifti import read_nifti

    volumes = [read_nifti(path) for path in work.paths]  # libdeflate as above; views, nothing copied
    for number, volume in enumerate(volumes):
        for channel in volume.channels:
            if number == 0:
                values = channel[channel != 0]
                values.mean(dtype=np.float64), values.std(dtype=np.float32)
            else:
                np.unravel_index(np.flatnonzero(channel), channel.shape)
        with (work.folder / f"{number}.raw").open("wb") as file:
            for channel in volume.channels:
                file.write(channel.data)


def voxelfeed(work: Work) -> None:
    """Convert the whole case: checks, crop, statistics, foreground, checksums, fsync, index, rename."""
    dataset = dataclasses.replace(work.dataset, sources=[work.source])
    jobs = plan_shards(work.folder, dataset, ConvertOptions(), cases_per_shard=1, stop_on_error=True)
    convert_shard(jobs[0])


def nibabel_to_npy(work: Work) -> None:
    """Read with nibabel in the file's own dtype and np.save; nothing checked, cropped or summarised."""
    import nibabel as nib

    for number, path in enumerate(work.paths):
        image: Any = nib.load(path)
        np.save(work.folder / f"{number}.npy", np.asanyarray(image.dataobj))


def monai_to_pt(work: Work) -> None:
    """LoadImaged, EnsureChannelFirstd, NormalizeIntensityd over nonzero voxels, torch.save, as in its tutorials."""
    import torch
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd

    keys = ["image", "label"][: len(work.paths)]
    transform = Compose(
        [
            LoadImaged(keys=keys, image_only=True),
            EnsureChannelFirstd(keys=keys),
            NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True),
        ]
    )
    made: Any = transform(dict(zip(keys, map(str, work.paths), strict=True)))
    torch.save({key: made[key].as_tensor() for key in keys}, work.folder / "case.pt")


CONVERSIONS: dict[str, Callable[[Work], None]] = {
    "floor: inflate + write": inflate_and_write,
    "floor: the same with the standard library": inflate_and_write_slowly,
    "floor: inflate + statistics + write": inflate_summarise_and_write,
    "voxelfeed": voxelfeed,
    "nibabel + np.save": nibabel_to_npy,
    "MONAI + torch.save": monai_to_pt,
}


def _unpack(path: Path, unpack: Callable[[bytes], bytes | bytearray]) -> bytes | bytearray:
    packed = path.read_bytes()
    return unpack(packed) if packed[:2] == b"\x1f\x8b" else packed


def empty(folder: Path) -> Path:
    """Make ``folder`` anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
