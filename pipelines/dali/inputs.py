"""What the graph is fed for each sample: one reused array per input and sample, filled from what the plan drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.augment.in_dali import to_xyz
from pipelines.augment.in_numpy import low_resolution_size, noise_volume
from pipelines.augment.parameters import Augmentation
from pipelines.augment.placement import Placement
from pipelines.plan import Sample
from pipelines.reference import Intensity, padding
from preprocessing.volumes.grid import Array, Int3

PATCHES = ("image", "label")
SWITCHES = ("spatial", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")
FACTORS = ("brightness", "contrast", "gamma_inverted", "gamma")  # rows of the input ``factors``
NO_NOISE = np.zeros((1, 1, 1, 1), np.float32)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Shape and dtype of one input of the graph."""

    shape: tuple[int, ...]
    dtype: str


def input_specs(
    augment: str, patch: Int3, num_channels: int, image_dtype: str, *, raw_patches: bool
) -> dict[str, InputSpec]:
    """Describe the inputs of the graph for ``augment``; ``image`` and ``label`` hold a patch of each sample.

    ``raw_patches`` come unflipped, with their ``flips``, and samples that move as the box that they need. Otherwise
    patches are flipped, and samples that move come as their whole volume, of which ``box`` is to be read.

    ``statistics`` are mean, std, low, high and what a raw zero becomes; ``factors`` the rows of ``FACTORS``; ``box`` is
    start and shape of what ``matrix`` reads; ``sizes`` are the shrunken sides of low resolution; zeros leave a channel
    alone.
    """
    basic = {
        "image": InputSpec(shape=(*patch, num_channels), dtype=image_dtype),
        "label": InputSpec(shape=(*patch, 1), dtype="uint8"),
        "statistics": InputSpec(shape=(5, num_channels), dtype="float32"),
    }
    if raw_patches and augment != "none":
        basic["flips"] = InputSpec(shape=(3,), dtype="int32")
    if augment != "full":
        return basic
    if not raw_patches:
        basic["box"] = InputSpec(shape=(2, 3), dtype="int32")
    return basic | {
        "switches": InputSpec(shape=(len(SWITCHES),), dtype="int32"),
        "matrix": InputSpec(shape=(3, 4), dtype="float32"),
        "noise": InputSpec(shape=(*patch, 1), dtype="float32"),
        "sigma": InputSpec(shape=(num_channels, 3), dtype="float32"),
        "factors": InputSpec(shape=(len(FACTORS), num_channels), dtype="float32"),
        "sizes": InputSpec(shape=(num_channels, 3), dtype="float32"),
    }


def statistics(intensity: Intensity, scale: float, shift: float) -> npt.NDArray[np.float32]:
    """Fold scale and shift into mean and deviation: ``(x - mean) / std * scale + shift`` is one linear map."""
    std = intensity.std / np.float32(scale)
    mean = intensity.mean - np.float32(shift) * std
    return np.stack([mean, std, intensity.low, intensity.high, padding(intensity, scale, shift)])


def fill_augmentation(
    fed: dict[str, list[Array]], index: int, sample: Sample, placement: Placement | None, noise: Array
) -> None:
    """Fill everything but patches and statistics for the sample at ``index``; ``noise`` is its buffer."""
    augmentation = sample.augmentation
    assert augmentation is not None
    _put(fed["switches"][index], switches(augmentation))
    _put(fed["factors"][index], _factors(augmentation, fed["factors"][index].shape[1]))
    _put(fed["sigma"][index], augmentation.blur_sigma or 0)
    _put(fed["sizes"][index], _sizes(augmentation, noise.shape[:3]) or 0)
    if placement is not None:
        _put(fed["matrix"][index], to_xyz(placement.matrix))
        if "box" in fed:
            _put(fed["box"][index], (placement.start_dhw, placement.shape_dhw))
    fed["noise"][index] = NO_NOISE
    if augmentation.noise_std > 0:
        _put(noise, noise_volume(augmentation, (noise.shape[0], noise.shape[1], noise.shape[2])))
        fed["noise"][index] = noise


def switches(augmentation: Augmentation) -> list[bool]:
    """Tell which operations fire, in the order of ``SWITCHES``."""
    rest = [bool(getattr(augmentation, name)) for name in SWITCHES[3:]]
    return [augmentation.is_spatial, augmentation.noise_std > 0, bool(augmentation.blur_sigma), *rest]


def _factors(augmentation: Augmentation, num_channels: int) -> list[Sequence[float]]:
    return [getattr(augmentation, name) or [1.0] * num_channels for name in FACTORS]


def _sizes(augmentation: Augmentation, patch: Sequence[int]) -> list[Int3]:
    thick = augmentation.thick_axis
    kept = augmentation.low_resolution
    return [low_resolution_size(patch, share, thick) if share < 1 else (0, 0, 0) for share in kept]


def _put(target: Array, values: npt.ArrayLike) -> None:
    target[...] = np.asarray(values)
