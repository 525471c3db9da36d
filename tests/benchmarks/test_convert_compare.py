"""The conversion comparison runs, tiny, and its record says what was measured."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.contenders.converters import CONVERSIONS, NNUNET, Work, conversions_here, remade
from benchmarks.convert_compare import CONVERSION, FLOOR, OURS, SCALING, Options, compare
from benchmarks.measuring.origin import REPOSITORY
from preprocessing.console.errors import InputError
from preprocessing.layouts.known import read_dataset
from tests.conftest import coordinate_image, coordinate_label
from tests.preprocessing.layouts.test_layout_files import write_brats, write_nnunet


@pytest.fixture
def work(msd_folder: Path, tmp_path: Path) -> Work:
    dataset = read_dataset(msd_folder)
    return Work(dataset=dataset, source=dataset.sources[0], folder=remade(tmp_path / "case"))


def test_a_comparison_leaves_a_record_a_page_and_a_picture(msd_folder: Path, tmp_path: Path) -> None:
    options = Options(source=msd_folder, output=tmp_path / "results", cases=2, runs=2, scaling_cases=3)
    assert compare(options) == 0
    (path,) = (tmp_path / "results").glob("convert_*.json")
    record = json.loads(path.read_text())
    rows = {row["label"]: row["summary"] for row in record["rows"] if row["group"] == CONVERSION}
    assert list(rows) == list(conversions_here())
    for summary in rows.values():
        assert summary["cpu_s"]["min"] <= summary["cpu_s"]["median"] <= summary["cpu_s"]["max"]
        assert summary["wall_s"]["min"] > 0
    assert rows[FLOOR]["times_floor"]["median"] == 1
    ratio = rows["MONAI + torch.save"]["cpu_s"]["median"] / rows[OURS]["cpu_s"]["median"]
    assert rows["MONAI + torch.save"]["times_ours"]["median"] == ratio
    assert "times_ours" not in rows[OURS]
    scaling = [row for row in record["rows"] if row["group"] == SCALING]
    assert [row["label"] for row in scaling] == ["voxelfeed, 1 worker", "voxelfeed, 2 workers"]
    assert path.with_suffix(".png").stat().st_size > 1000
    page = path.with_suffix(".md").read_text()
    assert all(f"| {name} |" in page for name in conversions_here())
    assert str(msd_folder) not in page + path.read_text()


@pytest.mark.parametrize("name", list(CONVERSIONS))
def test_every_row_keeps_every_voxel_it_promises(work: Work, name: str) -> None:
    if name == NNUNET:
        pytest.importorskip("nnunetv2", reason='needs nnunetv2: pip install "voxelfeed[peers]"')
    CONVERSIONS[name](work)
    image = coordinate_image((20, 24, 28), 0)
    size = sum(path.stat().st_size for path in work.folder.rglob("*") if path.is_file())
    if name != NNUNET:  # which compresses
        assert size >= image.size  # uint8 at least: nothing was left out
    if name == "nibabel + np.save":
        np.testing.assert_array_equal(np.load(work.folder / "0.npy").transpose(2, 1, 0, 3), image)
    if name == NNUNET:
        import blosc2

        data, seg = (blosc2.open(str(work.folder / f"{stem}.b2nd")) for stem in ("case", "case_seg"))
        np.testing.assert_array_equal(seg[0], coordinate_label((20, 24, 28)))
        assert abs(float(data[0].mean())) < 1e-4
    if name == "MONAI + torch.save":
        made: Any = torch.load(work.folder / "case.pt")
        assert made["image"].shape == (4, 28, 24, 20)
        assert abs(float(made["image"][0].mean())) < 1e-4


@pytest.mark.parametrize("write", [write_brats, write_nnunet])
def test_other_layouts_are_refused_at_the_start(tmp_path: Path, write: Callable[..., Path]) -> None:
    """The peers' rows take one image file per case, and copies of the cases are made in MSD layout only."""
    volumes = {"case_0": (coordinate_image((8, 9, 10), 0), coordinate_label((8, 9, 10)))}
    source = write(tmp_path / "set", volumes)
    with pytest.raises(InputError, match=r"--source .*set has to be in MSD layout: .*dataset\.json"):
        compare(Options(source=source, output=tmp_path / "output", cases=1, runs=1))
    assert not (tmp_path / "output").exists()


def test_a_source_without_labels_is_refused(msd_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(msd_folder, tmp_path / "set")
    described = json.loads((source / "dataset.json").read_text())
    described |= {"training": [], "test": [entry["image"] for entry in described["training"]]}
    (source / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="set: no labelled case in it"):
        compare(Options(source=source))


def test_wrong_usage_and_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--runs and --cases are at least 1"):
        compare(Options(source=tmp_path, runs=0))
    monkeypatch.setattr(sys, "argv", ["convert_compare.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / "benchmarks" / "convert_compare.py"), run_name="__main__")
    assert ended.value.code == 0
