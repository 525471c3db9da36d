"""What is odd about files and yet converted: counted, said once, with the numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from preprocessing.console.errors import CaseError
from preprocessing.conversion.case import ConvertedCase, convert_case
from preprocessing.conversion.notes import KINDS, say_notes
from preprocessing.layouts.dataset import Source
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.image import ConvertOptions
from tests.preprocessing.conftest import AFFINE, Format, dataset_of, write_nifti

IMAGE = np.arange(1, 61, dtype=np.int16).reshape(3, 4, 5)
LABEL = (IMAGE % 4).astype(np.uint8)
OPTIONS = ConvertOptions()


def converted(
    folder: Path, image: npt.NDArray[Any] = IMAGE, label: npt.NDArray[Any] = LABEL, how: Format | None = None
) -> ConvertedCase:
    files = write_nifti(folder / "image.nii", image), write_nifti(folder / "label.nii", label, how)
    return convert_case(Source(case_id="a", images=files[:1], label=files[1]), dataset_of(), OPTIONS)


@pytest.mark.parametrize(
    ("label", "how"),
    [
        ((LABEL.astype(np.float64) * 21845).astype(np.uint16), Format(slope=3 / 65535 * 1.000008)),  # 1.000008, 2.00002
        (LABEL - 7e-10 * (LABEL == 1), None),
        ((LABEL + 9e-4 * (LABEL == 1)).astype(np.float32), None),
    ],
)
def test_a_label_that_went_through_float_is_rounded_and_counted(
    tmp_path: Path, label: npt.NDArray[Any], how: Format | None
) -> None:
    case = converted(tmp_path, label=label, how=how)
    assert case.label is not None
    np.testing.assert_array_equal(case.label[..., 0], LABEL)
    count = np.count_nonzero(label != LABEL) if how is None else 45
    assert case.notes == {"rounded": f"{count} voxels of label.nii"}


@pytest.mark.parametrize(
    ("label", "how", "message"),
    [
        (LABEL + 1.1e-3, None, "label.nii holds 1.0011 in 60 voxels; labels are whole numbers, or at most 0.001 away"),
        ((LABEL + 0.0012345 * (LABEL == 1)), None, "label.nii holds 1.0012345 in 15 voxels"),
        (LABEL, Format(slope=1.01), r"label.nii .scl_slope 1.00999999, scl_inter 0. holds 1.00999999 in 45 voxels"),
    ],
)
def test_a_label_further_off_is_refused_with_enough_digits(
    tmp_path: Path, label: npt.NDArray[Any], how: Format | None, message: str
) -> None:
    with pytest.raises(CaseError, match=message):
        converted(tmp_path, label=label, how=how)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_integers_that_float32_cannot_hold_are_noted(tmp_path: Path, dtype: type) -> None:
    case = converted(tmp_path, image=IMAGE.astype(dtype) + dtype(2**24))
    assert case.notes == {"lossy": "stored as float32, values change by up to 1"}
    assert converted(tmp_path, image=IMAGE.astype(np.float64) + 0.1).notes == {}  # as every float64 does


def write_mirrored(folder: Path) -> Source:
    """Write an image of which one side is empty, and its label with the x axis reversed, as its affine says."""
    image, label = np.zeros((4, 4, 8), np.int16), np.zeros((4, 4, 8), np.uint8)
    image[..., 5:], label[..., 6:] = 9, 1
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 7
    files = (
        write_nifti(folder / "image.nii", image),
        write_nifti(folder / "label.nii", label[..., ::-1], None, AFFINE @ flip),
    )
    return Source(case_id="a", images=files[:1], label=files[1])


def test_a_label_whose_axes_run_the_other_way_is_noted_where_affines_are_ignored(tmp_path: Path) -> None:
    source = write_mirrored(tmp_path)
    with pytest.raises(CaseError, match="has another affine than its image"):
        convert_case(source, dataset_of(), OPTIONS)
    case = convert_case(source, dataset_of(), dataclasses.replace(OPTIONS, ignore_affine=True))
    said = "0 % of the label lies on image voxels that are not 0 as it is stored, 100 % if turned"
    assert case.notes == {"axes": said}


def test_each_kind_is_said_once_with_its_count(
    small_msd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("case_000", "case_002"):
        path = small_msd / "labelsTr" / f"{name}.nii.gz"
        image: Any = nib.load(path)
        nib.save(nib.Nifti1Image(image.get_fdata() * 1.0001, image.affine), path)  # type: ignore[no-untyped-call]
    assert convert(Options(input=small_msd, output=tmp_path / "store", workers=1)) == 0
    lines = [line for line in caplog.messages if "rounded" in line]
    assert len(lines) == 1
    assert lines[0].startswith(
        "2 of 3 cases: labels off whole numbers by at most 0.001 are rounded; the first, case_000: "
    )
    entries = [entry for _, entry in open_store(tmp_path / "store").entries()]
    assert [set(entry.notes) for entry in entries] == [{"rounded"}, set(), {"rounded"}]
    caplog.clear()
    all_kinds = dataclasses.replace(entries[0], notes=dict.fromkeys(KINDS, "so"))
    say_notes([all_kinds], OPTIONS)
    assert len(caplog.messages) == len(KINDS)
