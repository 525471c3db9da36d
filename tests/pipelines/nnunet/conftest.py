"""A data set that nnU-Net itself plans and preprocesses: thick slices, four channels, regions, an ignore label."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

NAME, CONFIGURATION = "Dataset701_Thick", "3d_fullres"
SHORT = """
import os

import torch

from pipelines.nnunet.trainer import nnUNetTrainerVoxelfeed


class nnUNetTrainerVoxelfeedShort(nnUNetTrainerVoxelfeed):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        torch.manual_seed(0)  # so that two trainings begin with the same network
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 3, 2
        self.save_every = 1

    def on_epoch_end(self):
        super().on_epoch_end()
        if os.environ.get("STOP_AFTER") == str(self.current_epoch):
            raise SystemExit("stopped, as a cluster does")
"""


@dataclass(frozen=True)
class Nnunet:
    """Folders as nnU-Net's variables name them, and its commands run in them."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        folders = {f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")}
        processes = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
        path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
        return os.environ | folders | processes | {"nnUNet_extTrainer": str(self.root / "ext"), "PYTHONPATH": path}

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / NAME

    def run(self, entries: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the console scripts that stand for ``module:function+function``, one after the other."""
        module, functions = entries.split(":")
        names = functions.split("+")
        code = f"from {module} import {', '.join(names)}\n" + "\n".join(f"{name}()" for name in names)
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.env | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    def train(self, fold: int, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        entry = "nnunetv2.run.run_training:run_training_entry"
        short = ("-tr", "nnUNetTrainerVoxelfeedShort", "-device", "cpu")
        return self.run(entry, "701", CONFIGURATION, str(fold), *short, *more, **variables)


@pytest.fixture(scope="session")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Nnunet:
    pytest.importorskip("nnunetv2")
    made = Nnunet(tmp_path_factory.mktemp("nnunet"))
    _write_raw(made.root / "raw" / NAME)
    (made.root / "ext").mkdir()
    (made.root / "ext" / "short_trainer.py").write_text(SHORT)
    entries = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"
    planned = made.run(f"{entries}:extract_fingerprint_entry+plan_experiment_entry", "-d", "701")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    _shrink(made.preprocessed / "nnUNetPlans.json")
    done = made.run(f"{entries}:preprocess_entry", "-d", "701", "-c", CONFIGURATION, "-np", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def _write_raw(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    generator = np.random.default_rng(0)
    for number in range(6):
        shape = 22 + number, 20 + 2 * number, 5 + number
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
        distance = np.sqrt(((grid - generator.uniform(-0.2, 0.2, (3, 1, 1, 1))) ** 2).sum(0))
        label = np.digitize(-distance, [-0.6, -0.45, -0.3]).astype(np.uint8)
        label[grid[0] > 0.6] = 4
        inside = (grid**2).sum(0) < 1.2  # so that nnU-Net crops, and uses the mask for its norm
        for channel in range(4):
            image = (generator.normal(100, 20, shape) + 40 * label + channel) * inside
            path = root / "imagesTr" / f"t{number}_{channel:04d}.nii.gz"
            nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)  # type: ignore[no-untyped-call]
        path = root / "labelsTr" / f"t{number}.nii.gz"
        nib.save(nib.Nifti1Image(label, affine), path)  # type: ignore[no-untyped-call]
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3, "ignore": 4}
    described: dict[str, Any] = {
        "channel_names": {str(channel): f"c{channel}" for channel in range(4)},
        "labels": labels,
        "regions_class_order": [1, 2, 3],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))


def _shrink(path: Path) -> None:
    """Make patches and network so small that a processor trains them; a patch as flat as to be augmented in 2D."""
    plans = json.loads(path.read_text())
    configuration = plans["configurations"][CONFIGURATION]
    configuration["patch_size"] = [4, 16, 16]
    configuration["use_mask_for_norm"] = [True, True, False, True]
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    path.write_text(json.dumps(plans))
