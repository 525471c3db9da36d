"""Read one NIfTI file whole, checking that it holds what its header promises, without ever making float64."""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deflate
import nibabel as nib
import numpy as np
import numpy.typing as npt
import xxhash

from preprocessing.console.errors import InputError
from preprocessing.console.places import read_file
from preprocessing.volumes.grid import Array
from preprocessing.volumes.placement import affine_in_force, contradictions, sizes_of

GIB = 2**30
HEADER_BYTES = {nib.Nifti1Header: 348, nib.Nifti2Header: 540}
HEADERS, PAIRED = (".hdr", ".hdr.gz"), (".img", ".img.gz")  # a pair: the voxels lie beside the header
SUFFIXES = (".nii.gz", ".nii", *HEADERS)
UNHEARD = logging.getLogger(f"{__name__}.header")  # nibabel's remarks on mended fields do not say which file
UNHEARD.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One image or label file in memory.

    ``channels`` are read-only views [D,H,W] (z,y,x of the file) in the file's own dtype, before scaling;
    ``slope`` and ``inter`` are the file's linear scaling (1 and 0 when it has none); ``affine`` is the one in force,
    voxel x,y,z to millimetres; ``header`` is nibabel's own header. ``notes`` say where its fields contradict each
    other: kind of contradiction to the numbers (``preprocessing.volumes.placement``).
    """

    path: Path
    channels: list[Array]
    slope: float
    inter: float
    affine: npt.NDArray[np.float64]
    header: nib.Nifti1Header
    source_bytes: int
    source_xxh3: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def shape_dhw(self) -> tuple[int, int, int]:
        """Voxels along z, y, x of the file."""
        depth, height, width = self.channels[0].shape
        return depth, height, width

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along D, H, W in millimetres: that of the affine."""
        x_mm, y_mm, z_mm = sizes_of(self.affine, self.header)
        return z_mm, y_mm, x_mm


def case_id_of(path: Path) -> str:
    """Name a case after its file: ``imagesTr/BRATS_001.nii.gz`` is ``BRATS_001``."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    raise InputError(f"{path}: not a NIfTI file name (expected one ending in {' or '.join(SUFFIXES)})")


def read_nifti(path: Path, max_volume_gib: float = 16.0, trust: str = "auto") -> Volume:
    """Read ``path`` (.nii, .nii.gz or .hdr with .img; NIfTI-1 or NIfTI-2, any byte order; 3D, or channels last).

    ``trust`` names the field of the header that places its voxels (``preprocessing.volumes.placement``). Raises
    ``InputError`` for a file that is missing, is not NIfTI, holds fewer bytes than its header promises, fails its
    checksum, gives its voxels no size, or whose header promises more than ``max_volume_gib``: nothing of that size is
    allocated first.
    """
    packed = _read(path)
    facts = _parse_header(path, _first_bytes(path, packed) if _is_gzip(packed) else packed, trust)
    digest = xxhash.xxh3_64(packed)
    source_bytes = len(packed)
    voxel_path = path
    if facts.in_pair:
        voxel_path = _voxels_beside(path)
        packed = _read(voxel_path)
        digest.update(packed)
        source_bytes += len(packed)
    count = math.prod(facts.shape_xyzc)  # whole numbers without limit: NIfTI-2 sides have 64 bits each
    promised = facts.offset + count * facts.dtype.itemsize
    if promised > max_volume_gib * GIB:
        raise InputError(
            f"{path}: its header promises {promised / GIB:.1f} GiB, the limit is {max_volume_gib:g} GiB; "
            "raise --max-volume-gib if that is right"
        )
    content = _inflate(voxel_path, packed, promised, int(max_volume_gib * GIB)) if _is_gzip(packed) else packed
    if len(content) < promised:
        raise InputError(
            f"{voxel_path}: truncated: its header promises {promised} bytes, it holds {len(content)}; copy it again"
        )
    flat = np.frombuffer(content, dtype=facts.dtype, count=count, offset=facts.offset)
    czyx = flat.reshape(facts.shape_xyzc[::-1])  # x fastest in the file, so C order reads c,z,y,x
    return Volume(
        path=path,
        channels=list(czyx),
        slope=facts.slope,
        inter=facts.inter,
        affine=facts.affine,
        header=facts.header,
        source_bytes=source_bytes,
        source_xxh3=digest.hexdigest(),
        notes=facts.notes,
    )


def parts_of(path: Path) -> list[Path]:
    """List the files behind a path: itself, and the voxels beside a header that is one of a pair."""
    stems = [path.name.removesuffix(ending) for ending in HEADERS if path.name.endswith(ending)]
    beside = (path.with_name(stem + ending) for stem in stems for ending in PAIRED)
    return [path, *[voxels for voxels in beside if voxels.exists()][:1]]


def file_size(path: Path) -> int | None:
    """Return the bytes of a source file, of both files of a pair, or ``None`` where it is missing."""
    return sum(part.stat().st_size for part in parts_of(path)) if path.is_file() else None


def checksum_of(path: Path) -> str:
    """Return the checksum that ``read_nifti`` gives, without reading what the file means."""
    digest = xxhash.xxh3_64()
    for part in parts_of(path):
        digest.update(_read(part))
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _is_gzip(packed: bytes) -> bool:
    return packed[:2] == b"\x1f\x8b"


def _voxels_beside(header: Path) -> Path:
    """Find the voxel file of a pair."""
    if not header.name.endswith(HEADERS):
        raise InputError(f"{header}: the header of a .hdr/.img pair, named like a single file; rename it to .hdr")
    for voxels in parts_of(header)[1:]:
        return voxels
    raise InputError(f"{header}: the header of a pair, and no {case_id_of(header)}.img beside it; add it")


def _first_bytes(path: Path, packed: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(packed, max(HEADER_BYTES.values()))
    except zlib.error as error:
        raise InputError(f"{path}: not a readable gzip file ({error}); copy it again") from error


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What a header says, each of it checked."""

    header: nib.Nifti1Header
    shape_xyzc: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    affine: npt.NDArray[np.float64]
    notes: dict[str, str]
    in_pair: bool


@np.errstate(over="ignore", invalid="ignore")  # nibabel adds what a header says before anything of it is checked
def _parse_header(path: Path, start: bytes, trust: str) -> _Header:
    if len(start) < min(HEADER_BYTES.values()):
        raise InputError(f"{path}: {len(start)} bytes are too few for a NIfTI header (348); copy it again")
    is_nifti2 = int.from_bytes(start[:4], "little") == 540 or int.from_bytes(start[:4], "big") == 540
    kind: Any = nib.Nifti2Header if is_nifti2 else nib.Nifti1Header
    try:
        # Without the bytes that follow it: extensions are of no use here and may be longer than what was unpacked.
        header = kind.from_fileobj(io.BytesIO(start[: HEADER_BYTES[kind]]), check=False)
        sizes = np.abs(header["pixdim"][1:4])
        header.check_fix(logger=UNHEARD)
        header["pixdim"][1:4] = sizes  # where there is none, nibabel makes it 1
        affine = affine_in_force(header, path, trust)
        notes = contradictions(header, affine)
        header["pixdim"][1:4] = sizes_of(affine, header)
        slope, inter = header.get_slope_inter()
        facts = _Header(
            header=header,
            shape_xyzc=_shape_xyzc(path, header.get_data_shape()),
            dtype=header.get_data_dtype(),
            offset=int(header.get_data_offset()),
            slope=1.0 if slope is None else float(slope),
            inter=0.0 if inter is None else float(inter),
            affine=affine,
            notes=notes,
            in_pair=header["magic"].item().startswith(b"ni"),
        )
    except InputError:
        raise
    except Exception as error:  # nibabel raises several unrelated types for a broken header
        raise InputError(f"{path}: not a NIfTI header ({error})") from error
    if facts.dtype.fields or facts.dtype.kind not in "iuf":
        raise InputError(f"{path}: voxel type {facts.dtype} is not a number; convert it to integers or floats")
    if facts.offset < (0 if facts.in_pair else HEADER_BYTES[kind]):
        raise InputError(f"{path}: its voxels start at byte {facts.offset}, inside the header; correct vox_offset")
    return facts


def _shape_xyzc(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # one point in time of a vector: what ITK writes for several channels
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(f"{path}: shape {shape} is neither x,y,z nor x,y,z,channel")
    x, y, z, channels = (int(side) for side in (*shape, 1)[:4])
    return x, y, z, channels


def _inflate(path: Path, packed: bytes, promised_bytes: int, limit_bytes: int) -> bytes | bytearray:
    """Unpack gzip with length and CRC checked; libdeflate stops after one member, the standard library goes on.

    The last four bytes are the length of the last member, the first one's own where there are several of one length:
    so what is shorter than ``promised_bytes`` goes to the standard library too. libdeflate allocates what those bytes
    claim, so they are believed up to ``limit_bytes`` only.
    """
    length = int.from_bytes(packed[-4:], "little")
    if length <= limit_bytes:
        try:
            content: bytes | bytearray = deflate.gzip_decompress(packed)
            if len(content) % 2**32 == length and len(content) >= promised_bytes:
                return content
        except (deflate.DeflateError, ValueError):
            pass  # the standard library says what is wrong
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(limit_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: broken or truncated gzip ({error}); copy it again") from error
    if len(content) > limit_bytes:
        raise InputError(f"{path}: unpacks to more than {limit_bytes / GIB:g} GiB; see --max-volume-gib")
    return content
