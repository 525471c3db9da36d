"""The options of a training run: what the user may choose, how every ``auto`` is decided, what a resume may change."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.loaders import MONAI, LoaderConfig
from pipelines.plan import Int3
from preprocessing.cli import AutoTriple, Flag, Place
from preprocessing.errors import InputError
from preprocessing.shards import Store
from preprocessing.to_shards import DEFAULT_SHARDS
from training.group import Group
from training.networks import STRIDE, Float3, Geometry
from training.recipes import PRESETS, USUAL_LR, Preset

log = logging.getLogger(__name__)
AUTO = Path("auto")
CPU_VOXELS, GPU_VOXELS = 64**3, 128**3  # the largest patch that "auto" chooses
CHOSEN = ("global_batch", "net", "loss", "optimizer", "lr", "epochs", "val_every")
PLACES = ("shards", "output", "resume", "init_from")
SPEED = ("loader", "device", "batch_size", "backend", "accumulate", "compile", "gpu_cache", "crop", "read", "workers")
FREE_ON_RESUME = (*PLACES, *SPEED, "val_every", "epochs")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a 3D segmentation network on a shard store, validate it on held-out cases, keep the best checkpoint.

    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint before the run ends (exit code 0, 0 and 130); the same command with
    --resume auto goes on exactly there, also with another number of processes if --batch-size times processes is the
    same. Processes started by torchrun save and exit with 0 as well; torchrun itself exits with 1 after a signal.
    """

    loader: str = "dali"
    """Where batches come from: dali, torch, synthetic, or MONAI on the source files: monai-cache and others."""
    shards: Place = DEFAULT_SHARDS
    """Shard store, in a folder. The default is the synthetic phantom, made on first use."""
    output: Path = AUTO
    """Run folder. auto names it runs/DATASET-DATE-TIME."""
    patch: AutoTriple = None
    """Patch size. auto takes the preset's; else the median volume, as far as the device can bear."""
    batch_size: int = 2
    """Patches per step and process."""
    epochs: int = 0
    """Passes over the training cases; 0 takes as many as the preset's number of steps needs."""
    samples_per_case: int = 4
    """Patches cut from a case each time it is read."""
    foreground: float = 0.5
    """Fraction of patches centred on a labelled voxel."""
    augment: str = "basic"
    """none, basic (flips, intensity scale and shift), or full (nnU-Net's list: slow without a GPU)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    amp: str = "auto"
    """Mixed precision: auto, bf16, fp16 or off."""
    net: str = "auto"
    """segresnet, unet, dynunet, or nnunet (DynUNet laid out by patch and spacing); auto takes the preset's."""
    preset: str = "fast"
    """Recipe: fast, nnunet, or article (AWS's UNet with squared-denominator Dice)."""
    loss: str = "auto"
    """dice_ce, dice_focal or dice; auto takes the preset's."""
    optimizer: str = "auto"
    """adamw, adam, sgd (Nesterov) or novograd; auto takes the preset's."""
    lr: float = 0.0
    """Peak learning rate; 0 takes the preset's, or the optimiser's usual one."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then validated and kept as best.pt; 0 is off."""
    accumulate: int = 1
    """Parts in which a batch goes through the network, one after the other: less memory, the same step."""
    compile: Flag = False
    """Compile the network with torch.compile: minutes at the start, faster steps after."""
    seed: int = 0
    """Decides the weights, the split and every patch of the run."""
    held_out: float = 0.2
    """Fraction of the cases that is validated on and not trained on, at least one; 0 trains and validates on all."""
    val_every: int = 0
    """Epochs between validations; 0 makes about ten in the run."""
    resume: str = "never"
    """auto goes on from the newest checkpoint in --output; a path goes on from that file."""
    init_from: Path | None = None
    """Checkpoint whose weights a new run starts with, to fine-tune them; same --net, patch, channels and labels."""
    backend: str = "auto"
    """How several processes talk: auto, gloo, nccl or smddp."""
    gpu_cache: str = "auto"
    """GPU memory for volumes, GiB: auto takes up to half of what is free; 0 cuts patches on the host. Without a GPU a
    number takes that much of the machine's memory instead."""
    crop: str = "auto"
    """Where the dali loader cuts patches: host, device (from the volumes that lie there), or auto."""
    read: str = "mmap"
    """How the dali loader reads: mmap, dali (its own reader), or gds (the same, with GPUDirect Storage)."""
    sticky: Flag = False
    """Keep each case on its process over the epochs, so that it is read, and stays on a GPU, only there."""
    workers: int = 0
    """Threads of the dali loader, or processes of torch and MONAI ones, for each process that trains; 0 takes its share
    of this machine's cores, 8 at most."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The options with every ``auto`` decided; ``geometry`` has the median voxel size of the cases."""

    geometry: Geometry
    global_batch: int
    net: str
    loss: str
    optimizer: str
    lr: float
    epochs: int
    val_every: int
    preset: Preset


def resolve(options: Options, store: Store, num_cases: int, group: Group) -> Resolved:
    """Decide every ``auto`` of options that ``check_options`` has let through, for ``num_cases`` training cases."""
    preset, net = PRESETS[options.preset], net_of(options)
    optimizer = preset.optimizer if options.optimizer == "auto" else options.optimizer
    limit = CPU_VOXELS if group.device.type == "cpu" else GPU_VOXELS
    shape, spacing = median_sizes(store)
    patch = options.patch or preset.patch or auto_patch(shape, STRIDE.get(net, 1), limit)
    global_batch = options.batch_size * group.world.world_size
    steps_per_epoch = -(-num_cases // global_batch) * options.samples_per_case
    epochs = options.epochs or -(-preset.steps // steps_per_epoch)
    return Resolved(
        geometry=Geometry(patch=patch, spacing_mm=spacing),
        global_batch=global_batch,
        net=net,
        loss=preset.loss if options.loss == "auto" else options.loss,
        optimizer=optimizer,
        lr=options.lr or (preset.lr if optimizer == preset.optimizer else USUAL_LR.get(optimizer, 0.0)),
        epochs=epochs,
        val_every=options.val_every or max(epochs // 10, 1),
        preset=preset,
    )


def net_of(options: Options) -> str:
    """Return the name of the network, the preset's for ``auto``."""
    return PRESETS[options.preset].net if options.net == "auto" else options.net


def loader_config(options: Options) -> LoaderConfig:
    """Return the settings of the loader as far as they are known without a store and a device.

    Raises ``InputError`` for settings that contradict each other.
    """
    return LoaderConfig(
        store=options.shards,
        patch=options.patch or (1, 1, 1),
        batch_size=options.batch_size,
        seed=options.seed,
        augment=options.augment,
        samples_per_case=options.samples_per_case,
        foreground=options.foreground,
        sticky=options.sticky,
        device="cpu" if options.device == "cpu" else "gpu",
        crop=options.crop,
        gpu_cache=options.gpu_cache,
        read=options.read,
    )


def median_sizes(store: Store) -> tuple[Int3, Float3]:
    """Return the median shape and voxel size over the labelled cases, D,H,W, in one pass over the entries."""
    sizes_of = [(*entry.shape_dhw, *entry.spacing_mm) for _, entry in store.entries() if entry.label is not None]
    sizes = np.median(sizes_of, axis=0)
    d, h, w = sizes[:3].astype(int).tolist()
    spacing_d, spacing_h, spacing_w = sizes[3:].tolist()
    return (d, h, w), (spacing_d, spacing_h, spacing_w)


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


def _may_change(name: str, old: object, new: object) -> bool:
    """Tell whether a resumed run may change an option: a MONAI loader draws patches that no other would go on with."""
    return name in FREE_ON_RESUME and not (name == "loader" and (old in MONAI or new in MONAI))


def check_same(saved: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with other options: raises ``InputError`` that names the first one with both values."""
    if saved.get("global_batch") != given["global_batch"]:
        raise InputError(
            f"cannot resume {path}: it was made with {saved.get('global_batch')} patches per step over all processes, "
            f"this command takes {given['global_batch']}; choose --batch-size so that it times processes is the same"
        )
    for name, value in given.items():
        before = saved.get(name, getattr(Options, name, None))  # an earlier version did not have every option
        if before != value and not _may_change(name, before, value):
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"cannot resume {path}: it was made with {flag} {before}, this command says {value}; "
                "give the same, or start a new run with another --output"
            )
    if saved.get("epochs") != given["epochs"]:
        log.warning("the run had %s epochs and now has %s: the schedule changes", saved.get("epochs"), given["epochs"])
