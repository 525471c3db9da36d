"""Results have one form, say where they come from, and say so when the machine was not quiet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measuring.processes import NoiseWatch, own_cpu_s
from benchmarks.reporting.page import free_paths, notes, page, tables, write_files
from benchmarks.reporting.result import PROJECTED, PUBLISHED, Record, check_record, make_record, make_row, written
from preprocessing.console.errors import InputError

BURNT_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURNT_S}: pass"


def some_record() -> Record:
    rows = [
        make_row("loading", "quick", {"wall_s": [1.0, 3.0, 2.0], "cpu_s": [0.5]}),
        make_row("loading", "gone", {}, failure="killed"),
        make_row("projection", "large", {"usd": [7.0]}, kind=PROJECTED),
        make_row("projection", "article", {"usd": [8.0, 9.0]}, kind=PUBLISHED),
    ]
    data = {"name": "phantom", "cases": 3, "distinct": 2, "channels": 4}
    return make_record(
        "scale", {"data": data, "options": {"seconds": 2}, "runs": 3, "rows": rows, "method": ["Warm."]}, NoiseWatch()
    )


def test_tables_show_medians_ranges_failures_and_what_was_not_measured() -> None:
    loading, projection = tables(some_record())
    assert loading == [
        ["loading", "wall, s", "CPU, s"],
        ["quick", "2 (1..3)", "0.5"],
        ["gone", "FAILED", "FAILED"],
    ]
    assert projection[1:] == [["large", "*7*"], ["article", "*8.5 (8..9)*"]]


def test_a_page_says_where_its_figures_come_from(tmp_path: Path) -> None:
    record = some_record()
    picture = tmp_path / "scale.png"
    assert "scale.png" not in page(record, "Scale", picture)
    picture.touch()
    text = page(record, "Scale", picture)
    data = "Data: phantom, 3 cases (2 distinct), channels 4"
    for part in ("3 runs", data, record["machine"]["cpu"], record["date"], "- Warm.", "scale.png"):
        assert part in text
    assert "- FAILED: gone (loading): killed" in text


def test_a_noisy_machine_is_said() -> None:
    record = some_record()
    record["noise"] = {"others_cores": 1.26, "load_before": 3.0, "is_noisy": False}
    assert not any("NOISY" in note for note in notes(record))
    record["noise"]["is_noisy"] = True
    assert notes(record)[0].startswith("NOISY MACHINE: something else used 1.3 cores meanwhile")


def test_own_work_counts_with_that_of_child_processes() -> None:
    before = own_cpu_s()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert own_cpu_s() - before > BURNT_S
    before = own_cpu_s()
    child = subprocess.Popen([sys.executable, "-c", BURN + "\ninput()"], stdin=subprocess.PIPE)
    wait_for(lambda: own_cpu_s() - before > 0.9 * BURNT_S)
    child.communicate(b"\n")
    assert own_cpu_s() - before > 0.9 * BURNT_S


def test_work_of_others_is_noise(tmp_path: Path) -> None:
    """An orphan belongs to no benchmark."""
    watch, begin, done = NoiseWatch(), time.perf_counter(), tmp_path / "done"
    burn = f"{BURN}\nopen({str(done)!r}, 'w').close()"
    subprocess.run(["sh", "-c", '"$@" &', "sh", sys.executable, "-c", burn], check=True)
    wait_for(done.exists)
    assert watch.read()["others_cores"] * (time.perf_counter() - begin) > 0.9 * BURNT_S


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + 60
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": "x"}, "result: missing or wrong: ; unknown: host"),
        ({"date": "then"}, "of format 3, with a date in UTC"),
        ({"format_version": 2}, "it has to be of format 3"),
        ({"rows": []}, "at least one row"),
        ({"rows": [{"group": "a"}]}, "row: missing or wrong: label, kind, failure, summary"),
        ({"runs": "many"}, "result: missing or wrong: runs"),
        ({"data": {"name": "x"}}, "data: missing or wrong: cases"),
        ({"noise": {}}, "noise: missing or wrong: others_cores, load_before, is_noisy"),
        ({"commit": {"hash": 7, "dirty": False}}, "commit: missing or wrong: hash"),
        ({"rows": [make_row("a", "b", {"furlongs": [1.0]})]}, "row b: furlongs is unknown"),
        ({"rows": [make_row("a", "b", {"wall_s": [-1.0]})]}, "row b: wall_s is unknown, or no spread"),
    ],
)
def test_a_record_of_another_form_is_refused(change: Record, message: str) -> None:
    record = some_record()
    check_record(record | {"commit": None})
    with pytest.raises(InputError, match=message):
        check_record(record | change)


def test_a_record_is_checked_before_it_is_written() -> None:
    record = some_record()
    with pytest.raises(InputError, match="furlongs is unknown"):
        make_record("scale", record | {"rows": [make_row("a", "b", {"furlongs": [1.0]})]}, NoiseWatch())


def test_shares_and_ratios_are_written_as_such() -> None:
    values = {"median": 1.2123, "min": 1.18, "max": 1.35}
    assert written("of_floor", values) == "121% (118%..135%)"
    assert written("dali_is", dict.fromkeys(values, 73.52)) == "73.5x"
    assert written("patches_per_s", values, "\n") == "1.21\n(1.18..1.35)"


def test_what_was_left_out_is_said_by_reason() -> None:
    missing = [{"label": name, "reason": "needs a GPU"} for name in ("a", "b")]
    assert "Left out, needs a GPU: a; b" in notes(some_record() | {"left_out": missing})


def test_results_of_one_day_stand_side_by_side(tmp_path: Path) -> None:
    def draw(record: Record, path: Path) -> None:
        path.write_text(record["benchmark"])

    record = some_record()
    first, second = (write_files(record, free_paths(record, tmp_path), "Scale", draw) for _ in range(2))
    assert [path.suffix for path in first] == [".json", ".md", ".png"]
    assert first[0].name.startswith("scale_")
    assert second[0].name == f"{first[0].stem}-2.json"
    assert json.loads(first[0].read_text())["benchmark"] == "scale"
    assert first[2].read_text() == "scale"
    assert not free_paths(record | {"benchmark": "loader_compare"}, tmp_path)[0].name.startswith("loader")
