"""Show a result: tables for the terminal, and the same in Markdown beside its JSON and its picture."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring.origin import count_cases, slug_of
from benchmarks.reporting.result import MEASURED, METRICS, Record, groups_of, written

log = logging.getLogger(__name__)
Draw = Callable[[Record, Path], None]
NARROWEST = 17  # characters that a column of the table needs where there is no terminal to ask
PLAIN_NAMES = {"loader_compare"}  # benchmarks whose files are called MACHINE_DATE alone


def notes(record: Record) -> list[str]:
    """Return the lines that stand with every table."""
    machine, commit, noise, data = (record[name] for name in ("machine", "commit", "noise", "data"))
    gpu, versions = machine["gpu"] or "no GPU", {"Python": machine["python"]} | record["versions"]
    others = [f"{name} {_text(value)}" for name, value in data.items() if name not in ("name", "cases", "distinct")]
    doubts = record.get("doubts", [])
    if noise["is_noisy"]:
        doubts = [f"something else used {noise['others_cores']:.1f} cores meanwhile; trust CPU times only", *doubts]
    left_out: dict[str, list[str]] = {}
    for row in record.get("left_out", []):
        left_out.setdefault(row["reason"], []).append(row["label"])
    return [
        *(["NOT FINISHED: this is what was measured before it stopped"] if record.get("unfinished") else []),
        *(f"NOISY MACHINE: {doubt}" for doubt in doubts),
        *(f"FAILED: {row['label']} ({row['group']}): {row['failure']}" for row in record["rows"] if row["failure"]),
        *(f"Left out, {reason}: {'; '.join(labels)}" for reason, labels in left_out.items()),
        f"Numbers: median (least..most) of {record['runs']} runs; in italics: projected or published, not measured",
        f"Data: {', '.join([data['name'], count_cases(data), *others])}",
        f"Options: {', '.join(f'{name} {_text(value)}' for name, value in record['options'].items())}",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB; {gpu}",
        (
            f"Code: commit {commit['hash'][:12] + ' with changes' * commit['dirty'] if commit else 'unknown'}, "
            f"{record['date']}; others used {noise['others_cores']:.2f} cores"
        ),
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def tables(record: Record, gap: str = " ") -> list[list[list[str]]]:
    """Return one table per group: headings first, then a row of cells for each row; ranges stand after ``gap``."""
    made = []
    for group, rows in groups_of(record).items():
        metrics = [name for name in METRICS if any(name in row["summary"] for row in rows)]
        head = [group, *(METRICS[name].replace(", ", "," + gap) for name in metrics)]
        made.append([head, *([row["label"], *(_cell(row, name, gap) for name in metrics)] for row in rows)])
    return made


def _cell(row: Record, metric: str, gap: str) -> str:
    if metric not in row["summary"]:
        return "FAILED" if row["failure"] else ""
    text = written(metric, row["summary"][metric], gap)
    return f"*{text}*" if row["kind"] != MEASURED else text


def markdown_table(table: Sequence[Sequence[str]], num_text: int = 1) -> list[str]:
    """Write headings and rows as Markdown; the first ``num_text`` columns are text, the others numbers."""
    head, *rows = table
    rule = ["---" if number < num_text else "---:" for number in range(len(head))]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, rule, *rows)]


def show(record: Record) -> None:
    """Print the tables to the terminal, and what stands with them; how it was measured stands on the page."""
    console, shown = Console(), tables(record, "\n")
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST * (2 + max(len(head) for head, *_ in shown)))
    for head, *rows in shown:
        table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify, column.overflow = "right", "fold"
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in notes(record):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def page(record: Record, title: str, picture: Path) -> str:
    """Write the Markdown page of a record; ``picture`` is shown if it is there."""
    parts = ["\n".join(markdown_table(table)) for table in tables(record)]
    shown = [f"![{title}]({picture.name})"] if picture.exists() else []
    lines = "\n".join(f"- {note}" for note in (*notes(record), *record["method"]))
    return "\n\n".join([f"# {title}", *parts, *shown, lines]) + "\n"


def publish(record: Record, title: str, draw: Draw, where: Path | list[Path]) -> None:
    """Show a record, write its files to a folder or to the paths it had before, and say where they are."""
    show(record)
    paths = free_paths(record, where) if isinstance(where, Path) else where
    log.info("written: %s", ", ".join(map(str, write_files(record, paths, title, draw))))


def free_paths(record: Record, folder: Path) -> list[Path]:
    """Return BENCHMARK_MACHINE_DATE.json, .md and .png in ``folder``, numbered where there is another of the day."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if record["benchmark"] in PLAIN_NAMES else f"{record['benchmark']}_"
    stem = f"{prefix}{slug_of(record['machine'])}_{record['date'][:10]}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    free = next(name for name in names if not (folder / f"{name}.json").exists())
    return [folder / f"{free}.{ending}" for ending in ("json", "md", "png")]


def write_files(record: Record, paths: list[Path], title: str, draw: Draw) -> list[Path]:
    """Write a record to the ``paths`` of ``free_paths``; returns those that exist. One that grows is written again."""
    data, text, picture = paths
    partial = data.with_suffix(".tmp")  # a kill here must not take what was there
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(data)
    draw(record, picture)
    text.write_text(page(record, title, picture), encoding="utf-8")
    return [path for path in paths if path.exists()]
