"""Patches and targets are nnU-Net's own, bit by bit, and lie where its rule would put them."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.batch import Batch
from pipelines.nnunet.feed import Targets
from pipelines.plan import Plan, PlanOptions
from tests.pipelines.nnunet.conftest import CONFIGURATION, Nnunet

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]  # nnU-Net warns, and takes its time
PATCHES = 208


@pytest.fixture
def trainer(nnunet: Nnunet, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in nnunet.env.items():
        monkeypatch.setenv(name, value)
    from pipelines.nnunet.trainer import nnUNetTrainerVoxelfeed

    plans = json.loads((nnunet.preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    described = json.loads((nnunet.preprocessed / "dataset.json").read_text())
    made = nnUNetTrainerVoxelfeed(plans, CONFIGURATION, 0, described, torch.device("cpu"))
    made.num_val_iterations_per_epoch = PATCHES // 2
    made.initialize()
    return made


def own_transforms(trainer: Any) -> Any:
    labels = trainer.label_manager
    return trainer.get_validation_transforms(
        trainer._get_deep_supervision_scales(),
        regions=labels.foreground_regions if labels.has_regions else None,
        ignore_label=labels.ignore_label,
    )


def test_patches_and_all_targets_equal_nnunets_own(trainer: Any) -> None:
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

    train, feed = trainer.get_dataloaders()
    transforms, padded, patch = own_transforms(trainer), 0, trainer.configuration_manager.patch_size
    _, validation = trainer.get_tr_and_val_datasets()
    plan, lanes = feed._loader.plan, feed._loader.lanes
    for step in range(PATCHES // 2):
        made = next(feed)
        for index, sample in enumerate(plan.batch(0, step, lanes)):
            data, seg, _, _ = validation.load_case(sample.case_id)
            box = [[first, first + side] for first, side in zip(sample.position_dhw, patch, strict=True)]
            padded += any(low < 0 or high > size for (low, high), size in zip(box, data.shape[1:], strict=True))
            wanted = transforms(
                image=torch.from_numpy(crop_and_pad_nd(data, box, 0)),
                segmentation=torch.from_numpy(crop_and_pad_nd(seg, box, -1)).to(torch.int16),
            )
            assert torch.equal(made["data"][index], wanted["image"])
            assert len(made["target"]) == len(wanted["segmentation"]) == 2
            for ours, theirs in zip(made["target"], wanted["segmentation"], strict=True):
                assert ours.dtype == theirs.dtype == torch.bool
                assert torch.equal(ours[index], theirs)
    assert padded > 20
    assert made["data"].is_contiguous()
    train.close()
    feed.close()


def test_augmented_patches_are_zero_outside_the_mask_in_the_channels_that_use_it(trainer: Any) -> None:
    train, feed = trainer.get_dataloaders()
    plan = train._loader.plan
    assert (plan.options.augment, plan.options.patch_rule, trainer.inference_allowed_mirroring_axes) == (
        "full",
        "nnunet",
        (0, 1, 2),
    )
    outside = kept = 0
    for _ in range(30):
        batch = next(iter(train._loader))
        mask = batch.label == 0
        outside += int(mask.sum())
        made = train._targets.make(batch)
        for channel, is_masked in enumerate((True, True, False, True)):
            values = made["data"][:, channel : channel + 1][mask]
            kept += 0 if is_masked else int((values != 0).sum())
            assert not is_masked or (values == 0).all()
    assert outside > 100
    assert kept > 0  # noise and brightness reach there, which the mask is for
    train.close()
    feed.close()


def test_masking_and_class_ids_are_those_of_nnunets_transforms() -> None:
    pytest.importorskip("batchgeneratorsv2")
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
    from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
    from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

    generator = torch.Generator().manual_seed(0)
    image = torch.randn((3, 2, 6, 9, 7), generator=generator).contiguous(memory_format=torch.channels_last_3d)
    seg = torch.randint(-1, 4, (3, 1, 6, 9, 7), generator=generator).to(torch.int16)
    scales: list[list[float]] = [[1, 1, 1], [1, 0.5, 0.5], [0.5, 0.25, 0.25]]
    batch = Batch(image=image.clone(), label=(seg + 1).to(torch.uint8), samples=(), cases=("a", "b", "c"))
    made = Targets(scales=scales, regions=None, masked=[1]).make(batch)
    for index in range(3):
        given = {"image": image[index].contiguous().clone(), "segmentation": seg[index].clone()}
        for transform in (MaskImageTransform([1]), RemoveLabelTansform(-1, 0), DownsampleSegForDSTransform(scales)):
            given = transform(**given)
        assert torch.equal(made["data"][index], given["image"])
        for ours, theirs in zip(made["target"], given["segmentation"], strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours[index], theirs)


@pytest.mark.parametrize("has_ignore", [False, True])
def test_patches_lie_where_nnunets_loader_puts_them(has_ignore: bool) -> None:
    pytest.importorskip("nnunetv2")
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    generator = random.Random(0)
    for _ in range(60):
        shape = tuple(generator.randint(1, 12) for _ in range(3))
        patch = (generator.randint(1, 9), generator.randint(1, 9), generator.randint(1, 9))
        voxels = {number: [generator.randrange(side) for side in shape] for number in (0, 1)}
        lists = {number: np.array([voxel], np.uint16) for number, voxel in voxels.items() if number or has_ignore}
        case = SimpleNamespace(shape_dhw=shape, spacing_mm=(1.0, 1.0, 1.0), foreground=lambda lists=lists: lists)
        options = PlanOptions(seed=0, global_batch=2, patch=patch, samples_per_case=400, patch_rule="nnunet")
        plan = Plan(SimpleNamespace(case=lambda _, case=case: case), ["a"], options)
        labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=has_ignore)
        theirs = nnUNetDataLoader(SimpleNamespace(identifiers=["a"]), 2, patch, patch, labels, 0.5)
        locations = {1: [[0, *voxels[1]]]} | ({(-1, 0, 1): [[0, *voxels[0]]]} if has_ignore else {})
        for lane in range(2):
            assert theirs.get_do_oversample(lane) == (lane == 1)
            wanted = {tuple(map(int, theirs.get_bbox(shape, lane == 1, locations)[0])) for _ in range(400)}
            found = {plan.sample(0, step, lane).position_dhw for step in range(400)}
            if len(wanted) < 20:  # all of them are likely to have been drawn then
                assert found == wanted
            assert [(min(p), max(p)) for p in zip(*found, strict=True)] == [
                (min(p), max(p)) for p in zip(*wanted, strict=True)
            ]
