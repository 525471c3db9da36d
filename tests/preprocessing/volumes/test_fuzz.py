"""Files with mutated headers and gzip streams: converted or refused by name, fast and in little memory.

As many as wanted: ``PYTHONPATH=. python tests/preprocessing/volumes/test_fuzz.py 20000``.
"""

from __future__ import annotations

import gzip
import random
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from preprocessing.console.errors import CaseError
from preprocessing.conversion.case import convert_case
from preprocessing.layouts.dataset import Source
from preprocessing.volumes.image import ConvertOptions
from tests.conftest import coordinate_label
from tests.preprocessing.conftest import Format, dataset_of, nifti_bytes, write_nifti

SHAPE = (5, 6, 7)
OPTIONS = ConvertOptions(max_volume_gib=2**-8, ignore_affine=True)  # 4 MiB
ZEROS = gzip.compress(bytes(2**27), 1)
MOST_S, MOST_BYTES = 2.0, 100 * 2**20  # of time for one file, of memory gained by all of them
FIELDS = {"dim": 40, "type": 70, "pixdim": 76, "offset": 108, "slope": 112, "units": 123, "qform": 252, "magic": 344}
EDGES = [0, 1, 2, 3, 127, 128, 255]


def mutated(draw: random.Random) -> bytes:
    """Make the bytes of one file: a small volume of some format, its header or its gzip stream spoilt, or both."""
    dtype = draw.choice(["u1", "i2", "u2", "i4", "f4", "f8", "u8"])
    written_as = Format(version=draw.choice([1, 2]), byte_order=draw.choice(["<", ">"]), slope=draw.choice([1, 0.5]))
    content = bytearray(nifti_bytes(coordinate_label(SHAPE).astype(dtype), written_as))
    if draw.random() < 0.7:
        spoil_header(content, draw)
    if draw.random() < 0.2:
        content = content[: draw.randrange(len(content))]
    if draw.random() < 0.2:
        return bytes(content)
    packed = packed_in_some_way(bytes(content), draw)
    return spoil_stream(packed, draw) if draw.random() < 0.7 else packed


def spoil_header(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 4)):
        start = draw.choice([*FIELDS.values(), draw.randrange(540)])
        for place in range(start, start + draw.choice([1, 2, 4, 8])):
            content[place % len(content)] = draw.choice([*EDGES, draw.randrange(256)])


def packed_in_some_way(content: bytes, draw: random.Random) -> bytes:
    cut = draw.randrange(len(content) + 1)
    kind = draw.randrange(6)
    if kind == 0:
        return gzip.compress(content[:cut]) + gzip.compress(content[cut:])
    if kind == 1:
        return gzip.compress(content + bytes(draw.choice([1, 10_000])))
    if kind == 2:
        return gzip.compress(content) + bytes(draw.randrange(64))
    if kind == 3:
        return gzip.compress(content) + ZEROS if cut % 2 else ZEROS  # unpacks to more than is allowed
    return gzip.compress(content, draw.randint(0, 9)) if kind == 4 else zlib.compress(content)


def spoil_stream(packed: bytes, draw: random.Random) -> bytes:
    changed = bytearray(packed)
    place = draw.randrange(len(changed))
    kind = draw.randrange(5)
    if kind == 0:
        changed[place] ^= draw.randrange(1, 256)
    elif kind == 1:
        del changed[place : place + draw.randint(1, 64)]
    elif kind == 2:
        changed[place:place] = draw.randbytes(draw.randint(1, 64))
    elif kind == 3:
        changed[-4:] = struct.pack("<I", draw.choice([0, 1, 2**31, 2**32 - 1, draw.randrange(2**32)]))  # the length
    else:
        changed[place : place + 16] = changed[:16]
    return bytes(changed)


def check_files(folder: Path, count: int, draw: random.Random) -> Counter[str]:
    """Convert ``count`` mutated files, as image and as label by turns; returns how many were converted and refused."""
    good = write_nifti(folder / "good.nii", coordinate_label(SHAPE))
    path = folder / "odd.nii.gz"
    ended: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(count):
        path.write_bytes(mutated(draw))
        images, label = ((path,), None) if number % 2 else ((good,), path)
        begin = time.process_time()
        try:
            made = convert_case(Source(case_id="odd", images=images, label=label), dataset_of(), OPTIONS)
            assert np.isfinite(made.image.voxels).all()
            ended["converted"] += 1
        except CaseError as error:
            ended["refused" if str(path) in error.reason else f"refused without its name: {error}"] += 1
        assert time.process_time() - begin < MOST_S, number
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MOST_BYTES
    return ended


def test_mutated_files_are_converted_or_refused_by_name(tmp_path: Path) -> None:
    ended = check_files(tmp_path, 400, random.Random(0))
    assert set(ended) == {"converted", "refused"}
    assert min(ended.values()) > 40


def main(count: int) -> None:
    """Convert as many mutated files as asked."""
    with tempfile.TemporaryDirectory() as folder:
        ended = check_files(Path(folder), count, random.Random(count))
    print(f"{count} files: {dict(ended)}")  # noqa: T201
    sys.exit(set(ended) != {"converted", "refused"})


if __name__ == "__main__":
    main(int(sys.argv[1]))
