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
from benchmarks.reporting.result import MEASURED, METRICS, Record, Spread

log = logging.getLogger(__name__)
NARROWEST = 17  # characters that a column of the table needs where there is no terminal to ask


def brief(value: float) -> str:
    """Write three digits, or all those before the point; millions as 1.23M, next to nothing as <0.001."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def notes(record: Record) -> list[str]:
    """Return the lines that stand with every table."""
    machine, commit, noise, data = (record[name] for name in ("machine", "commit", "noise", "data"))
    others = [f"{name} {value}" for name, value in data.items() if name not in ("name", "cases", "distinct")]
    warning = f"NOISY MACHINE: something else used {noise['others_cores']:.1f} cores meanwhile; trust CPU times only"
    return [
        *([warning] if noise["is_noisy"] else []),
        *(f"FAILED: {row['label']} ({row['group']}): {row['failure']}" for row in record["rows"] if row["failure"]),
        f"Numbers: median (least..most) of {record['runs']} runs; in italics: projected or published, not measured",
        f"Data: {', '.join([data['name'], count_cases(data), *others])}",
        f"Options: {', '.join(f'{name} {value}' for name, value in record['options'].items())}",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB; {machine['gpu'] or 'no GPU'}",
        (
            f"Code: commit {commit['hash'][:12] + ' with changes' * commit['dirty'] if commit else 'unknown'}, "
            f"{record['date']}; others used {noise['others_cores']:.2f} cores"
        ),
        *record["method"],
    ]


def tables(record: Record) -> list[list[list[str]]]:
    """Return one table per group: headings first, then a row of cells for each row."""
    groups = dict.fromkeys(row["group"] for row in record["rows"])
    return [_table(group, [row for row in record["rows"] if row["group"] == group]) for group in groups]


def _table(group: str, rows: list[Record]) -> list[list[str]]:
    metrics = [name for name in METRICS if any(name in row["summary"] for row in rows)]
    return [
        [group, *(METRICS[name] for name in metrics)],
        *([row["label"], *(_cell(row, row["summary"].get(name)) for name in metrics)] for row in rows),
    ]


def _cell(row: Record, values: Spread | None) -> str:
    if values is None:
        return "FAILED" if row["failure"] else ""
    text = brief(values["median"])
    if values["max"] > values["min"]:
        text += f" ({brief(values['min'])}..{brief(values['max'])})"
    return f"*{text}*" if row["kind"] != MEASURED else text


def markdown_table(table: list[list[str]], num_text: int = 1) -> list[str]:
    """Write headings and rows as Markdown; the first ``num_text`` columns are text, the others numbers."""
    head, *rows = table
    rule = ["---" if number < num_text else "---:" for number in range(len(head))]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, rule, *rows)]


def show(record: Record) -> None:
    """Print the tables and what stands with them."""
    print_tables(tables(record), notes(record))


def print_tables(shown: list[list[list[str]]], lines: Sequence[str]) -> None:
    """Print tables, each of headings and rows, to the terminal, and ``lines`` below."""
    console = Console()
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
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def page(record: Record, title: str, picture: str) -> str:
    """Write the Markdown page of a record."""
    parts = ["\n".join(markdown_table(table)) for table in tables(record)]
    lines = "\n".join(f"- {note}" for note in notes(record))
    return "\n\n".join([f"# {title}", *parts, f"![{title}]({picture})", lines]) + "\n"


def publish(record: Record, title: str, draw: Callable[[Record, Path], None], folder: Path) -> None:
    """Show a record, write its files, and say where they are."""
    show(record)
    log.info("written: %s", ", ".join(map(str, write(record, title, draw, folder))))


def write(record: Record, title: str, draw: Callable[[Record, Path], None], folder: Path) -> list[Path]:
    """Write BENCHMARK_MACHINE_DATE.json, .md and .png; another result of the day stays, this one is numbered."""
    paths = free_paths(record, f"{record['benchmark']}_", folder)
    return write_files(record, paths, lambda picture: page(record, title, picture), draw)


def free_paths(record: dict[str, Any], prefix: str, folder: Path) -> list[Path]:
    """Return PREFIX + MACHINE_DATE.json, .md and .png in ``folder``, numbered where there is another of the day."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{prefix}{slug_of(record['machine'])}_{record['date'][:10]}"
    names = [stem, *(f"{stem}-{number}" for number in range(2, 1000))]
    free = next(name for name in names if not (folder / f"{name}.json").exists())
    return [folder / f"{free}.{ending}" for ending in ("json", "md", "png")]


def write_files(
    record: dict[str, Any],
    paths: list[Path],
    page: Callable[[str], str],
    draw: Callable[[dict[str, Any], Path], None],
) -> list[Path]:
    """Write a record to the ``paths`` of ``free_paths`` and return them; ``page`` makes Markdown of the picture's name.

    A record that grows may be written again.
    """
    partial = paths[0].with_suffix(".tmp")  # a kill here must not take what was there
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(paths[0])
    paths[1].write_text(page(paths[2].name), encoding="utf-8")
    draw(record, paths[2])
    return paths
