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
    from preprocessing.volumes.nifti import read_nifti

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


def nnunet_to_blosc2(work: Work) -> None:
    """Do what nnUNetv2_preprocess does with a case whose spacing is kept, by its own functions and settings.

    SimpleITK, crop to nonzero, z-score over nonzero voxels, foreground locations, blosc2 as ``save_case`` chooses it.
    """
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    reader: Any = SimpleITKIO()
    data, properties = reader.read_images([str(path) for path in work.source.images])
    seg = reader.read_seg(str(work.source.label))[0] if work.source.label is not None else None
    data, seg, _ = crop_to_nonzero(data.astype(np.float32), seg)
    normalise: Any = ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    for channel in data:
        normalise.run(channel, seg[0])
    labels = [number for number in work.dataset.label_names if number]
    properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(seg, labels)  # noqa: SLF001
    seg = seg.astype(np.int16)
    blocks, chunks = comp_blosc2_params(data.shape, (PATCH,) * 3, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, (PATCH,) * 3, seg.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data,
        seg,
        properties,
        str(work.folder / "case"),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )


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


def _unpack(path: Path, unpack: Callable[[bytes], bytes | bytearray]) -> bytes | bytearray:
    packed = path.read_bytes()
    return unpack(packed) if packed[:2] == b"\x1f\x8b" else packed


def remade(folder: Path) -> Path:
    """Make ``folder`` anew, empty, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
