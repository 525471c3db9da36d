"""The figures of a run for TensorBoard: ``tensorboard --logdir runs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.scores import VALIDATED
from training.timing import Split

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class Board:
    """One file of events for this process; ``first_step`` hides what a killed process wrote from that step on."""

    def __init__(self, run: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(run / FOLDER), purge_step=first_step)

    def add_epoch(self, line: Mapping[str, Any]) -> None:
        """Add the figures of a finished epoch, as ``metrics.jsonl`` holds them, at its step."""
        for name, value in _scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def add_pictures(self, pictures: Sequence[Path], step: int) -> None:
        """Add PNG files under their names."""
        from matplotlib.image import imread

        for path in pictures:
            self._writer.add_image(f"validation/{path.stem}", imread(path)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _scalars(line: Mapping[str, Any]) -> dict[str, float]:
    split = Split(**line["split"])
    parts = [part.name for part in fields(Split) if part.name.endswith("_s")]
    scalars = {name: line[name] for name in ("loss", "lr", "patches_per_s", "waiting")}
    scalars |= {
        f"{metric}/{name}": value
        for metric in VALIDATED
        for name, value in (line[metric] or {}).items()
        if value is not None
    }
    return scalars | {f"time/{part[:-2]}": getattr(split, part) / (split.wall_s or 1.0) for part in parts}
