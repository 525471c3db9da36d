"""The options of a training run, and the check that launchers and the trainer make before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import LoaderConfig
from pipelines.loaders import check_config
from preprocessing.console.errors import InputError, check_known
from preprocessing.console.flags import DEFAULT_SHARDS, AutoTriple, CountOrNever, Flag, Place
from preprocessing.console.settings import settings_from
from preprocessing.volumes.grid import Int3
from training.distributed.world import BACKENDS, DEVICES
from training.model.compute import AMPS
from training.model.losses import LOSSES
from training.model.networks import NETWORKS, check_patch
from training.model.recipes import OPTIMIZERS, PRESETS, check_decay

AUTO = Path("auto")
ANY_PATCH = (1, 1, 1)  # stands for auto where no answer depends on the patch
KNOWN: dict[str, Iterable[str]] = {
    "preset": PRESETS,
    "net": NETWORKS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "amp": AMPS,
    "device": DEVICES,
    "backend": BACKENDS,
}
OF_PRESET = ("net", "loss", "optimizer")  # which auto leaves to the preset


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a 3D segmentation network on a shard store, validate it on held-out cases, keep the best checkpoint.

    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint before the run ends (exit code 0, 0 and 130). The same command with
    --resume auto continues exactly there, also with another number of processes if --batch-size times processes is
    the same. Processes started by torchrun save and exit with 0 as well; torchrun itself exits with 1 after a signal.
    """

    loader: str = "dali"
    """Where batches come from: dali, torch, synthetic, or MONAI on the source files: monai-cache and others."""
    shards: Place = DEFAULT_SHARDS
    """Shard store, in a folder. The default is the synthetic phantom, made on first use."""
    output: Path = AUTO
    """Run folder. auto names it runs/DATASET-DATE-TIME."""
    patch: AutoTriple = None
    """Patch size. auto takes the preset's; otherwise the median volume, as large as suits the device."""
    batch_size: int = LoaderConfig.batch_size
    """Patches per step and process."""
    epochs: int = 0
    """Passes over the training cases; 0 takes as many as the preset's number of steps needs."""
    samples_per_case: int = LoaderConfig.samples_per_case
    """Patches cut from a case each time it comes up in an epoch."""
    foreground: float = LoaderConfig.foreground
    """Fraction of patches centred on a labelled voxel."""
    augment: str = LoaderConfig.augment
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
    seed: int = LoaderConfig.seed
    """Decides the weights, the split and every patch of the run."""
    held_out: float = 0.2
    """Fraction of the cases, at least one, for validation instead of training; 0 trains and validates on all."""
    splits: Path | None = None
    """Split file in place of --held-out: nnU-Net's splits_final.json, lists as in dataset.json, or a CSV id,fold."""
    folds: int = 0
    """Folds to deal the cases over, in place of --held-out, for example 5; 0 makes none."""
    fold: int = 0
    """The fold that is validated on, of --splits or --folds, counted from 0."""
    group_by: str = ""
    """Keep the cases of a patient together: a regular expression that finds the patient in a case id, such as (.+)_v"""
    val_every: CountOrNever = 0
    """Epochs between validations; 0 makes about ten in the run, never makes none, and no best.pt: last.pt is there."""
    resume: str = "never"
    """auto continues from the newest checkpoint in --output; a path continues from that file."""
    init_from: Path | None = None
    """Checkpoint whose weights a new run starts with, to fine-tune them; same --net, patch, channels and labels."""
    backend: str = "auto"
    """How several processes talk: auto, gloo, nccl or smddp."""
    gpu_cache: str = LoaderConfig.gpu_cache
    """GPU memory for volumes, GiB: auto takes up to half of what is free; 0 cuts patches on the host. Without a GPU a
    number takes that much of the machine's memory instead."""
    crop: str = LoaderConfig.crop
    """Where the dali loader cuts patches: host, device (from whole volumes kept there), or auto."""
    read: str = LoaderConfig.read
    """How the dali loader reads: mmap, dali (its own reader), or gds (the same, with GPUDirect Storage)."""
    sticky: Flag = LoaderConfig.sticky
    """Keep each case on its process over the epochs, so that it is read, and stays on a GPU, only there."""
    workers: int = 0
    """Threads of the dali loader, or processes of torch and MONAI ones, for each process that trains; 0 takes its share
    of this machine's cores, 8 at most."""


def net_of(options: Options) -> str:
    """Return the name of the network, the preset's for ``auto``."""
    return PRESETS[options.preset].net if options.net == "auto" else options.net


def loader_config(options: Options, patch: Int3, **decided: Any) -> LoaderConfig:
    """Return the settings of the loader; ``decided`` are those that take a store and a device to know.

    Raises ``InputError`` for settings that contradict each other.
    """
    device = "cpu" if options.device == "cpu" else "gpu"
    return settings_from(options, LoaderConfig, **{"store": options.shards, "patch": patch, "device": device} | decided)


def check_options(options: Options) -> None:
    """Raise ``InputError`` for the first flag whose value cannot be; opens nothing and looks at no device."""
    for flag, names in KNOWN.items():
        check_known(flag, getattr(options, flag), ("auto", *names) if flag in OF_PRESET else names)
    if options.batch_size < 1 or options.samples_per_case < 1:
        raise InputError(
            f"--batch-size {options.batch_size} --samples-per-case {options.samples_per_case}: at least 1 is needed"
        )
    if options.epochs < 0 or (options.val_every or 0) < 0 or options.lr < 0:
        raise InputError("--epochs, --val-every and --lr are 0 (choose) or positive")
    if options.workers < 0:
        raise InputError(f"--workers {options.workers}: 0 (choose), or a positive number for each process")
    if options.accumulate < 1 or options.batch_size % options.accumulate:
        raise InputError(f"--accumulate {options.accumulate}: must divide --batch-size {options.batch_size}")
    if not 0 <= options.held_out < 1:
        raise InputError(f"--held-out {options.held_out:g}: 0 (train and validate on all), or a fraction below 1")
    _check_split(options)
    check_decay(options.ema)
    if options.ema and options.val_every is None:
        raise InputError("--ema is what best.pt holds, which --val-every never does not write; leave one of them out")
    if options.patch is not None:
        check_patch(net_of(options), options.patch)
    check_config(options.loader, loader_config(options, options.patch or ANY_PATCH))


def _check_split(options: Options) -> None:
    if options.splits is not None and options.folds:
        raise InputError(f"--splits {options.splits} and --folds {options.folds}: give one of them")
    if options.splits is not None and options.group_by:
        raise InputError(f"--group-by {options.group_by}: --splits says already who goes where; leave one out")
    try:
        re.compile(options.group_by)
    except re.error as error:
        raise InputError(f"--group-by {options.group_by}: not a regular expression ({error})") from error
    if options.folds < 0 or options.folds == 1:
        raise InputError(f"--folds {options.folds}: 0 (none), or 2 and more")
    if options.fold < 0 or (options.splits is None and options.fold >= max(options.folds, 1)):
        raise InputError(f"--fold {options.fold}: counts from 0, and --folds is {options.folds}")
