"""What the MONAI loaders do to a case, in MONAI's own transforms: what can be cached first, then what is random.

The work is that of ``reference.py``: the same box of the volume, axes and statistics, and parameters from the same
distributions, but drawn by MONAI. A patch is centred, with probability ``foreground``, on a voxel of a label that is
drawn first, and anywhere else; voxels come from at most 10,000 of each label, found once and cached with the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.data import NibabelReader
from monai.transforms import (
    ClassesToIndicesd,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    MapLabelValued,
    NormalizeIntensity,
    NormalizeIntensityd,
    OneOf,
    RandAdjustContrastd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    RandSpatialCropSamplesd,
    ScaleIntensity,
    ScaleIntensityRange,
    SelectItemsd,
    SpatialCropd,
    SpatialPadd,
    Transform,
    Transposed,
)

from pipelines.augment import parameters as ranges
from pipelines.plan import SCALE_RANGE, SHIFT_RANGE
from preprocessing.shards.entries import Manifest
from preprocessing.volumes.statistics import CT, NONZERO, ChannelStatistics

if TYPE_CHECKING:
    from pipelines.config import LoaderConfig

KEYS = ["image", "label"]
DROP_METADATA = EnsureTyped(KEYS, dtype=(torch.float32, torch.uint8), track_meta=False)
VOXELS_PER_LABEL = 10_000  # as many as the store keeps
NEVER = 1e-9  # weight of the background among the labels to centre on: drawn only where there is no other


class ToRegions:
    """Turns class ids [1,D,H,W] into region masks [R,D,H,W]; a class, so that worker processes can be sent it."""

    def __init__(self, regions: Sequence[Sequence[int]]) -> None:
        self.regions = [torch.tensor(numbers) for numbers in regions]

    def __call__(self, label: torch.Tensor) -> torch.Tensor:
        """Mask each region."""
        return torch.cat([torch.isin(label, numbers) for numbers in self.regions]).to(torch.uint8)


class LoadCase(LoadImaged):
    """Loads with a reader of its own: MONAI's remembers a case's files, and the threads that fill a cache share it.

    Then an image of a file for each channel loses channels (MONAI 1.6: ``NibabelReader.filenames``).
    """

    def __call__(self, data: Any, reader: Any = None) -> Any:
        """Load image and label."""
        return super().__call__(data, reader or NibabelReader())


class CropToStored(Transform):
    """Crops image and label to the box that the store keeps of them, so that all loaders cut from the same volume."""

    def __call__(self, case: Any) -> Any:
        """Crop to ``shape_dhw`` voxels from ``origin_dhw`` on."""
        end = [start + size for start, size in zip(case["origin_dhw"], case["shape_dhw"], strict=True)]
        return SpatialCropd(KEYS, roi_start=case["origin_dhw"], roi_end=end)(case)


def cached_part(manifest: Manifest, config: LoaderConfig, regions: Sequence[Sequence[int]] | None) -> list[Any]:
    """List what is the same every time: files to standardised volumes [C,D,H,W], label ids or masks, label voxels.

    MONAI's guide to fast training advises to cache as much as possible and to drop the metadata, with which every
    random transform is slower.
    """
    steps: list[Any] = [
        LoadCase(KEYS, ensure_channel_first=True),
        Transposed(KEYS, indices=(0, 3, 2, 1)),  # MONAI reads [C,x,y,z]
    ]
    if manifest.label_remap:
        old, new = list(manifest.label_remap), list(manifest.label_remap.values())
        steps.append(MapLabelValued("label", old, new))
    steps += [
        CropToStored(),
        SpatialPadd(KEYS, spatial_size=config.patch),
        _standardise(manifest),
        EnsureTyped("label", dtype=torch.uint8),
        ClassesToIndicesd("label", num_classes=_num_classes(manifest), max_samples_per_class=VOXELS_PER_LABEL),
    ]
    if regions is not None:
        steps.append(Lambdad("label", ToRegions(regions)))
    return [*steps, DROP_METADATA]


def _num_classes(manifest: Manifest) -> int:
    return max(manifest.label_names) + 1


def _standardise(manifest: Manifest) -> Any:
    schemes = manifest.channel_schemes
    if set(schemes) == {NONZERO}:
        return NormalizeIntensityd("image", nonzero=True, channel_wise=True)
    return StandardiseChannels([_standard(*pair) for pair in zip(schemes, manifest.channels, strict=True)])


def _standard(scheme: str, pooled: ChannelStatistics) -> Transform | None:
    """Choose MONAI's transform of one channel; ``None`` leaves it as it is."""
    if scheme == CT:
        low, high = pooled.percentile_00_5, pooled.percentile_99_5
        begin, end = ((value - pooled.mean) / pooled.std for value in (low, high))
        width = high - low or 1.0  # a constant channel has none, and MONAI warns of it
        return ScaleIntensityRange(a_min=low, a_max=low + width, b_min=begin, b_max=end, clip=True)
    if scheme == "rescale-0-1":
        return ScaleIntensity(minv=0.0, maxv=1.0)
    return None if scheme == "none" else NormalizeIntensity(nonzero=scheme == NONZERO)


class StandardiseChannels(Transform):
    """Standardises each channel of the image [C,D,H,W] by a transform of its own."""

    def __init__(self, transforms: Sequence[Transform | None]) -> None:
        self.transforms = transforms

    def __call__(self, case: Any) -> Any:
        """Standardise the image of ``case``."""
        image = case["image"].float()
        for channel, transform in enumerate(self.transforms):
            if transform is not None:
                image[channel] = transform(image[channel])
        return {**case, "image": image}


def random_part(manifest: Manifest, config: LoaderConfig) -> list[Any]:
    """List what is drawn anew for every patch."""
    near_label = RandCropByLabelClassesd(
        KEYS,
        label_key="label",
        spatial_size=config.patch,
        ratios=[NEVER, *[1.0] * (_num_classes(manifest) - 1)],
        indices_key="label_cls_indices",
        warn=False,
    )
    anywhere = RandSpatialCropSamplesd(KEYS, roi_size=config.patch, num_samples=1, random_size=False)
    steps: list[Any] = [
        OneOf([near_label, anywhere], weights=[config.foreground, 1 - config.foreground]),
        SelectItemsd([*KEYS, "case_id"]),
    ]
    if config.augment != "none":
        steps += [RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in range(3)]
    if config.augment == "basic":
        steps.append(RandScaleIntensityd("image", factors=SCALE_RANGE, prob=1.0))
        steps.append(RandShiftIntensityd("image", offsets=SHIFT_RANGE, prob=1.0))
    if config.augment == "full":
        steps += _full()
    return steps


def _full() -> list[Any]:
    """List nnU-Net's augmentations as far as MONAI has them, with the probabilities and ranges of ``augment``.

    Rotation and zoom are one transform in MONAI, which acts on the patch after it is cut: voxels from outside are zero.
    Each channel is not given its own chance of blur and low resolution, as nnU-Net does.
    """
    moved = 1 - (1 - ranges.ROTATION_P) * (1 - ranges.ZOOM_P)
    zoom = ranges.ZOOM[0] - 1, ranges.ZOOM[1] - 1
    sigma = ranges.BLUR_SIGMA
    brightness = ranges.BRIGHTNESS[1] - 1
    contrast = ranges.CONTRAST[1] - 1
    return [
        RandAffined(
            KEYS,
            prob=moved,
            rotate_range=[ranges.ROTATION_RAD] * 3,
            scale_range=[zoom] * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandGaussianNoised("image", prob=ranges.NOISE_P, std=ranges.NOISE_STD[1]),
        RandGaussianSmoothd("image", sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=ranges.BLUR_P),
        RandScaleIntensityd("image", factors=brightness, prob=ranges.BRIGHTNESS_P, channel_wise=True),
        RandScaleIntensityFixedMeand("image", factors=contrast, preserve_range=True, prob=ranges.CONTRAST_P),
        RandSimulateLowResolutiond("image", prob=ranges.LOW_RESOLUTION_P, zoom_range=ranges.LOW_RESOLUTION),
        RandAdjustContrastd(
            "image", prob=ranges.GAMMA_INVERTED_P, gamma=ranges.GAMMA, invert_image=True, retain_stats=True
        ),
        RandAdjustContrastd("image", prob=ranges.GAMMA_P, gamma=ranges.GAMMA, retain_stats=True),
        EnsureTyped("label", dtype=torch.uint8),  # RandAffined makes floats
    ]
