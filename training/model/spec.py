"""What a checkpoint's weights need around them to predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from preprocessing.console.settings import settings_from
from preprocessing.shards.entries import Manifest
from preprocessing.volumes.grid import Float3
from preprocessing.volumes.image import ConvertOptions
from preprocessing.volumes.statistics import ChannelStatistics, schemes_of
from training.model.grids import SeenGrids
from training.model.networks import InputGrid, SegmentationTask, build_network

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that a checkpoint's weights need around them to predict: kept in the checkpoint as plain values.

    ``groups`` are the scored structures, name to label ids: the regions, or each label but the background.
    ``label_remap`` gives the stored id, which the network learns, of each id in the training set's label files;
    ``ignore_label`` marks voxels in them that do not count. ``region_ids`` gives the label to write for each region
    where the training set says so; ``schemes`` how each channel is normalised where ``modality`` does not. ``seen`` are
    the grids of the training set's cases, ``None`` in checkpoints that do not say.
    """

    net: str
    geometry: InputGrid
    channel_names: list[str]
    label_names: dict[int, str]
    modality: str
    channels: list[ChannelStatistics]
    regions: dict[str, tuple[int, ...]] | None
    crop_foreground: bool
    label_remap: dict[int, int] = field(default_factory=dict)
    ignore_label: int | None = None
    orientation: str = "source"
    spacing: Float3 | None = None
    trust: str = "auto"
    region_ids: dict[str, int] = field(default_factory=dict)
    schemes: list[str] = field(default_factory=list)
    seen: SeenGrids | None = None

    @classmethod
    def of_store(cls, manifest: Manifest, net: str, geometry: InputGrid, seen: SeenGrids | None = None) -> ModelSpec:
        """Describe a network to be trained on a store."""
        regions = manifest.regions
        return cls(
            net=net,
            geometry=geometry,
            channel_names=manifest.channel_names,
            label_names=manifest.label_names,
            modality=manifest.modality,
            channels=manifest.channels,
            regions=None if regions is None else {name: tuple(numbers) for name, numbers in regions.items()},
            crop_foreground=bool(manifest.options["crop_foreground"]),
            label_remap=manifest.label_remap,
            ignore_label=manifest.ignore_label,
            orientation=str(manifest.options["orientation"]),
            spacing=_triple(manifest.options["spacing"]),
            region_ids=manifest.region_ids,
            schemes=manifest.schemes,
            trust=str(manifest.options.get("trust", "auto")),
            seen=seen,
        )

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ModelSpec:
        """Rebuild what ``to_plain`` made."""
        made = dict(plain)
        patch, spacing_mm = (tuple(plain["geometry"][name]) for name in ("patch", "spacing_mm"))
        made["geometry"] = InputGrid(patch=patch, spacing_mm=spacing_mm)
        made["spacing"] = _triple(plain.get("spacing"))
        made["seen"] = None if plain.get("seen") is None else SeenGrids.from_plain(plain["seen"])
        made["channels"] = [ChannelStatistics(**channel) for channel in plain["channels"]]
        if plain["regions"] is not None:
            made["regions"] = {name: tuple(numbers) for name, numbers in plain["regions"].items()}
        return cls(**made)

    def to_plain(self) -> dict[str, Any]:
        """Return dicts, lists and numbers only."""
        return dataclasses.asdict(self)

    @property
    def task(self) -> SegmentationTask:
        """Channels in and out: classes are 0 to the largest label id, regions one channel each."""
        classes = max(self.label_names) + 1
        return SegmentationTask(
            in_channels=len(self.channel_names),
            out_channels=classes if self.regions is None else len(self.regions),
            has_regions=self.regions is not None,
        )

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Name to label ids of every structure that is scored."""
        return self.regions or {name: (number,) for number, name in sorted(self.label_names.items()) if number}

    @property
    def convert_options(self) -> ConvertOptions:
        """How images are prepared for this network: as its training set was converted."""
        return settings_from(self, ConvertOptions)

    @property
    def channel_schemes(self) -> list[str]:
        """How each channel is normalised."""
        return schemes_of(self.schemes, self.modality, len(self.channel_names))

    @property
    def ids_in_files(self) -> Labels:
        """Give the id [256] that the training set's label files use for each stored id; uint8 where they fit."""
        table = np.arange(256)
        table[list(self.label_remap.values())] = list(self.label_remap)
        return table.astype(np.min_scalar_type(table.max()))

    def build(self) -> nn.Module:
        """Build the network with fresh weights."""
        return build_network(self.net, self.task, self.geometry)


def _triple(values: Any) -> Float3 | None:
    if values is None:
        return None
    x, y, z = values
    return float(x), float(y), float(z)
