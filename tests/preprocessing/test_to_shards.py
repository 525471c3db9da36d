"""Converting whole data sets: nothing lost, nothing half-made, bad cases named, restarts byte-identical."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.check import Options as CheckOptions
from preprocessing.check import check
from preprocessing.console.errors import CaseError, InputError
from preprocessing.conversion import single_writer
from preprocessing.conversion.finish import common_dtype
from preprocessing.conversion.single_writer import only_writer
from preprocessing.phantom import PhantomOptions, make_phantom
from preprocessing.shards.case import Case
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options, convert
from preprocessing.volumes.geometry import restore_to_source
from preprocessing.volumes.statistics import DTYPES, LOSSLESS_DTYPES
from tests.conftest import coordinate_image, coordinate_label, write_msd
from tests.preprocessing.conftest import (
    AFFINE,
    ROOT,
    Command,
    kill,
    nibabel_voxels,
    nifti_bytes,
    run_process,
    start,
    tree_bytes,
    wait_until,
    write_nifti,
)


def assert_holds_the_source(case: Case, source: Path) -> None:
    """Compare every voxel of image and label with what nibabel reads from the case's files."""
    wanted = nibabel_voxels(source / "imagesTr" / f"{case.case_id}.nii.gz")
    wanted = wanted.reshape(*wanted.shape[:3], -1)
    image, label = case.image(), case.label()
    for channel in range(wanted.shape[3]):
        restored = restore_to_source(image[..., channel], case.origin_dhw, case.source_shape_dhw)
        assert np.array_equal(restored, wanted[..., channel])
    assert label is not None
    restored = restore_to_source(label[..., 0], case.origin_dhw, case.source_shape_dhw)
    assert np.array_equal(restored, nibabel_voxels(source / "labelsTr" / f"{case.case_id}.nii.gz"))


def leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*.tmp")]


# Nothing is lost --------------------------------------------------------------------------------------------------


def test_a_store_holds_exactly_what_nibabel_reads(msd_folder: Path, coordinate_store: Path) -> None:
    store = open_store(coordinate_store)
    assert len(store.case_ids) == 5
    for case_id in store.case_ids:
        assert_holds_the_source(store.case(case_id), msd_folder)
    assert store.manifest.channel_names == ["FLAIR", "T1w", "t1gd", "T2w"]
    assert store.manifest.regions == {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}


def single_case(source: Path, case_id: str, target: Path) -> Path:
    """Copy one case of a real data set, with its description, into ``target``."""
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
        shutil.copy(source / folder / f"{case_id}.nii.gz", target / folder)
    described = json.loads((source / "dataset.json").read_text())
    described["training"] = [entry for entry in described["training"] if case_id in entry["image"]]
    (target / "dataset.json").write_text(json.dumps(described))
    return target


@pytest.mark.data
def test_a_real_case_is_kept_exactly_in_half_the_bytes(real_data: Path, tmp_path: Path) -> None:
    source = single_case(real_data / "Task01_BrainTumour", "BRATS_002", tmp_path / "msd")
    assert convert(Options(input=source, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    case = store.case("BRATS_002")
    assert_holds_the_source(case, source)
    assert case.entry.image.size_bytes <= 0.5 * (4 * 240 * 240 * 155 * 2)
    assert case.image().dtype == np.int16
    assert check(CheckOptions(shards=tmp_path / "store")) == 0


@pytest.mark.data
def test_real_cases_of_two_dtypes_are_kept_exactly(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "Task04_Hippocampus"
    described = json.loads((source / "dataset.json").read_text())
    images = [source / entry["image"] for entry in described["training"]]
    dtypes = {nibabel_voxels(path).dtype.kind: path for path in images[:12]}
    assert set(dtypes) == {"u", "f"}
    target = tmp_path / "msd"
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
        for path in dtypes.values():
            shutil.copy(source / folder / path.name, target / folder)
    described["training"] = [
        entry for entry in described["training"] if Path(entry["image"]).name in {path.name for path in dtypes.values()}
    ]
    (target / "dataset.json").write_text(json.dumps(described))
    assert convert(Options(input=target, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    for case_id in store.case_ids:
        assert_holds_the_source(store.case(case_id), target)


def test_cases_keep_their_own_dtype_and_the_manifest_the_common_one(small_msd: Path, tmp_path: Path) -> None:
    image = coordinate_image((6, 7, 8), 0).astype(np.float32)
    image[0, 0, 0, 0] = np.nan
    image[1, 1, 1, 1] = 0.5
    write_nifti(small_msd / "imagesTr" / "case_000.nii.gz", image)
    write_nifti(small_msd / "imagesTr" / "case_001.nii.gz", coordinate_image((7, 6, 5), 1) - np.int16(500))
    assert convert(Options(input=small_msd, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    assert [str(store.case(name).image().dtype) for name in store.case_ids] == ["float32", "int16", "uint8"]
    assert store.manifest.image_dtype == "float32"
    assert store.case("case_000").entry.nonfinite_voxels == 1


def test_float16_is_recorded_as_lossy(small_msd: Path, tmp_path: Path) -> None:
    image = coordinate_image((6, 7, 8), 0) + np.int16(2048)
    write_nifti(small_msd / "imagesTr" / "case_000.nii.gz", image)
    assert convert(Options(input=small_msd, output=tmp_path / "store", workers=1, dtype="float16")) == 0
    manifest = open_store(tmp_path / "store").manifest
    assert (manifest.image_dtype, manifest.max_abs_error) == ("float16", 1.0)
    assert manifest.options["dtype"] == "float16"


@given(st.lists(st.sampled_from([name for name in DTYPES if name != "auto"]), min_size=1))
def test_the_common_dtype_holds_all_and_is_the_smallest(names: list[str]) -> None:
    common = common_dtype(names)
    assert all(np.can_cast(name, common, casting="safe") for name in names)
    smaller = [name for name in LOSSLESS_DTYPES if np.dtype(name).itemsize < np.dtype(common).itemsize]
    assert not any(all(np.can_cast(name, other, casting="safe") for name in names) for other in smaller)


def test_the_manifest_pools_the_statistics_of_all_cases_exactly(coordinate_store: Path) -> None:
    store = open_store(coordinate_store)
    for channel, pooled in enumerate(store.manifest.channels):
        every = np.concatenate([store.case(name).image()[..., channel].reshape(-1) for name in store.case_ids])
        every = every[every != 0].astype(np.float64)
        assert pooled.voxels == every.size
        assert pooled.mean == pytest.approx(every.mean(), rel=1e-12)
        assert pooled.std == pytest.approx(every.std(), rel=1e-9)


def ct_msd(root: Path, *, labelled: int, unlabelled: int) -> Path:
    """Make CT cases, each of air with a body and a labelled organ in it; those without a label come first."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    training, test = [], []
    for number in range(unlabelled + labelled):
        voxels, label = np.full((8, 9, 10), -1000, np.int16), np.zeros((8, 9, 10), np.uint8)
        voxels[1:7, 1:7, 1:7] = coordinate_image((6, 6, 6), number)[..., 0]
        label[2:5, 2:5, 2:5] = 1
        image = f"imagesTr/case_{number:03d}.nii.gz"
        write_nifti(root / image, voxels)
        if number < unlabelled:
            test.append(image)
            continue
        write_nifti(root / image.replace("images", "labels"), label)
        training.append({"image": image, "label": image.replace("images", "labels")})
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}
    (root / "dataset.json").write_text(json.dumps(described | {"training": training, "test": test}))
    return root


@pytest.mark.parametrize(("labelled", "unlabelled"), [(3, 0), (3, 1), (1, 5), (0, 2)])
def test_ct_is_normalised_by_labelled_voxels_whatever_else_is_listed(
    tmp_path: Path, labelled: int, unlabelled: int
) -> None:
    source = ct_msd(tmp_path / "msd", labelled=labelled, unlabelled=unlabelled)
    assert convert(Options(input=source, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    cases = [store.case(name) for name in store.labelled_ids or store.case_ids]
    chosen = [
        image[image != 0 if label is None else label > 0] for image, label in ((c.image(), c.label()) for c in cases)
    ]
    every, (pooled,) = np.concatenate(chosen).astype(np.float64), store.manifest.channels
    assert (len(cases), pooled.voxels) == (labelled or unlabelled, every.size)
    assert pooled.mean == pytest.approx(every.mean(), rel=1e-12)
    assert pooled.std == pytest.approx(every.std(), rel=1e-9)
    assert (pooled.percentile_00_5 < 0) == (labelled == 0)  # air, which would take up nearly the whole range


def test_ct_is_stored_whole_since_zero_is_water(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = ct_msd(tmp_path / "msd", labelled=1, unlabelled=0)
    voxels = coordinate_image((8, 9, 10), 0)[..., 0]
    voxels[:2], voxels[:, -1] = 0, 0
    write_nifti(source / "imagesTr" / "case_000.nii.gz", voxels)
    with caplog.at_level("INFO"):
        assert convert(Options(input=source, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    assert (store.case("case_000").origin_dhw, store.case("case_000").shape_dhw) == ((0, 0, 0), (8, 9, 10))
    assert_holds_the_source(store.case("case_000"), source)
    assert store.manifest.options["crop_foreground"] is False  # as predictions will do
    assert "CT is stored whole: 0 is water there, not background" in caplog.messages
    for crop in (True, False):
        again = Options(input=source, output=tmp_path / "store", workers=1, crop_foreground=crop)
        assert convert(again) == 0  # the shards are kept


@pytest.mark.parametrize(("per_shard", "sizes"), [(0, [1, 1, 1]), (2, [2, 1]), (9, [3])])
def test_cases_are_dealt_into_shards_in_order(
    small_msd: Path, tmp_path: Path, per_shard: int, sizes: list[int]
) -> None:
    convert(Options(input=small_msd, output=tmp_path / "store", workers=1, cases_per_shard=per_shard))
    store = open_store(tmp_path / "store")
    assert [len(shard.case_ids) for shard in store.manifest.shards] == sizes
    assert store.case_ids == ["case_000", "case_001", "case_002"]


def test_the_number_of_processes_does_not_change_a_byte(
    msd_folder: Path, coordinate_store: Path, tmp_path: Path
) -> None:
    options = Options(input=msd_folder, output=tmp_path / "store", workers=3, cases_per_shard=2)
    assert convert(options) == 0
    assert tree_bytes(tmp_path / "store") == tree_bytes(coordinate_store)


# Bad cases --------------------------------------------------------------------------------------------------------


def spoilt_msd(root: Path) -> tuple[Path, dict[str, str]]:
    """Make three good cases and one of every kind of bad one; returns the folder and each bad case's reason."""
    shape = (6, 7, 8)
    write_msd(root, [shape] * 11)
    image, label = root / "imagesTr", root / "labelsTr"
    moved = AFFINE.copy()
    moved[2, 3] = 40
    ones = coordinate_label(shape)
    cut = (image / "case_002.nii.gz").read_bytes()
    (image / "case_002.nii.gz").write_bytes(cut[: len(cut) // 2])
    (image / "case_003.nii.gz").unlink()
    (label / "case_004.nii.gz").unlink()
    write_nifti(label / "case_005.nii.gz", coordinate_label((6, 7, 9)))
    write_nifti(label / "case_006.nii.gz", ones, affine=moved)
    write_nifti(label / "case_007.nii.gz", np.where(ones == 3, 2.5, ones).astype(np.float32))
    write_nifti(label / "case_008.nii.gz", np.where(ones == 3, 7, ones).astype(np.uint8))
    write_nifti(image / "case_009.nii.gz", coordinate_image(shape, 9)[..., :3])
    (image / "case_010.nii.gz").write_bytes(nifti_bytes(coordinate_image(shape, 10))[:-1])
    return root, {
        "case_002": "broken or truncated gzip",
        "case_003": "case_003.nii.gz: No such file or directory",
        "case_004": 'no label at {root}/labelsTr/case_004.nii.gz; add it, or list the image under "test"',
        "case_005": "has (6, 7, 9) voxels (D,H,W), its image (6, 7, 8)",
        "case_006": "another affine than its image (they differ by up to 40)",
        "case_007": "holds 2.5 in",
        "case_008": "holds label 7, the data set names [0, 1, 2, 3]",
        "case_009": "has 3 channels, there should be 4 (FLAIR, T1w, t1gd, T2w)",
        "case_010": "truncated: its header promises 3040 bytes, it holds 3039",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_cases_are_named_and_the_good_ones_converted(tmp_path: Path, workers: int) -> None:
    source, reasons = spoilt_msd(tmp_path / "msd")
    output = tmp_path / "store"
    ended = run_process(
        "preprocessing.to_shards", "--input", source, "--output", output, "--workers", workers, "--cases-per-shard", 4
    )
    assert ended.code == 3
    assert "Traceback" not in ended.errors
    assert leftovers(output) == []
    refused = {
        entry["case_id"]: entry["reason"] for entry in json.loads((output / "errors.json").read_text())["refused"]
    }
    assert list(refused) == list(reasons)
    for case_id, reason in reasons.items():
        assert reason.format(root=source) in refused[case_id]
        assert str(source) in refused[case_id]
        assert f"refused case {case_id}: {refused[case_id]}" in ended.errors
    assert "2 cases in 3 shards" in ended.errors.splitlines()[-1]
    assert ended.errors.endswith(f"9 refused, see {output}/errors.json\n")
    store = open_store(output)
    assert store.case_ids == ["case_000", "case_001"]
    for case_id in store.case_ids:
        assert_holds_the_source(store.case(case_id), source)
    assert check(CheckOptions(shards=output)) == 0


def test_affines_that_differ_can_be_accepted(tmp_path: Path, command: Command) -> None:
    source, reasons = spoilt_msd(tmp_path / "msd")
    output = tmp_path / "store"
    ended = command(convert, Options, "--input", source, "--output", output, "--workers", 1, "--ignore-affine", "true")
    assert ended.code == 3
    refused = json.loads((output / "errors.json").read_text())["refused"]
    assert {entry["case_id"] for entry in refused} == set(reasons) - {"case_006"}
    assert "case_006" in open_store(output).case_ids


def test_a_set_without_one_good_case_makes_an_empty_store(small_msd: Path, tmp_path: Path) -> None:
    shutil.rmtree(small_msd / "labelsTr")
    assert convert(Options(input=small_msd, output=tmp_path / "store", workers=1)) == 3
    assert open_store(tmp_path / "store").case_ids == []
    assert check(CheckOptions(shards=tmp_path / "store")) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_on_error_ends_in_one_line_and_can_go_on(small_msd: Path, tmp_path: Path, workers: int) -> None:
    (small_msd / "labelsTr" / "case_001.nii.gz").unlink()
    output = tmp_path / "store"
    arguments = ["--input", small_msd, "--output", output, "--workers", workers, "--regions", "none"]
    ended = run_process("preprocessing.to_shards", *arguments, "--on-error", "stop")
    assert ended.code == 3
    assert ended.errors.startswith("error: case case_001: no label at ")
    assert ended.errors.count("\n") == 1
    assert leftovers(output) == []
    assert not (output / "manifest.json").exists()
    assert (output / "shard-00000").is_dir()
    assert convert(Options(input=small_msd, output=output, workers=1, regions="none")) == 3
    assert open_store(output).case_ids == ["case_000", "case_002"]


# Wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "{root}/nowhere"], "{root}/nowhere: no such folder; give the data set's folder with --input"),
        (
            ["--input", "{root}"],
            "{root}: neither dataset.json nor BraTS folders in it; known layouts: msd, nnunet, brats, list",
        ),
        (["--layout", "bids"], "--layout bids: unknown; known: auto, msd, nnunet, brats, list"),
        (["--dtype", "int12"], "--dtype int12: unknown; known: auto, uint8, int16, uint16, float32, float16"),
        (["--max-volume-gib", "inf"], "--max-volume-gib inf: give a positive number of GiB"),
        (["--max-volume-gib", "nan"], "--max-volume-gib nan: give a positive number of GiB"),
        (["--max-volume-gib", "0"], "--max-volume-gib 0: give a positive number of GiB"),
        (
            ["--report", "true", "--partition", "2/4"],
            "--report true --partition 2/4: a share is not a store; merge, then run again without --partition",
        ),
        (["--on-error", "cry"], "--on-error cry: unknown; known: skip, stop"),
        (["--workers", "-1"], "--cases-per-shard and --workers are 0 (choose) or positive"),
        (["--cases-per-shard", "-1"], "--cases-per-shard and --workers are 0 (choose) or positive"),
        (["--regions", "WT=9"], "--regions: WT names label 9, the data set has [1, 2, 3]"),
        (["--output", "{root}/msd"], "--output {root}/msd is the input folder; give another one"),
    ],
)
def test_wrong_usage_ends_in_one_line(
    small_msd: Path, tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    given_flags = [argument.format(root=tmp_path) for argument in arguments]
    ended = command(convert, Options, "--input", small_msd, "--output", tmp_path / "store", *given_flags)
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors == f"error: {message.format(root=tmp_path)}\n"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("arguments", [["--crop-foreground", "maybe"], ["--workers", "two"], ["--colour", "red"]])
def test_flags_that_cannot_be_read_are_wrong_usage(command: Command, arguments: list[str]) -> None:
    ended = command(convert, Options, *arguments)
    assert ended.code == 2
    assert arguments[0] in ended.errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": [{"image": "../a.nii.gz", "label": "../a.nii.gz"}]}, "leads out of the data set's folder"),
        ({"test": ["./imagesTr/case_001.nii.gz"]}, "case case_001 is listed twice; case names must be unique"),
    ],
)
def test_a_description_that_cannot_be_used_is_wrong_usage(
    small_msd: Path, tmp_path: Path, command: Command, change: dict[str, Any], message: str
) -> None:
    described = json.loads((small_msd / "dataset.json").read_text())
    (small_msd / "dataset.json").write_text(json.dumps(described | change))
    ended = command(convert, Options, "--input", small_msd, "--output", tmp_path / "store")
    assert (ended.code, ended.errors.count("\n")) == (2, 1)
    assert message in ended.errors


def test_a_missing_input_ends_the_real_command_in_one_line(tmp_path: Path) -> None:
    ended = run_process("preprocessing.to_shards", "--input", tmp_path / "nowhere", "--output", tmp_path / "store")
    assert (ended.code, ended.errors.count("\n")) == (2, 1)
    assert ended.errors.startswith(f"error: {tmp_path}/nowhere: no such folder")


def test_without_arguments_the_phantom_becomes_the_store(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_phantom(PhantomOptions(cases=1, test_cases=1, shape=(16, 16, 16)))
    assert command(convert, Options).code == 0
    assert command(check, CheckOptions).code == 0
    assert open_store("data/shards").labelled_ids == ["PHANTOM_001"]


def test_an_output_that_is_a_file_ends_in_one_line(small_msd: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "store").touch()
    ended = command(convert, Options, "--input", small_msd, "--output", tmp_path / "store")
    assert (ended.code, ended.errors.splitlines()[-1]) == (1, f"error: File exists: {tmp_path}/store")


# Interruptions ----------------------------------------------------------------------------------------------------

LARGE = [(40, 44, 48)] * 16


@pytest.fixture(scope="module")
def large_msd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make cases that take long enough to be interrupted, sixteen shards of one."""
    return write_msd(tmp_path_factory.mktemp("large") / "msd", LARGE)


@pytest.fixture(scope="module")
def uninterrupted(large_msd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("whole") / "store"
    assert convert(Options(input=large_msd, output=root, workers=1)) == 0
    return tree_bytes(root)


def test_a_killed_converter_takes_its_workers_with_it(large_msd: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    process = start("preprocessing.to_shards", "--input", large_msd, "--output", root, "--workers", 2)
    wait_until(lambda: list(root.glob("shard-*")), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    kill(process)
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_killed_worker_ends_the_converter_in_one_line(
    large_msd: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    root = tmp_path / "store"
    arguments = ["--input", large_msd, "--output", root, "--workers", 2, "--regions", "auto"]
    process = start("preprocessing.to_shards", *arguments)
    wait_until(lambda: list(root.glob("shard-*")), process)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in str(child.cmdline())]
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: a worker process was killed")
    assert "Traceback" not in errors
    assert run_process("preprocessing.to_shards", *arguments).code == 0
    assert tree_bytes(root) == uninterrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_in_one_line(large_msd: Path, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "store"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background
    process = start("preprocessing.to_shards", "--input", large_msd, "--output", root, "--workers", workers)
    wait_until(lambda: list(root.glob("shard-*")), process)
    for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children()]:
        member.send_signal(signal.SIGINT)  # a terminal sends it to all of them
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_full_keeps_whole_shards_and_says_so(tmp_path: Path, workers: int) -> None:
    """A limit on the size of one file stands for the disk: the third image is the first that does not fit."""
    source = write_msd(tmp_path / "msd", [(6, 7, 8), (6, 7, 8), (40, 44, 48), (6, 7, 8)])
    root = tmp_path / "store"
    flags = ["--input", source, "--output", root, "--workers", workers]
    limited = ["sh", "-c", 'ulimit -f 256; exec "$@"', "sh"]  # blocks of 512 or 1024 bytes
    words = [*limited, sys.executable, "-m", "preprocessing.to_shards", *map(str, flags)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    said = rf"error: {root}/shard-00002\.\w+\.tmp/case_002\.image\.npy: File too large; .*: make room, then .* again"
    assert re.fullmatch(said, ended.stderr.splitlines()[-1])
    assert "Traceback" not in ended.stderr
    assert leftovers(root) == []
    kept = {path.name: tree_bytes(path) for path in root.glob("shard-?????")}
    assert set(kept) >= ({"shard-00000", "shard-00001"} if workers == 1 else {"shard-00000"})
    assert run_process("preprocessing.to_shards", *flags).code == 0
    assert {name: tree_bytes(root / name) for name in kept} == kept
    assert check(CheckOptions(shards=root)) == 0


def test_a_second_converter_on_the_same_store_is_refused(
    small_msd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_writer, "PATIENCE_S", 0.0)
    root = tmp_path / "store"
    root.mkdir()
    options = Options(input=small_msd, output=root, workers=1)
    with only_writer(root), pytest.raises(InputError, match=rf"{root}: another converter is writing there; wait for"):
        convert(options)
    assert convert(options) == 0


def test_the_same_command_again_changes_nothing(
    small_msd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 0
    before = tree_bytes(tmp_path / "store")
    with caplog.at_level(logging.INFO):
        assert convert(options) == 0
    assert tree_bytes(tmp_path / "store") == before
    assert "3 of 3 shards are there already" in caplog.messages
    assert "0 converted now" in caplog.messages[-1]


def test_regions_may_change_without_converting_again(small_msd: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    for regions, expected in [
        ("auto", {"WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}),
        ("none", None),
        ("A=2", {"A": [2]}),
    ]:
        assert convert(Options(input=small_msd, output=root, workers=1, regions=regions)) == 0
        assert open_store(root).manifest.regions == expected
        assert check(CheckOptions(shards=root)) == 0


@pytest.mark.parametrize("finished", [True, False])
def test_a_shard_whose_index_was_damaged_is_not_taken_over(small_msd: Path, tmp_path: Path, finished: bool) -> None:
    options = Options(input=small_msd, output=tmp_path / "store", workers=1)
    assert convert(options) == 0
    before = tree_bytes(tmp_path / "store")
    index = tmp_path / "store" / "shard-00001" / "index.json"
    if finished:
        index.write_bytes(index.read_bytes().replace(b'"voxels": ', b'"voxels": 1', 1))
    else:
        (tmp_path / "store" / "manifest.json").unlink()
        index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"{index}.*damaged"):
        convert(options)
    shutil.rmtree(index.parent)
    assert convert(options) == 0
    assert tree_bytes(tmp_path / "store") == before


def test_refusals_stop_the_first_case_as_an_exception_too(small_msd: Path, tmp_path: Path) -> None:
    (small_msd / "labelsTr" / "case_000.nii.gz").unlink()
    with pytest.raises(CaseError, match="case case_000: no label"):
        convert(Options(input=small_msd, output=tmp_path / "store", workers=1, on_error="stop"))
