"""Build everything that the loop works with."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import nn

from pipelines.config import LoaderConfig
from pipelines.loaders import build_loader
from preprocessing.console.errors import InputError
from preprocessing.console.folder_lock import hold, make_new
from preprocessing.layouts.regions import describe_regions
from preprocessing.shards.entries import Manifest
from preprocessing.shards.store import Store
from training.distributed.group import Group
from training.model.checkpoint import load_checkpoint
from training.model.compute import build_scaler, choose_amp, compiled, format_name, placed
from training.model.grids import tallied
from training.model.losses import build_loss
from training.model.memory import check_memory
from training.model.recipes import build_average, build_optimizer, build_schedule
from training.model.spec import ModelSpec
from training.options import AUTO, Options, loader_config
from training.trainer.loop import Training
from training.trainer.record import keep_metrics, write_run
from training.trainer.resolve import Resolved, resolve, to_plain
from training.trainer.resume import check_free, resume
from training.trainer.splits import choose_split, write_folds
from training.trainer.state import RunSetup, TrainState
from training.trainer.stop import StopRequest
from training.trainer.validate import not_among

log = logging.getLogger(__name__)
AUTO_WORKERS = 8  # more threads than that wait for memory, and on a large host there are dozens for each GPU


@contextmanager
def run_folder(options: Options, manifest: Manifest, group: Group) -> Iterator[Path]:
    """Choose the folder and hold it for the length of the run; the main process does, for all.

    An earlier run in it is gone on with or refused, never overwritten, and one that is under way is refused by name.
    """
    folder, is_new = options.output, options.output == AUTO
    if is_new:
        if options.resume == "auto":
            raise InputError("--resume auto: say which run with --output")
        slug = "".join(c if c.isalnum() else "-" for c in manifest.name.lower()).strip("-") or "run"
        folder = Path("runs") / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not group.is_main:
        yield folder
        return
    folder = make_new(folder) if is_new else folder
    with hold(folder, "another run", is_new=is_new):
        if not is_new:
            check_free(options)
        yield folder


def prepare(options: Options, store: Store, folder: Path, group: Group, stop: StopRequest) -> Training:
    """Build the training; with ``--resume`` it stands where the checkpoint was written."""
    split = choose_split(options, store.labelled_ids, store.manifest.split)
    resolved = resolve(options, store, len(split.training), group)
    spec = ModelSpec.of_store(store.manifest, resolved.net, resolved.geometry, resolved.seen)
    plain = to_plain(options, resolved)
    setup = RunSetup(
        folder=folder,
        store=store,
        spec=spec,
        validation_cases=split.validation,
        left_out=not_among(store, split.validation, spec.groups),
        epochs=resolved.epochs,
        val_every=resolved.val_every,
        group=group,
        amp=choose_amp(options.amp, group.device),
        loss=build_loss(resolved.loss, spec.task, spec.ignore_label),
        accumulate=options.accumulate,
        options=plain,
    )
    training = Training(setup, _train_state(options, resolved, setup, split.training), stop)
    _announce(setup, resolved, len(split.training), options)
    if options.resume != "never":
        resume(training, options)
    if group.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        keep_metrics(folder, training.progress.lines)
        write_folds(folder, split)
        write_run(folder, plain, {"training": list(split.training), "validation": list(split.validation)})
    return training


def _train_state(options: Options, resolved: Resolved, setup: RunSetup, cases: tuple[str, ...]) -> TrainState:
    group = setup.group
    if group.device.type == "cpu" and setup.amp is None and not options.compile:  # which the estimate is for
        at_a_time = options.batch_size // options.accumulate
        check_memory(resolved.net, setup.spec.task, resolved.geometry, at_a_time, group.world.local_size)
    network = setup.spec.build()
    if options.init_from is not None:
        _load_weights(network, options.init_from)
    network = placed(network, group.device)
    shared = group.share(network)
    forward = compiled(shared, group.device) if options.compile else shared
    config = _loader_config(options, resolved, setup.spec, cases, group)
    loader = build_loader(options.loader, config, group.world.rank, group.world.world_size)
    preset = resolved.preset
    optimizer = build_optimizer(resolved.optimizer, network, resolved.lr, preset.weight_decay)
    steps = resolved.epochs * len(loader)
    return TrainState(
        network=network,
        forward=forward,
        average=build_average(network, options.ema),
        optimizer=optimizer,
        schedule=build_schedule(preset.schedule, optimizer, steps, preset.warmup_steps),
        scaler=build_scaler(group.device, setup.amp),
        loader=loader,
    )


def _load_weights(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(load_checkpoint(path)["model"])
    except RuntimeError as error:  # torch lists every name and shape that differs, one a line
        first, count = str(error).splitlines()[1].strip(), len(str(error).splitlines()) - 1
        raise InputError(f"--init-from {path}: its network is different ({first}; {count} differences)") from error


def _loader_config(
    options: Options, resolved: Resolved, spec: ModelSpec, cases: tuple[str, ...], group: Group
) -> LoaderConfig:
    workers = options.workers or min(group.world.num_cores, AUTO_WORKERS)
    return loader_config(
        options,
        resolved.geometry.patch,
        cases=cases,
        regions=spec.regions is not None,
        device="cpu" if group.device.type == "cpu" else "gpu",
        num_threads=workers,
        num_workers=workers,
        reuse_buffers=True,
    )


def _announce(setup: RunSetup, resolved: Resolved, num_training: int, options: Options) -> None:
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
        setup.group.device,
        "" if setup.amp is None else f" in {format_name(setup.amp)}",
        ",".join(map(str, resolved.geometry.patch)),
        options.batch_size,
        options.loader,
        resolved.epochs,
        setup.folder,
    )
    if not setup.group.is_main:
        return
    if options.val_every is None:
        log.info("--val-every never: no scores and no best.pt; the weights are in last.pt")
    elif options.held_out == 0:
        log.warning("--held-out 0: validating on the training cases; such scores say nothing about new cases")
    if setup.left_out and options.val_every is not None:
        log.warning(
            "no validation case has %s: left out of the mean that picks best.pt; another --seed holds out other cases",
            ", ".join(setup.left_out),
        )
    if len(resolved.seen.orientations) > 1:
        log.warning(
            "the cases' axes run in %d ways (%s), and so does what the network sees; convert with --orientation %s",
            len(resolved.seen.orientations),
            tallied(resolved.seen.orientations),
            resolved.seen.orientation,
        )
    meant, given = resolved.preset.spacing_mm, resolved.geometry.spacing_mm
    if meant is not None and not np.allclose(meant, given, rtol=0.01):
        log.warning(
            "preset %s is meant for voxels of %s mm (x,y,z), the store's median is %s; convert with --spacing %s",
            options.preset,
            *(",".join(f"{side:g}" for side in sizes[::-1]) for sizes in (meant, given, meant)),
        )
