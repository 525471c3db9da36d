"""Arrays that are normalised already: written one case at a time, resumed, refused, and unchanged to the last bit."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

from preprocessing.check import find_problems
from preprocessing.console.errors import CaseError, InputError
from preprocessing.conversion.prepared import StoreWriter, WriterOptions, write_cases
from preprocessing.conversion.prepared_case import PreparedCase
from preprocessing.layouts.dataset import Dataset
from preprocessing.shards.store import open_store

IDS = [f"case_{number}" for number in range(5)]
TWO = WriterOptions(cases_per_shard=2)


def described(root: Path) -> Dataset:
    names = {0: "background", 1: "organ", 2: "tumour"}
    return Dataset(
        name="prepared", root=root, channel_names=["T1", "T2"], label_names=names, modality="prepared", sources=[]
    )


def made(case_id: str, shape_dhw: tuple[int, int, int] = (6, 7, 8)) -> PreparedCase:
    """Make a case that follows from its id alone."""
    generator = np.random.default_rng(int(case_id[-1]))
    image = generator.normal(0, 1.5, (*shape_dhw, 2)).astype(np.float32)
    label = np.zeros((*shape_dhw, 1), np.int16)
    label[1:3, 2:4], label[4, 5:] = 1, 2
    return PreparedCase(case_id=case_id, image=image, label=label, spacing_mm=(2.0, 1.5, 1.0))


def bytes_in(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_is_written_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    store = write_cases(
        tmp_path / "store", described(tmp_path), {name: functools.partial(made, name) for name in IDS}, TWO
    )
    assert [len(shard.case_ids) for shard in store.manifest.shards] == [2, 2, 1]
    assert (store.manifest.modality, store.manifest.image_dtype, store.manifest.max_abs_error) == (
        "prepared",
        "float32",
        0.0,
    )
    assert [(channel.mean, channel.std) for channel in store.manifest.channels] == [(0.0, 1.0)] * 2
    for name in IDS:
        case, given = store.case(name), made(name)
        label = case.label()
        assert label is not None
        assert given.label is not None
        assert np.array_equal(case.image(), given.image)
        assert np.array_equal(label, given.label)
        assert (case.spacing_mm, case.affine.diagonal().tolist()) == ((2.0, 1.5, 1.0), [1.0, 1.5, 2.0, 1.0])
        assert all((label[tuple(voxels.T)] == number).all() for number, voxels in case.foreground().items())
        assert set(case.foreground()) == {1, 2}
    assert list(find_problems(store, fast=False)) == []


def test_an_interrupted_writer_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with StoreWriter(whole, described(tmp_path), TWO) as writer:
        for name in IDS:
            writer.add(made(name))

    def interrupted() -> None:
        with StoreWriter(broken, described(tmp_path), TWO) as writer:
            for name in IDS[:3]:
                writer.add(made(name))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in broken.iterdir()] == ["shard-00000"]
    with StoreWriter(broken, described(tmp_path), TWO) as writer:
        assert writer.done == set(IDS[:2])
        for name in IDS:
            if name not in writer.done:
                writer.add(made(name))
    assert bytes_in(broken) == bytes_in(whole)


def test_a_deleted_shard_is_made_again(tmp_path: Path) -> None:
    cases = {name: functools.partial(made, name) for name in IDS}
    write_cases(tmp_path / "store", described(tmp_path), cases, TWO)
    before = bytes_in(tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "shard-00001")
    store = write_cases(tmp_path / "store", described(tmp_path), cases, TWO)
    assert store.case_ids == IDS
    assert bytes_in(tmp_path / "store") == before


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 2.0**-9), ("int16", 2.0**-11)])
def test_fewer_digits_are_kept_with_their_error(tmp_path: Path, dtype: str, largest: float) -> None:
    store = write_cases(
        tmp_path / "store", described(tmp_path), {IDS[0]: lambda: made(IDS[0])}, WriterOptions(dtype=dtype)
    )
    case, given = store.case(IDS[0]), made(IDS[0]).image
    back = case.image().astype(np.float64) / store.manifest.channels[0].std
    error = float(np.abs(back - given).max())
    assert store.manifest.max_abs_error == pytest.approx(error)
    assert 0 < error <= largest


def test_foreground_lists_of_the_source_are_kept(tmp_path: Path) -> None:
    lists = {0: np.array([[5, 6, 7]]), -1: np.array([[1, 2, 3], [2, 3, 4]]), 2: np.empty((0, 3), np.int64)}
    given = dataclasses.replace(made(IDS[0]), foreground=lists)
    store = write_cases(tmp_path / "store", described(tmp_path), {IDS[0]: lambda: given})
    kept = store.case(IDS[0]).foreground()
    assert {number: voxels.tolist() for number, voxels in kept.items()} == {
        number: voxels.tolist() for number, voxels in lists.items()
    }


BAD = [
    ({"image": np.zeros((6, 7, 8), np.float32)}, r"image is float32 \(6, 7, 8\); it must be numbers \[D,H,W,2\]"),
    ({"image": np.full((6, 7, 8, 2), np.nan, np.float32)}, "holds NaN or infinity in 672 places"),
    ({"image": np.full((6, 7, 8, 2), 33, np.float32)}, "image reaches 33, int16 ends at 31.999; use float32"),
    ({"label": np.zeros((6, 7, 7, 1), np.uint8)}, r"label is \(6, 7, 7, 1\), its image \(6, 7, 8, 2\)"),
    ({"label": np.full((6, 7, 8, 1), 3)}, r"label holds 3, the description names \[0, 1, 2\]"),
    ({"foreground": {1: np.array([[6, 0, 0]])}}, r"foreground of label 1 lies outside the volume of \(6, 7, 8\)"),
    (
        {"affine": np.eye(4)},
        r"the affine's voxels are \(1.0, 1.0, 1.0\) mm \(D,H,W\), spacing_mm says \(2.0, 1.5, 1.0\)",
    ),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_arrays_that_do_not_fit_are_refused_and_the_others_go_on(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    bad = dataclasses.replace(made("case_0"), **change)  # type: ignore[arg-type]
    options = WriterOptions(dtype="int16")
    cases = {"case_0": lambda: bad, "case_1": lambda: made("case_1")}
    store = write_cases(tmp_path / "store", described(tmp_path), cases, options)
    assert store.case_ids == ["case_1"]
    assert "case_0" in (tmp_path / "store" / "errors.json").read_text()
    with pytest.raises(CaseError, match=said):
        write_cases(tmp_path / "stopped", described(tmp_path), cases, options, stop_on_error=True)


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    root = tmp_path / "store"
    write_cases(root, described(tmp_path), {IDS[0]: lambda: made(IDS[0])})
    other = dataclasses.replace(described(tmp_path), channel_names=["T1", "FLAIR"])
    with pytest.raises(InputError, match=r"was made with channel_names \['T1', 'T2'\], now \['T1', 'FLAIR'\]"):
        write_cases(root, other, {})
    with pytest.raises(InputError, match='modality is "mr"'):
        StoreWriter(root, dataclasses.replace(described(tmp_path), modality="mr"))
    with pytest.raises(InputError, match="case_0 is there already"), StoreWriter(root, described(tmp_path)) as writer:
        writer.add(made(IDS[0]))
    with pytest.raises(InputError, match="--dtype uint8: unknown"):
        WriterOptions(dtype="uint8")
    assert open_store(root).case_ids == [IDS[0]]
    with pytest.raises(InputError, match="cannot name a file"), StoreWriter(root, described(tmp_path)) as writer:
        writer.add(dataclasses.replace(made(IDS[1]), case_id="../out"))
