"""What a store as large as the article's costs to open."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from preprocessing.shards.entries import ShardEntry
from preprocessing.shards.files import write_manifest
from preprocessing.shards.store import open_store
from tests.preprocessing.conftest import ROOT

MEASURE = """
import psutil, sys, time
import preprocessing.shards as shards
begin = time.perf_counter()
store = shards.open_store(sys.argv[1])
count = len(store.labelled_ids)
print(count, time.perf_counter() - begin, psutil.Process().memory_info().rss)
"""


def test_a_store_of_48884_cases_opens_within_a_second_and_200_mb(coordinate_store: Path, tmp_path: Path) -> None:
    """Only the manifest is read: 0.05 s and 72 MB in all on 2 shared cores, 2026-11-24."""
    names = [f"BRATS_001_{position:06d}" for position in range(48_884)]
    firsts = range(0, len(names), 64)
    ids = {f"shard-{number:05d}": names[first : first + 64] for number, first in enumerate(firsts)}
    shards = [
        ShardEntry(name=name, case_ids=held, unlabelled=[], size_bytes=1, index_xxh3="0") for name, held in ids.items()
    ]
    write_manifest(tmp_path, dataclasses.replace(open_store(coordinate_store).manifest, shards=shards))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count, seconds, rss_bytes = ended.stdout.split()
    assert int(count) == 48_884
    assert float(seconds) < 1
    assert int(rss_bytes) < 200e6
