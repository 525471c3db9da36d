"""Training end to end: what it leaves behind, what it learns, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from pipelines.loaders import LOADERS
from preprocessing.console.errors import InputError, RunError
from preprocessing.phantom import PhantomOptions, make_phantom
from preprocessing.shards.store import open_store
from preprocessing.to_shards import Options as ConvertOptions
from preprocessing.to_shards import convert
from training.distributed.group import Group
from training.distributed.world import read_world
from training.model.checkpoint import load_checkpoint, save_checkpoint
from training.model.compute import compiled
from training.model.networks import NETWORKS, STRIDE
from training.model.recipes import PRESETS
from training.options import Options
from training.run import train
from training.trainer.record import read_metrics, read_run
from training.trainer.resolve import auto_patch, median_sizes, resolve


def test_a_run_leaves_options_split_figures_and_checkpoints(tiny_run: Path) -> None:
    run, lines = read_run(tiny_run), read_metrics(tiny_run)
    assert len(run["cases"]["training"]) == 4
    assert len(run["cases"]["validation"]) == 1
    assert not set(run["cases"]["training"]) & set(run["cases"]["validation"])
    assert run["options"]["patch"] == [16, 16, 16]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [4, 8, 12]
    for line in lines:
        assert set(line["dice"]) == set(line["hd95_mm"]) == {"WT", "TC", "ET", "mean"}
        split = {name: value for name, value in line["split"].items() if name.endswith("_s")}
        assert all(seconds >= 0 for seconds in split.values())
        assert line["split"]["steps"] == 4
    best = load_checkpoint(tiny_run / "checkpoints" / "best.pt")
    assert best["means"]["dice"]["mean"] == max(line["dice"]["mean"] for line in lines)
    assert not list(tiny_run.rglob("*.tmp"))


FORMATS = [
    ("cpu", "auto"),
    *(pytest.param("cuda", amp, marks=pytest.mark.gpu) for amp in ("fp16", "bf16", "off")),
]


@pytest.mark.parametrize(("device", "amp"), FORMATS)
@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_trains_and_resumes(
    tiny_options: Options, tmp_path: Path, preset: str, device: str, amp: str
) -> None:
    if amp == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    auto = dataclasses.replace(tiny_options, preset=preset, net="auto", lr=0.0, ema=0.5, epochs=1, patch=(16, 16, 32))
    options = dataclasses.replace(auto, device=device, amp=amp, output=tmp_path / "run")
    assert train(options) == 0
    last, best = (load_checkpoint(options.output / "checkpoints" / name) for name in ("last.pt", "best.pt"))
    assert bool(last["scaler"]) == (amp == "fp16")
    averaged = {name.removeprefix("module."): value for name, value in last["average"].items()}
    assert all(torch.equal(value, averaged[name]) for name, value in best["model"].items())
    assert any(not torch.equal(value, best["model"][name]) for name, value in last["model"].items())
    assert train(dataclasses.replace(options, resume="auto", epochs=2)) == 0
    assert len(read_metrics(options.output)) == 2


def test_the_article_has_a_patch_and_a_voxel_size_of_its_own(
    tiny_options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its 128,128,64 and 1.5,1.5,2.0 are x,y,z. The store has voxels of 1.0,1.5,2.0 mm; a patch that is given wins."""
    options = dataclasses.replace(tiny_options, preset="article", net="auto", patch=None, output=tmp_path / "run")
    store, group = open_store(options.shards), Group(world=read_world({}), device=torch.device("cpu"))
    assert resolve(options, store, 4, group).geometry.patch == (64, 128, 128)
    assert resolve(dataclasses.replace(options, preset="fast"), store, 4, group).geometry.patch != (64, 128, 128)
    train(dataclasses.replace(options, patch=(16, 16, 32), epochs=1))
    assert read_run(options.output)["options"]["patch"] == [16, 16, 32]
    assert (
        "meant for voxels of 1.5,1.5,2 mm (x,y,z), the store's median is 1,1.5,2; convert with --spacing 1.5,1.5,2"
        in caplog.text
    )


def test_fine_tuning_starts_with_the_weights_given(tiny_options: Options, tiny_run: Path, tmp_path: Path) -> None:
    best = tiny_run / "checkpoints" / "best.pt"
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", init_from=best, lr=1e-12, epochs=1)
    assert train(options) == 0
    tuned = load_checkpoint(options.output / "checkpoints" / "last.pt")["model"]
    for name, value in load_checkpoint(best)["model"].items():
        torch.testing.assert_close(tuned[name], value, rtol=0, atol=1e-6)
    other = dataclasses.replace(options, output=tmp_path / "other", net="dynunet")
    with pytest.raises(InputError, match=r"best.pt: its network is different \(Missing key.*; \d+ differences\)"):
        train(other)


def test_accumulating_parts_takes_the_same_steps(tiny_options: Options, tmp_path: Path) -> None:
    whole = dataclasses.replace(tiny_options, optimizer="sgd", amp="off", output=tmp_path / "whole")
    parts = dataclasses.replace(whole, accumulate=2, output=tmp_path / "parts")
    assert train(whole) == train(parts) == 0
    losses = [[line["loss"] for line in read_metrics(options.output)] for options in (whole, parts)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`?torch.jit:DeprecationWarning")  # PyTorch's own
def test_a_compiled_network_trains_and_its_checkpoint_is_a_plain_one(
    tiny_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UNet of two levels, which compiles in seconds; and the run goes on without --compile."""
    monkeypatch.setitem(NETWORKS, "small", lambda task, _: UNet(3, task.in_channels, task.out_channels, (4, 8), (2,)))
    monkeypatch.setitem(STRIDE, "small", 2)
    plain = dataclasses.replace(tiny_options, net="small", amp="off", epochs=1, output=tmp_path / "plain")
    options = dataclasses.replace(plain, compile=True, output=tmp_path / "run")
    assert train(plain) == train(options) == 0
    losses = [read_metrics(folder)[0]["loss"] for folder in (plain.output, options.output)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    keys = [
        list(load_checkpoint(folder / "checkpoints" / "last.pt")["model"]) for folder in (plain.output, options.output)
    ]
    assert keys[0] == keys[1]
    assert train(dataclasses.replace(options, compile=False, resume="auto", epochs=2)) == 0


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", r"C\+\+ compiler on the path .g\+\+."), ("cuda", "C compiler")]
)
def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setenv("PATH", "")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=f"--compile true: no {message}"):
        compiled(torch.nn.Identity(), torch.device(device))


@pytest.mark.parametrize("loader", ["torch", "synthetic"])
def test_every_loader_trains(tiny_options: Options, tmp_path: Path, loader: str) -> None:
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", loader=loader, epochs=1)
    assert train(options) == 0
    assert math.isfinite(read_metrics(options.output)[0]["loss"])


def test_loaders_train_the_same_network(tiny_options: Options, tiny_run: Path, tmp_path: Path) -> None:
    """The same plan gives the same batches, and those the same weights, up to the rounding of the normalisation."""
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", loader="torch")
    train(options)
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (tiny_run, options.output)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.parametrize(("device", "amp"), FORMATS)
def test_a_run_learns(tiny_options: Options, tmp_path: Path, device: str, amp: str) -> None:
    make_phantom(PhantomOptions(output=tmp_path / "data", cases=4, test_cases=0, shape=(24, 28, 24)))
    assert convert(ConvertOptions(input=tmp_path / "data", output=tmp_path / "store", workers=1)) == 0
    longer = dataclasses.replace(tiny_options, epochs=16, lr=4e-3, val_every=16)
    options = dataclasses.replace(longer, device=device, amp=amp, shards=tmp_path / "store", output=tmp_path / "run")
    train(options)
    losses = [line["loss"] for line in read_metrics(options.output)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_can_train_and_validate_on_all_cases(
    tiny_options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = dataclasses.replace(tiny_options, held_out=0.0, epochs=1, output=tmp_path / "run")
    assert train(options) == 0
    assert "--held-out 0: validating on the training cases" in caplog.text
    cases = read_run(options.output)["cases"]
    assert cases["training"] == cases["validation"] == open_store(options.shards).labelled_ids
    assert len(load_checkpoint(options.output / "checkpoints" / "best.pt")["cases"]) == 5
    with pytest.raises(InputError, match=r"made with --held-out 0.0, this command says 0.2"):
        train(dataclasses.replace(options, held_out=0.2, resume="auto"))
    last = options.output / "checkpoints" / "last.pt"
    content = load_checkpoint(last)
    del content["options"]["held_out"]  # of a version that always held out a fifth
    save_checkpoint(last, content)
    with pytest.raises(InputError, match=r"made with --held-out 0.2, this command says 0.0"):
        train(dataclasses.replace(options, resume="auto"))


def test_a_run_can_do_without_validation(
    tiny_options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trained on all cases, reported, and predicted with from last.pt."""
    caplog.set_level(logging.INFO)
    options = dataclasses.replace(tiny_options, held_out=0.0, val_every=None, epochs=2, output=tmp_path / "run")
    assert train(options) == 0
    assert [line["dice"] for line in read_metrics(options.output)] == [None, None]
    assert [path.name for path in sorted((options.output / "checkpoints").iterdir())] == ["last.pt", "previous.pt"]
    assert "validated on the cases it is trained on" not in caplog.text
    assert f"trained without validation: {options.output / 'checkpoints' / 'last.pt'}" in caplog.text
    assert "2 epochs, 12 steps; not validated" in (options.output / "report.html").read_text()
    load_checkpoint(options.output / "checkpoints" / "last.pt")
    with pytest.raises(InputError, match="--ema is what"):
        train(dataclasses.replace(options, ema=0.9, output=tmp_path / "other"))
    validated = dataclasses.replace(options, val_every=1, epochs=3, resume="auto")  # may change its mind
    assert train(validated) == 0
    assert (options.output / "checkpoints" / "best.pt").exists()


def test_two_runs_never_share_a_folder_that_is_named_after_the_second(
    tiny_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [time.strftime("coordinates-%Y%m%d-%H%M%S", time.localtime(time.time() + second)) for second in range(60)]
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert train(dataclasses.replace(tiny_options, output=Path("auto"), epochs=1)) == 0
    (made,) = (path for path in (tmp_path / "runs").iterdir() if any(path.iterdir()))
    assert made.name.removesuffix("-2") in names
    assert not (made / ".lock").exists()


def test_a_second_start_into_the_folder_of_a_run_under_way_is_refused(tiny_options: Options, tmp_path: Path) -> None:
    """By name, also to go on with it; when the first is killed the folder is free at once."""
    options = dataclasses.replace(tiny_options, output=tmp_path / "run", epochs=10_000, samples_per_case=50)
    flags = [f"--{name}={getattr(options, name)}" for name in ("shards", "output", "epochs", "net", "device", "lr")]
    command = [sys.executable, "-m", "training.run", *flags, "--patch=16,16,16", "--samples-per-case=50"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        while not (options.output / "run.json").exists():
            assert first.poll() is None
            time.sleep(0.01)
        for resume in ("never", "auto"):
            with pytest.raises(
                InputError, match=rf"another run is writing there \(host .*, process {first.pid}, since"
            ):
                train(dataclasses.replace(options, resume=resume))
        assert first.poll() is None
        first.kill()
    shorter = dataclasses.replace(options, epochs=1, samples_per_case=2)
    assert train(shorter) == 0


def test_a_run_is_never_overwritten(tiny_options: Options, tiny_run: Path) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds a run; continue it with --resume auto"):
        train(dataclasses.replace(tiny_options, output=tiny_run))
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


def test_damaged_checkpoints_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    whole = (tiny_run / "checkpoints" / "last.pt").read_bytes()
    path = tmp_path / "broken.pt"
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"broken.pt: damaged or not a checkpoint"):
            load_checkpoint(path)
    save_checkpoint(path, {"weights": 1})
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        load_checkpoint(path)


def test_a_pickled_object_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"version": 1, "model": Planted()}, tmp_path / "planted.pt")
    with pytest.raises(InputError, match="damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "planted.pt")
    assert not (tmp_path / "executed").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tiny_options: Options, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is nan at step \d+; lower --lr"):
        train(dataclasses.replace(tiny_options, output=tmp_path / "run", lr=1e30))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loader": "dahli"}, "unknown loader 'dahli'; known: dali, torch, monai"),
        ({"net": "vnet"}, "--net vnet: unknown; known: auto, segresnet, unet, dynunet, nnunet"),
        ({"preset": "slow"}, "--preset slow: unknown; known: fast, nnunet, article"),
        ({"device": "tpu"}, "--device tpu: unknown; known: auto, cpu, cuda"),
        ({"loss": "hinge"}, "--loss hinge: unknown; known: auto, dice, dice_ce, dice_focal"),
        ({"optimizer": "lion"}, "--optimizer lion: unknown; known: auto, adamw, adam, sgd, novograd"),
        ({"ema": 1.0}, "--ema 1: 0 .off., or a decay below 1"),
        ({"accumulate": 3}, "--accumulate 3: must divide --batch-size 2"),
        ({"backend": "mpi"}, "--backend mpi: unknown; known: auto, gloo, nccl, smddp"),
        ({"amp": "int4"}, "--amp int4: unknown; known: auto, bf16, fp16, off"),
        ({"patch": (16, 16, 20)}, "--patch 16,16,20: segresnet needs multiples of 8; use 16,16,24"),
        ({"patch": (8, 8, 8)}, "--patch 8,8,8: segresnet needs a side of 16 voxels at least"),
        ({"seed": -1}, "seed is -1; it must be between 0 and 2..63 - 1"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must be between 0 and"),
        ({"epochs": -1}, "are 0 .choose. or positive"),
        ({"held_out": 1.0}, "--held-out 1: 0 .train and validate on all., or a fraction below 1"),
        ({"workers": -1}, "--workers -1: 0 .choose., or a positive number"),
        ({"shards": Path("nowhere")}, "nowhere: no manifest.json there; make a store with"),
        ({"resume": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"patch": (4000, 4000, 4000)}, "needs about .* GiB, .* GiB are free; lower --patch"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tiny_options: Options, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(tiny_options, output=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_command_line_ends_in_one_line_and_code_2(coordinate_store: Path, tmp_path: Path) -> None:
    flags = ("--loader", "dahli", "--shards", str(coordinate_store), "--output", str(tmp_path / "run"))
    wrong = [sys.executable, "-m", "training.run", *flags]
    done = subprocess.run(wrong, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: unknown loader 'dahli'; known: {', '.join(LOADERS)}"]


@pytest.mark.parametrize(
    ("median", "stride", "limit", "expected"),
    [
        ((36, 50, 35), 8, 64**3, (40, 56, 40)),
        ((140, 180, 150), 8, 64**3, (64, 64, 64)),
        ((140, 180, 150), 16, 128**3, (128, 128, 128)),
        ((20, 300, 300), 16, 128**3, (32, 256, 256)),
        ((1, 1, 1), 8, 64**3, (8, 8, 8)),
    ],
)
def test_auto_patch(median: tuple[int, int, int], stride: int, limit: int, expected: tuple[int, int, int]) -> None:
    assert auto_patch(median, stride, limit) == expected


def test_unlabelled_cases_do_not_size_the_patch(msd_folder: Path, tmp_path: Path) -> None:
    source = shutil.copytree(msd_folder, tmp_path / "set")
    described = json.loads((source / "dataset.json").read_text())
    (kept, *others) = described["training"]
    described |= {"training": [kept], "test": [other["image"] for other in others]}
    (source / "dataset.json").write_text(json.dumps(described))
    assert convert(ConvertOptions(input=source, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    (entry,) = (entry for _, entry in store.entries() if entry.label is not None)
    assert median_sizes(store) == (entry.shape_dhw, entry.spacing_mm)
