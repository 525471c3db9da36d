"""Files with mutated headers and gzip streams: predicted and scored, or refused by name.

As many as wanted: ``PYTHONPATH=. python tests/training/test_fuzz.py 20000``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from preprocessing.console.errors import InputError
from preprocessing.volumes.statistics import ChannelStatistics
from tests.conftest import coordinate_label
from tests.preprocessing.conftest import write_nifti
from tests.preprocessing.volumes.test_fuzz import SHAPE, mutated
from training.evaluate import Options as EvaluateOptions
from training.evaluate import evaluate
from training.inference.outputs import DESCRIPTION
from training.model.checkpoint import save_checkpoint
from training.model.grids import SeenGrids
from training.model.networks import NETWORKS, STRIDE, InputGrid
from training.model.spec import ModelSpec
from training.predict import Options as PredictOptions
from training.predict import predict

BATCH = 100  # files in a folder
MOST_GIB = 2**-8
NAMES = {0: "background", 1: "one", 2: "two", 3: "three"}
DESCRIBED: dict[str, Any] = {
    "label_names": NAMES,
    "groups": {name: [number] for number, name in NAMES.items() if number},
    "ignore_label": None,
}


def write_checkpoint(path: Path) -> Path:
    """Keep a network of one convolution, trained on LPS with voxels of 1,1.5,2 mm."""
    statistics = ChannelStatistics(voxels=1, mean=0.0, std=1.0, percentile_00_5=0.0, percentile_99_5=1.0)
    sizes = 1.0, 1.5, 2.0
    spec = ModelSpec(
        net="one convolution", geometry=InputGrid(patch=(8, 8, 8)), channel_names=["T1"], label_names=NAMES,
        modality="mr", channels=[statistics], regions=None, crop_foreground=True,
        seen=SeenGrids(orientations={"LPS": 1}, spacing=sizes, smallest=sizes, largest=sizes),
    )  # fmt: skip
    torch.manual_seed(0)
    save_checkpoint(path, {"model": spec.build().state_dict(), "spec": spec.to_plain()})
    return path


def check_predict(folder: Path, count: int, draw: random.Random, *, like_training: bool) -> Counter[str]:
    """Predict a folder of mutated files; returns how many were predicted and refused by name."""
    images, output = folder / "images", folder / "predictions"
    images.mkdir(parents=True)
    for number in range(count):
        (images / f"odd{number}.nii.gz").write_bytes(mutated(draw))
    options = PredictOptions(
        checkpoint=write_checkpoint(folder / "best.pt"), input=images, output=output, device="cpu", overlap=0.0,
        max_volume_gib=MOST_GIB, like_training=like_training,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        code = predict(options)
    made = list(output.glob("*.nii.gz"))
    for path in made:
        written: Any = nib.load(path)
        assert set(np.unique(np.asanyarray(written.dataobj))) <= set(NAMES)
    assert code == (0 if len(made) == count else 3)
    return Counter(predicted=len(made), refused=count - len(made))


def spoilt_description(draw: random.Random) -> bytes:
    """Make what predict says of its predictions, whole or spoilt in one place."""
    content = bytearray(json.dumps(DESCRIBED).encode())
    if draw.random() < 0.5:
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def check_evaluate(folder: Path, count: int, draw: random.Random, *, is_described: bool) -> Counter[str]:
    """Score mutated files as predictions or as labels; returns how many were scored and refused."""
    for name in ("labels", "predictions"):
        (folder / name).mkdir(parents=True)
        write_nifti(folder / name / "good.nii.gz", coordinate_label(SHAPE))
    for number in range(count):
        sides = ["labels", "predictions"]
        draw.shuffle(sides)
        write_nifti(folder / sides[0] / f"odd{number}.nii.gz", coordinate_label(SHAPE))
        (folder / sides[1] / f"odd{number}.nii.gz").write_bytes(mutated(draw))
    if is_described:
        (folder / "predictions" / DESCRIPTION).write_bytes(spoilt_description(draw))
    options = EvaluateOptions(
        predictions=folder / "predictions", labels=folder / "labels", output=folder / "E",
        hd95_penalty=draw.random() < 0.5, ignore_affine=draw.random() < 0.5,
    )  # fmt: skip
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            code = evaluate(options)
    except InputError as error:
        is_named = DESCRIPTION in str(error) or "nothing to score" in str(error)
        return Counter({"refused" if is_named else f"refused without its name: {error}": count})
    scores = json.loads((folder / "E" / "scores.json").read_text())
    assert code == (3 if scores["refused"] else 0)
    assert all(str(folder) in reason for reason in scores["refused"])
    num_scored = len(scores["cases"].keys() - {"good"})
    return Counter(scored=num_scored, refused=count - num_scored)


def check(one_folder: Callable[..., Counter[str]], folder: Path, count: int, flag: str) -> Counter[str]:
    """Go through folders of ``BATCH`` files until there were ``count``."""
    draw, ended = random.Random(count), Counter[str]()
    for number in range(-(-count // BATCH)):
        ended += one_folder(folder / str(number), min(BATCH, count), draw, **{flag: number % 2 == 0})
    return ended


@pytest.fixture
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "one convolution", lambda task, _: torch.nn.Conv3d(1, task.out_channels, 1))
    monkeypatch.setitem(STRIDE, "one convolution", 4)


@pytest.mark.usefixtures("_small_network")
def test_mutated_files_are_predicted_or_refused_by_name(tmp_path: Path) -> None:
    ended = check(check_predict, tmp_path, 200, "like_training")
    assert set(ended) == {"predicted", "refused"}
    assert min(ended.values()) > 20


def test_mutated_files_are_scored_or_refused_by_name(tmp_path: Path) -> None:
    ended = check(check_evaluate, tmp_path, 200, "is_described")
    assert set(ended) == {"scored", "refused"}
    assert min(ended.values()) > 8  # a twelfth has the size and place of its label


def main(count: int) -> None:
    """Predict and score as many mutated files as asked."""
    logging.disable()
    torch.set_num_threads(1)
    NETWORKS["one convolution"] = lambda task, _: torch.nn.Conv3d(1, task.out_channels, 1)
    STRIDE["one convolution"] = 4
    for one_folder, flag in ((check_predict, "like_training"), (check_evaluate, "is_described")):
        with tempfile.TemporaryDirectory() as folder:
            ended = check(one_folder, Path(folder), count, flag)
        print(f"{one_folder.__name__}: {count} files: {dict(ended)}")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
