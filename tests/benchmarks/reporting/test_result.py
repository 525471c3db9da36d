"""Results have one form, say where they come from, and say so when the machine was not quiet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from benchmarks.measuring.processes import NoiseWatch, own_cpu_s
from benchmarks.reporting.page import notes, page, tables, write
from benchmarks.reporting.result import PROJECTED, PUBLISHED, SCHEMA, Record, make_record, make_row

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


def test_a_page_says_where_its_figures_come_from() -> None:
    record = some_record()
    text = page(record, "Scale", "scale.png")
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
    assert watch.read().others_cores * (time.perf_counter() - begin) > 0.9 * BURNT_S


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + 60
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.05)


def test_a_record_off_the_schema_is_refused() -> None:
    record = some_record()
    changes: list[Record] = [{"host": "x"}, {"date": "then"}, {"rows": []}, {"data": {"name": "x"}}, {"noise": {}}]
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(record | change, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        make_record("scale", record | {"rows": [make_row("a", "b", {"furlongs": [1.0]})]}, NoiseWatch())


def test_results_of_one_day_stand_side_by_side(tmp_path: Path) -> None:
    def draw(record: Record, path: Path) -> None:
        path.write_text(record["benchmark"])

    first, second = (write(some_record(), "Scale", draw, tmp_path) for _ in range(2))
    assert [path.suffix for path in first] == [".json", ".md", ".png"]
    assert second[0].name == f"{first[0].stem}-2.json"
    assert json.loads(first[0].read_text())["benchmark"] == "scale"
    assert first[2].read_text() == "scale"
