"""What nnU-Net, NVIDIA's example, MIST and MONAI have prepared, brought into a store as it is."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.console.errors import InputError
from preprocessing.conversion.from_arrays import ArrayPairs, import_arrays
from preprocessing.conversion.from_monai import MonaiCases, import_monai
from preprocessing.conversion.from_nnunet import import_nnunet, open_nnunet, readers
from preprocessing.conversion.plain_pickle import read_plain_pickle
from preprocessing.conversion.prepared import write_cases
from tests.conftest import coordinate_image, coordinate_label, write_msd

SHAPE = (6, 7, 8)
NAMES = {0: "background", 1: "a", 2: "b", 3: "c"}


@pytest.mark.parametrize("channels", ["first", "last"])
def test_pairs_of_arrays_keep_voxels_and_order(tmp_path: Path, channels: str) -> None:
    image, label = coordinate_image(SHAPE, 0).astype(np.float32), coordinate_label(SHAPE)
    np.save(tmp_path / "one_x.npy", image if channels == "last" else image.transpose(3, 0, 1, 2))
    np.save(tmp_path / "one_y.npy", label[..., None] if channels == "last" else label[None])
    np.save(tmp_path / "two_x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    pairs = ArrayPairs(
        folder=tmp_path, channel_names=list("abcd"), label_names=NAMES, channels=channels, spacing_mm=(3.0, 1.0, 1.0)
    )
    store = import_arrays(pairs, tmp_path / "store")
    assert store.case_ids == ["one"]
    assert "two_x.npy: cannot be read (Object arrays cannot be loaded" in (tmp_path / "store/errors.json").read_text()
    case = store.case("one")
    stored = case.label()
    assert stored is not None
    assert np.array_equal(case.image(), image)
    assert np.array_equal(stored[..., 0], label)
    assert case.spacing_mm == (3.0, 1.0, 1.0)


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*_x.npy there"):
        import_arrays(ArrayPairs(folder=tmp_path, channel_names=["a"], label_names=NAMES), tmp_path / "store")


def test_monai_transforms_run_up_to_the_first_random_one(tmp_path: Path) -> None:
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd, ScaleIntensityd

    root = write_msd(tmp_path / "msd", [SHAPE, SHAPE])
    listed = json.loads((root / "dataset.json").read_text())["training"]
    items = [{key: str(root / entry[key]) for key in ("image", "label")} for entry in listed]
    keys = ("image", "label")
    prepare = [LoadImaged(keys), EnsureChannelFirstd(keys), ScaleIntensityd("image", minv=-1, maxv=1)]
    transform = Compose([*prepare, RandFlipd(keys, prob=1.0)])
    store = import_monai(
        MonaiCases(items=items, transform=transform, channel_names=list("abcd"), label_names=NAMES), tmp_path / "store"
    )
    assert store.case_ids == ["case_000", "case_001"]
    for number, name in enumerate(store.case_ids):
        case, image = store.case(name), coordinate_image(SHAPE, number).astype(np.float32)
        stored = case.label()
        assert stored is not None
        wanted = (image - image.min()) / (image.max() - image.min()) * 2 - 1
        assert np.allclose(case.image(), wanted, atol=1e-6)
        assert np.array_equal(stored[..., 0], coordinate_label(SHAPE))
        assert case.spacing_mm == (2.0, 1.5, 1.0)
        assert [record.name.rpartition("/")[2] for record in case.entry.sources] == [f"{name}.nii.gz"] * 2


class Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("echo pwned",)


def test_only_plain_values_are_unpickled(tmp_path: Path) -> None:
    plain = {
        "spacing": [np.float64(1.5)],
        "class_locations": {1: np.arange(8).reshape(2, 4), (1, 2): []},
        "nested": OrderedDict(a=(True, None, "text", b"bytes")),
    }
    for protocol in range(3, 6):
        path = tmp_path / "plain.pkl"
        path.write_bytes(pickle.dumps(plain, protocol))
        assert repr(read_plain_pickle(path)) == repr(plain)
    for content, said in ((pickle.dumps(Runs()), "names .*system"), (b"no pickle", "not a readable pickle")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_plain_pickle(path)


def write_preprocessed(root: Path, labels: dict[str, Any], ids: Any) -> Path:
    """Write two cases as nnUNetv2_preprocess does; returns their folder."""
    blosc2 = pytest.importorskip("blosc2")
    folder = root / "Dataset001_Coordinates" / "nnUNetPlans_3d_fullres"
    folder.mkdir(parents=True)
    described = {"channel_names": {"0": "a", "1": "b"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    (folder.parent / "dataset.json").write_text(json.dumps(described))
    plans = {"configurations": {"3d_fullres": {"data_identifier": folder.name, "spacing": [3.0, 1.0, 1.0]}}}
    (folder.parent / "nnUNetPlans.json").write_text(json.dumps(plans))
    for number in range(2):
        image, label = coordinate_image(SHAPE, number)[..., 2:].astype(np.float32), ids.astype(np.int16)
        blosc2.asarray(np.ascontiguousarray(np.moveaxis(image, -1, 0)), urlpath=str(folder / f"c{number}.b2nd"))
        blosc2.asarray(label[None], urlpath=str(folder / f"c{number}_seg.b2nd"))
        keys: tuple[Any, ...] = ((1, 2), (2,), (-1, 0, 1, 2)) if "whole" in labels else (1, 2)
        voxels = {key: np.argwhere(np.isin(label[None], key)) for key in keys}
        (folder / f"c{number}.pkl").write_bytes(pickle.dumps({"class_locations": voxels}))
    return folder


def test_nnunet_arrays_labels_and_lists_come_as_they_are(tmp_path: Path) -> None:
    ids = coordinate_label(SHAPE).astype(np.int16) - 1  # -1 to 2
    folder = write_preprocessed(tmp_path, {"background": 0, "a": 1, "b": 2}, ids)
    store = import_nnunet(folder, tmp_path / "store")
    opened = open_nnunet(folder, keep_mask=True)
    masked = write_cases(tmp_path / "masked", opened.dataset, readers(opened))
    for number, name in enumerate(("c0", "c1")):
        for each, wanted in ((store, np.maximum(ids, 0)), (masked, ids + 1)):
            case = each.case(name)
            label = case.label()
            assert label is not None
            assert np.array_equal(case.image(), coordinate_image(SHAPE, number)[..., 2:])
            assert np.array_equal(label[..., 0], wanted)
            assert case.spacing_mm == (3.0, 1.0, 1.0)
            assert len(case.entry.sources) == 3
        kept = store.case(name).foreground()
        assert {key: voxels.tolist() for key, voxels in kept.items()} == {
            key: np.argwhere(ids == key).tolist() for key in (1, 2)
        }
        assert set(masked.case(name).foreground()) == {2, 3}
    assert masked.manifest.label_remap == {0: 1, 1: 2, 2: 3}


def test_nnunet_regions_and_ignored_voxels_keep_their_lists(tmp_path: Path) -> None:
    ids = coordinate_label(SHAPE).astype(np.int16)  # 3 is ignored
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    store = import_nnunet(write_preprocessed(tmp_path, labels, ids), tmp_path / "store")
    assert (store.manifest.regions, store.manifest.ignore_label) == ({"whole": [1, 2], "core": [2]}, 3)
    kept = store.case("c0").foreground()
    lists = {-1: (1, 2), -2: (2,), 0: (0, 1, 2)}
    assert {key: voxels.tolist() for key, voxels in kept.items()} == {
        key: np.argwhere(np.isin(ids, numbers)).tolist() for key, numbers in lists.items()
    }


def test_the_import_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_preprocessed(tmp_path, {"background": 0, "a": 1, "b": 2}, coordinate_label(SHAPE) % 3)
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / "preprocessed" / "Dataset004_Hippocampus").symlink_to(folder.parent)
    text = (Path(__file__).parents[3] / "docs" / "nnunet.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import_nnunet" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/nnunet.md", "exec"), {})
    assert capsys.readouterr().out == "2 prepared\n"


def test_nnunet_folders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folder = write_preprocessed(tmp_path, {"background": 0, "a": 1, "b": 2}, coordinate_label(SHAPE) % 3)
    plans = folder.parent / "nnUNetPlans.json"
    described = json.loads(plans.read_text())
    described["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0]
    plans.write_text(json.dumps(described))
    with pytest.raises(InputError, match="configuration 3d_fullres is 2D; patches here are 3D"):
        open_nnunet(folder)
    plans.unlink()
    with pytest.raises(InputError, match="no plans there that made nnUNetPlans_3d_fullres"):
        open_nnunet(folder)
    labels = {"background": 0, "a": 255}
    (folder.parent / "dataset.json").write_text(json.dumps({"channel_names": {"0": "a"}, "labels": labels}))
    with pytest.raises(InputError, match="label id 255; a store holds ids up to 254"):
        open_nnunet(folder, keep_mask=True)
