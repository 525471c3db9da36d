"""Write what ``gpu_check`` found: one JSON, a page, and a picture of training against its ceiling."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders.table import CEILING
from benchmarks.measuring.origin import count_cases
from benchmarks.reporting import comparison_schema as loader_schema
from benchmarks.reporting.comparison_page import TRAINING_HEADINGS, cells, headings, left_out_lines, training_cells
from benchmarks.reporting.figure import INK, new_figure
from benchmarks.reporting.page import markdown_table, write_files
from benchmarks.reporting.result import ORIGIN, Record, describe_origin
from benchmarks.reporting.schema import COUNT

BENCHMARK = "gpu-check"
METHOD = [
    "Loaders alone are measured as by loader_compare, one after the other: pools of several at a time would not fit.",
    "In training: the trainer's own step; the ceiling is the synthetic loader with the same network and cores.",
]
SCHEMA: Record = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": [*ORIGIN, "options", "tests", "bus", "loaders", "training"],
    "properties": {
        **ORIGIN,
        "benchmark": {"const": BENCHMARK},
        "unfinished": {"const": True},
        "tests": {"anyOf": [{"type": "object", "additionalProperties": COUNT}, {"type": "null"}]},
        "bus": {"anyOf": [{"type": "object", "required": ["failure"]}, {"type": "null"}]},
        "loaders": {"type": "array", "items": loader_schema.SCHEMA},
        "training": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["cores", "comparison"],
                "properties": {"cores": COUNT, "comparison": loader_schema.SCHEMA},
            },
        },
    },
}


def begin_check(data: Record, options: Record) -> Record:
    """Return the record of a check in which nothing is measured yet, ``unfinished`` until that is taken out of it."""
    empty: Record = {"unfinished": True, "tests": None, "bus": None, "loaders": [], "training": []}
    head = {"benchmark": BENCHMARK, **describe_origin(), "method": METHOD}
    return {**head, "data": data, "options": options, **empty}


def write_check(record: Record, paths: list[Path]) -> None:
    """Write the record as it is by now, its page and its picture; raises ``ValidationError`` off the schema."""
    import jsonschema

    jsonschema.validate(record, SCHEMA)
    write_files(record, paths, lambda picture: _page(record, picture), _draw)


def _draw(record: Record, picture: Path) -> None:
    if record["training"]:
        _plot(record, picture)


def _page(record: Record, picture: str) -> str:
    machine, options = record["machine"], record["options"]
    lines = [f"# GPU check: {machine['gpu'] or 'no GPU, a rehearsal'}", ""]
    if record.get("unfinished"):
        lines += ["NOT FINISHED: this is what was measured before it stopped.", ""]
    if record["tests"]:
        lines += ["Tests marked gpu: " + ", ".join(f"{count} {name}" for name, count in record["tests"].items()), ""]
    if record["bus"]:
        bus = [[name, _text(value)] for name, value in record["bus"].items()]
        lines += [*markdown_table([["bus and pool", ""], *bus]), ""]
    for part in record["loaders"]:
        chosen = part["options"]
        lines += [f"## Loaders alone, {chosen['augment']}, batch {chosen['batch_size']}", ""]
        lines += [*markdown_table([headings(part), *cells(part, " ")]), "", *_omissions(part)]
    for part in record["training"]:
        compared = part["comparison"]
        lines += [f"## Training {compared['options']['train']} on {part['cores']} cores", ""]
        rows = [[row["label"], *training_cells(row, " "), _memory(row)] for row in compared["rows"]]
        lines += [*markdown_table([["loader", *TRAINING_HEADINGS, "GPU memory, MB"], *rows]), "", *_omissions(compared)]
    if record["training"]:
        lines += [f"![share of the ceiling]({picture})", ""]
    patch = " x ".join(map(str, options["patch"]))
    facts = [
        f"Data: {record['data']['name']}, {count_cases(record['data'])}; patch {patch}",
        f"Numbers: median (least..most) of {options['runs']} runs of {options['seconds']:g} s",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB",
        f"Code: commit {record['commit'] and record['commit']['hash'][:12]}, {record['date']}",
        *record["method"],
    ]
    return "\n".join([*lines, *(f"- {fact}" for fact in facts), ""])


def _omissions(compared: Record) -> list[str]:
    """Say what the table has no figures of."""
    failed = [f"FAILED: {row['label']}: {row['failure']}" for row in compared["rows"] if row["failure"]]
    lines = [*failed, *left_out_lines(compared)]
    return [*lines, ""] if lines else []


def _memory(row: Record) -> str:
    used = row["training"] and row["training"]["gpu_memory_mb"]
    return "" if used is None else f"{used:.0f}"


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plot(record: Record, path: Path) -> None:
    """Draw, for each network, every loader's share of the ceiling over the processor cores it had."""
    nets: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for part in record["training"]:
        lines = nets.setdefault(part["comparison"]["options"]["train"], {})
        for row in part["comparison"]["rows"]:
            if row["training"] and row["training"]["of_ceiling"] and row["loader"] != CEILING:
                lines.setdefault(_series(row), []).append((part["cores"], row["training"]["of_ceiling"]))
    figure = new_figure(6 * len(nets), 4)
    for axes, (net, lines) in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axes.axhline(1, color=INK, linestyle="--", linewidth=1)
        axes.set(title=f"{net}: share of the synthetic ceiling", xlabel="processor cores", ylim=(0, 1.1))
        if lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _series(row: Record) -> str:
    """Name a loader without the counts that go with the cores."""
    return ", ".join(
        part for part in row["label"].split(", ") if not part.endswith(("thread", "threads", "worker", "workers"))
    )
