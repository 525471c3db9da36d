"""Write what ``gpu_check`` found: one JSON, a page, and a picture of training against its ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report_results import cells, headings
from benchmarks.result import describe_origin
from benchmarks.result_files import write_files
from benchmarks.rows import CEILING
from benchmarks.schema import COUNT, NUMBER, TEXT

Record = dict[str, Any]
FORMAT_VERSION, BENCHMARK = 1, "gpu-check"
RUN = {
    "type": "object",
    "required": ["patches_per_s", "waiting"],
    "properties": {"patches_per_s": NUMBER, "waiting": NUMBER},
    "additionalProperties": False,
}
SCHEMA: Record = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": [
        *("format_version", "benchmark", "date", "machine", "commit", "versions", "data", "options"),
        *("tests", "bus", "loaders", "training"),
    ],
    "properties": {
        "format_version": {"const": FORMAT_VERSION},
        "benchmark": {"const": BENCHMARK},
        "tests": {"anyOf": [{"type": "object", "additionalProperties": COUNT}, {"type": "null"}]},
        "bus": {"anyOf": [{"type": "object", "required": ["failure"]}, {"type": "null"}]},
        "loaders": {"type": "array", "items": {"type": "object", "required": ["options", "rows"]}},
        "training": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["net", "cores", "loader", "label", "failure"],
                "properties": {"net": TEXT, "cores": COUNT, "runs": {"type": "array", "items": RUN}},
            },
        },
    },
}


def write_check(content: Record, folder: Path) -> Record:
    """Write gpu-check_MACHINE_DATE.json, .md, .png; returns the record. Raises ``ValidationError`` off the schema."""
    import jsonschema

    record: Record = {"format_version": FORMAT_VERSION, "benchmark": BENCHMARK, **describe_origin(), **content}
    jsonschema.validate(record, SCHEMA)
    write_files(record, f"{BENCHMARK}_", lambda picture: _page(record, picture), _draw, folder)
    return record


def _draw(record: Record, picture: Path) -> None:
    if record["training"]:
        _plot(record, picture)


def share_of_ceiling(rows: Sequence[Record], row: Record) -> float:
    """Return a row's patches/s over those of the ``synthetic`` loader with the same network and cores."""
    same = [other for other in rows if (other["net"], other["cores"]) == (row["net"], row["cores"])]
    ceiling = next((_rate(other) for other in same if other["loader"] == CEILING), 0.0)
    return _rate(row) / ceiling if ceiling else 0.0


def _rate(row: Record) -> float:
    return statistics.median(run["patches_per_s"] for run in row["runs"]) if not row["failure"] else 0.0


def _page(record: Record, picture: str) -> str:
    machine, data, options = record["machine"], record["data"], record["options"]
    patch = " x ".join(map(str, options["patch"]))
    lines = [f"# GPU check: {machine['gpu'] or 'no GPU, a rehearsal'}", ""]
    if record["tests"]:
        lines += ["Tests marked gpu: " + ", ".join(f"{count} {name}" for name, count in record["tests"].items()), ""]
    if record["bus"]:
        lines += [*_table(["bus and pool", ""], [[name, _text(value)] for name, value in record["bus"].items()]), ""]
    for part in record["loaders"]:
        chosen = part["options"]
        lines += [f"## Loaders alone, {chosen['augment']}, batch {chosen['batch_size']}", ""]
        lines += [*_table(headings(part), cells(part, " ")), ""]
        lines += [f"FAILED: {row['label']}: {row['failure']}" for row in part["rows"] if row["failure"]]
    if record["training"]:
        head = ["network", "cores", "loader", "patches/s", "of the ceiling", "waiting, %", "GPU memory, MB"]
        lines += [
            "## In training",
            "",
            *_table(head, [_training_cells(record["training"], row) for row in record["training"]]),
        ]
        lines += ["", f"![share of the ceiling]({picture})", ""]
        lines += [
            f"FAILED: {row['net']}, {row['label']}: {row['failure']}" for row in record["training"] if row["failure"]
        ]
    return "\n".join(
        [
            *lines,
            "",
            f"- Data: {data['name']}, {data['cases']} cases; patch {patch}",
            f"- Numbers: median (least..most) of {options['runs']} runs",
            f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB",
            f"- Code: {record['commit'] and record['commit']['hash'][:12]}, {record['date']}",
            "",
        ]
    )


def _training_cells(rows: Sequence[Record], row: Record) -> list[str]:
    name = [row["net"], str(row["cores"]), row["label"]]
    if row["failure"]:
        return [*name, "FAILED", "", "", ""]
    rates, waits = ([run[key] for run in row["runs"]] for key in ("patches_per_s", "waiting"))
    rate = f"{_text(_rate(row))} ({_text(min(rates))}..{_text(max(rates))})"
    share, wait = f"{share_of_ceiling(rows, row):.3f}", f"{100 * statistics.median(waits):.1f}"
    return [*name, rate, share, wait, f"{row['gpu_memory_mb']:.0f}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plot(record: Record, path: Path) -> None:
    """Draw, for each network, every loader's share of the ceiling over the processor cores it had."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = record["training"]
    nets = list(dict.fromkeys(row["net"] for row in rows))
    figure = Figure(figsize=(6 * len(nets), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, net in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True):
        mine = [row for row in rows if row["net"] == net and row["loader"] != CEILING]
        for name in dict.fromkeys(_series(row) for row in mine):
            points = sorted((row["cores"], share_of_ceiling(rows, row)) for row in mine if _series(row) == name)
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.axhline(1, color="#4a5568", linestyle="--", linewidth=1)
        axes.set(title=f"{net}: share of the synthetic ceiling", xlabel="processor cores", ylim=(0, 1.1))
        if mine:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _series(row: Record) -> str:
    """Name a loader without the counts that go with the cores."""
    return ", ".join(
        part for part in row["label"].split(", ") if not part.endswith(("thread", "threads", "worker", "workers"))
    )
