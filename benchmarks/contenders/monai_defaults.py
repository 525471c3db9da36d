"""MONAI's CacheDataset and DataLoader as they come: what most of its users run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.data import CacheDataset
from monai.transforms import Compose

from pipelines.workers.monai_loader import Variant
from pipelines.workers.monai_transforms import DROP_METADATA


def _default_cache(items: list[dict[str, Any]], transforms: Compose, threads: int, folder: Path) -> Any:  # noqa: ARG001
    """Keep the metadata as well, which only a guide says to drop."""
    steps = [step for step in transforms.transforms if step is not DROP_METADATA]
    return CacheDataset(items, Compose(steps), progress=False)


DEFAULT = Variant(make=_default_cache, persistent=False)
