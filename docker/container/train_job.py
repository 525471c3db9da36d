"""The training job: from SageMaker's hyperparameters and channels to a model, a report and, if wanted, predictions."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from container.mpirun import mpirun, serve_first_host
from container.sagemaker_job import PLATFORM, SMDDP, UPLOADING, Job, Outcome
from container.supervise import Ended, Stop, run_module, supervise
from container.torchrun import torchrun
from preprocessing.console.errors import EXIT_DONE, InputError

log = logging.getLogger(__name__)
SHARDS, TEST = "shards", "test"


def train(job: Job, arguments: list[str], stop: Stop) -> Outcome:
    """Train on all GPUs of all hosts, continuing from the checkpoint if there is one.

    The run folder as a whole is SageMaker's checkpoint folder, so a restarted job finds its metrics as well. Raises
    ``InputError`` for channels and hyperparameters that do not fit.
    """
    given = job.hyperparameters()
    is_smddp = given.pop(SMDDP, "false").lower() == "true"
    flags = training_flags(job, given, is_smddp=is_smddp) + arguments
    if is_smddp and not job.is_first:
        serve_first_host(stop)
        return Outcome(code=EXIT_DONE)
    error_file = Path(tempfile.gettempdir()) / f"voxelfeed-{os.getpid()}.json"
    error_file.unlink(missing_ok=True)
    command = mpirun(job, flags, stop) if is_smddp else torchrun(job, flags, error_file, stop)
    ended = supervise(command, stop)
    outcome = _outcome(ended, error_file)
    if job.is_first:
        _hand_over(job)
        if outcome.code == EXIT_DONE and not stop.is_asked:
            return _predict(job, stop)
    return outcome


def training_flags(job: Job, given: dict[str, str], *, is_smddp: bool) -> list[str]:
    """Return the trainer's command line; raises ``InputError`` when the store or the output is not clear."""
    flags = {name.replace("_", "-"): value for name, value in given.items() if not name.startswith(PLATFORM)}
    if "output" in flags:
        raise InputError(f"hyperparameter output: leave it out; the run is kept in {job.run}")
    if is_smddp:
        flags.setdefault("backend", "smddp")
    if "shards" not in flags:
        flags["shards"] = str(_store(job.channels()))
    flags.setdefault("resume", "auto")
    flags["output"] = str(job.run)
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def _store(channels: dict[str, Path]) -> Path:
    """Take the channel of that name, or the only one that is not for prediction."""
    others = [path for name, path in channels.items() if name != TEST]
    if SHARDS not in channels and len(others) != 1:
        raise InputError(
            f"input channels {', '.join(channels) or '(none)'}: none is called {SHARDS}; name the one with the shard "
            "store so, or give its place as the hyperparameter shards"
        )
    return channels.get(SHARDS, others[0] if others else Path())


def _outcome(ended: Ended, error_file: Path) -> Outcome:
    """Find the first failure of any rank: torchrun copies it to ``error_file`` with the rank's exit code."""
    if ended.code == EXIT_DONE:
        return Outcome(code=EXIT_DONE)
    if error_file.exists():
        recorded = json.loads(error_file.read_text(encoding="utf-8"))["message"]
        return Outcome(code=recorded.get("errorCode", ended.code), message=recorded["message"])
    return Outcome(code=ended.code, message=ended.reason)


def _hand_over(job: Job) -> None:
    """Copy the model and the results to where SageMaker fetches them, also after a failure or a stop."""
    best = job.run / "checkpoints" / "best.pt"
    if best.exists():
        job.model.mkdir(parents=True, exist_ok=True)
        shutil.copy2(best, job.model)
    if job.run.is_dir():
        unwanted = shutil.ignore_patterns("checkpoints", UPLOADING, "*.tmp")
        shutil.copytree(job.run, job.results, ignore=unwanted, dirs_exist_ok=True)


def _predict(job: Job, stop: Stop) -> Outcome:
    """Segment the images of the channel ``test`` with the best model."""
    images = job.channels().get(TEST)
    if images is None:
        return Outcome(code=EXIT_DONE)
    words = ["training.predict", "--checkpoint", str(job.model / "best.pt")]
    ended = run_module([*words, "--input", str(images), "--output", str(job.results / "predictions")], stop)
    outcome = Outcome.of_cases(ended.code, ended.reason, "output/data")
    if outcome.code == EXIT_DONE and outcome.message:
        log.warning("%s", outcome.message)  # a file named failure would make a completed job look failed
        return Outcome(code=EXIT_DONE)
    return outcome
