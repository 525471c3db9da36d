"""The layouts of one file per channel: nnU-Net, BraTS folders, tables; all give the store that MSD gives."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.console.errors import InputError
from preprocessing.layouts.images import find_cases
from preprocessing.layouts.known import read_dataset
from preprocessing.shards.store import Store, open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import coordinate_image, coordinate_label, write_msd
from tests.preprocessing.conftest import write_nifti
from training.inference.decode import decode
from training.model.networks import InputGrid
from training.model.spec import ModelSpec

SHAPES = [(6, 7, 8), (7, 6, 5)]
CHANNELS = ["FLAIR", "T1w", "t1gd", "T2w"]
NNUNET: dict[str, Any] = {
    "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
    "labels": {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3},
    "file_ending": ".nii.gz",
}
TO_BRATS = np.array([0, 2, 1, 4], np.uint8)  # BraTS ids 2, 1, 4 are MSD ids 1, 2, 3
NAMINGS = {"2018": ("_", ("flair", "t1", "t1ce", "t2")), "2023": ("-", ("t2f", "t1n", "t1c", "t2w"))}
Volumes = dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]]


def coordinate_volumes() -> Volumes:
    """Make the cases that ``write_msd`` writes for ``SHAPES``: image [D,H,W,4] and label [D,H,W]."""
    return {f"case_{n:03d}": (coordinate_image(shape, n), coordinate_label(shape)) for n, shape in enumerate(SHAPES)}


def write_nnunet(root: Path, volumes: Volumes, **changes: Any) -> Path:
    described = NNUNET | changes
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    for case_id, (image, label) in volumes.items():
        images = root / ("imagesTs" if label is None else "imagesTr")
        for channel in range(image.shape[3]):
            write_nifti(images / f"{case_id}_{channel:04d}{described['file_ending']}", image[..., channel])
        if label is not None:
            write_nifti(root / "labelsTr" / f"{case_id}{described['file_ending']}", label)
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def write_brats(root: Path, volumes: Volumes, naming: str = "2018", prefix: str = "") -> Path:
    mark, kinds = NAMINGS[naming]
    for name, (image, label) in volumes.items():
        case_id = prefix + name
        folder = root / case_id
        folder.mkdir(parents=True)
        for channel, kind in enumerate(kinds):
            write_nifti(folder / f"{case_id}{mark}{kind}.nii.gz", image[..., channel])
        if label is not None:
            ids = TO_BRATS[label]
            write_nifti(folder / f"{case_id}{mark}seg.nii.gz", np.where((ids == 4) & (naming == "2023"), 3, ids))
    return root


def write_table(root: Path, volumes: Volumes) -> Path:
    rows = [["id", *CHANNELS, "label"]]
    (root / "anywhere").mkdir(parents=True)
    for case_id, (image, label) in volumes.items():
        names = [f"anywhere/{case_id}.{channel}.nii" for channel in CHANNELS]
        for channel, name in enumerate(names):
            write_nifti(root / name, image[..., channel])
        if label is not None:
            write_nifti(root / "anywhere" / f"{case_id}.nii.gz", label)
        rows.append([case_id, *names, "" if label is None else f"anywhere/{case_id}.nii.gz"])
    with (root / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    labels = {str(number): name for name, number in NNUNET["labels"].items()}
    (root / "dataset.json").write_text(json.dumps({"name": "coordinates", "labels": labels}))
    return root / "cases.csv"


def converted(source: Path, output: Path, code: int = 0) -> Store:
    assert convert(Options(input=source, output=output, workers=1)) == code
    assert check(CheckOptions(shards=output)) == 0
    return open_store(output)


def assert_same_voxels(made: Store, wanted: Store, ids: dict[str, str] | None = None) -> None:
    """Compare the bytes of every image, label and foreground list, and what the manifests say of them."""
    assert len(made.case_ids) == len(wanted.case_ids)
    for case_id in made.case_ids:
        one, other = made.case(case_id), wanted.case((ids or {}).get(case_id, case_id))
        assert (one.entry.image.xxh3, one.entry.origin_dhw) == (other.entry.image.xxh3, other.entry.origin_dhw)
        assert (one.entry.label is None) == (other.entry.label is None)
        if one.entry.label is not None and other.entry.label is not None:
            assert one.entry.label.xxh3 == other.entry.label.xxh3
        assert (one.entry.labels, one.entry.channels) == (other.entry.labels, other.entry.channels)
    for name in ("channel_names", "label_names", "modality", "regions", "image_dtype", "channels"):
        assert getattr(made.manifest, name) == getattr(wanted.manifest, name)


@pytest.fixture
def msd_store(tmp_path: Path) -> Store:
    return converted(write_msd(tmp_path / "msd", SHAPES), tmp_path / "msd_store")


@pytest.mark.parametrize("naming", list(NAMINGS))
def test_brats_folders_give_the_store_of_msd(msd_store: Store, tmp_path: Path, naming: str) -> None:
    prefix = "" if naming == "2018" else "BraTS-GLI-00000-"
    source = write_brats(tmp_path / "coordinates", coordinate_volumes(), naming, prefix)
    made = converted(source, tmp_path / "store")
    for case_id in msd_store.case_ids:
        one, other = made.case(prefix + case_id), msd_store.case(case_id)
        assert (one.entry.image.xxh3, one.entry.labels) == (other.entry.image.xxh3, other.entry.labels)
        np.testing.assert_array_equal(one.label(), other.label())
    for name in ("channel_names", "label_names", "regions", "channels"):
        assert getattr(made.manifest, name) == getattr(msd_store.manifest, name)
    assert made.manifest.label_remap == {0: 0, 1: 2, 2: 1, (4 if naming == "2018" else 3): 3}
    assert msd_store.manifest.label_remap == {}


def test_nnunet_and_tables_give_the_store_of_msd(msd_store: Store, tmp_path: Path) -> None:
    assert_same_voxels(
        converted(write_nnunet(tmp_path / "nnunet", coordinate_volumes()), tmp_path / "store"), msd_store
    )
    assert_same_voxels(converted(write_table(tmp_path / "table", coordinate_volumes()), tmp_path / "other"), msd_store)


@pytest.mark.data
def test_one_real_case_in_three_layouts_gives_the_same_voxels(real_data: Path, tmp_path: Path) -> None:
    msd = real_data / "Task01_BrainTumour"
    source = tmp_path / "one"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        shutil.copy(msd / folder / "BRATS_001.nii.gz", source / folder)
    described = json.loads((msd / "dataset.json").read_text())
    described["training"] = described["training"][:1]
    (source / "dataset.json").write_text(json.dumps(described))
    wanted = converted(source, tmp_path / "msd")
    image, label = wanted.case("BRATS_001"), nib.load(source / "labelsTr" / "BRATS_001.nii.gz")
    whole: Any = nib.load(source / "imagesTr" / "BRATS_001.nii.gz")
    nnunet = write_nnunet(tmp_path / "nnunet", {}, labels={n: int(k) for k, n in described["labels"].items()})
    for channel in range(4):
        one = nib.Nifti1Image(np.asanyarray(whole.dataobj)[..., channel], whole.affine)  # type: ignore[no-untyped-call]
        nib.save(one, nnunet / "imagesTr" / f"BRATS_001_{channel:04d}.nii.gz")
    nib.save(label, nnunet / "labelsTr" / "BRATS_001.nii.gz")
    assert image.label() is not None
    assert_same_voxels(converted(nnunet, tmp_path / "A"), wanted)
    folders = real_data / "brats_folders"
    made = converted(folders, tmp_path / "B")
    one_case = made.case(made.case_ids[0])
    assert one_case.entry.image.xxh3 == image.entry.image.xxh3
    assert one_case.entry.label is not None
    assert image.entry.label is not None
    assert one_case.entry.label.xxh3 == image.entry.label.xxh3
    assert made.manifest.regions == wanted.manifest.regions


# nnU-Net ----------------------------------------------------------------------------------------------------------


def test_nnunet_regions_become_regions_and_unnamed_ids_get_names(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    source = write_nnunet(tmp_path / "set", coordinate_volumes(), labels=labels, regions_class_order=[1, 2, 3])
    manifest = converted(source, tmp_path / "store").manifest
    assert manifest.regions == {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert manifest.label_names == {0: "background", 1: "whole (label 1)", 2: "core (label 2)", 3: "enhancing"}


@pytest.mark.parametrize(
    ("labels", "order", "painted"),
    [
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3], {}),  # as it would be anyway
        (
            {"background": 0, "whole": [1, 2, 3], "enhancing": 3, "core": [2, 3]},
            [1, 3, 2],
            {"whole": 1, "enhancing": 3, "core": 2},
        ),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            [2, 3, 1],
            {"whole": 2, "core": 3, "enhancing": 1},
        ),
    ],
)
def test_regions_class_order_says_what_is_painted(
    tmp_path: Path, labels: dict[str, Any], order: list[int], painted: dict[str, int]
) -> None:
    source = write_nnunet(tmp_path / "set", coordinate_volumes(), labels=labels, regions_class_order=order)
    manifest = converted(source, tmp_path / "store").manifest
    assert manifest.region_ids == painted
    spec = ModelSpec.of_store(manifest, "unet", InputGrid(patch=(16, 16, 16)))
    scores = [np.full((1, 1, 1), score, np.float32) for score in (0.5, 0.5, 0.5)]
    assert decode(scores, ModelSpec.from_plain(spec.to_plain())).item() == order[-1]
    own = Options(input=source, output=tmp_path / "own", workers=1, regions="A=1+2+3,B=2")
    assert convert(own) == 0
    assert open_store(tmp_path / "own").manifest.region_ids == {}


def test_a_regions_class_order_of_another_length_is_refused(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}
    source = write_nnunet(tmp_path / "set", coordinate_volumes(), labels=labels, regions_class_order=[1, 2, 3])
    with pytest.raises(InputError, match=r'"regions_class_order" has 3 labels for 2 regions \(whole, core\)'):
        read_dataset(source)


def test_nnunet_omissions_are_named_with_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A label without an image was lost without a word, and so were imagesVa and a wrong numTraining."""
    caplog.set_level("INFO")
    volumes = coordinate_volumes()
    source = write_nnunet(tmp_path / "set", volumes, numTraining=9)
    write_nnunet(tmp_path / "more", {"v": volumes["case_000"]})
    for kind in ("images", "labels"):
        (tmp_path / "more" / f"{kind}Tr").rename(source / f"{kind}Va")
        shutil.copytree(source / f"{kind}Va", source / f"{kind}Ts", dirs_exist_ok=True)
    for path in (source / "imagesTs").iterdir():
        path.rename(path.with_name(path.name.replace("v_", "t_")))
    shutil.copy(source / "labelsTr" / "case_000.nii.gz", source / "labelsTr" / "lost.nii.gz")
    store = converted(source, tmp_path / "store", code=3)
    assert store.case_ids == ["case_000", "case_001", "t", "v"]
    assert (store.labelled_ids, store.manifest.split) == (["case_000", "case_001", "v"], {"validation": ["v"]})
    missing = f"{source}/imagesTr/lost_0000.nii.gz"
    for line in (
        f"{source}/dataset.json: numTraining is 9, the training cases are 3",
        f"1 labels in {source}/labelsTs are not used: cases in imagesTs are converted without, the first: v",
        "the data set's own split is kept in manifest.json: validation (1)",
        f"refused case lost: it has a label and no image at {missing}; add the image, or remove the label",
    ):
        assert line in caplog.messages


def test_one_bad_name_does_not_cost_the_nnunet_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are not UTF-8 ended in a traceback with the good case lost; capitals and a plain name were lost."""
    volumes = {"ok": coordinate_volumes()["case_000"]}
    source = write_nnunet(tmp_path / "set", volumes | dict.fromkeys(("latin", "great", "plain"), volumes["ok"]))
    for folder in (source / "imagesTr", source / "labelsTr"):
        for path in folder.iterdir():
            path.rename(folder / path.name.replace("latin", os.fsdecode(b"M\xfcller")))
        for path in folder.glob("great*"):
            path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    (source / "imagesTr" / "plain_0000.nii.gz").rename(source / "imagesTr" / "plain.nii.gz")
    for path in (source / "imagesTr").glob("plain_*"):
        path.unlink()
    store = converted(source, tmp_path / "store", code=3)
    assert store.case_ids == ["great", "ok"]
    assert "refused case M\\udcfcller: its name is not UTF-8; rename its files" in caplog.messages
    plain = f"{source}/imagesTr/plain"
    problem = f"it has a label and no image at {plain}_0000.nii.gz; there is {plain}.nii.gz: give it that name"
    assert f"refused case plain: {problem}" in caplog.messages
    assert json.loads((tmp_path / "store" / "errors.json").read_text())["refused"][0]["case_id"] == "M\\udcfcller"
    (source / "imagesTr" / "plain.nii.gz").unlink()
    assert [case.case_id for case in find_cases(source / "imagesTr", CHANNELS)][1:] == ["great", "ok"]
    with pytest.raises(InputError, match=rf"did you mean {source}/imagesTs or {source}/imagesTr\?"):
        find_cases(source, CHANNELS)


def test_nnunet_test_cases_convert_without_labels(tmp_path: Path) -> None:
    volumes = coordinate_volumes()
    volumes["unseen"] = (coordinate_image((5, 6, 7), 7), None)
    store = converted(write_nnunet(tmp_path / "set", volumes, file_ending=".nii"), tmp_path / "store")
    assert store.case_ids == ["case_000", "case_001", "unseen"]
    assert store.labelled_ids == ["case_000", "case_001"]
    assert store.case("unseen").label() is None


def test_nnunet_cases_that_are_not_whole_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volumes = coordinate_volumes()
    volumes |= dict.fromkeys(("lacking", "surplus", "unlabelled", "bent"), volumes["case_000"])
    source = write_nnunet(tmp_path / "set", volumes)
    (source / "imagesTr" / "lacking_0002.nii.gz").unlink()
    shutil.copy(source / "imagesTr" / "surplus_0000.nii.gz", source / "imagesTr" / "surplus_0004.nii.gz")
    (source / "labelsTr" / "unlabelled.nii.gz").unlink()
    write_nifti(source / "imagesTr" / "bent_0001.nii.gz", np.ones((6, 7, 9), np.int16))
    (source / "imagesTr" / "notes.txt").touch()
    store = converted(source, tmp_path / "store", code=3)
    assert store.case_ids == ["case_000", "case_001"]
    assert f"refused case lacking: {source}/imagesTr/lacking_0002.nii.gz: No such file" in caplog.text
    assert "surplus_0004.nii.gz is a channel that dataset.json does not name (it names 4)" in caplog.text
    remedy = "add it, or move its images to imagesTs"
    assert f"refused case unlabelled: no label at {source}/labelsTr/unlabelled.nii.gz; {remedy}" in caplog.messages
    assert "bent_0001.nii.gz has (6, 7, 9) voxels (D,H,W), bent_0000.nii.gz of the same case (6, 7, 8)" in caplog.text
    assert "1 files in" in caplog.text
    assert "notes.txt" in caplog.text


def test_nnunet_cases_may_be_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_nnunet(tmp_path / "set", coordinate_volumes())
    images = [f"imagesTr/case_001_{channel:04d}.nii.gz" for channel in range(4)]
    listed: dict[str, dict[str, Any]] = {
        "mine": {"images": images, "label": "labelsTr/case_001.nii.gz"},
        "bare": {"images": images},
    }
    (source / "dataset.json").write_text(json.dumps(NNUNET | {"dataset": listed}))
    store = converted(source, tmp_path / "store")
    assert (store.case_ids, store.labelled_ids) == (["bare", "mine"], ["mine"])
    (source / "labelsTr" / "case_001.nii.gz").unlink()
    converted(source, tmp_path / "refused", code=3)
    assert 'case_001.nii.gz; add it, or take "label" out of its entry in dataset.json' in caplog.text
    listed["mine"]["label"] = "../elsewhere.nii.gz"
    (source / "dataset.json").write_text(json.dumps(NNUNET | {"dataset": listed}))
    with pytest.raises(InputError, match="leads out of the data set's folder"):
        read_dataset(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_ending": ".png"}, r"\"file_ending\" '\.png'; NIfTI files end in \.nii\.gz"),
        ({"labels": ["background"]}, "not an nnU-Net dataset.json"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "label id '1' stands 2 times"),
        ({"channel_names": [3]}, "not an nnU-Net dataset.json"),
        ({"file_ending": ".nii"}, r"lists no case; put images such as CASE_0000\.nii into imagesTr"),
    ],
)
def test_an_nnunet_description_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source = write_nnunet(tmp_path / "set", coordinate_volumes())
    (source / "dataset.json").write_text(json.dumps(NNUNET | change))
    with pytest.raises(InputError, match=message):
        read_dataset(source)


# BraTS ------------------------------------------------------------------------------------------------------------


def test_brats_grades_in_folders_of_their_own_and_a_validation_set(tmp_path: Path) -> None:
    volumes = coordinate_volumes()
    write_brats(tmp_path / "brats" / "HGG", {"one": volumes["case_000"]})
    write_brats(tmp_path / "brats" / "LGG", {"two": volumes["case_001"]})
    write_brats(tmp_path / "brats" / "Validation", {"three": (volumes["case_000"][0], None)})
    store = converted(tmp_path / "brats", tmp_path / "store")
    assert (store.case_ids, store.labelled_ids) == (["one", "three", "two"], ["one", "two"])
    single = read_dataset(tmp_path / "brats" / "HGG" / "one")
    assert [source.case_id for source in single.sources] == ["one"]


def test_brats_cases_that_are_not_whole_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volumes = coordinate_volumes()
    names = ("lacking", "unlabelled", "twice", "newer")
    source = write_brats(tmp_path / "set", volumes | dict.fromkeys(names, volumes["case_000"]))
    (source / "lacking" / "lacking_t2.nii.gz").unlink()
    (source / "unlabelled" / "unlabelled_seg.nii.gz").unlink()
    write_nifti(source / "twice" / "twice_t1.nii", volumes["case_000"][0][..., 1])
    write_nifti(source / "newer" / "newer_seg.nii.gz", np.full(SHAPES[0], 3, np.uint8))
    store = converted(source, tmp_path / "store", code=3)
    assert store.case_ids == ["case_000", "case_001"]
    assert f"refused case lacking: {source}/lacking has no T2w file (t2 or t2w); add it" in caplog.text
    assert f"{source}/unlabelled has no seg file and its neighbours have" in caplog.text
    assert "are both its t1; remove one" in caplog.text
    assert "holds label 3, the data set names [0, 1, 2, 4]; add it to" in caplog.text


CHALLENGES = {
    "BraTS-GLI-00000-000": (["edema", "non-enhancing tumor", "enhancing tumour"], [2, 1, 3], None),
    "BraTS-SSA-00007-000": (["edema", "non-enhancing tumor", "enhancing tumour"], [2, 1, 3], None),
    "BraTS-MEN-00000-000": (
        ["surrounding FLAIR hyperintensity", "non-enhancing tumor", "enhancing tumour"],
        [2, 1, 3],
        None,
    ),
    "BraTS-MET-00000-000": (
        ["surrounding FLAIR hyperintensity", "non-enhancing tumor", "enhancing tumour"],
        [2, 1, 3],
        None,
    ),
    "BraTS-GLI-00005-100": (
        ["surrounding FLAIR hyperintensity", "non-enhancing tumor", "enhancing tumour", "resection cavity"],
        [2, 1, 3, 4],
        {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3], "RC": [4]},
    ),
    "2023/BraTS-PED-00000-000": (["edema", "non-enhancing tumor or cyst", "enhancing tumour"], [2, 1, 3], None),
    "PEDs2024_Training/BraTS-PED-00000-000": (
        ["enhancing tumour", "non-enhancing tumor", "cystic component", "edema"],
        [1, 2, 3, 4],
        {"WT": [1, 2, 3, 4], "TC": [1, 2, 3], "ET": [1], "NET": [2], "CC": [3]},
    ),
}
NESTED = {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}


def write_challenge(folder: Path, ids: list[int]) -> Path:
    """Write one case as BraTS 2023 and later name it, whose label holds ``ids``."""
    folder.mkdir(parents=True)
    for kind in NAMINGS["2023"][1]:
        write_nifti(folder / f"{folder.name}-{kind}.nii.gz", coordinate_image(SHAPES[0], 0)[..., 0])
    label = np.zeros(SHAPES[0], np.uint8)
    label.flat[: len(ids)] = ids
    write_nifti(folder / f"{folder.name}-seg.nii.gz", label)
    return folder.parent


@pytest.mark.parametrize("case", list(CHALLENGES))
def test_each_brats_challenge_has_its_own_meaning(tmp_path: Path, case: str) -> None:
    names, stored, regions = CHALLENGES[case]
    store = converted(write_challenge(tmp_path / case, list(range(1, len(stored) + 1))), tmp_path / "store")
    assert list(store.manifest.label_names.values()) == ["background", *names]
    assert store.manifest.regions == (regions or NESTED)
    label = store.case(store.case_ids[0]).label()
    assert label is not None
    assert label.ravel()[: len(stored)].tolist() == stored


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "BraTS-PED-00000-000",
            r"they changed from year to year \(2023: 1 non-enhancing .* 2024: 1 enhancing tumour.*write the year",
        ),
        (
            "BraTS-XYZ-00000-000",
            r"BraTS-XYZ-00000-000: it cannot be told what its label ids mean; known are BraTS-GLI, .*--layout list",
        ),
        ("patient_7", r"patient_7: it cannot be told what its label ids mean; known are BraTS-GLI"),
    ],
)
def test_a_challenge_that_is_not_known_is_refused_where_it_has_labels(tmp_path: Path, case: str, message: str) -> None:
    root = write_challenge(tmp_path / "set" / case, [1, 2, 3])
    with pytest.raises(InputError, match=message):
        read_dataset(root)
    assert len(find_cases(root, CHANNELS)) == 1  # to predict on it nothing has to be known of its labels
    (root / case / f"{case}-seg.nii.gz").unlink()
    assert len(read_dataset(root).sources) == 1


def test_challenges_are_not_mixed_and_a_new_id_is_not_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_challenge(tmp_path / "set" / "BraTS-GLI-00000-000", [1, 2, 3])
    root = write_challenge(tmp_path / "set" / "BraTS-MEN-00000-000", [1, 2, 3])
    with pytest.raises(
        InputError, match=r"several challenges, whose label ids differ: BraTS-GLI-00000-000 \(GLI 2023\), B"
    ):
        read_dataset(root)
    shutil.rmtree(tmp_path / "set" / "BraTS-GLI-00000-000")
    write_challenge(tmp_path / "set" / "BraTS-MEN-00001-000", [1, 4])
    converted(root, tmp_path / "store", code=3)
    assert "holds label 4, the data set names [0, 1, 2, 3]; add it to" in caplog.text


def test_brats_of_both_namings_is_not_mixed(tmp_path: Path) -> None:
    volumes = coordinate_volumes()
    write_brats(tmp_path / "set", {"one": volumes["case_000"]}, "2018")
    write_brats(tmp_path / "set", {"two": volumes["case_001"]}, "2023")
    with pytest.raises(InputError, match="1 cases are named as BraTS 2023 and 1 as BraTS 2018 to 2021"):
        read_dataset(tmp_path / "set")
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(InputError, match="no case folder in it"):
        read_dataset(tmp_path, "brats")


def test_one_id_in_a_list_is_a_region_too(tmp_path: Path) -> None:
    labels = {"background": 0, "a": [1], "b": [2], "c": [3]}
    assert read_dataset(write_nnunet(tmp_path / "set", coordinate_volumes(), labels=labels)).regions == {
        "a": (1,), "b": (2,), "c": (3,)
    }  # fmt: skip


# Tables -----------------------------------------------------------------------------------------------------------


def test_a_table_may_be_json_and_name_files_anywhere(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "scan.nii.gz", coordinate_image(SHAPES[0], 3))
    label = write_nifti(tmp_path / "truth.nii", coordinate_label(SHAPES[0]))
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "cases.json"
    labels = {"0": "background", "1": "a", "2": "b", "3": "c"}
    rows = [{"image": str(image), "label": str(label)}, {"id": "bare", "image": "../scan.nii.gz", "label": None}]
    names = {str(number): name for number, name in enumerate(CHANNELS)}
    path.write_text(json.dumps({"name": "mine", "labels": labels, "channel_names": names, "cases": rows}))
    store = converted(path, tmp_path / "store")
    assert (store.case_ids, store.labelled_ids) == (["bare", "scan"], ["scan"])
    assert (store.manifest.name, store.manifest.channel_names) == ("mine", CHANNELS)
    assert np.array_equal(store.case("scan").image(), coordinate_image(SHAPES[0], 3))


def test_rows_that_are_not_whole_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_table(tmp_path / "set", coordinate_volumes())
    path.write_text(path.read_text() + "short,anywhere/case_000.FLAIR.nii,,,,\n")
    (path.parent / "anywhere" / "case_001.nii.gz").unlink()
    assert converted(path, tmp_path / "store", code=3).case_ids == ["case_000"]
    assert f"refused case short: {path}: row 3 names no file for channel T1w; add it" in caplog.text
    missing = path.parent / "anywhere" / "case_001.nii.gz"
    assert f'no label at {missing}; add it, or leave its "label" in cases.csv empty' in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "no channel column; write a header"),
        ("a.csv", "id,T1,label\n", "no channel column|lists no case"),
        ("a.csv", "id,T1,label\na,x.nii,y.nii\n", "its labels have no names"),
        ("a.csv", "id,T1\na,x.nii,y.nii\n", "more fields than the header"),
        ("a.csv", "id,T1\na,x.nii\na,y.nii\n", "case a is listed twice"),
        ("a.json", '{"cases": {"a": 1}}', "expected a JSON list of objects"),
        ("a.json", "[1]", "expected a JSON list of objects"),
        ("a.json", '{"labels": ["x"], "cases": [{"T1": "x.nii"}]}', '"labels" and "channel_names" are objects'),
        ("a.txt", "id", r"or a list of cases in a \.csv or \.json file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path / name)


def test_an_id_that_cannot_name_a_file_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,T1\na/b,x.nii\na\\b,x.nii\nc,scans\\x.nii\n,x.mha\n")
    problems = {source.case_id: source.problem for source in read_dataset(tmp_path / "a.csv").sources}
    assert problems["a/b"] == "'a/b' cannot name a file; give it another name"
    assert problems["a\\b"] == "'a\\\\b' cannot name a file; give it another name"
    assert "x.mha: not a NIfTI file name" in problems["x.mha"]
    assert problems["c"] == ""


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,MR,MR,label", "column 'MR' stands 2 times; give each a name of its own"),
        ("id, MR ,MR,label", "column 'MR' stands 2 times"),
        ("id,MR,T2,Label", "column 'Label' would be a channel; did you mean 'label'"),
        ("id,MR,T2,mask", "column 'mask' would be a channel; did you mean 'label'"),
        ("ID,MR,T2,label", "column 'ID' would be a channel; did you mean 'id'"),
        ("Subject ID,MR,T2,label", "column 'Subject ID' would be a channel; did you mean 'id'"),
        ("id,MR,split,label", "column 'split' would be a channel; did you mean 'fold'"),
        ("id;MR;T2;label", "its header is separated by ';'; write it with commas"),
        ("id\tMR\tT2\tlabel", r"its header is separated by '\\t'; write it with commas"),
        ("a,a.nii.gz,b.nii.gz,l.nii.gz", "its first line names files; write a header above it"),
        ("id,MR,,label", "'T2' stands below a column without a name"),
    ],
)
def test_a_header_that_would_lose_something_is_refused(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "x"}}')
    mark = next((mark for mark in ";\t" if mark in header), ",")
    (tmp_path / "a.csv").write_text(f"{header}\n" + mark.join(("a", "MR", "T2", "l")) + "\n")
    with pytest.raises(InputError, match=rf"a\.csv: {message}"):
        read_dataset(tmp_path / "a.csv")


def test_a_mask_beside_a_label_is_a_channel_and_a_mark_of_the_byte_order_is_none(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "x"}}')
    (tmp_path / "a.csv").write_text("\ufeffid,MR,mask,label,\na,x.nii,y.nii,z.nii,\n", encoding="utf-8")
    dataset = read_dataset(tmp_path / "a.csv")
    assert (dataset.channel_names, [source.case_id for source in dataset.sources]) == (["MR", "mask"], ["a"])


def test_the_folds_of_a_table_are_kept(tmp_path: Path) -> None:
    path = write_table(tmp_path / "set", coordinate_volumes())
    head, *rows = path.read_text().splitlines()
    folds = ["fold", "1", "validation", "0"]
    lines = [*[head, *rows], rows[0].replace("case_000", "case_002", 1)]
    path.write_text("".join(f"{line},{fold}\n" for line, fold in zip(lines, folds, strict=True)))
    store = converted(path, tmp_path / "store")
    assert store.manifest.split == {"fold 0": ["case_002"], "fold 1": ["case_000"], "validation": ["case_001"]}
    assert store.manifest.channel_names == CHANNELS


CELLS = st.sampled_from(
    [
        "id",
        "ID",
        "label",
        "mask",
        "fold",
        "MR",
        "a.nii",
        "../a.nii",
        "b\\c.nii",
        "x.mha",
        "",
        " ",
        "\0",
        "\ud800",
        "n" * 300,
        "\ufeff",
        '"',
        "\udcfc",
    ]
)


@settings(max_examples=300)
@given(
    st.lists(st.lists(CELLS | st.text(max_size=3), max_size=5), max_size=4),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([".csv", ".json"]),
)
def test_any_table_gives_a_data_set_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], mark: str, suffix: str
) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "dataset.json").write_text('{"labels": {"0": "background", "1": "x"}}')
    path = root / f"any{suffix}"
    named = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]] if rows else []
    text = json.dumps(named) if suffix == ".json" else "\n".join(mark.join(row) for row in rows)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    logging.disable()  # lone surrogates in captured lines would end a worker of pytest-xdist
    try:
        made: Any = read_dataset(path)
    except InputError as error:
        made = str(error)
    else:
        assert converted_or_refused(path, root / "fuzzed")
    finally:
        logging.disable(logging.NOTSET)
    assert "\n" not in made if isinstance(made, str) else made.sources


def converted_or_refused(path: Path, output: Path) -> bool:
    """Convert what can be read; every file is missing, so that each case is refused by name."""
    shutil.rmtree(output, ignore_errors=True)
    return convert(Options(input=path, output=output, workers=1)) == 3


@pytest.mark.parametrize(("name", "layout"), [("cases.csv", "msd"), ("", "list")])
def test_a_layout_read_from_the_wrong_kind_of_path_is_refused(tmp_path: Path, name: str, layout: str) -> None:
    write_table(tmp_path / "set", coordinate_volumes())
    with pytest.raises(InputError, match=f"the {layout} layout is read from"):
        read_dataset(tmp_path / "set" / name, layout)
