"""The bytes on disk: the one place that writes the files of a shard store.

STORE/
  manifest.json              what the store holds, one line per shard; written last; checks itself
  shard-00000/
    index.json               one entry per case; its checksum is in the manifest
    BRATS_001.image.npy      [D,H,W,C]; its checksum is in the index
    BRATS_001.label.npy      [D,H,W,1] uint8
    BRATS_001.foreground.npy [n,3] uint16, sampled voxels grouped by label
  errors.json                refused cases and why (only when there are any); its checksum is in the manifest
  source.json                folder that the data set was read from; checks itself; apart, so that all else is the same
                             wherever that folder lay
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from preprocessing.console.errors import InputError
from preprocessing.console.places import read_file, replace_file, write_file
from preprocessing.shards.entries import FileRecord, Manifest
from preprocessing.volumes.grid import Array

FORMAT_VERSION = 3
NPY_MAGIC = b"\x93NUMPY\x01\x00"
MANIFEST, INDEX, ERRORS, SOURCE = "manifest.json", "index.json", "errors.json", "source.json"
NO_CHECKSUM = "0" * 16
DATA_OFFSET = 4096  # voxel data starts on a page: O_DIRECT, GPUDirect Storage and page-wise mmap need it


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Make a .npy 1.0 header of exactly 4096 bytes: magic, version, length, a dict literal, spaces, newline."""
    literal = repr({"descr": dtype.str, "fortran_order": False, "shape": shape}).encode("latin1")
    length = DATA_OFFSET - len(NPY_MAGIC) - 2
    return NPY_MAGIC + struct.pack("<H", length) + literal.ljust(length - 1) + b"\n"


def write_npy(path: Path, array: Array) -> FileRecord:
    """Write ``array`` (made C-contiguous and little-endian) with its data at byte 4096, fsynced; return its record."""
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    header = npy_header(array.shape, array.dtype)
    checksum = xxhash.xxh3_64(header)
    content = array.reshape(-1).view(np.uint8)
    checksum.update(content.data)
    write_file(path, [header, content.data])
    return FileRecord(name=path.name, size_bytes=DATA_OFFSET + array.nbytes, xxh3=checksum.hexdigest())


def write_json(path: Path, content: dict[str, Any]) -> FileRecord:
    """Write ``content`` as JSON, so that ``path`` is whole at every instant; return its record."""
    text = (json.dumps(content, indent=1) + "\n").encode()
    replace_file(path, text)
    return FileRecord(name=path.name, size_bytes=len(text), xxh3=xxhash.xxh3_64_hexdigest(text))


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest, which checks itself."""
    write_sealed(root / MANIFEST, manifest.to_json())


def write_source(root: Path, place: str | None) -> None:
    """Keep the folder that the data set was read from; nothing where it is not known."""
    if place is not None:
        write_sealed(root / SOURCE, {"root": place})


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum over its own bytes (taken with zeros in the checksum's place)."""
    unsealed = content | {"checksum": NO_CHECKSUM}
    text = json.dumps(unsealed, indent=1) + "\n"
    write_json(path, unsealed | {"checksum": xxhash.xxh3_64_hexdigest(text.encode())})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read the manifest or source.json; raises ``InputError`` naming the file where it fails its own checksum."""
    raw = read_or_refuse(path)
    content = parse_json(str(path), raw)
    claimed = str(content.get("checksum", ""))
    zeroed = raw.replace(f'"checksum": "{claimed}"'.encode(), f'"checksum": "{NO_CHECKSUM}"'.encode())
    if xxhash.xxh3_64_hexdigest(zeroed) != claimed:
        raise InputError(f"{path}: checksum does not match its content; restore it or convert again")
    return content


def read_or_refuse(path: Path) -> bytes:
    """Read a whole file of a store; raises ``InputError`` naming it where that fails."""
    try:
        return read_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_json(path: str, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ``InputError`` naming the file when it is not one."""
    try:
        content = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged JSON ({error}); run preprocessing.check, then convert again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
