"""Decide every ``auto`` of a run's options."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.shards.store import Store
from preprocessing.volumes.grid import Float3, Int3
from training.distributed.group import Group
from training.model.grids import SeenGrids
from training.model.networks import STRIDE, InputGrid
from training.model.recipes import PRESETS, USUAL_LR, Preset
from training.options import Options, net_of

log = logging.getLogger(__name__)
CPU_VOXELS, GPU_VOXELS = 64**3, 128**3  # the largest patch that "auto" chooses
CHOSEN = ("global_batch", "net", "loss", "optimizer", "lr", "epochs", "val_every")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The options with every ``auto`` decided; ``geometry`` has the median voxel size of the cases."""

    geometry: InputGrid
    seen: SeenGrids
    global_batch: int
    net: str
    loss: str
    optimizer: str
    lr: float
    epochs: int
    val_every: int | None
    preset: Preset


def resolve(options: Options, store: Store, num_cases: int, group: Group) -> Resolved:
    """Decide every ``auto`` of options that ``check_options`` has let through, for ``num_cases`` training cases."""
    preset, net = PRESETS[options.preset], net_of(options)
    optimizer = preset.optimizer if options.optimizer == "auto" else options.optimizer
    limit = CPU_VOXELS if group.device.type == "cpu" else GPU_VOXELS
    shape, seen = survey(store)
    patch = options.patch or preset.patch or auto_patch(shape, STRIDE.get(net, 1), limit)
    global_batch = options.batch_size * group.world.world_size
    steps_per_epoch = -(-num_cases // global_batch) * options.samples_per_case
    epochs = options.epochs or -(-preset.steps // steps_per_epoch)
    return Resolved(
        geometry=InputGrid(patch=patch, spacing_mm=_reversed(seen.spacing)),
        seen=seen,
        global_batch=global_batch,
        net=net,
        loss=preset.loss if options.loss == "auto" else options.loss,
        optimizer=optimizer,
        lr=options.lr or (preset.lr if optimizer == preset.optimizer else USUAL_LR.get(optimizer, 0.0)),
        epochs=epochs,
        val_every=None if options.val_every is None else options.val_every or max(epochs // 10, 1),
        preset=preset,
    )


def median_sizes(store: Store) -> tuple[Int3, Float3]:
    """Return the median shape and voxel size over the labelled cases, D,H,W."""
    shape, seen = survey(store)
    return shape, _reversed(seen.spacing)


def survey(store: Store) -> tuple[Int3, SeenGrids]:
    """Return the median shape D,H,W and the grids of the labelled cases, in one pass over the entries."""
    found = [
        (entry.shape_dhw, entry.spacing_mm, entry.affine) for _, entry in store.entries() if entry.label is not None
    ]
    shapes, spacings, affines = zip(*found, strict=True)
    d, h, w = np.median(shapes, axis=0).astype(int).tolist()
    return (d, h, w), SeenGrids.of_cases(affines, np.array(spacings))


def _reversed(sizes: Float3) -> Float3:
    first, second, third = sizes
    return third, second, first


def auto_patch(median_dhw: Int3, stride: int, max_voxels: int) -> Int3:
    """Choose a patch that covers the median volume, or as much of it as ``max_voxels`` allow.

    Sides are multiples of ``stride``; the longest side shrinks first, so the patch tends to a cube:
    ``auto_patch((36, 50, 35), 8, 64**3) == (40, 56, 40)`` and ``auto_patch((140, 180, 150), 8, 64**3)`` is
    ``(64, 64, 64)``.
    """
    sides = [math.ceil(side / stride) * stride for side in median_dhw]
    while math.prod(sides) > max_voxels and max(sides) > stride:
        sides[int(np.argmax(sides))] -= stride
    return sides[0], sides[1], sides[2]


def to_plain(options: Options, resolved: Resolved) -> dict[str, Any]:
    """Write the options down as a checkpoint and JSON can hold them, every ``auto`` decided."""
    given = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(options).items()}
    chosen = {name: getattr(resolved, name) for name in CHOSEN}
    return given | chosen | {"patch": list(resolved.geometry.patch)}
