"""What the preprocessing tests share: NIfTI files of any kind, small data sets, commands run in this process."""

from __future__ import annotations

import gzip
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from preprocessing.console.flags import main
from preprocessing.layouts.dataset import Dataset
from preprocessing.shards.files import SOURCE
from preprocessing.to_shards import Options, convert
from tests.conftest import write_msd

AFFINE = np.diag([-1.0, -1.5, 2.0, 1.0])
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How to write a NIfTI file: NIfTI 1 or 2, byte order, scaling, bytes of header extension."""

    version: int = 1
    byte_order: Literal["<", ">"] = "<"
    slope: float = 1.0
    inter: float = 0.0
    extension_bytes: int = 0


def nifti_bytes(voxels: npt.NDArray[Any], written_as: Format | None = None, affine: npt.NDArray[Any] = AFFINE) -> bytes:
    """Make the bytes of a .nii file that holds ``voxels`` [D,H,W] or [D,H,W,C] unscaled, exactly as they are."""
    written_as = written_as or Format()
    kind: Any = nib.Nifti1Header if written_as.version == 1 else nib.Nifti2Header
    header = kind(endianness=written_as.byte_order)
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape((*voxels.shape[2::-1], *voxels.shape[3:]))
    header.set_sform(affine, 2)
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header["scl_slope"], header["scl_inter"] = written_as.slope, written_as.inter
    extension = b""
    if written_as.extension_bytes:
        extension = np.array([written_as.extension_bytes, 6], written_as.byte_order + "i4").tobytes()
        extension = extension.ljust(written_as.extension_bytes, b"x")
    header["vox_offset"] = header.sizeof_hdr + 4 + len(extension)
    flag = bytes([1 if extension else 0, 0, 0, 0])
    content = voxels.astype(voxels.dtype.newbyteorder(written_as.byte_order))
    return (
        bytes(header.binaryblock)
        + flag
        + extension
        + (np.moveaxis(content, 3, 0) if content.ndim == 4 else content).tobytes()
    )


def write_nifti(
    path: Path, voxels: npt.NDArray[Any], written_as: Format | None = None, affine: npt.NDArray[Any] = AFFINE
) -> Path:
    """Write ``voxels`` [D,H,W] or [D,H,W,C] to ``path`` (.nii or .nii.gz) and return it."""
    content = nifti_bytes(voxels, written_as, affine)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


def nibabel_voxels(path: Path) -> npt.NDArray[Any]:
    """Read a file with nibabel, scaling applied: [x,y,z] or [x,y,z,c]."""
    image: Any = nib.load(path)
    return np.asanyarray(image.dataobj)


def tree_bytes(root: Path) -> dict[str, bytes]:
    """Read every file under ``root``, but not where the data set lay: that is all in which equal stores may differ."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != SOURCE)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def dataset_of(channels: Sequence[str] = ("T1",), modality: str = "mr") -> Dataset:
    """Describe a data set with labels 0 to 3."""
    names = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
    return Dataset(
        name="made up", root=Path(), channel_names=list(channels), label_names=names, modality=modality, sources=[]
    )


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code and what it printed."""

    code: int
    output: str
    errors: str


Command = Callable[..., Finished]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run ``command(convert, Options, "--flag", value, ...)`` as its main() does, in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(function: Callable[[Any], int], options: type[Any], *arguments: object) -> Finished:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(function, options, [str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        return Finished(ended.value.code, *capfd.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    """Start ``python -m module arguments``, its output and messages caught."""
    words = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_process(module: str, *arguments: object) -> Finished:
    """Run ``python -m module arguments`` to its end."""
    process = start(module, *arguments)
    output, errors = process.communicate(timeout=120)
    return Finished(process.returncode, output, errors)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Watch for an instant in the life of ``process``; it has to be alive at that instant."""
    while not condition():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.001)
        assert process.returncode is None, process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that is alive, and no more: whatever it had started is left to itself."""
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.fixture
def small_msd(tmp_path: Path) -> Path:
    """Make a data set of three small cases that a test may spoil."""
    return write_msd(tmp_path / "msd", [(6, 7, 8), (7, 6, 5), (5, 9, 6)])


@pytest.fixture
def small_store(small_msd: Path, tmp_path: Path) -> Path:
    """Convert the small data set, one of its cases spoilt, so that the store has every kind of file."""
    (small_msd / "labelsTr" / "case_001.nii.gz").unlink()
    assert convert(Options(input=small_msd, output=tmp_path / "store", workers=1, cases_per_shard=2)) == 3
    return tmp_path / "store"
