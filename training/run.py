"""Train a segmentation network on a shard store: ``python -m training.run --loader dali``.

On several devices, one process each: ``torchrun --nproc-per-node 8 -m training.run --loader dali``.
"""

from __future__ import annotations

import logging

from preprocessing.console.errors import EXIT_DONE, RunError
from preprocessing.console.flags import main
from preprocessing.shards.store import open_store
from preprocessing.to_shards import ensure_phantom
from training.distributed.group import Group, join
from training.distributed.watch import record_failure
from training.distributed.world import read_world
from training.model.checkpoint import BEST, LAST
from training.model.compute import gpu_memory_ran_out, use_tensor_cores
from training.options import Options, check_options
from training.trainer.build import prepare, run_folder
from training.trainer.loop import Training
from training.trainer.record import Board, read_metrics
from training.trainer.state import seed_everything
from training.trainer.stop import Stopped, StopRequest, listen_for_stop
from training.trainer.timing import describe_limit, total_split

log = logging.getLogger(__name__)


def conclude(training: Training) -> None:
    """Write everything that is made once, at the end; one process does it."""
    from training import report  # half a second of matplotlib
    from training.trainer.showcase import write_showcase

    setup, progress = training.setup, training.progress
    pictures = write_showcase(setup.folder, setup.store, setup.group.device, setup.amp)
    board = Board(setup.folder, progress.step + 1)
    board.add_pictures(pictures, progress.step)
    board.close()
    best = setup.folder / "checkpoints" / BEST
    if setup.val_every is None:
        log.info("trained without validation: %s", best.with_name(LAST))
    elif progress.best_epoch < 0:
        log.warning("no validation gave a mean Dice, so there is no %s", best)
    else:
        log.info("best mean dice %.4f in epoch %d: %s", progress.best_dice, progress.best_epoch + 1, best)
    total = total_split(read_metrics(setup.folder))
    if total.steps:
        log.info("%s", describe_limit(total, setup.options["loader"], on_gpu=setup.group.device.type == "cuda"))
        report.report(report.Options(run=setup.folder))


def train(options: Options) -> int:
    """Run the command; returns the exit code."""
    with record_failure(), listen_for_stop() as stop, join(read_world(), options.backend, options.device) as group:
        return _train(options, group, stop)


def _train(options: Options, group: Group, stop: StopRequest) -> int:
    check_options(options)
    if group.is_main:
        ensure_phantom(options.shards)
    group.wait()
    store = open_store(options.shards)
    seed_everything(options.seed)
    use_tensor_cores(group.device)
    group.wait()  # what ends another process so far ends this one before it makes the folder
    with run_folder(options, store.manifest, group) as folder:
        return _run(prepare(options, store, folder, group, stop), stop)


def _run(training: Training, stop: StopRequest) -> int:
    folder = training.setup.folder
    try:
        training.run()
    except Stopped:
        how = f"--resume auto --output {folder}"
        log.info("stopped at step %d: saved; to continue, run the same command with %s", training.progress.step, how)
        return stop.exit_code
    except RuntimeError as error:
        if not gpu_memory_ran_out(error):
            raise
        raise RunError(
            "out of GPU memory; lower --batch-size, --patch or --gpu-cache (0 keeps no volumes there): "
            + str(error).strip().splitlines()[0]
        ) from error
    finally:
        training.state.loader.close()
    if training.setup.group.is_main:
        conclude(training)
    return EXIT_DONE


if __name__ == "__main__":
    main(train, Options)
