"""Kills at random instants: no case is lost or half-made, and the store ends with the bytes of an undisturbed run.

As often as wanted: ``PYTHONPATH=. python tests/preprocessing/conversion/test_kills.py 200``.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import write_msd
from tests.preprocessing.conftest import kill, start, tree_bytes

CASES = [(40, 44, 48)] * 16  # long enough to be interrupted


def check_kills(folder: Path, kills: int, workers: int, draw: random.Random) -> tuple[int, int]:
    """Kill a conversion ``kills`` times, each at a random instant, and start it again every time.

    Every shard that has its name is compared after each kill, the whole store whenever a run comes to its end (then the
    next store is begun). Returns how many stores were finished, and how many kills left one unfinished.
    """
    source = write_msd(folder / "msd", CASES)
    begin = time.monotonic()
    wanted = finished(source, folder / "undisturbed", workers)
    run_s = time.monotonic() - begin
    stores, killed, unfinished = 0, 0, 0
    for _ in range(3 * kills + 10):  # some runs end before their kill
        root = folder / f"store_{stores}"
        if kill_at_random(start_conversion(source, root, workers), root, run_s, draw):
            killed += 1
            unfinished += not (root / "manifest.json").exists()
        for shard in sorted(root.glob("shard-?????")):
            assert tree_bytes(shard) == part_of(wanted, shard.name), f"kill {killed}: {shard}"
        if (root / "manifest.json").exists() or killed == kills:
            assert finished(source, root, workers) == wanted, f"kill {killed}"
            shutil.rmtree(root)
            stores += 1
        if killed == kills:
            return stores, unfinished
    raise AssertionError(f"{killed} of {kills} kills came before the end of their run")


def kill_at_random(process: subprocess.Popen[str], root: Path, run_s: float, draw: random.Random) -> bool:
    """Kill a conversion within a shard's time of a random shard's end; ``False`` where it ended before.

    Where every shard is there, any instant of the run will do.
    """
    there = len(list(root.glob("shard-?????")))
    left = len(CASES) - there
    wanted = there + draw.randint(min(1, left), left)
    while process.poll() is None and len(list(root.glob("shard-?????"))) < wanted:
        time.sleep(0.001)
    try:
        process.communicate(timeout=draw.uniform(0, run_s / len(CASES) if left else 2 * run_s))
    except subprocess.TimeoutExpired:
        kill(process)
        return True
    return False


def start_conversion(source: Path, root: Path, workers: int) -> subprocess.Popen[str]:
    return start("preprocessing.to_shards", "--input", source, "--output", root, "--workers", workers)


def finished(source: Path, root: Path, workers: int) -> dict[str, bytes]:
    """Convert to the end; returns every file of the store."""
    process = start_conversion(source, root, workers)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return tree_bytes(root)


def part_of(tree: dict[str, bytes], shard: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{shard}/"): content for name, content in tree.items() if name.startswith(f"{shard}/")}


@pytest.mark.parametrize("workers", [1, 2])
def test_kills_at_random_instants_lose_nothing(tmp_path: Path, workers: int) -> None:
    stores, unfinished = check_kills(tmp_path, 3, workers, random.Random(workers))
    assert stores >= 1
    assert unfinished >= 1


def main(kills: int) -> None:
    """Kill a conversion as often as asked, by turns with one and with two workers."""
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            stores, unfinished = check_kills(Path(folder), kills // 2, workers, random.Random(kills + workers))
        print(  # noqa: T201
            f"{kills // 2} kills with {workers} workers, {unfinished} of them before the store was finished: "
            f"0 shards lost or damaged, {stores} stores finished, all with the bytes of an undisturbed run"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
