"""Time whole epochs of one loader in a process of its own: seconds, processor time, peak memory."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.origin import REPOSITORY
from benchmarks.measuring.processes import descendants, own_cpu_s, tree_memory_bytes
from pipelines.config import LoaderConfig
from preprocessing.console.errors import InputError, RunError

log = logging.getLogger(__name__)
PATIENCE_S = 300.0
SAMPLE_S = 0.2
Values = dict[str, list[float]]


class EpochError(RunError):
    """Say why a loader did not get through its epochs."""


def measure_epochs(loader: str, config: LoaderConfig, epochs: int, prefix: Sequence[str] = ()) -> Values:
    """Time building ``loader`` and its first epoch, then ``epochs`` more; returns the values of each metric.

    ``prefix`` goes before the command (a memory limit). Raises ``EpochError`` when it fails, is killed or hangs, or
    when its batches are not what they should be.
    """
    log.info("measuring %d epochs of %s", 1 + epochs, loader)
    task = dataclasses.asdict(config) | {"store": str(Path(config.store).resolve())}
    words = [json.dumps({"loader": loader, "config": task, "epochs": epochs})]
    command = [*prefix, sys.executable, "-m", "benchmarks.measuring.epochs", *words]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=errors)
        peak = _wait(process)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise EpochError(_reason(process.returncode, errors.read()))
        values: Values = json.loads(output.read().splitlines()[-1])
    return values | {"peak_memory_mb": [peak / 1e6]}


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, sampling the memory of the process tree; returns the peak in bytes."""
    deadline, peak = time.perf_counter() + PATIENCE_S, 0
    try:
        while True:
            peak = max(peak, tree_memory_bytes(process.pid))
            try:
                process.wait(timeout=SAMPLE_S)
            except subprocess.TimeoutExpired:
                if time.perf_counter() > deadline:
                    raise EpochError(f"no end within {PATIENCE_S:.0f} s") from None
            else:
                return peak
    finally:
        for left in descendants(process.pid) if process.poll() is None else ():
            left.kill()
        process.wait()


def _reason(code: int, errors: str) -> str:
    if code == -signal.SIGKILL:
        return "killed, as the kernel does when memory runs out"
    return (errors.strip().splitlines() or [f"exit code {code}"])[-1]


def _measure(loader_name: str, config: Mapping[str, Any], epochs: int) -> Values:
    """Measure in this process."""
    from benchmarks.contenders.table import TABLE
    from benchmarks.measuring.check import Specification
    from benchmarks.measuring.measure import CHECKED, endless
    from benchmarks.measuring.rows import Row
    from pipelines.loaders import build_loader

    made = LoaderConfig(**{**config, "patch": tuple(config["patch"]), "cases": None})
    seconds, cpu_s = [], []
    begin, used_s = time.perf_counter(), own_cpu_s()
    with build_loader(loader_name, made, table=TABLE) as loader:
        for epoch in range(epochs + 1):
            loader.set_epoch(epoch)
            count = sum(len(batch.image) for batch in loader)
            if count != len(loader) * made.batch_size:
                raise EpochError(f"epoch {epoch}: {count} patches, not {len(loader) * made.batch_size}")
            seconds.append(time.perf_counter() - begin)
            cpu_s.append(own_cpu_s() - used_s)
            begin, used_s = time.perf_counter(), own_cpu_s()
        loader.set_epoch(0)
        specification = Specification(Row(loader=loader_name, config=made))
        specification.check_first(specification.watch(endless(loader)), CHECKED)
    return {
        "first_epoch_s": seconds[:1],
        "epoch_s": seconds[1:],
        "cpu_ms_per_patch": [1e3 * spent / count for spent in cpu_s[1:]],
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        print(json.dumps(_measure(given["loader"], given["config"], given["epochs"])))
    except (InputError, RuntimeError) as error:  # EpochError and CheckError among them
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
