"""Nothing is lost: kills at any instant, a full disk, damaged checkpoints.

``python tests/training/trainer/test_faults.py 50`` kills fifty times.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from preprocessing.console.errors import InputError, RunError
from preprocessing.phantom import PhantomOptions, make_phantom
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from training.model.checkpoint import load_checkpoint, newest_whole
from training.options import Options
from training.run import train
from training.trainer.record import read_metrics

SPAWN = multiprocessing.get_context("forkserver")  # the imports happen once, not in every killed process
SPAWN.set_forkserver_preload(["training.run"])


def in_quiet(options: Options) -> None:
    """Train in a process of its own."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    train(options)


def kill_at_random(options: Options, kills: int, longest_s: float) -> tuple[int, int]:
    """Start a run again and again and kill it, every second time while it writes a checkpoint.

    Returns how many processes were killed, and how many of them left an unfinished file behind. After each of them
    there is a whole checkpoint to go on from, once there has been one.
    """
    draw = random.Random(0)
    folder = options.output / "checkpoints"
    unfinished, killed, hits, was_saved = folder / "last.tmp", 0, 0, False
    for number in range(kills):
        unfinished.unlink(missing_ok=True)
        process = SPAWN.Process(target=in_quiet, args=(options,))
        process.start()
        if number % 2:
            process.join(draw.uniform(0, longest_s))
        while not number % 2 and process.is_alive() and not unfinished.exists():
            time.sleep(0.0005)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        hits += unfinished.exists()
        assert newest_whole(folder) is not None or not was_saved
        was_saved = was_saved or newest_whole(folder) is not None
    return killed, hits


def assert_same_end(one: Path, other: Path) -> None:
    left, right = (load_checkpoint(folder / "checkpoints" / "last.pt")["model"] for folder in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)
    figures = [[(line["step"], line["loss"], line["dice"]) for line in read_metrics(folder)] for folder in (one, other)]
    assert figures[0] == figures[1]


def check_kills(options: Options, folder: Path, kills: int) -> tuple[int, int]:
    """Kill a run, let it end, compare it with one that was left alone; returns the kills, and those that hit a save."""
    whole = dataclasses.replace(options, output=folder / "whole")
    train(whole)
    killed = dataclasses.replace(options, output=folder / "killed", resume="auto")
    counts = kill_at_random(killed, kills, longest_s=1.5)
    train(killed)
    assert_same_end(killed.output, whole.output)
    return counts


def test_kills_at_any_instant_lose_nothing(tiny_options: Options, tmp_path: Path) -> None:
    options = dataclasses.replace(tiny_options, epochs=12, val_every=6, net="dynunet")
    killed, hits = check_kills(options, tmp_path, kills=4)
    assert killed >= hits >= 1


class Fill(logging.Handler):
    """Leaves no room for a checkpoint once the first epoch is saved."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch 1 "):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def on_a_full_disk(options: Options, said: Path) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, handlers=[Fill()], force=True)
    try:
        train(options)
    except RunError as error:
        said.write_text(str(error))


def test_a_full_disk_keeps_the_earlier_checkpoint(tiny_options: Options, tiny_run: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(tiny_options, output=tmp_path / "run")
    process = SPAWN.Process(target=on_a_full_disk, args=(options, tmp_path / "said"))
    process.start()
    process.join()
    assert process.exitcode == 0
    said = (tmp_path / "said").read_text()
    assert re.search(r"\.pt: cannot be written \(File too large after 0.1 MB\); earlier checkpoints are kept", said)
    assert not list(options.output.rglob("*.tmp"))
    assert load_checkpoint(options.output / "checkpoints" / "last.pt")["progress"]["epoch"] == 1
    train(dataclasses.replace(options, resume="auto"))
    assert_same_end(options.output, tiny_run)


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
def test_a_damaged_newest_checkpoint_is_passed_over(
    tiny_options: Options,
    tiny_run: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    damage(folder / "checkpoints" / "last.pt")
    with caplog.at_level(logging.INFO):
        train(dataclasses.replace(tiny_options, output=folder, resume="auto"))
    if damage is not Path.unlink:
        assert "last.pt: damaged" in caplog.text
    assert "previous.pt at epoch 3, step 8" in caplog.text
    assert_same_end(folder, tiny_run)
    assert (folder / "checkpoints" / "last.damaged").exists() == (damage is not Path.unlink)
    assert load_checkpoint(folder / "checkpoints" / "previous.pt")["progress"]["step"] == 8  # never the damaged one


def test_a_run_without_a_whole_checkpoint_is_not_started_anew(
    tiny_options: Options, tiny_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("last.pt", "previous.pt"):
        cut(folder / "checkpoints" / name)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="no undamaged checkpoint to resume from"):
        train(dataclasses.replace(tiny_options, output=folder, resume="auto"))
    assert (folder / "metrics.jsonl").read_bytes() == before


def main(kills: int) -> None:
    """Kill a run on the phantom as often as asked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantom(PhantomOptions(output=folder / "data", cases=5, test_cases=0, shape=(24, 28, 24)))
        convert(ConvertOptions(input=folder / "data", output=folder / "store", workers=1))
        options = Options(shards=folder / "store", patch=(16, 16, 16), epochs=2 * kills, val_every=50, device="cpu")
        torch.set_num_threads(1)
        killed, hits = check_kills(options, folder, kills)
    print(f"{killed} kills, {hits} of them while a checkpoint was written: the run ended as one that was left alone")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
