"""What convert_compare times: the floors, this project's conversion and its peers; each does one case, start to end."""

from __future__ import annotations

import dataclasses
import gzip
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.conversion.shard_job import convert_shard, plan_shards
from preprocessing.layouts.dataset import Dataset, Source
from preprocessing.volumes.image import ConvertOptions

log = logging.getLogger(__name__)
PATCH = 128


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case to do and a folder to do it in, empty at the start."""

    dataset: Dataset
    source: Source
    folder: Path


def inflate_and_write(work: Work) -> None:
    """Unpack with libdeflate, CRC checked, and write the bytes: the least that any conversion does."""
    import deflate

    _unpack_and_write(work, deflate.gzip_decompress)


def inflate_and_write_slowly(work: Work) -> None:
    """Do the same with Python's own gzip."""
    _unpack_and_write(work, gzip.decompress)


def _unpack_and_write(work: Work, unpack: Callable[[bytes], bytes | bytearray]) -> None:
    for number, path in enumerate(work.source.files):
        packed = path.read_bytes()
        (work.folder / f"{number}.raw").write_bytes(unpack(packed) if packed[:2] == b"\x1f\x8b" else packed)


def inflate_summarise_and_write(work: Work) -> None:
    """Floor with statistics: mean and deviation of nonzero voxels by channel, the coordinates of labelled voxels."""
    from preprocessing.volumes.nifti import read_nifti

    volumes = [read_nifti(path) for path in work.source.files]  # libdeflate as above; views, nothing copied
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

    for number, path in enumerate(work.source.files):
        image: Any = nib.load(path)
        np.save(work.folder / f"{number}.npy", np.asanyarray(image.dataobj))


def monai_to_pt(work: Work) -> None:
    """LoadImaged, EnsureChannelFirstd, NormalizeIntensityd over nonzero voxels, torch.save, as in its tutorials."""
    import torch
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd

    keys = ["image", "label"][: len(work.source.files)]
    steps = [LoadImaged(keys=keys, image_only=True), EnsureChannelFirstd(keys=keys)]
    transform = Compose([*steps, NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True)])
    made: Any = transform(dict(zip(keys, map(str, work.source.files), strict=True)))
    torch.save({key: made[key].as_tensor() for key in keys}, work.folder / "case.pt")


def nnunet_to_blosc2(work: Work) -> None:
    """Do what nnUNetv2_preprocess does with a case whose spacing is kept, by its own functions and settings.

    SimpleITK, crop to nonzero, z-score over nonzero voxels, foreground locations, blosc2 as ``save_case`` chooses it.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    from benchmarks.contenders.nnunet_loader import save_blosc2

    reader: Any = SimpleITKIO()
    data, properties = reader.read_images([str(path) for path in work.source.images])
    seg = reader.read_seg(str(work.source.label))[0] if work.source.label is not None else None
    data, seg, _ = crop_to_nonzero(data.astype(np.float32), seg)
    normalise: Any = ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    for channel in data:
        normalise.run(channel, seg[0])
    labels = [number for number in work.dataset.label_names if number]
    properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(seg, labels)  # noqa: SLF001
    save_blosc2(work.folder / "case", (data, seg.astype(np.int16)), properties, (PATCH,) * 3)


NNUNET = "nnU-Net v2 + blosc2"
CONVERSIONS: dict[str, Callable[[Work], None]] = {
    "floor: inflate + write": inflate_and_write,
    "floor: the same with the standard library": inflate_and_write_slowly,
    "floor: inflate + statistics + write": inflate_summarise_and_write,
    "voxelfeed": voxelfeed,
    "nibabel + np.save": nibabel_to_npy,
    "MONAI + torch.save": monai_to_pt,
    NNUNET: nnunet_to_blosc2,
}


def conversions_here() -> dict[str, Callable[[Work], None]]:
    """Return the rows whose packages are installed, saying what is left out."""
    if find_spec("nnunetv2"):
        return CONVERSIONS
    log.warning('%s is left out: pip install "voxelfeed[peers]"', NNUNET)
    return {name: work for name, work in CONVERSIONS.items() if name != NNUNET}


def remade(folder: Path) -> Path:
    """Make ``folder`` anew, empty, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
