"""A network that was trained on prepared arrays predicts on a store of such, never on files that nobody prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preprocessing.console.errors import InputError
from preprocessing.conversion.prepared import WriterOptions, write_cases
from preprocessing.conversion.prepared_case import PreparedCase
from preprocessing.layouts.dataset import Dataset
from training.inference.inputs import find_inputs
from training.model.networks import InputGrid
from training.model.spec import ModelSpec


def test_stores_are_predicted_on_and_files_refused(tmp_path: Path) -> None:
    dataset = Dataset(
        name="p", root=tmp_path, channel_names=["T1"], label_names={0: "no", 1: "yes"}, modality="prepared", sources=[]
    )
    image = np.random.default_rng(0).normal(size=(4, 5, 6, 1)).astype(np.float32)
    cases = {"a": lambda: PreparedCase(case_id="a", image=image, label=None)}
    store = write_cases(tmp_path / "store", dataset, cases, WriterOptions(dtype="int16"))
    grid = InputGrid(patch=(4, 4, 4), spacing_mm=(1.0, 1.0, 1.0))
    spec = ModelSpec.from_plain(ModelSpec.of_store(store.manifest, "unet", grid).to_plain())
    assert spec.channels[0].std == 1024
    (found,) = find_inputs(tmp_path / "store", spec, 1.0)
    assert np.abs(found.read()[0].voxels / 1024 - image).max() <= 2.0**-11
    with pytest.raises(InputError, match="trained on arrays that were prepared elsewhere, and files are not prepared"):
        find_inputs(tmp_path, spec, 1.0)
