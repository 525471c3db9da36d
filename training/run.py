"""Train a segmentation network on a shard store: ``python -m training.run --loader dali``.

On several devices, one process each: ``torchrun --nproc-per-node 8 -m training.run --loader dali``.
"""

from __future__ import annotations

import logging

import torch

from preprocessing.cli import main
from preprocessing.errors import EXIT_DONE, RunError
from preprocessing.shards import open_store
from preprocessing.to_shards import ensure_phantom
from training.check_options import check_options
from training.checkpoint import seed_everything
from training.distributed import read_world
from training.failure import failure_left
from training.group import Group, join
from training.options import Options
from training.precision import use_tensor_cores
from training.prepare import prepare, run_folder
from training.stop import Stopped, StopRequest, listen_for_stop

log = logging.getLogger(__name__)


def train(options: Options) -> int:
    """Run the command; returns the exit code."""
    with failure_left(), listen_for_stop() as stop, join(read_world(), options.backend, options.device) as group:
        return _train(options, group, stop)


def _train(options: Options, group: Group, stop: StopRequest) -> int:
    check_options(options)
    if group.is_main:
        ensure_phantom(options.shards)
    group.wait()
    store = open_store(options.shards)
    folder = run_folder(options, store.manifest)
    seed_everything(options.seed)
    use_tensor_cores(group.device)
    training = prepare(options, store, folder, group, stop)
    try:
        training.run()
    except Stopped:
        how = f"--resume auto --output {folder}"
        log.info("stopped at step %d: saved; to go on, give the same command with %s", training.progress.step, how)
        return stop.exit_code
    except torch.OutOfMemoryError as error:
        raise RunError(f"out of GPU memory; lower --batch-size or --patch ({str(error).splitlines()[0]})") from error
    finally:
        training.learned.loader.close()
    if group.is_main:
        from training.conclude import conclude  # half a second of matplotlib

        conclude(training)
    return EXIT_DONE


if __name__ == "__main__":
    main(train, Options)
