"""A study: all folds, killed and stopped on the way or not, give one table, which is that of the label maps."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.reference import intensity_of
from preprocessing.console.errors import InputError
from preprocessing.shards.store import open_store
from training.inference.predictor import Predictor
from training.inference.sliding import Sliding, predict_volume
from training.model.checkpoint import load_checkpoint
from training.options import Options as RunOptions
from training.study import Options, run_flags, study
from training.trainer.validate import OVERLAP

FOLDS = 2


@pytest.fixture(scope="module")
def options(tiny_options: RunOptions, tmp_path_factory: pytest.TempPathFactory) -> Options:
    given = {field.name: getattr(tiny_options, field.name) for field in dataclasses.fields(RunOptions)}
    given |= {"folds": FOLDS, "epochs": 2, "output": tmp_path_factory.mktemp("study") / "whole"}
    return Options(**given)


@pytest.fixture(scope="module")
def whole(options: Options) -> Path:
    assert study(options) == 0
    return options.output


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return content


def start(options: Options) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    words = [sys.executable, "-m", "training.study", *run_flags(options)]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_the_table_is_that_of_the_label_maps(whole: Path, options: Options) -> None:
    """Dice of every held-out case, by a formula of this test's own, on maps of each fold's best model."""
    content, store = content_of(whole), open_store(options.shards)
    seen: list[str] = []
    for fold, scores in enumerate(content["cases"]):
        kept = load_checkpoint(whole / f"fold_{fold}" / "checkpoints" / "best.pt")
        predictor = Predictor.from_checkpoint(kept, Sliding(overlap=OVERLAP, amp=None), torch.device("cpu"))
        for case_id, structures in scores.items():
            case = store.case(case_id)
            label = case.label()
            assert label is not None
            intensity = intensity_of(case, store.manifest)
            predicted = predict_volume(predictor.network, case.image(), intensity, predictor.spec, predictor.how)
            for name, numbers in predictor.spec.groups.items():
                one, other = np.isin(predicted, numbers), np.isin(label[..., 0], numbers)
                dice = 2 * (one & other).sum() / (one.sum() + other.sum())
                assert structures[name]["dice"] == pytest.approx(dice, abs=1e-6)
            seen.append(case_id)
    assert sorted(seen) == sorted(store.labelled_ids)  # every case once
    for name, pooled in content["pooled"]["all folds"].items():
        values = [case[name]["dice"] for scores in content["cases"] for case in scores.values()]
        assert pooled["dice"]["mean"] == pytest.approx(np.mean(values))
        assert pooled["dice"]["std"] == pytest.approx(np.std(values, ddof=1))
        assert pooled["dice"]["cases"] == len(values)
    page = (whole / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    for words in ("2 folds", "all folds", "fold 1", seen[0]):
        assert words in page


def test_killed_and_stopped_it_ends_with_the_same_table(whole: Path, options: Options, tmp_path: Path) -> None:
    options = dataclasses.replace(options, output=tmp_path / "again")
    first = start(options)
    wait_for(options.output / "fold_0" / "metrics.jsonl", first)
    first.kill()  # the fold that is being trained hears of it, saves and ends
    first.communicate()
    second = start(options)
    wait_for(options.output / "fold_1" / "checkpoints" / "last.pt", second)
    second.send_signal(signal.SIGTERM)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0, said
    third = start(options)
    said = third.communicate(timeout=240)[1]
    assert third.returncode == 0, said
    again, expected = content_of(options.output), content_of(whole)
    assert again == expected


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fold": 1}, "--fold and --resume are the study's own"),
        ({"resume": "auto"}, "--fold and --resume are the study's own"),
        ({"folds": 0}, "a study needs --folds 2 or more, or --splits FILE"),
        ({"processes": 0}, "--processes 0: at least 1"),
    ],
)
def test_what_a_study_cannot_do_is_one_line(options: Options, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        study(dataclasses.replace(options, **wrong))


def test_a_split_files_folds_are_all_trained(options: Options, tmp_path: Path) -> None:
    ids = open_store(options.shards).labelled_ids
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ids[1:], "val": ids[:1]}, {"train": ids[:-1], "val": ids[-1:]}]))
    options = dataclasses.replace(options, splits=path, output=tmp_path / "S", epochs=1, samples_per_case=1)
    assert study(options) == 0
    assert [list(scores) for scores in content_of(tmp_path / "S")["cases"]] == [ids[:1], ids[-1:]]
