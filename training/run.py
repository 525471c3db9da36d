"""Train a segmentation network on a shard store: ``python -m training.run --loader dali``."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.loaders import LoaderConfig, build_loader
from pipelines.plan import Int3
from preprocessing import to_shards
from preprocessing.cli import AutoTriple, main
from preprocessing.errors import EXIT_DONE, InputError, RunError
from preprocessing.regions import describe_regions
from preprocessing.shards import Manifest, Store, open_store
from training.checkpoint import BEST, LAST, load_checkpoint, seed_everything
from training.distributed import World, choose_device, read_world
from training.inference import ModelSpec
from training.loop import Learned, Setup, Training
from training.precision import build_scaler, choose_amp
from training.recipes import PRESETS, STRIDE, Preset, build_loss, build_optimizer, build_schedule
from training.record import keep_metrics, read_metrics, write_run
from training.stop import Stopped, listen_for_stop
from training.timing import Split, describe_limit
from training.validate import split_cases

log = logging.getLogger(__name__)
DEFAULT_SHARDS = Path("data/shards")
AUTO = Path("auto")
HELD_OUT = 0.2
CPU_VOXELS, GPU_VOXELS = 64**3, 128**3  # the largest patch that "auto" chooses
FREE_ON_RESUME = ("shards", "output", "resume", "loader", "device", "val_every", "epochs")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a 3D segmentation network on a shard store, validate it on held-out cases, keep the best checkpoint.

    SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint before the run ends; the same command with --resume auto goes on
    exactly there.
    """

    loader: str = "dali"
    """Where batches come from: dali, torch or synthetic."""
    shards: Path = DEFAULT_SHARDS
    """Shard store. The default is the synthetic phantom, made on first use."""
    output: Path = AUTO
    """Run folder. auto names it runs/DATASET-DATE-TIME."""
    patch: AutoTriple = None
    """Patch size. auto takes the median volume, as far as the device can bear."""
    batch_size: int = 2
    """Patches per step and process."""
    epochs: int = 0
    """Passes over the training cases; 0 takes as many as the preset's number of steps needs."""
    samples_per_case: int = 4
    """Patches cut from a case each time it is read."""
    foreground: float = 0.5
    """Fraction of patches centred on a labelled voxel."""
    augment: str = "basic"
    """none, or basic: flips, intensity scale and shift."""
    device: str = "auto"
    """auto, cpu or cuda."""
    amp: str = "auto"
    """Mixed precision: auto, bf16, fp16 or off."""
    net: str = "auto"
    """segresnet, unet or dynunet; auto takes the preset's."""
    preset: str = "fast"
    """Recipe: fast, or article (AWS's UNet with squared-denominator Dice)."""
    lr: float = 0.0
    """Peak learning rate; 0 takes the preset's."""
    seed: int = 0
    """Decides the weights, the split and every patch of the run."""
    val_every: int = 0
    """Epochs between validations; 0 makes about ten in the run."""
    resume: str = "never"
    """auto goes on from the newest checkpoint in --output; a path goes on from that file."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The options with every ``auto`` decided."""

    patch: Int3
    net: str
    lr: float
    epochs: int
    val_every: int
    preset: Preset


def train(options: Options) -> int:
    """Run the command; returns the exit code."""
    world = read_world()
    device = choose_device(options.device, world)
    if options.preset not in PRESETS:
        raise InputError(f"--preset {options.preset}: unknown; known: {', '.join(PRESETS)}")
    _ensure_store(options.shards)
    store = open_store(options.shards)
    folder = _run_folder(options, store.manifest)
    seed_everything(options.seed)
    with listen_for_stop() as stop:
        training = _prepare(options, store, folder, device, world, stop)
        try:
            training.run()
        except Stopped:
            log.info("stopped at step %d: saved, go on with --resume auto --output %s", training.progress.step, folder)
            return stop.exit_code
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"out of GPU memory; lower --batch-size or --patch ({str(error).splitlines()[0]})"
            ) from error
        finally:
            training.learned.loader.close()
    _conclude(training, folder)
    return EXIT_DONE


def _ensure_store(shards: Path) -> None:
    if shards == DEFAULT_SHARDS and not shards.exists():
        log.info("%s does not exist: making it from the synthetic phantom data set", shards)
        to_shards.convert(to_shards.Options(output=shards))


def _run_folder(options: Options, manifest: Manifest) -> Path:
    """Choose the folder; an earlier run in it is gone on with or refused, never overwritten."""
    if options.output == AUTO:
        if options.resume == "auto":
            raise InputError("--resume auto: say which run with --output")
        slug = "".join(c if c.isalnum() else "-" for c in manifest.name.lower()).strip("-") or "run"
        return Path("runs") / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    if options.resume == "never" and (options.output / "checkpoints" / LAST).exists():
        raise InputError(f"{options.output} holds a run; go on with --resume auto, or give another --output")
    return options.output


def _prepare(options: Options, store: Store, folder: Path, device: torch.device, world: World, stop: Any) -> Training:
    """Build everything the loop works with, and go back to where an earlier process stopped."""
    training_cases, validation_cases = split_cases(store.labelled_ids, HELD_OUT, options.seed)
    resolved = _resolve(options, store, len(training_cases), device, world)
    spec = ModelSpec.of_store(store.manifest, resolved.net, resolved.patch)
    network = spec.build().to(device)
    loader = build_loader(
        options.loader, _loader_config(options, resolved, spec, training_cases, device), world.rank, world.world_size
    )
    optimizer = build_optimizer(network, resolved.lr, resolved.preset)
    amp = choose_amp(options.amp, device)
    learned = Learned(
        network=network,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, resolved.epochs * len(loader), resolved.preset.warmup_steps),
        scaler=build_scaler(device, amp),
        loader=loader,
    )
    plain = _plain(options, resolved)
    setup = Setup(
        folder=folder,
        store=store,
        spec=spec,
        validation_cases=validation_cases,
        epochs=resolved.epochs,
        val_every=resolved.val_every,
        device=device,
        amp=amp,
        loss=build_loss(spec.task, resolved.preset),
        options=plain,
    )
    training = Training(setup, learned, stop)
    _announce(setup, resolved, len(training_cases), options)
    if options.resume != "never":
        _resume(training, options)
    folder.mkdir(parents=True, exist_ok=True)
    keep_metrics(folder, training.progress.lines)
    write_run(folder, plain, {"training": list(training_cases), "validation": list(validation_cases)})
    return training


def _resolve(options: Options, store: Store, num_cases: int, device: torch.device, world: World) -> Resolved:
    preset = PRESETS[options.preset]
    net = preset.net if options.net == "auto" else options.net
    limit = CPU_VOXELS if device.type == "cpu" else GPU_VOXELS
    patch = options.patch or auto_patch(_median_shape(store), STRIDE.get(net, 1), limit)
    steps_per_epoch = -(-num_cases // (options.batch_size * world.world_size)) * options.samples_per_case
    epochs = options.epochs or -(-preset.steps // steps_per_epoch)
    if epochs < 1 or options.val_every < 0 or options.lr < 0:
        raise InputError("--epochs, --val-every and --lr are 0 (choose) or positive")
    return Resolved(
        patch=patch,
        net=net,
        lr=options.lr or preset.lr,
        epochs=epochs,
        val_every=options.val_every or max(epochs // 10, 1),
        preset=preset,
    )


def _median_shape(store: Store) -> Int3:
    d, h, w = np.median([entry.shape_dhw for _, entry in store.entries()], axis=0).astype(int).tolist()
    return d, h, w


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


def _loader_config(
    options: Options, resolved: Resolved, spec: ModelSpec, cases: tuple[str, ...], device: torch.device
) -> LoaderConfig:
    return LoaderConfig(
        store=options.shards,
        patch=resolved.patch,
        batch_size=options.batch_size,
        seed=options.seed,
        augment=options.augment,
        samples_per_case=options.samples_per_case,
        foreground=options.foreground,
        cases=cases,
        regions=spec.regions is not None,
        device="cpu" if device.type == "cpu" else "gpu",
        reuse_buffers=True,
    )


def _plain(options: Options, resolved: Resolved) -> dict[str, Any]:
    """Write the options down as a checkpoint and JSON can hold them, every ``auto`` decided."""
    given = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(options).items()}
    chosen = {name: getattr(resolved, name) for name in ("net", "lr", "epochs", "val_every")}
    return given | chosen | {"patch": list(resolved.patch)}


def _announce(setup: Setup, resolved: Resolved, num_training: int, options: Options) -> None:
    regions = setup.spec.regions
    log.info(
        "%s: %d training and %d validation cases; %s",
        setup.store.manifest.name,
        num_training,
        len(setup.validation_cases),
        "classes " + ", ".join(setup.spec.groups)
        if regions is None
        else "regions " + describe_regions(regions, setup.spec.label_names),
    )
    log.info(
        "%s on %s%s, patch %s, batch %d, loader %s, %d epochs; writing %s",
        resolved.net,
        setup.device,
        "" if setup.amp is None else f" in {str(setup.amp).removeprefix('torch.')}",
        ",".join(map(str, resolved.patch)),
        options.batch_size,
        options.loader,
        resolved.epochs,
        setup.folder,
    )


def _resume(training: Training, options: Options) -> None:
    path = training.setup.folder / "checkpoints" / LAST if options.resume == "auto" else Path(options.resume)
    if options.resume == "auto" and not path.exists():
        log.info("nothing to resume at %s: starting anew", path)
        return
    content = load_checkpoint(path)
    check_same(content["options"], training.setup.options, path)
    training.load(content)
    log.info("resuming %s at epoch %d, step %d", path, training.progress.epoch + 1, training.progress.step)


def check_same(saved: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with other options: raises ``InputError`` that names the first one with both values."""
    for name, value in given.items():
        if name not in FREE_ON_RESUME and saved.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"cannot resume {path}: it was made with {flag} {saved.get(name)}, this command says {value}; "
                "give the same, or start a new run with another --output"
            )
    if saved.get("epochs") != given["epochs"]:
        log.warning("the run had %s epochs and now has %s: the schedule changes", saved.get("epochs"), given["epochs"])


def _conclude(training: Training, folder: Path) -> None:
    total = Split()
    for line in read_metrics(folder):
        total = total.plus(Split(**line["split"]))
    progress = training.progress
    log.info(
        "best mean dice %.4f in epoch %d: %s",
        progress.best_dice,
        progress.best_epoch + 1,
        folder / "checkpoints" / BEST,
    )
    if total.steps:
        log.info("%s", describe_limit(total))


if __name__ == "__main__":
    main(train, Options)
