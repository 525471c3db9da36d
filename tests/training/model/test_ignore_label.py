"""Voxels that nobody annotated (nnU-Net's label "ignore") count nowhere: not in the store, the losses or the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipelines.config import LoaderConfig
from pipelines.loaders import MONAI
from preprocessing.console.errors import InputError
from preprocessing.layouts.ids import consecutive_ids
from preprocessing.layouts.known import read_dataset
from preprocessing.shards.store import Store, open_store
from preprocessing.to_shards import Options, convert
from tests.conftest import coordinate_image, coordinate_label
from tests.pipelines.test_loaders import PLANNED, build_loader
from tests.preprocessing.layouts.test_layout_files import Volumes, write_nnunet
from training.evaluate import Options as EvaluateOptions
from training.evaluate import evaluate
from training.inference.scores import Groups, counted, dice_of
from training.model.losses import LOSSES, build_loss
from training.model.networks import InputGrid, SegmentationTask
from training.model.spec import ModelSpec

SHAPE = (10, 11, 12)
LABELS = {"background": 0, "edema": 1, "core": 2, "ignore": 3}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


def nnunet_folder(root: Path, labels: Mapping[str, object]) -> Path:
    """Write two cases; a quarter of the voxels of each have label 3."""
    volumes: Volumes = {f"case_{n}": (coordinate_image(SHAPE, n), coordinate_label(SHAPE)) for n in range(2)}
    return write_nnunet(root, volumes, labels=dict(labels))


@pytest.fixture(params=[LABELS, REGIONS], ids=["classes", "regions"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    assert convert(Options(input=nnunet_folder(tmp_path / "set", request.param), output=tmp_path / "store")) == 0
    return open_store(tmp_path / "store")


def test_the_store_keeps_the_label_and_counts_it_nowhere(store: Store) -> None:
    assert (store.manifest.ignore_label, 3 in store.manifest.label_names) == (3, False)
    assert "ignore" not in (store.manifest.regions or {})
    case = store.case("case_0")
    label = case.label()
    assert label is not None
    assert 3 in label
    assert set(case.entry.labels) == {0, 1, 2}
    assert set(case.foreground()) == {1, 2}
    spec = ModelSpec.of_store(store.manifest, "unet", InputGrid(patch=(16, 16, 16)))
    assert spec.task.out_channels == (3 if store.manifest.regions is None else 2)


@pytest.mark.parametrize("name", [*PLANNED, *MONAI])
def test_loaders_tell_which_voxels_do_not_count(store: Store, name: str) -> None:
    made = []
    for regions in {False, store.manifest.regions is not None}:
        config = LoaderConfig(store=store.root, patch=(8, 8, 8), regions=regions, num_workers=0)
        with build_loader(name, config) as loader:
            made.append(next(iter(loader)).label)
    ignored = made[0] == 3
    assert ignored.any()
    if len(made) == 2:
        assert made[1].shape[1] == 3  # two regions and the map of what to ignore
        assert torch.equal(made[1][:, 2:] == 1, ignored)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("has_regions", [True, False])
def test_the_loss_is_that_of_the_voxels_that_count(name: str, has_regions: bool) -> None:
    task = SegmentationTask(in_channels=1, out_channels=2 if has_regions else 3, has_regions=has_regions)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, task.out_channels, 8, 8, 8, generator=generator, requires_grad=True)
    label = torch.randint(0, 2, (2, 2 if has_regions else 1, 8, 8, 8), generator=generator)
    known = build_loss(name, task)(logits[..., :5], label[..., :5])
    if has_regions:
        label = torch.cat([label, torch.zeros_like(label[:, :1])], dim=1)
        label[..., 5:] = torch.tensor([0, 0, 1]).reshape(1, 3, 1, 1, 1)
    else:
        label[..., 5:] = 3
    loss = build_loss(name, task, ignore_label=3)
    torch.testing.assert_close(loss(logits, label), known)
    (gradient,) = torch.autograd.grad(loss(logits, label), logits)
    assert gradient[..., :5].any()
    assert not gradient[..., 5:].any()
    deep = torch.stack([logits, logits], dim=1)
    torch.testing.assert_close(loss(deep, label), known)
    nothing = label.clone()
    nothing[1] = label[1, ..., 7:]  # all of the second sample is ignored
    assert 0 < loss(logits, nothing) < known
    assert torch.isfinite(torch.autograd.grad(loss(logits, nothing), logits)[0]).all()


def test_scores_do_not_see_ignored_voxels(tmp_path: Path) -> None:
    true = coordinate_label(SHAPE)
    predicted = np.where(true == 3, 1, true).astype(np.uint8)
    groups: Groups = {"edema": (1,), "core": (2,)}
    assert dice_of(*counted(predicted, true, 3), groups) == {"edema": 1.0, "core": 1.0}
    assert dice_of(*counted(predicted, true, None), groups)["edema"] < 1
    for folder, label in (("P", predicted), ("L", true)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / folder / "a.nii.gz")  # type: ignore[no-untyped-call]
    (tmp_path / "P" / "prediction.json").write_text(json.dumps({"groups": groups, "ignore_label": 3}))
    options = EvaluateOptions(predictions=tmp_path / "P", labels=tmp_path / "L", output=tmp_path / "E")
    assert evaluate(options) == 0
    assert json.loads((tmp_path / "E" / "scores.json").read_text())["mean"]["edema"]["dice"] == 1


@pytest.mark.parametrize("number", [1, [3], [1, 2]])
def test_an_ignore_label_that_is_none_is_refused(tmp_path: Path, number: object) -> None:
    root = nnunet_folder(tmp_path / "set", LABELS | {"ignore": number})
    with pytest.raises(InputError, match=r"dataset\.json: "):
        read_dataset(root)


def test_an_ignore_label_above_255_is_stored_after_the_others(tmp_path: Path) -> None:
    root = nnunet_folder(tmp_path / "set", LABELS | {"ignore": 300})
    dataset, _ = consecutive_ids(read_dataset(root), None)
    assert dataset.ignore_label == max(dataset.label_names) + 1
    assert dataset.label_remap[300] == dataset.ignore_label
