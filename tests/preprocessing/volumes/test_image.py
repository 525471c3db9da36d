"""One case from files to arrays: dtypes without loss, cropping without loss, and every reason to refuse."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preprocessing.console.errors import CaseError, InputError
from preprocessing.conversion.case import ConvertedCase, convert_case
from preprocessing.layouts.dataset import Source
from preprocessing.volumes.geometry import plan_geometry, restore_to_source
from preprocessing.volumes.image import ConvertOptions, prepare_image, read_label
from preprocessing.volumes.nifti import read_nifti
from preprocessing.volumes.statistics import LOSSLESS_DTYPES
from tests.preprocessing.conftest import AFFINE, Format, dataset_of, nibabel_voxels, write_nifti

NAMES = {0: "background", 1: "edema", 2: "core", 3: "enhancing"}
WHOLE = ConvertOptions(crop_foreground=False)
SHAPE = (3, 4, 5)


def image_of(path: Path, voxels: npt.NDArray[Any], options: ConvertOptions = WHOLE, **how: Any) -> Any:
    volume = read_nifti(write_nifti(path / "image.nii", voxels, Format(**how)))
    return prepare_image([volume], plan_geometry(volume, "source", None, 1.0), options)


def case_of(
    folder: Path, image: npt.NDArray[Any], label: npt.NDArray[Any] | None, modality: str = "mr", **options: Any
) -> ConvertedCase:
    """Convert one case made of these arrays [D,H,W] or [D,H,W,C] and [D,H,W]."""
    source = Source(
        case_id="made_up",
        images=(write_nifti(folder / "image.nii", image),),
        label=None if label is None else write_nifti(folder / "label.nii", label),
    )
    channels = [f"channel {number}" for number in range(image.shape[3] if image.ndim == 4 else 1)]
    return convert_case(source, dataset_of(channels, modality), ConvertOptions(**options))


@pytest.mark.parametrize(
    ("values", "file_dtype", "scaling", "stored"),
    [
        ([0, 255], "u1", {}, "uint8"),
        ([0, 255], "i2", {}, "uint8"),
        ([0, 256], "i2", {}, "int16"),
        ([-1, 255], "i2", {}, "int16"),
        ([-1, 127], "i1", {}, "int16"),
        ([0, 32768], "u2", {}, "uint16"),
        ([0, 65535], "i4", {}, "uint16"),
        ([-1, 32768], "i4", {}, "float32"),
        ([0, 65536], "u8", {}, "float32"),
        ([-(2**24), 2**24], "i8", {}, "float32"),
        ([0.0, 255.0], "f4", {}, "uint8"),
        ([-7.0, 300.0], "f8", {}, "int16"),
        ([0.0, 0.5], "f4", {}, "float32"),
        ([0.0, 0.5], "f8", {}, "float32"),
        ([0, 127], "i2", {"slope": 2.0}, "uint8"),
        ([0, 127], "i2", {"slope": 2.0, "inter": -1024.0}, "int16"),
        ([0, 3], "i2", {"slope": 0.25}, "float32"),
        ([0, 200], "u1", {"slope": 300.0}, "uint16"),
        ([0, 1], "i2", {"slope": 0.0, "inter": 9.0}, "uint8"),  # a slope of 0 means no scaling
    ],
)
def test_auto_takes_the_smallest_lossless_dtype(
    tmp_path: Path, values: list[float], file_dtype: str, scaling: dict[str, float], stored: str
) -> None:
    voxels = np.resize(np.array(values, file_dtype), SHAPE)
    image = image_of(tmp_path, voxels, WHOLE, **scaling)
    assert (str(image.voxels.dtype), image.max_abs_error) == (stored, 0.0)
    wanted = nibabel_voxels(tmp_path / "image.nii")
    np.testing.assert_array_equal(restore_to_source(image.voxels[..., 0], (0, 0, 0), SHAPE), wanted)


@given(
    npst.arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
        (1, 2, 2),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    st.sampled_from(["<", ">"]),
)
def test_no_smaller_dtype_would_have_been_lossless(
    tmp_path_factory: pytest.TempPathFactory, voxels: npt.NDArray[Any], byte_order: str
) -> None:
    def keeps(dtype: str) -> bool:
        """Compare as Python's own numbers, which are exact."""
        limits = (0, 0) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        with np.errstate(over="ignore"):
            return all(
                float(np.float32(value)) == value
                if dtype == "float32"
                else value == int(value) and limits[0] <= value <= limits[1]
                for value in voxels.reshape(-1).tolist()
            )

    lossless = [dtype for dtype in LOSSLESS_DTYPES if keeps(dtype)]
    folder = tmp_path_factory.getbasetemp()
    with np.errstate(over="ignore"):
        infinite = not lossless and np.isinf(voxels.astype(np.float32)).any()
    if infinite:
        with pytest.raises(InputError, match="infinite in float32"):
            image_of(folder, voxels, byte_order=byte_order)
        return
    image = image_of(folder, voxels, byte_order=byte_order)
    assert str(image.voxels.dtype) == (lossless[0] if lossless else "float32")
    assert image.voxels.dtype.isnative
    if lossless:
        assert image.max_abs_error == 0
        assert image.voxels[..., 0].tolist() == voxels.tolist()
    elif voxels.dtype.kind == "f":
        assert image.max_abs_error > 0


def test_channels_share_the_dtype_that_holds_all(tmp_path: Path) -> None:
    voxels = np.stack([np.full(SHAPE, 7), np.full(SHAPE, -300)], axis=-1).astype(np.int32)
    image = image_of(tmp_path, voxels)
    assert image.voxels.dtype == np.int16
    np.testing.assert_array_equal(image.voxels, voxels)


def test_float16_records_its_largest_error(tmp_path: Path) -> None:
    voxels = np.resize(np.array([0, 1, 2049, 4099], np.int16), SHAPE)  # float16 steps by 2 from 2048, by 4 from 4096
    image = image_of(tmp_path, voxels, ConvertOptions(dtype="float16", crop_foreground=False))
    assert (image.voxels.dtype, image.max_abs_error) == (np.float16, 1.0)
    np.testing.assert_array_equal(image.voxels[..., 0], voxels.astype(np.float16))


@pytest.mark.parametrize(
    ("dtype", "values", "message"),
    [
        ("float16", [1e5], r"holds 100000, which is infinite in float16"),
        ("uint8", [256.0], r"cannot be stored as uint8 \(values would change by up to 256\)"),
        ("int16", [0.5], r"cannot be stored as int16 \(values would change by up to 0\.5\)"),
        ("auto", [1e39], r"infinite in float32"),
    ],
)
def test_a_wanted_dtype_that_cannot_hold_the_image_is_refused(
    tmp_path: Path, dtype: str, values: list[float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        image_of(tmp_path, np.resize(values, SHAPE), ConvertOptions(dtype=dtype, crop_foreground=False))


def test_what_is_not_finite_is_counted_and_becomes_zero(tmp_path: Path) -> None:
    voxels = np.full((*SHAPE, 2), 3, np.float32)
    voxels[0, 0, 0, 0], voxels[1, 1, 1, 1], voxels[2, 3, 4, 1] = np.nan, np.inf, -np.inf
    image = image_of(tmp_path, voxels)
    assert image.nonfinite_voxels == 3
    np.testing.assert_array_equal(image.voxels, np.where(np.isfinite(voxels), voxels, 0))
    assert [channel.voxels for channel in image.channels] == [59, 58]


@given(st.data())
def test_cropping_and_restoring_lose_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=3, max_dims=3, max_side=7))
    sparse = npst.arrays(np.int16, (*shape, 2), elements=st.integers(-5, 5), fill=st.just(0))
    voxels = data.draw(sparse)
    label = data.draw(npst.arrays(np.uint8, shape, elements=st.integers(0, 3), fill=st.just(0)))
    case = case_of(tmp_path_factory.getbasetemp(), voxels, label)
    image = case.image
    for channel in range(2):
        restored = restore_to_source(image.voxels[..., channel], image.origin_dhw, image.source_shape_dhw)
        np.testing.assert_array_equal(restored, voxels[..., channel].transpose(2, 1, 0))
    assert case.label is not None
    restored = restore_to_source(case.label[..., 0], image.origin_dhw, image.source_shape_dhw)
    np.testing.assert_array_equal(restored, label.transpose(2, 1, 0))
    filled = voxels.any(axis=-1) | (label > 0)
    if filled.any():  # the box is tight: each of its six faces holds something
        where = np.nonzero(filled)
        assert image.origin_dhw == tuple(axis.min() for axis in where)
        assert image.voxels.shape[:3] == tuple(np.ptp(axis) + 1 for axis in where)


def test_cropping_can_be_left_out(tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.int16)
    voxels[1, 1, 1] = 5
    assert case_of(tmp_path, voxels, None).image.voxels.shape == (1, 1, 1, 1)
    assert case_of(tmp_path, voxels, None, crop_foreground=False).image.voxels.shape == (*SHAPE, 1)


def test_an_empty_image_is_kept_whole(tmp_path: Path) -> None:
    case = case_of(tmp_path, np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.uint8))
    assert case.image.voxels.shape == (*SHAPE, 1)
    assert (case.image.channels[0].voxels, case.image.channels[0].std) == (0, 1.0)
    assert (list(case.labels), case.foreground) == ([0], {})


def test_statistics_cover_nonzero_voxels_in_mr_and_labelled_ones_in_ct(tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.int16)
    voxels[0, 0], voxels[1, 1] = [1, 2, 3, 4, 5], [10, 20, 30, 40, 50]
    label = np.zeros(SHAPE, np.uint8)
    label[1, 1] = 1
    assert case_of(tmp_path, voxels, label, "mr").image.channels[0].mean == 16.5
    assert case_of(tmp_path, voxels, label, "ct").image.channels[0].mean == 30
    assert case_of(tmp_path, voxels, None, "ct").image.channels[0].mean == 16.5


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full(SHAPE, 2.5, np.float32), "holds 2.5 in 60 voxels; labels are whole numbers"),
        (np.full(SHAPE, np.nan, np.float64), "holds NaN or infinity in 60 voxels"),
        (np.full(SHAPE, 7, np.uint8), r'holds label 7, the data set names \[0, 1, 2, 3\]; add it to "labels"'),
        (np.full(SHAPE, 300, np.int16), "holds values 300 to 300; labels are 0 to 255"),
        (np.full(SHAPE, -1, np.int16), "holds values -1 to -1; labels are 0 to 255"),
        (np.ones((*SHAPE, 2), np.uint8), "has 2 channels, a label has 1"),
        (np.ones((3, 4, 6), np.uint8), r"has \(3, 4, 6\) voxels \(D,H,W\), its image \(3, 4, 5\)"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, label: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(CaseError, match=rf"case made_up: .*label\.nii {message}"):
        case_of(tmp_path, np.ones(SHAPE, np.int16), label)


def test_labels_stored_as_whole_floats_are_accepted(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "label.nii", np.resize([0.0, 2.0], SHAPE))
    np.testing.assert_array_equal(read_label(read_nifti(path), NAMES), np.resize([0, 2], SHAPE))
    path = write_nifti(tmp_path / "scaled.nii", np.resize(np.array([0, 4], np.uint8), SHAPE), Format(slope=0.5))
    np.testing.assert_array_equal(read_label(read_nifti(path), NAMES), np.resize([0, 2], SHAPE))


def test_affines_that_differ_are_refused_unless_told_otherwise(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "image.nii", np.ones(SHAPE, np.int16))
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    label = write_nifti(tmp_path / "label.nii", np.ones(SHAPE, np.uint8), affine=moved)
    source = Source(case_id="moved", images=(image,), label=label)
    with pytest.raises(CaseError, match=r"differ by up to 0\.5\).*--ignore-affine true"):
        convert_case(source, dataset_of(), ConvertOptions())
    assert convert_case(source, dataset_of(), ConvertOptions(ignore_affine=True)).label is not None
    moved[0, 3] = AFFINE[0, 3] + 5e-4  # what float32 headers of other tools differ by
    write_nifti(label, np.ones(SHAPE, np.uint8), affine=moved)
    assert convert_case(source, dataset_of(), ConvertOptions()).label is not None


def test_a_wrong_number_of_channels_is_refused(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "image.nii", np.ones((*SHAPE, 3), np.int16))
    source = Source(case_id="three", images=(image,), label=None)
    with pytest.raises(CaseError, match=r"has 3 channels, there should be 2 \(T1, T2\)"):
        convert_case(source, dataset_of(["T1", "T2"]), ConvertOptions())


def test_a_refused_case_survives_the_way_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(CaseError("BRATS_001", "no label")))  # noqa: S301  # made one line above
    assert (str(error), error.case_id, error.reason) == ("case BRATS_001: no label", "BRATS_001", "no label")
