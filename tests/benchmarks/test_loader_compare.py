"""The comparison from end to end, tiny; and that nothing wrong gets a number."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.contenders.table import CEILING, DEFAULTS, FLOOR, TABLE, USUAL
from benchmarks.loader_compare import Options, compare
from benchmarks.measuring.check import CheckError, Specification
from benchmarks.measuring.measure import CHECKED, endless
from benchmarks.measuring.origin import num_cores, slug_of
from benchmarks.measuring.rounds import Measured
from benchmarks.measuring.rows import Row, Sweep, choose_rows
from benchmarks.measuring.training_step import train
from benchmarks.reporting.comparison import ALONE, comparison_rows, describe_method, doubts
from benchmarks.reporting.page import page, tables
from benchmarks.reporting.result import check_record
from pipelines.batch import Batch
from pipelines.config import LoaderConfig
from pipelines.loaders import LOADERS, open_plan
from preprocessing.console.errors import EXIT_DONE, EXIT_UNEXPECTED, EXIT_USAGE, InputError
from preprocessing.shards.store import Store, open_store
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from tests.benchmarks.measuring.faulty_loaders import BROKEN_TABLE, faulty
from tests.conftest import coordinate_image
from tests.preprocessing.layouts.test_layout_files import write_nnunet

PATCH = (16, 16, 16)
PEERS = ("torchio", "nnunet")
ONCE = Sweep(batch_sizes=[2])
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loader_compare.py"


def options_for(store: Path, output: Path, **changes: Any) -> Options:
    tiny: dict[str, Any] = {"patch": PATCH, "runs": 2, "seconds": 0.1, "threads": 1, "workers": "0", "device": "cpu"}
    return Options(shards=store, output=output, **(tiny | changes))


def config_for(store: Path) -> LoaderConfig:
    return LoaderConfig(store=store, patch=PATCH, num_threads=2, num_workers=0, reuse_buffers=True)


def row_for(store: Path, loader: str = "dali", **changes: Any) -> Row:
    return Row(contender=TABLE[loader], config=dataclasses.replace(config_for(store), **changes))


def read_record(output: Path) -> dict[str, Any]:
    (found,) = output.glob("*.json")
    record: dict[str, Any] = json.loads(found.read_text())
    check_record(record)
    return record


@pytest.fixture(scope="module")
def output(coordinate_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compare the usual loaders; the folder of the results."""
    folder = tmp_path_factory.mktemp("results")
    assert compare(options_for(coordinate_store, folder, device="auto")) == EXIT_DONE
    return folder


def test_every_row_has_numbers(output: Path) -> None:
    record = read_record(output)
    on_cpu = [row["details"]["loader"] for row in record["rows"] if row["details"]["device"] == "cpu"]
    assert on_cpu == ["dali", "torch", "monai-cache", "synthetic", "numpy-floor"]
    for row in record["rows"]:
        assert row["failure"] is None
        assert row["group"] == ALONE
        assert len(row["details"]["runs"]) == 2
        for metric in ("patches_per_s", "mb_per_s", "first_batch_ms", "peak_memory_mb"):
            least, middle, most = (row["summary"][metric][name] for name in ("min", "median", "max"))
            assert 0 < least <= middle <= most
    assert record["data"]["cases"] == record["data"]["distinct"] == 5
    assert record["options"]["patch"] == list(PATCH)


def test_nnunets_augmentation_can_be_compared(coordinate_store: Path, tmp_path: Path) -> None:
    options = options_for(coordinate_store, tmp_path, runs=1, augment="full", loaders="dali,torch,numpy-floor")
    assert compare(options) == EXIT_DONE
    assert [row["failure"] for row in read_record(tmp_path)["rows"]] == [None] * 3


def test_rows_without_a_gpu_are_named(output: Path) -> None:
    record = read_record(output)
    if record["machine"]["gpu"] is None:
        assert [row["label"] for row in record["left_out"] if row["reason"] == "needs a GPU"] == [
            "dali, gpu, 1 thread, volumes on the device",
            "dali, gpu, 1 thread, host path",
            "torch, gpu, 0 workers",
            "monai-cache, gpu, 0 workers",
            "synthetic, gpu",
        ]
    else:
        assert {row["details"]["device"] for row in record["rows"]} == {"cpu", "gpu"}


def test_result_files_stand_side_by_side(output: Path) -> None:
    record = read_record(output)
    stem = f"{slug_of(record['machine'])}_{record['date'][:10]}"
    assert sorted(path.name for path in output.iterdir()) == [f"{stem}.{ending}" for ending in ("json", "md", "png")]
    assert (output / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    text = (output / f"{stem}.md").read_text()
    assert text == page(record, f"Loader comparison: {record['data']['name']}", output / f"{stem}.png")
    assert all(" | ".join(row) in text for row in tables(record)[0])


def test_results_name_no_path(output: Path, coordinate_store: Path) -> None:
    for path in output.glob("*.[jm]*"):
        assert str(coordinate_store.parent) not in path.read_text()


@pytest.mark.parametrize(
    ("loader_name", "augment"),
    [
        ("dali", "basic"),
        ("torch", "basic"),
        ("numpy-floor", "basic"),
        ("dali", "full"),
        ("monai-cache", "none"),
        ("monai-cache", "basic"),
        ("monai-cache", "full"),
        ("monai-smartcache", "basic"),
        ("monai-defaults", "basic"),
    ],
)
def test_right_loaders_pass_the_check(coordinate_store: Path, loader_name: str, augment: str) -> None:
    """Also over the end of an epoch, where counting goes on."""
    row = row_for(coordinate_store, loader_name, augment=augment)
    specification = Specification(row)
    with row.contender.open(row.config) as loader:
        batches = specification.watch(endless(loader))
        specification.check_first(batches, CHECKED)
        specification.warm_up(batches)
        loader.set_epoch(1)
        for number, batch in zip(range(len(loader) + 2), specification.watch(endless(loader)), strict=False):
            specification.check(batch, 1, number)


@pytest.mark.parametrize("augment", ["basic", "full"])
@pytest.mark.parametrize("peer", PEERS)
def test_peers_are_checked_and_measured(coordinate_store: Path, tmp_path: Path, peer: str, augment: str) -> None:
    if not TABLE[peer].is_installed:
        pytest.skip(f'needs {TABLE[peer].package}: pip install -e ".[peers]"')
    workers = "1" if augment == "basic" else "0"
    options = options_for(coordinate_store, tmp_path, runs=1, loaders=peer, workers=workers, augment=augment)
    assert compare(options) == EXIT_DONE
    (row,) = read_record(tmp_path)["rows"]
    assert row["failure"] is None
    assert row["details"]["checked"] == "voxels found in the volume"
    assert row["summary"]["patches_per_s"]["median"] > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SameBatch", "batch 1, slot 0, case case_00.: .* label voxels differ"),
        ("RepeatedSamples", "batch 1: its samples are not those the plan drew"),
        ("MismatchedLabels", "batch 0, slot 0, case case_00.: .* label voxels differ"),
        ("UnnormalisedImage", "batch 0, slot 0, case case_00.: image differs from the reference by 9.., allowed"),
        ("NotANumber", "image differs from the reference by nan"),
        ("HalfPrecision", "batch 0: image is torch.float16"),
        ("SmallerPatch", r"batch 0: image is torch.float32 \(2, 4, 16, 16, 15\), not"),
    ],
)
def test_faulty_loaders_are_caught(coordinate_store: Path, name: str, message: str) -> None:
    row = Row(contender=faulty(name), config=config_for(coordinate_store))
    with row.contender.open(row.config) as loader, pytest.raises(CheckError, match=message):
        Specification(row).check_first(endless(loader), CHECKED)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MonaiSameBatch", "the same voxels as in an earlier batch"),
        ("MonaiMismatchedLabels", "label voxels are not those of its place"),
        ("MonaiFlippedLabel", "label voxels are not those of its place"),
        ("MonaiUnnormalised", "image is .* times the standardised volume plus 7.., allowed are 0.9 to 1.1"),
        ("MonaiOneChannelUnnormalised", "image differs from every place of the volume by"),
        ("MonaiNoise", "image differs from every place of the volume by"),
        ("MonaiNotANumber", "image holds nan"),
        ("MonaiWrongCase", "image differs from every place of the volume by"),
        ("MonaiOneCase", "case case_00. gave .* patches, .* would be its share"),
    ],
)
def test_faulty_loaders_that_draw_are_caught(coordinate_store: Path, name: str, message: str) -> None:
    row = Row(contender=faulty(name), config=config_for(coordinate_store))
    specification = Specification(row)
    with row.contender.open(row.config) as loader, pytest.raises(CheckError, match=message):
        specification.check_first(specification.watch(endless(loader)), 40)


@pytest.mark.parametrize("name", ["MonaiNoise", "MonaiMismatchedLabels"])
def test_with_nnunets_augmentation_faults_are_caught_too(coordinate_store: Path, name: str) -> None:
    row = Row(contender=faulty(name), config=dataclasses.replace(config_for(coordinate_store), augment="full"))
    with row.contender.open(row.config) as loader, pytest.raises(CheckError, match="none of the"):
        Specification(row).check_first(endless(loader), CHECKED)


def test_the_ceiling_is_checked_for_its_form(coordinate_store: Path) -> None:
    row = row_for(coordinate_store, CEILING)
    with row.contender.open(row.config) as loader:
        batch = next(iter(loader))
    Specification(row).check(batch, 0, 7)
    with pytest.raises(CheckError, match=r"label is torch.float32"):
        Specification(row).check(Batch(image=batch.image, label=batch.label.float(), samples=batch.samples), 0, 0)


def test_failed_rows_fail_the_run_and_say_why(
    coordinate_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_for(coordinate_store, tmp_path, runs=1, loaders="all")
    assert compare(options, table=BROKEN_TABLE) == EXIT_UNEXPECTED
    record = read_record(tmp_path)
    reasons = {row["details"]["loader"]: row["failure"] for row in record["rows"]}
    assert "batch 1, slot 0" in reasons["same-batch"]
    assert "label voxels differ" in reasons["stale-later"]
    assert reasons["missing-file"] == "FileNotFoundError: STORE/shard-00000/gone.npy"
    assert "exit code 9" in reasons["killed"]
    assert not any(row["summary"] for row in record["rows"])
    assert capsys.readouterr().out.count("FAILED:") == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loaders": "dali,nope"}, "unknown 'nope'; known: auto, all, dali, torch, monai, "),
        ({"loaders": ","}, "--loaders ,: unknown"),
        ({"device": "tpu"}, "--device tpu: unknown; known: auto, cpu, gpu"),
        ({"augment": "loud"}, "unknown augment 'loud'"),
        ({"batch_size": "0"}, "--batch-size 0: give a whole number from 1 on, or several"),
        ({"batch_size": "2,x"}, "--batch-size 2,x: give a whole number"),
        ({"train": "vnet"}, "--train vnet: unknown; known: none, segresnet"),
        ({"seconds": 0.0}, "--seconds 0.0: it must be above 0"),
        ({"workers": "-1"}, "--workers -1: give a whole number from 0 on"),
        ({"patch": (4000, 4000, 4000)}, "needs about .* GiB"),
        ({"shards": Path("nowhere")}, "nowhere: no manifest.json there"),
        ({"source": Path("nowhere")}, "nowhere"),
    ],
)
def test_wrong_options_are_one_clear_line(
    coordinate_store: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    options = dataclasses.replace(options_for(coordinate_store, tmp_path / "output"), **changes)
    with pytest.raises(InputError, match=message):
        compare(options)
    assert not (tmp_path / "output").exists()


def test_rows_follow_the_device(coordinate_store: Path) -> None:
    config = config_for(coordinate_store)
    rows, left_out = choose_rows("auto", config, ONCE, "auto", has_gpu=True)
    assert {row.reason for row in left_out} == {"needs --loaders all"}
    assert {row.label for row in left_out} == set(TABLE) - set(USUAL)
    assert [row.label for row in rows if row.config.device == "gpu"] == [
        "dali, gpu, 2 threads, volumes on the device",
        "dali, gpu, 2 threads, host path",
        "torch, gpu, 0 workers",
        "monai-cache, gpu, 0 workers",
        "synthetic, gpu",
    ]
    assert [row.label for row in rows][4:6] == ["numpy-floor, cpu, 1 thread", "numpy-floor, cpu, 2 threads"]
    rows, left_out = choose_rows("dali,dali, torch", config, ONCE, "cpu", has_gpu=False)
    assert ([row.contender.name for row in rows], left_out) == (["dali", "torch"], [])
    with pytest.raises(InputError, match="no CUDA device here"):
        choose_rows("all", config, ONCE, "gpu", has_gpu=False)
    with pytest.raises(InputError, match="nothing to measure"):
        choose_rows("numpy-floor", config, ONCE, "gpu", has_gpu=True)


def test_workers_and_batch_sizes_are_swept(coordinate_store: Path) -> None:
    config, sweep = config_for(coordinate_store), Sweep(batch_sizes=[1, 4], workers=[0, 3])
    rows, _ = choose_rows("dali,torch", config, sweep, "cpu", has_gpu=False)
    assert [row.label for row in rows] == [
        "dali, cpu, 2 threads, batch 1",
        "dali, cpu, 2 threads, batch 4",
        "torch, cpu, 0 workers, batch 1",
        "torch, cpu, 3 workers, batch 1",
        "torch, cpu, 0 workers, batch 4",
        "torch, cpu, 3 workers, batch 4",
    ]
    assert [(row.config.batch_size, row.config.num_workers) for row in rows[2:]] == [(1, 0), (1, 3), (4, 0), (4, 3)]
    suited, _ = choose_rows("monai-cache,monai", dataclasses.replace(config, num_workers=2), ONCE, "cpu", has_gpu=False)
    assert [row.label for row in suited] == [
        "monai-cache, cpu, 0 workers",
        "monai-cache, cpu, 2 workers",
        "monai, cpu, 2 workers",
    ]


def test_every_batch_size_has_its_rows(coordinate_store: Path, tmp_path: Path) -> None:
    options = options_for(coordinate_store, tmp_path, runs=1, loaders="synthetic", batch_size="1,3")
    assert compare(options) == EXIT_DONE
    rows = read_record(tmp_path)["rows"]
    assert [row["details"]["batch_size"] for row in rows] == [1, 3]
    voxels = 16**3 * (4 * 4 + 1)
    for row in rows:
        run = row["details"]["runs"][0]
        assert run["mb_per_s"] / run["patches_per_s"] == pytest.approx(voxels / 1e6)


def test_loaders_are_measured_inside_the_trainers_step(coordinate_store: Path, tmp_path: Path) -> None:
    loaders = "monai-cache,synthetic,numpy-floor"
    options = options_for(coordinate_store, tmp_path, loaders=loaders, train="segresnet", seconds=1e-3)
    assert compare(options) == EXIT_DONE
    alone, training = tables(record := read_record(tmp_path))
    assert (len(alone), len(training)) == (1 + 3, 1 + 2)
    assert training[0] == ["in training, segresnet", "patches/s", "of ceiling", "waiting", "steps per rank"]
    rows = {row["details"]["loader"]: row["summary"] for row in record["rows"] if row["group"] == training[0][0]}
    assert FLOOR not in rows
    for summary in rows.values():
        assert summary["steps"]["max"] == 3  # as few as may be
        assert summary["patches_per_s"]["min"] > 0
        assert 0 <= summary["waiting"]["median"] < 1
        assert ("gpu_utilisation" in summary) == torch.cuda.is_available()
    assert rows[CEILING]["of_ceiling"]["median"] == 1
    assert rows[CEILING]["waiting"]["median"] < rows["monai-cache"]["waiting"]["median"]
    rates = [rows[name]["patches_per_s"]["median"] for name in ("monai-cache", CEILING)]
    assert rows["monai-cache"]["of_ceiling"]["median"] == pytest.approx(rates[0] / rates[1])


@pytest.fixture
def partly_annotated(tmp_path: Path) -> Store:
    """Convert a case whose image fills depth 3 to 7, with a label at depth 1 and nothing annotated at 0, 2 and 9."""
    image, label = coordinate_image((10, 11, 12), 0), np.zeros((10, 11, 12), np.uint8)
    image[:3], image[8:] = 0, 0
    label[[0, 2, 9]], label[1] = 2, 1
    labels = {"background": 0, "tumour": 1, "ignore": 2}
    write_nnunet(tmp_path / "set", {"case_0": (image, label)}, labels=labels)
    assert convert(ConvertOptions(input=tmp_path / "set", output=tmp_path / "store", workers=1)) == EXIT_DONE
    return open_store(tmp_path / "store")


@pytest.mark.parametrize("name", ["monai-cache", DEFAULTS, "torchio"])
def test_peers_cut_from_the_box_that_the_store_keeps(partly_annotated: Store, name: str) -> None:
    if not TABLE[name].is_installed:
        pytest.skip(f"needs {TABLE[name].package}")
    label = partly_annotated.case("case_0").label()
    assert label is not None
    assert label.shape == (7, 11, 12, 1)  # from depth 1 to 7: as large as the patch
    config = LoaderConfig(
        store=partly_annotated.root, patch=(7, 11, 12), batch_size=1, num_workers=0, augment="none", foreground=0.0
    )
    with TABLE[name].open(config) as loader:
        for batch in loader:
            assert torch.equal(batch.label[0, 0], torch.from_numpy(label[..., 0].copy()))


def test_the_training_step_leaves_out_what_nobody_annotated(partly_annotated: Store) -> None:
    row = row_for(Path(partly_annotated.root), "torch")
    with row.contender.open(row.config) as loader:
        assert train(row, "segresnet", loader, endless(loader), 0.01)["steps"] >= 3


def test_a_source_whose_cases_are_not_all_converted_is_not_measured(msd_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(msd_folder, tmp_path / "set")
    (source / "labelsTr" / "case_000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"set: not all of its cases could be converted \(exit code 3\)"):
        compare(options_for(tmp_path / "shards", tmp_path / "output", source=source))


def measured_as(row: Row, walls_s: Sequence[float], others_cores: float = 0.0) -> Measured:
    runs = [
        {"patches_per_s": 24 / wall_s, "first_batch_ms": 100.0, "others_cores": others_cores}
        | dict.fromkeys(("mb_per_s", "cpu_ms_per_patch", "peak_memory_mb"), 1.0)
        for wall_s in walls_s
    ]
    for run in runs:
        run["patches_per_s"] *= row.config.batch_size / 2
    return Measured(row=row, runs=runs)


def test_a_noisy_machine_is_said(coordinate_store: Path) -> None:
    row = row_for(coordinate_store)

    def doubts_of(others_cores: float, walls_s: tuple[float, float, float]) -> list[str]:
        return doubts(comparison_rows([measured_as(row, walls_s, others_cores)], "store"))

    assert doubts_of(0.01, (1.0, 1.05, 1.1)) == []
    (disturbed,) = doubts_of(num_cores() / 2, (1.0, 1.0, 1.0))
    assert disturbed.startswith(f"other processes took some of the {num_cores()} cores from dali, cpu, 2 threads (")
    (uneven,) = doubts_of(0.0, (1.0, 1.0, 2.0))
    assert uneven == "runs lie far apart of dali, cpu, 2 threads (50%)"


def test_each_row_is_compared_with_the_floor_and_dali_of_its_batch_size(coordinate_store: Path) -> None:
    """The floor makes 12 patches/s at batch 1 and 8 at batch 4, dali 6 and 4: half as many."""
    measured = [
        measured_as(row_for(coordinate_store, FLOOR, batch_size=1), [1.0, 2.0]),
        measured_as(row_for(coordinate_store, batch_size=1), [2.0, 4.0]),  # in each round half as fast
        measured_as(row_for(coordinate_store, FLOOR, batch_size=4), [6.0]),
        measured_as(row_for(coordinate_store, batch_size=4), [12.0]),
        measured_as(row_for(coordinate_store, "torch", batch_size=4), [36.0]),
        measured_as(row_for(coordinate_store, "torch", batch_size=2), [1.0]),
        measured_as(row_for(coordinate_store, CEILING, batch_size=4), [1.0]),
    ]
    summaries = [row["summary"] for row in comparison_rows(measured, "store")]
    shares = [summary.get("of_floor") for summary in summaries]
    assert [share and (share["min"], share["max"]) for share in shares] == [
        (1, 1), (0.5, 0.5), (1, 1), (0.5, 0.5), (pytest.approx(1 / 6),) * 2, None, None
    ]  # fmt: skip
    ratios = [summary["dali_is"]["median"] if "dali_is" in summary else None for summary in summaries]
    assert ratios == [0.5, None, 0.5, None, pytest.approx(3), None, None]


def test_what_has_no_epochs_shows_no_first_batch(coordinate_store: Path) -> None:
    rows = [row_for(coordinate_store, name) for name in ("dali", *PEERS, "monai-cache")]
    made = comparison_rows([measured_as(row, [1.0]) for row in rows], "store")
    assert [row["summary"].get("first_batch_ms", {}).get("median") for row in made] == [100, None, None, 100]
    assert any("The streams of torchio and nnunet have no epochs" in line for line in describe_method(rows))


def test_started_as_a_file_from_anywhere(coordinate_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--shards", str(coordinate_store), "--loaders", "nope"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USAGE
    rest = ", ".join(list(TABLE)[1:])
    assert done.stderr == f"error: --loaders nope: unknown 'nope'; known: auto, all, dali, {rest}\n"


def test_options_are_these() -> None:
    names = "source shards loaders patch batch_size augment output runs seconds threads workers device train"
    assert [field.name for field in dataclasses.fields(Options)] == names.split()


def test_the_loaders_of_the_table_are_compared(coordinate_store: Path) -> None:
    assert set(LOADERS) < set(TABLE)
    assert all(name == one.name for name, one in TABLE.items())
    _, plan = open_plan(config_for(coordinate_store))
    assert plan.options.patch == PATCH


def test_machines_are_named_without_their_host() -> None:
    intel = {"cpu": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz", "cores": 16, "gpu": "NVIDIA H100 80GB HBM3"}
    assert slug_of(intel) == "intel-xeon-platinum-8488c-16-cores-nvidia-h100-80gb-hbm3"
    assert slug_of({"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "gpu": None}) == "intel-xeon-2-cores"
