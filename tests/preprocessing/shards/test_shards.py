"""The bytes on disk: files that numpy reads, JSON that comes back whole, and stores that are opened or refused."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preprocessing.console.errors import InputError
from preprocessing.console.places import is_file_name
from preprocessing.shards.entries import CaseEntry, FileRecord, Manifest, ShardEntry, find_case
from preprocessing.shards.files import DATA_OFFSET, FORMAT_VERSION, npy_header, write_json, write_manifest, write_npy
from preprocessing.shards.store import Store, open_store, read_index
from preprocessing.to_shards import Options, convert
from tests.conftest import SHAPES
from tests.preprocessing.conftest import tree_bytes, write_nifti

STORED = st.sampled_from(["u1", "i2", "u2", "f2", "f4", ">i2", ">f8", "?", "<i8", "c8"])


@given(npst.arrays(STORED, npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)), st.booleans())
def test_npy_files_are_what_numpy_reads(
    tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[Any], transposed: bool
) -> None:
    array = array.T if transposed else array
    path = tmp_path_factory.getbasetemp() / "any.npy"
    record = write_npy(path, array)
    made = np.load(path, allow_pickle=False)
    assert made.tobytes() == np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    assert (made.shape, made.dtype) == (array.shape, array.dtype.newbyteorder("<"))
    assert made.flags.c_contiguous
    content = path.read_bytes()
    assert content[DATA_OFFSET:] == made.tobytes()
    assert (record.size_bytes, record.xxh3) == (len(content), xxhash.xxh3_64_hexdigest(content))


@given(STORED, npst.array_shapes(max_dims=6, max_side=2**40))
def test_header_of_any_shape_ends_at_the_page(dtype: str, shape: tuple[int, ...]) -> None:
    header = npy_header(shape, np.dtype(dtype))
    assert len(header) == DATA_OFFSET == 4096
    assert header.endswith(b" \n")


def test_an_array_can_be_mapped_from_the_page_on(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_npy(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert mapped.offset == 4096
    np.testing.assert_array_equal(mapped, array)


def written(content: object) -> dict[str, Any]:
    """Send a record through JSON text."""
    made = json.loads(json.dumps(dataclasses.asdict(content)))  # type: ignore[call-overload]
    assert isinstance(made, dict)
    return made


NAMES = st.text(min_size=1).filter(is_file_name)
RECORDS = st.builds(FileRecord, name=NAMES)
MAYBE = st.none() | RECORDS
SHARDS = st.builds(ShardEntry, name=NAMES, case_ids=st.lists(NAMES))
SLOW = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SLOW
@given(st.builds(CaseEntry, case_id=NAMES, image=RECORDS, label=MAYBE, foreground=MAYBE))
def test_case_entries_come_back_from_json(entry: CaseEntry) -> None:
    made = CaseEntry.from_json(written(entry))
    assert repr(made) == repr(entry)  # as text, in which nan equals nan


@SLOW
@given(st.builds(Manifest, options=st.just({"dtype": "auto"}), shards=st.lists(SHARDS)))
def test_manifests_come_back_from_json(manifest: Manifest) -> None:
    assert repr(Manifest.from_json(written(manifest))) == repr(manifest)


def test_json_is_written_whole_and_recorded(tmp_path: Path) -> None:
    record = write_json(tmp_path / "a.json", {"a": [1, 2]})
    content = (tmp_path / "a.json").read_bytes()
    assert json.loads(content) == {"a": [1, 2]}
    assert (record.name, record.size_bytes) == ("a.json", len(content))
    assert record.xxh3 == xxhash.xxh3_64_hexdigest(content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_store_lists_and_finds_its_cases(coordinate_store: Path) -> None:
    store = open_store(coordinate_store)
    assert store.is_local
    assert store.case_ids == store.labelled_ids == [f"case_{number:03d}" for number in range(5)]
    assert [(name, entry.case_id) for name, entry in store.entries()] == [
        ("shard-00000", "case_000"),
        ("shard-00000", "case_001"),
        ("shard-00001", "case_002"),
        ("shard-00001", "case_003"),
        ("shard-00002", "case_004"),
    ]
    case = store.case("case_003")
    assert case.shape_dhw == case.source_shape_dhw == SHAPES[3]
    assert (case.origin_dhw, case.spacing_mm) == ((0, 0, 0), (2.0, 1.5, 1.0))
    np.testing.assert_array_equal(case.affine, np.diag([-1.0, -1.5, 2.0, 1.0]))
    with pytest.raises(InputError, match=r"no case 'case_999' among its 5 cases"):
        store.case("case_999")


def test_arrays_are_read_only_maps_of_the_documented_shape(coordinate_store: Path) -> None:
    case = open_store(coordinate_store).case("case_000")
    image, label = case.image(), case.label()
    assert label is not None
    assert (image.shape, image.dtype.str) == ((*SHAPES[0], 4), "|u1")
    assert (label.shape, label.dtype.str) == ((*SHAPES[0], 1), "|u1")
    assert isinstance(image, np.memmap)
    assert not image.flags.writeable
    assert not label.flags.writeable
    np.testing.assert_allclose(case.channel_mean, image.reshape(-1, 4).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(case.channel_std, image.reshape(-1, 4).std(axis=0), rtol=1e-6, atol=1)


def test_foreground_is_grouped_by_label(coordinate_store: Path) -> None:
    case = open_store(coordinate_store).case("case_000")
    label = case.label()
    assert label is not None
    foreground = case.foreground()
    assert list(foreground) == [1, 2, 3]
    for number, voxels in foreground.items():
        np.testing.assert_array_equal(voxels, np.argwhere(label[..., 0] == number))


def test_labels_may_be_all_background_or_absent(small_msd: Path, tmp_path: Path) -> None:
    described = json.loads((small_msd / "dataset.json").read_text())
    described["test"] = [described["training"].pop(2)["image"]]
    (small_msd / "dataset.json").write_text(json.dumps(described))
    write_nifti(small_msd / "labelsTr" / "case_001.nii.gz", np.zeros((7, 6, 5), np.uint8))
    assert convert(Options(input=small_msd, output=tmp_path / "store", workers=1)) == 0
    store = open_store(tmp_path / "store")
    assert store.labelled_ids == ["case_000", "case_001"]
    assert store.case_ids == ["case_000", "case_001", "case_002"]
    assert store.case("case_001").foreground() == {}
    assert store.case("case_002").foreground() == {}
    assert store.case("case_002").label() is None


def test_a_missing_array_is_named_with_its_case(small_store: Path) -> None:
    case = open_store(small_store).case("case_002")
    (small_store / "shard-00001" / "case_002.image.npy").unlink()
    with pytest.raises(InputError, match=r"case case_002: .*case_002\.image\.npy is missing or damaged"):
        case.image()


def test_threads_open_cases_while_python_collects_garbage(coordinate_store: Path) -> None:
    """Headers parsed in threads end in an error now and then before Python 3.11.8, so none may be."""
    store = open_store(coordinate_store)

    def open_often(case_id: str) -> None:
        for _ in range(150):
            case = store.case(case_id)
            assert (case.image().shape[:3], len(case.foreground())) == (case.shape_dhw, 3)

    def let_others_run(*_: object) -> None:
        sum(range(2000))

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(let_others_run)
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(open_often, store.case_ids[:4]))
    finally:
        gc.callbacks.remove(let_others_run)
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)


def test_a_store_opens_through_any_fsspec_path(coordinate_store: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in tree_bytes(coordinate_store).items():
        memory.pipe(f"/opened/{name}", content)
    store = open_store("memory://opened")
    assert not store.is_local
    assert store.case_ids == open_store(coordinate_store).case_ids
    assert store.case("case_004").shape_dhw == SHAPES[4]


def test_what_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"no manifest\.json there; make a store with python -m preprocessing"):
            open_store(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: (damaged JSON|expected a JSON object)"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("found", "instead"),
    [(b'"name": "coordinates"', b'"name": "Coordinates"'), (b'"voxels": ', b'"voxels": 9'), (b"\n", b"\n\n")],
)
def test_a_changed_manifest_is_refused(coordinate_store: Path, tmp_path: Path, found: bytes, instead: bytes) -> None:
    content = (coordinate_store / "manifest.json").read_bytes()
    assert found in content
    (tmp_path / "manifest.json").write_bytes(content.replace(found, instead, 1))
    with pytest.raises(InputError, match=r"manifest\.json: checksum does not match its content; restore it or"):
        open_store(tmp_path)


def test_a_store_of_another_format_is_refused_until_it_is_closed_anew(
    small_msd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(input=small_msd, output=tmp_path / "store", workers=1, cases_per_shard=2)
    assert convert(options) == 0
    manifest, wanted = open_store(tmp_path / "store").manifest, tree_bytes(tmp_path / "store")
    for version in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        write_manifest(tmp_path / "store", dataclasses.replace(manifest, format_version=version))
        message = rf"store format {version}, this version reads 3; .* run its to_shards command again, without"
        with pytest.raises(InputError, match=message):
            open_store(tmp_path / "store")
        with caplog.at_level("INFO"):
            assert convert(options) == 0
        assert "2 of 2 shards are there already" in caplog.text
        assert tree_bytes(tmp_path / "store") == wanted
        caplog.clear()


@pytest.mark.parametrize("content", [b"{", b'{"cases": [{}]}', b'{"cases": 3}'])
def test_a_damaged_index_is_named(coordinate_store: Path, tmp_path: Path, content: bytes) -> None:
    root = Path(shutil.copytree(coordinate_store, tmp_path / "copy"))
    (root / "shard-00001" / "index.json").write_bytes(content)
    store = open_store(root)
    assert store.case("case_000").shape_dhw == SHAPES[0]
    with pytest.raises(InputError, match=r"shard-00001/index\.json: damaged .*run preprocessing\.check"):
        store.case("case_002")


def test_opening_48884_cases_takes_less_than_a_second(coordinate_store: Path, tmp_path: Path) -> None:
    """A bound of the design (section 3); the manifest alone is read."""
    manifest = open_store(coordinate_store).manifest
    names = [f"case_{number:05d}" for number in range(48_884)]
    shards = [
        ShardEntry(name=f"shard-{n:05d}", case_ids=names[n : n + 64], unlabelled=[], size_bytes=1, index_xxh3="0" * 16)
        for n in range(0, len(names), 64)
    ]
    write_manifest(tmp_path, dataclasses.replace(manifest, shards=shards))
    begin = time.process_time()
    store: Store = open_store(tmp_path)
    assert len(store.case_ids) == 48_884
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("indent", [1, None], ids=["as written here", "by somebody else"])
def test_a_case_is_found_without_the_others(tmp_path: Path, coordinate_store: Path, indent: int | None) -> None:
    """Also one that is named like another's beginning, or like what JSON has to escape."""
    store = open_store(shutil.copytree(coordinate_store, tmp_path / "store"))
    shard = store.manifest.shards[0]
    path = Path(store.root) / shard.name / "index.json"
    content = json.loads(path.read_text())
    names = ["case", "case_1", 'a "quoted" one', "zweitens-\u00fc"]
    content["cases"] = [{**content["cases"][0], "case_id": name, "max_abs_error": at} for at, name in enumerate(names)]
    path.write_text(json.dumps(content, indent=indent, separators=None if indent else (",", ":")))
    expected = {entry.case_id: entry for entry in read_index(path.parent).cases}
    store._position.update(dict.fromkeys(names, 0))
    assert [store.case(name).entry for name in names] == [expected[name] for name in names]
    assert (find_case(path.read_text(), "case") is None) == (indent is None)
    store._position["none"] = 0
    with pytest.raises(InputError, match="has no case none, which the manifest lists"):
        store.case("none")
