"""nnU-Net's stock commands with our trainer: train, go on after a stop, predict; and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.nnunet.feed import plan_epochs, share_of
from pipelines.nnunet.store import store_beside
from preprocessing.check import find_problems
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from tests.pipelines.nnunet.conftest import CONFIGURATION, NAME, Nnunet

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]  # nnU-Net warns, and takes its time
FOLDER = f"nnUNetTrainerVoxelfeedShort__nnUNetPlans__{CONFIGURATION}"


def weights_of(nnunet: Nnunet, fold: int) -> dict[str, Any]:
    path = nnunet.root / "results" / NAME / FOLDER / f"fold_{fold}" / "checkpoint_final.pth"
    saved: dict[str, Any] = torch.load(path, weights_only=False, map_location="cpu")
    return saved


@pytest.fixture(scope="module")
def trained(nnunet: Nnunet) -> dict[str, Any]:
    done = nnunet.train(0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Mean Validation Dice" in done.stdout
    return weights_of(nnunet, 0)


def test_the_store_beside_the_folder_is_whole(nnunet: Nnunet, trained: dict[str, Any]) -> None:
    assert trained["current_epoch"] == 2
    store = open_store(nnunet.preprocessed / f"nnUNetPlans_{CONFIGURATION}_voxelfeed")
    assert store.case_ids == [f"t{number}" for number in range(6)]
    assert list(find_problems(store, fast=False)) == []
    assert (store.manifest.modality, store.manifest.image_dtype, store.manifest.ignore_label) == (
        "prepared",
        "float32",
        5,
    )


def test_a_stopped_training_goes_on_exactly(nnunet: Nnunet, trained: dict[str, Any]) -> None:
    results = nnunet.root / "results" / NAME / FOLDER / "fold_0"
    results.rename(results.with_name("whole"))
    stopped = nnunet.train(0, STOP_AFTER="1")
    assert "stopped, as a cluster does" in stopped.stderr
    assert not (results / "checkpoint_final.pth").exists()
    done = nnunet.train(0, "--c")
    assert done.returncode == 0, done.stdout + done.stderr
    again = weights_of(nnunet, 0)
    assert again["network_weights"].keys() == trained["network_weights"].keys()
    for name, values in trained["network_weights"].items():
        assert torch.equal(values, again["network_weights"][name]), name


def test_nnunet_predicts_with_the_checkpoint(nnunet: Nnunet, trained: dict[str, Any]) -> None:
    assert trained["trainer_name"] == "nnUNetTrainerVoxelfeedShort"
    raw, output = nnunet.root / "raw" / NAME, nnunet.root / "predicted"
    done = nnunet.run(
        "nnunetv2.inference.predict_from_raw_data:predict_entry_point",
        *("-d", "701", "-i", str(raw / "imagesTr"), "-o", str(output), "-c", CONFIGURATION, "-f", "0"),
        *("-tr", "nnUNetTrainerVoxelfeedShort", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(output.glob("t*.nii.gz"))) == 6


def trainer_of(nnunet: Nnunet, monkeypatch: pytest.MonkeyPatch, **methods: Any) -> Any:
    for name, value in nnunet.env.items():
        monkeypatch.setenv(name, value)
    from pipelines.nnunet.trainer import nnUNetTrainerVoxelfeed

    plans = json.loads((nnunet.preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    described = json.loads((nnunet.preprocessed / "dataset.json").read_text())
    made = type("Changed", (nnUNetTrainerVoxelfeed,), methods)(plans, CONFIGURATION, 0, described, torch.device("cpu"))
    made._set_batch_size_and_oversample()
    return made


@pytest.mark.parametrize("name", ["get_training_transforms", "get_tr_and_val_datasets"])
def test_a_trainer_with_data_of_its_own_is_refused_in_one_line(
    nnunet: Nnunet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changed = trainer_of(nnunet, monkeypatch, **{name: staticmethod(lambda *_: None)})
    with pytest.raises(
        SystemExit, match=f"^nnUNetTrainerVoxelfeed: Changed has its own {name}, which is not used here"
    ):
        changed.get_dataloaders()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("probabilistic_oversampling", True, "probabilistic_oversampling is not drawn here"),
        ("is_cascaded", True, "configuration 3d_fullres is a cascade; take nnUNetTrainer"),
        ("device", torch.device("mps"), "device mps: batches are made on cpu or cuda"),
    ],
)
def test_what_is_not_carried_over_is_refused_in_one_line(
    nnunet: Nnunet, monkeypatch: pytest.MonkeyPatch, name: str, value: object, said: str
) -> None:
    changed = trainer_of(nnunet, monkeypatch)
    setattr(changed, name, value)
    with pytest.raises(SystemExit, match=f"^nnUNetTrainerVoxelfeed: {said}"):
        changed.get_dataloaders()


def test_2d_is_refused_in_one_line(nnunet: Nnunet, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer_of(nnunet, monkeypatch)
    made.configuration_manager.configuration["patch_size"] = [16, 16]
    with pytest.raises(SystemExit, match="configuration 3d_fullres is 2D; patches here are 3D, take nnUNetTrainer"):
        made.get_dataloaders()


def test_ranks_share_the_batch_evenly_or_are_refused() -> None:
    assert share_of([(2, 0.33)], 0).forced == 1
    share = share_of([(2, 0.0), (2, 0.5)], 1)
    assert (share.size, share.forced, share.rank, share.world_size) == (4, 1, 1, 2)
    with pytest.raises(InputError, match="batch size 3 over 2 ranks is 2, 1; choose a number of GPUs that divides it"):
        share_of([(2, 0.0), (1, 1.0)], 0)


def test_a_folder_that_changed_after_the_store_was_written_is_noticed(nnunet: Nnunet, tmp_path: Path) -> None:
    copy = tmp_path / NAME
    shutil.copytree(nnunet.preprocessed, copy)
    folder = copy / f"nnUNetPlans_{CONFIGURATION}"
    shutil.rmtree(copy / f"{folder.name}_voxelfeed", ignore_errors=True)
    store_beside(folder, ["t0"])
    assert len(store_beside(folder, ["t0", "t5"]).case_ids) == 6
    content = bytearray((folder / "t3.pkl").read_bytes())
    (folder / "t3.pkl").write_bytes(content)  # touched, and the same
    store_beside(folder, ["t0"])
    content[-30] ^= 1
    (folder / "t3.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"case t3: .*t3.pkl has changed since .*_voxelfeed was written; delete the"):
        store_beside(folder, ["t0"])
    (folder / "t3.pkl").unlink()
    with pytest.raises(InputError, match=r"case t3: .*t3.pkl is gone since"):
        store_beside(folder, ["t0"])


@pytest.mark.parametrize(("cases", "batch", "iterations"), [(16, 2, 250), (1, 2, 250), (1000, 2, 250), (5, 3, 1)])
def test_an_epoch_of_the_plan_is_at_least_nnunets(cases: int, batch: int, iterations: int) -> None:
    window, samples_per_case = plan_epochs(cases, batch, iterations)
    per_lane = -(-cases // batch)
    assert 1 <= window <= 256
    assert iterations <= per_lane * samples_per_case < iterations + per_lane


def test_the_folder_for_nnunet_is_printed_and_holds_one_module() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "pipelines.nnunet"]
    first = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    folder = Path(first.stdout.strip())
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "voxelfeed_trainer"}
    assert first.stderr == ""
    again = subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"nnUNet_extTrainer": str(folder)},
    )
    assert "names it: nnUNetv2_train finds" in again.stderr


def test_the_documentation_names_commands_that_exist_and_trainers_that_load() -> None:
    pytest.importorskip("nnunetv2")
    text = (Path(__file__).parents[3] / "docs" / "nnunet.md").read_text()
    commands = set(re.findall(r"^(nnUNetv2_\w+)", text, re.MULTILINE))
    scripts = {script.name for script in entry_points(group="console_scripts")}
    assert {"nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_plan_and_preprocess"} == commands & scripts == commands
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "class " in block:
            exec(compile(block, "docs/nnunet.md", "exec"), names)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    for name in ("nnUNetTrainerVoxelfeed_50epochs", "nnUNetTrainerVoxelfeed"):
        assert issubclass(names[name], nnUNetTrainer)
