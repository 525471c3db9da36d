"""The NIfTI reader against nibabel: the same voxels, or one clear refusal, whatever the file holds."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preprocessing.console.errors import InputError
from preprocessing.volumes.nifti import Volume, case_id_of, read_nifti
from tests.preprocessing.conftest import AFFINE, Format, nibabel_voxels, nifti_bytes, write_nifti

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
FORMATS = st.builds(
    Format,
    version=st.sampled_from([1, 2]),
    byte_order=st.sampled_from(["<", ">"]),
    slope=st.sampled_from([1.0, 0.0, 0.25, 3.0]),
    inter=st.sampled_from([0.0, -1024.0]),
    extension_bytes=st.sampled_from([0, 16, 5008]),
)
VOXELS = npst.arrays(
    st.sampled_from(DTYPES),
    npst.array_shapes(min_dims=3, max_dims=4, max_side=5),
    elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 100},
)
SMALL = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def as_nibabel_reads(volume: Volume) -> npt.NDArray[Any]:
    """Put a volume into nibabel's order [x,y,z,c], scaled in float64 as nibabel does."""
    xyzc: npt.NDArray[Any] = np.stack(volume.channels, axis=-1).transpose(2, 1, 0, 3)
    scaled = xyzc * np.float64(volume.slope) + np.float64(volume.inter)
    return xyzc if (volume.slope, volume.inter) == (1.0, 0.0) else np.asarray(scaled)


def outcome(path: Path) -> Volume | str:
    """Read a file, or return why it is refused."""
    try:
        return read_nifti(path, max_volume_gib=0.001)
    except InputError as error:
        return str(error)


@given(VOXELS, FORMATS, st.sampled_from([".nii", ".nii.gz"]))
def test_voxels_and_affine_equal_nibabel(
    tmp_path_factory: pytest.TempPathFactory, voxels: npt.NDArray[Any], written_as: Format, suffix: str
) -> None:
    path = write_nifti(tmp_path_factory.getbasetemp() / f"any{suffix}", voxels, written_as)
    volume, image = read_nifti(path), nib.load(path)
    wanted = nibabel_voxels(path)
    np.testing.assert_array_equal(as_nibabel_reads(volume), wanted.reshape(*wanted.shape[:3], -1))
    np.testing.assert_array_equal(volume.affine, image.affine)  # type: ignore[attr-defined]
    assert volume.shape_dhw == voxels.shape[:3]
    assert volume.spacing_mm == (2.0, 1.5, 1.0)
    assert volume.source_bytes == path.stat().st_size


def test_gzip_of_several_members_reads_whole(tmp_path: Path) -> None:
    content = nifti_bytes(SMALL)
    path = tmp_path / "split.nii.gz"
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read_nifti(path).channels[0], SMALL)


def test_gzip_members_of_one_length_are_read_and_checked_to_the_last(tmp_path: Path) -> None:
    voxels = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    content = nifti_bytes(voxels)
    path, half = tmp_path / "halves.nii.gz", len(content) // 2
    first, second = gzip.compress(content[:half]), bytearray(gzip.compress(content[half:]))
    assert 2 * half == len(content)
    path.write_bytes(first + second)
    np.testing.assert_array_equal(read_nifti(path).channels[0], voxels)
    second[-8] ^= 1  # its CRC
    path.write_bytes(first + second)
    with pytest.raises(InputError, match=r"halves\.nii\.gz: broken or truncated gzip \(CRC check failed"):
        read_nifti(path)


def test_trailing_sides_of_one_are_dropped(tmp_path: Path) -> None:
    content = bytearray(nifti_bytes(SMALL))
    struct.pack_into("<8h", content, 40, 6, 5, 4, 3, 1, 1, 1, 1)
    (tmp_path / "6d.nii").write_bytes(content)
    volume = read_nifti(tmp_path / "6d.nii")
    assert (volume.shape_dhw, len(volume.channels)) == ((3, 4, 5), 1)


def test_the_vectors_of_itk_are_channels(tmp_path: Path) -> None:
    """SimpleITK writes x,y,z,1,C with the intent of a vector."""
    voxels = np.arange(180, dtype=np.int16).reshape(3, 3, 4, 5)  # C,z,y,x in memory
    content = bytearray(nifti_bytes(SMALL))[: -SMALL.nbytes] + voxels.tobytes()
    struct.pack_into("<8h", content, 40, 5, 5, 4, 3, 1, 3, 1, 1)
    (tmp_path / "vector.nii").write_bytes(content)
    np.testing.assert_array_equal(read_nifti(tmp_path / "vector.nii").channels, voxels)


def test_pairs_may_be_compressed_on_both_sides(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(SMALL.transpose(2, 1, 0), AFFINE), tmp_path / "pair.hdr")  # type: ignore[no-untyped-call]
    for suffix in (".hdr", ".img"):
        path = tmp_path / f"pair{suffix}"
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    np.testing.assert_array_equal(read_nifti(tmp_path / "pair.hdr.gz").channels[0], SMALL)
    assert case_id_of(tmp_path / "pair.hdr.gz") == "pair"
    (tmp_path / "pair.img.gz").unlink()
    with pytest.raises(InputError, match=r"pair\.hdr\.gz: the header of a pair, and no pair\.img beside it; add it"):
        read_nifti(tmp_path / "pair.hdr.gz")


@given(st.data())
def test_a_file_cut_anywhere_is_refused_by_name(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = nifti_bytes(SMALL)
    whole = data.draw(st.sampled_from([content, gzip.compress(content)]))
    path = tmp_path_factory.getbasetemp() / "cut.nii.gz"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError, match=r"cut\.nii\.gz"):
        read_nifti(path)


@given(st.data())
def test_a_changed_byte_in_gzip_never_changes_a_voxel(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(gzip.compress(nifti_bytes(SMALL)))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flip.nii.gz"
    path.write_bytes(whole)
    made = outcome(path)
    assert path.name in made if isinstance(made, str) else np.array_equal(made.channels[0], SMALL)


@settings(max_examples=400)
@given(st.sampled_from([1, 2]), st.dictionaries(st.integers(0, 543), st.integers(0, 255), min_size=1, max_size=8))
def test_a_spoilt_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, version: int, changes: dict[int, int]
) -> None:
    content = bytearray(nifti_bytes(SMALL, Format(version=version)))
    for position, value in changes.items():
        content[position % (len(content) - SMALL.nbytes)] = value
    path = tmp_path_factory.getbasetemp() / "header.nii"
    path.write_bytes(content)
    made = outcome(path)
    assert path.name in made if isinstance(made, str) else np.isfinite(made.affine).all()


@pytest.mark.parametrize(
    ("layout", "position", "values", "message"),
    [
        ("<8h", 40, (3, 30000, 30000, 30000, 1, 1, 1, 1), r"promises 50291\.4 GiB, the limit is 16 GiB"),
        ("<8h", 40, (5, 5, 4, 3, 2, 2, 1, 1), "neither x,y,z nor x,y,z,channel"),
        ("<8h", 40, (3, 5, 0, 3, 1, 1, 1, 1), "neither x,y,z nor x,y,z,channel"),
        ("<f", 108, (float("nan"),), "not a NIfTI header"),
        ("<f", 108, (0.0,), "start at byte 0, inside the header"),
        ("<2f", 112, (2.0, float("inf")), "not a NIfTI header"),
        ("<f", 280, (float("nan"),), "affine is not finite"),
        ("<4s", 344, (b"ni1\0",), "header of a .hdr/.img pair, named like a single file"),
        ("<4s", 344, (b"????",), "not a NIfTI header"),
        ("<2h", 70, (128, 24), "is not a number"),
    ],
)
def test_what_a_header_must_not_say(
    tmp_path: Path, layout: str, position: int, values: tuple[Any, ...], message: str
) -> None:
    content = bytearray(nifti_bytes(SMALL))
    struct.pack_into(layout, content, position, *values)
    (tmp_path / "bad.nii").write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.nii.*{message}"):
        read_nifti(tmp_path / "bad.nii")


def test_sides_whose_product_overflows_are_refused(tmp_path: Path) -> None:
    content = bytearray(nifti_bytes(SMALL, Format(version=2)))
    struct.pack_into("<4q", content, 16, 3, 2**32, 2**32, 1)  # 2**64 voxels: zero in 64 bits
    (tmp_path / "huge.nii").write_bytes(content)
    with pytest.raises(InputError, match="--max-volume-gib"):
        read_nifti(tmp_path / "huge.nii")


def test_the_limit_is_on_what_the_header_promises(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "one.nii.gz", np.zeros((64, 64, 128), np.int16))  # 1 MiB
    assert read_nifti(path, max_volume_gib=0.00098).shape_dhw == (64, 64, 128)
    with pytest.raises(InputError, match=r"the limit is 0\.0009 GiB"):
        read_nifti(path, max_volume_gib=0.0009)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("suffix", [".img", ".img.gz"])
def test_pairs_of_header_and_voxels_are_read(tmp_path: Path, kind: Any, suffix: str) -> None:
    nib.save(kind(SMALL.transpose(2, 1, 0), AFFINE), tmp_path / "pair.hdr")
    if suffix == ".img.gz":
        (tmp_path / "pair.img.gz").write_bytes(gzip.compress((tmp_path / "pair.img").read_bytes()))
        (tmp_path / "pair.img").unlink()
    volume = read_nifti(tmp_path / "pair.hdr")
    np.testing.assert_array_equal(volume.channels[0], SMALL)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    sizes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (volume.path.name, volume.source_bytes) == ("pair.hdr", sizes)
    voxels = tmp_path / f"pair{suffix}"
    voxels.write_bytes(voxels.read_bytes()[:-30])
    with pytest.raises(InputError, match=rf"pair{suffix}: .*truncated"):
        read_nifti(tmp_path / "pair.hdr")
    voxels.unlink()
    with pytest.raises(InputError, match=r"pair\.hdr: the header of a pair, and no pair\.img beside it; add it"):
        read_nifti(tmp_path / "pair.hdr")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.nii: No such file"):
        read_nifti(tmp_path / "nothing.nii")
    with pytest.raises(InputError, match="Is a directory"):
        read_nifti(tmp_path)


def test_cases_are_named_after_their_files() -> None:
    assert case_id_of(Path("imagesTr/BRATS_001.nii.gz")) == "BRATS_001"
    assert case_id_of(Path("a.b.nii")) == "a.b"
    with pytest.raises(InputError, match=r"scan\.mha: not a NIfTI file name"):
        case_id_of(Path("scan.mha"))


@pytest.mark.data
def test_every_odd_file_reads_as_nibabel_does_or_is_refused(real_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="nibabel.global")  # nibabel's own reading below
    refused = set()
    for path in sorted((real_data / "odd").rglob("*")):
        if not path.is_file():
            continue
        try:
            volume = read_nifti(path)
        except InputError:
            refused.add(path.name)
            continue
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw  # two files are not what their name says
        kind: Any = nib.Nifti2Image if 540 in struct.unpack("<i", content[:4]) else nib.Nifti1Image
        image = kind.from_bytes(content)
        wanted = np.asanyarray(image.dataobj)
        equal_nan = wanted.dtype.kind == "f"
        assert np.array_equal(as_nibabel_reads(volume), wanted.reshape(*wanted.shape[:3], -1), equal_nan), path
        assert np.array_equal(volume.affine, image.affine), path
    assert refused == {
        "3D.nii",
        "4D.nii",
        "DS_Store_from_images_folder",
        "empty.nii.gz",
        "header_only.nii.gz",
        "lfs_pointer.nii.gz",
        "nibabel_analyze.hdr",
        "nibabel_nifti1.hdr",
        "nibabel_nifti2.hdr",
        "nibabel_row_major.dconn.nii",
        "truncated_60pct.nii.gz",
        "truncated_voxels.nii.gz",
    }


def test_the_affine_is_the_one_written(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_nifti(write_nifti(tmp_path / "a.nii", SMALL)).affine, AFFINE)
