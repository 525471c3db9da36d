"""A trained network with what it needs around it to segment an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipelines.dali.pool_budget import free_bytes
from pipelines.reference import intensity_for
from preprocessing.console.errors import InputError
from preprocessing.volumes.geometry import restore_to_source
from preprocessing.volumes.image import Image
from training.inference.decode import Scores, decode, probabilities
from training.inference.sliding import Sliding, volume_bytes, volume_logits
from training.model.compute import placed
from training.model.spec import Labels, ModelSpec

MAPS_IN_HAND = 4  # float32, of the whole grid: those that bring one score back to the file's grid, and the largest yet


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A network, what it was trained on, and how it slides."""

    network: nn.Module
    spec: ModelSpec
    how: Sliding

    @classmethod
    def from_checkpoint(cls, content: Mapping[str, Any], how: Sliding, device: torch.device) -> Predictor:
        """Build the network of a checkpoint (``load_checkpoint``), with its weights, on ``device``."""
        spec = ModelSpec.from_plain(content["spec"])
        network = spec.build()
        network.load_state_dict(content["model"])
        return cls(network=placed(network, device), spec=spec, how=how)

    def predict(self, image: Image) -> Labels:
        """Segment one image.

        Returns label ids uint8 [x,y,z] on the whole source grid, numbered as the label files of the training set were.
        Where the training set was resampled, probabilities are interpolated and the label is chosen on the source grid
        (nnU-Net's way): a border between voxels of the stored grid is not lost.
        """
        return self.label_of(self.scores(image))

    def label_of(self, scores: Iterable[Scores]) -> Labels:
        """Choose the label ids [x,y,z] that ``scores`` speak for."""
        return self.spec.ids_in_files[decode(scores, self.spec)]

    def scores(self, image: Image, beside_bytes: int = 0) -> Iterator[Scores]:
        """Yield the probability less one half of each region or class, float32 [x,y,z] on the whole source grid.

        Raises ``InputError`` for an image whose maps, and the ``beside_bytes`` that the caller is going to fill, do not
        fit in what is free of the machine's memory.
        """
        self._check_memory(image, beside_bytes)
        intensity = intensity_for(self.spec.channel_schemes, image.channels, self.spec.channels)
        logits = volume_logits(self.network, image.voxels, intensity, self.spec, self.how)
        scores = probabilities(logits, self.spec).numpy()
        scores -= 0.5
        beyond = [0.5 if channel == 0 and self.spec.regions is None else -0.5 for channel in range(len(scores))]
        for score, outside in zip(scores, beyond, strict=True):
            yield restore_to_source(score, image.origin_dhw, image.source_shape_dhw, image.geometry, outside)

    def needed_bytes(self, image: Image) -> int:
        """Count the bytes of memory that ``predict`` takes beside the image and the activations of one window."""
        d, h, w, _ = image.voxels.shape
        largest = max(math.prod(image.source_shape_dhw), math.prod(image.geometry.file_shape_dhw))
        return volume_bytes((d, h, w), self.spec) + 4 * MAPS_IN_HAND * largest

    def _check_memory(self, image: Image, beside_bytes: int) -> None:
        needed, free = self.needed_bytes(image) + beside_bytes, free_bytes(torch.device("cpu"))
        if needed > free:
            shape = ",".join(map(str, image.voxels.shape[:3]))
            raise InputError(
                f"{self.spec.task.out_channels} maps of {shape} voxels (D,H,W) need about {needed / 2**30:.2g} GiB of "
                f"memory, {free / 2**30:.2g} GiB are free; end other programs, take a larger machine, or cut the image "
                "into parts"
            )
