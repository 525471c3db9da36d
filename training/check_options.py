"""Refuse options that no store and no machine could make good: for the trainer, and for launchers before they pay."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.loaders import check_config
from preprocessing.errors import InputError, check_known
from training.averaging import check_decay
from training.distributed import BACKENDS, DEVICES
from training.losses import LOSSES
from training.networks import NETWORKS, check_patch
from training.options import Options, loader_config, net_of
from training.precision import AMPS
from training.recipes import OPTIMIZERS, PRESETS

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


def check_options(options: Options) -> None:
    """Raise ``InputError`` for the first flag whose value cannot be; opens nothing and looks at no device."""
    for flag, names in KNOWN.items():
        check_known(flag, getattr(options, flag), ("auto", *names) if flag in OF_PRESET else names)
    if options.batch_size < 1 or options.samples_per_case < 1:
        raise InputError(
            f"--batch-size {options.batch_size} --samples-per-case {options.samples_per_case}: at least 1 is needed"
        )
    if options.epochs < 0 or options.val_every < 0 or options.lr < 0:
        raise InputError("--epochs, --val-every and --lr are 0 (choose) or positive")
    if options.workers < 0:
        raise InputError(f"--workers {options.workers}: 0 (choose), or a positive number for each process")
    if options.accumulate < 1 or options.batch_size % options.accumulate:
        raise InputError(f"--accumulate {options.accumulate}: must divide --batch-size {options.batch_size}")
    if not 0 <= options.held_out < 1:
        raise InputError(f"--held-out {options.held_out:g}: 0 (train and validate on all), or a fraction below 1")
    check_decay(options.ema)
    if options.patch is not None:
        check_patch(net_of(options), options.patch)
    check_config(options.loader, loader_config(options))
