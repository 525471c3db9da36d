"""Finding the cases of a data set: what dataset.json lists, and one clear line for whatever is wrong with it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.console.errors import InputError
from preprocessing.layouts.dataset import Dataset
from preprocessing.layouts.known import read_dataset

GOOD: dict[str, Any] = {
    "name": "good",
    "modality": {"0": "FLAIR", "1": "T1w"},
    "labels": {"0": "background", "1": "edema"},
    "training": [
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
        {"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"},
    ],
    "test": ["./imagesTs/c.nii.gz"],
}


def described(root: Path, content: object) -> Path:
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_the_msd_layout_is_read_as_it_is_described(tmp_path: Path) -> None:
    dataset = read_dataset(described(tmp_path, GOOD))
    assert [source.case_id for source in dataset.sources] == ["a", "b", "c"]
    assert [source.label for source in dataset.sources] == [
        tmp_path / "labelsTr/a.nii",
        tmp_path / "labelsTr/b.nii.gz",
        None,
    ]
    assert (dataset.name, dataset.modality) == ("good", "mr")
    assert dataset.channel_names == ["FLAIR", "T1w"]
    assert dataset.label_names == {0: "background", 1: "edema"}


def test_channels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    many = {str(number): f"channel {number}" for number in (10, 2, 0, 1)}
    names = read_dataset(described(tmp_path, GOOD | {"modality": many})).channel_names
    assert names == ["channel 0", "channel 1", "channel 2", "channel 10"]


@pytest.mark.parametrize(("channels", "modality"), [(["CT"], "ct"), (["ct scan"], "ct"), (["CT", "PET"], "mr")])
def test_ct_is_told_by_the_channel_names(tmp_path: Path, channels: list[str], modality: str) -> None:
    content = GOOD | {"modality": {str(number): name for number, name in enumerate(channels)}}
    assert read_dataset(described(tmp_path, content)).modality == modality


@pytest.mark.parametrize(
    ("change", "channels"),
    [
        ({"labels": {"background": 0, "edema": 1}}, ["FLAIR", "T1w"]),  # as nnU-Net v2 writes them
        ({"labels": {"background": "0", "edema": "1"}}, ["FLAIR", "T1w"]),
        ({"modality": {"T1w": 1, "FLAIR": "0"}}, ["FLAIR", "T1w"]),
        ({"modality": ["FLAIR", "T1w"]}, ["FLAIR", "T1w"]),
        ({"modality": "CT"}, ["CT"]),
    ],
)
def test_labels_and_channels_may_be_written_either_way_round(
    tmp_path: Path, change: dict[str, Any], channels: list[str]
) -> None:
    text = "\ufeff" + json.dumps(GOOD | change)  # Notepad's mark at the beginning too
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    dataset = read_dataset(tmp_path)
    assert (dataset.channel_names, dataset.label_names) == (channels, {0: "background", 1: "edema"})


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Python keeps the last and says nothing."""
    text = json.dumps(GOOD).replace('"1": "edema"', '"1": "edema", "1": "core"')
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json: key '1' stands 2 times"):
        read_dataset(tmp_path)


def test_test_entries_may_be_objects_and_the_list_may_be_absent(tmp_path: Path) -> None:
    dataset = read_dataset(described(tmp_path, GOOD | {"test": [{"image": "imagesTs/c.nii.gz"}]}))
    assert dataset.sources[2].case_id == "c"
    without = {key: value for key, value in GOOD.items() if key not in ("test", "name")}
    dataset = read_dataset(described(tmp_path, without))
    assert (len(dataset.sources), dataset.name) == (2, tmp_path.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": [{"image": "../a.nii.gz", "label": "b.nii.gz"}]}, r"'\.\./a\.nii\.gz' leads out of"),
        ({"training": [{"image": "a.nii.gz", "label": "/elsewhere/b.nii.gz"}]}, "'/elsewhere/b.nii.gz' leads out of"),
        ({"test": ["x/../../c.nii.gz"]}, "leads out of the data set's folder"),
        ({"test": ["imagesTs/b.nii.gz"]}, "case b is listed twice"),
        ({"training": GOOD["training"] * 2, "test": []}, "case b is listed twice"),
        ({"test": ["x\\..\\c.nii.gz"]}, "leads out of the data set's folder; name files in it, without .. .links"),
        ({"test": ["C:\\c.nii.gz"]}, "leads out of the data set's folder"),
        ({"test": ["s3://bucket/c.nii.gz"]}, "leads out of the data set's folder"),
        ({"training": [], "test": []}, "lists no case"),
        ({"training": [{"image": "a.nii.gz"}]}, "'label' is missing"),
        ({"training": None}, "not an MSD dataset.json"),
        ({"training": ["a.nii.gz"]}, "not an MSD dataset.json"),
        ({"labels": ["background"]}, "not an MSD dataset.json"),
        (
            {"labels": {"0": "background", "1": "lesion", "2": "lesion"}},
            "label name 'lesion' stands 2 times; give each",
        ),
        ({"labels": {"background": 0, "lesion": 1, "cyst": "1"}}, "label id '1' stands 2 times; give each"),
        ({"modality": [3]}, "not an MSD dataset.json"),
        ({"modality": [float("inf")]}, "not an MSD dataset.json"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset(described(tmp_path, GOOD | change))


def test_a_link_may_lead_out(tmp_path: Path) -> None:
    """Caches and data versioning make such data sets."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "imagesTr").symlink_to(tmp_path)
    assert len(read_dataset(described(tmp_path / "inside", GOOD)).sources) == 3


def test_a_name_that_cannot_be_used_costs_one_case(tmp_path: Path) -> None:
    long, odd = "n" * 241, os.fsdecode(b"M\xfcller")
    test = [
        "c.mha",
        f"imagesTs/{long}.nii.gz",
        f"imagesTs/{'n' * 240}.nii.gz",
        f"imagesTs/{odd}.nii.gz",
        "imagesTs/.nii",
    ]
    test += [f"{'n' * 300}/a1.nii.gz", "a\0b/a2.nii.gz", "\ud800/a3.nii.gz", f"imagesTs\\{'m' * 260}.nii.gz"]
    test += ["imagesTs/GREAT.NII.GZ", "imagesTs\\windows.nii.gz"]
    sources = read_dataset(described(tmp_path, GOOD | {"test": test})).sources
    problems = {source.case_id[-12:]: source.problem for source in sources if source.problem}
    assert problems == {
        "": "'' cannot name a file; give it another name",
        "M\\udcfcller": "its name is not UTF-8; rename its files",
        "c.mha": f"{tmp_path}/c.mha: not a NIfTI file name (expected one ending in .nii.gz or .nii or .hdr or .hdr.gz)",
        **dict.fromkeys(("a1", "a2", "a3", "m" * 12), "the path of one of its files cannot be one; correct it"),
        "n" * 12: "its name has 241 bytes, 240 at most can name its files; shorten it",
    }
    images = {source.case_id: source.images[0] for source in sources if not source.problem}
    assert list(images)[:3] == ["GREAT", "a", "b"]
    assert images["windows"] == tmp_path / "imagesTs/windows.nii.gz"


@pytest.mark.parametrize("text", ["", "{", "[]", "nan", "\ufeff[]"])
def test_a_description_that_is_not_a_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json: (not readable JSON|expected a JSON object)"):
        read_dataset(tmp_path)


def test_missing_folders_descriptions_and_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; give the data set's folder with --input"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"neither dataset.json nor BraTS folders in it; known"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match="this layout needs it"):
        read_dataset(tmp_path, "msd")
    with pytest.raises(InputError, match="--layout bids: unknown; known: auto, msd, nnunet, brats, list"):
        read_dataset(tmp_path, "bids")


def test_images_that_are_not_listed_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "imagesTr").mkdir()
    for name in ("a.nii", "orphan.nii.gz", "._b.nii.gz"):
        (tmp_path / "imagesTr" / name).touch()
    with caplog.at_level(logging.WARNING):
        read_dataset(described(tmp_path, GOOD))
    assert [record.getMessage() for record in caplog.records] == [
        f"1 images are not listed in dataset.json and are left out, the first: {tmp_path}/imagesTr/orphan.nii.gz"
    ]


def test_validation_cases_are_kept_with_their_labels_and_every_omission_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, name in (("imagesVa", "spare.nii"), ("labelsTr", "spare.nii"), ("labelsTr", "b.nii.gz")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).touch()
    validation = [{"image": "imagesVa/v.nii", "label": "labelsVa/v.nii"}, "imagesVa/w.nii"]
    test = [{"image": "imagesTs/t.nii", "label": "labelsTs/t.nii"}]
    content = GOOD | {"validation": validation, "test": test, "numTraining": 9}
    dataset = read_dataset(described(tmp_path, content))
    labels = {source.case_id: source.label for source in dataset.sources}
    assert (list(labels), dataset.split) == (["a", "b", "t", "v", "w"], {"validation": ["v", "w"]})
    assert (labels["v"], labels["w"], labels["t"]) == (tmp_path / "labelsVa/v.nii", None, None)
    path = tmp_path / "dataset.json"
    assert caplog.messages == [
        f"{path}: numTraining is 9, the training cases are 2",
        f'1 cases under "test" in {path} are converted without the labels that they have, the first: imagesTs/t.nii',
        f"1 images are not listed in dataset.json and are left out, the first: {tmp_path}/imagesVa/spare.nii",
        f"1 labels are not listed in dataset.json and are left out, the first: {tmp_path}/labelsTr/spare.nii",
    ]


def test_validation_cases_may_be_listed_under_training_too(tmp_path: Path) -> None:
    dataset = read_dataset(described(tmp_path, GOOD | {"validation": GOOD["training"][1:], "numTraining": 2}))
    assert ([source.case_id for source in dataset.sources], dataset.split) == (["a", "b", "c"], {"validation": ["a"]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["image", "label", "0"]), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional={key: JSON | st.just(GOOD[key]) for key in GOOD}))
def test_any_json_gives_a_data_set_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    root = described(tmp_path_factory.getbasetemp(), content)
    try:
        made: Dataset | str = read_dataset(root)
    except InputError as error:
        made = str(error)
    assert made.startswith(str(root)) if isinstance(made, str) else made.sources
