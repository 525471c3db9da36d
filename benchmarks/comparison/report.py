"""Show a record: a table for the terminal, the same in Markdown, and the three result files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.comparison.contenders import CEILING, FLOOR, WITHOUT_EPOCHS
from benchmarks.comparison.plot import plot
from benchmarks.comparison.record import Record
from benchmarks.reporting.files import free_paths, write_files

Writer = Callable[[float], str]
NARROWEST = 17  # characters that a column of the table needs where there is no terminal to ask


def brief(value: float) -> str:
    """Write three digits, or all those before the point; millions as 1.23M, next to nothing as <0.01."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COLUMNS: dict[str, tuple[str, Writer]] = {
    "patches_per_s": ("patches/s", brief),
    "mb_per_s": ("MB/s", brief),
    "cpu_s_per_patch": ("CPU, ms/patch", lambda value: brief(1e3 * value)),
    "first_batch_s": ("first batch, ms", lambda value: brief(1e3 * value)),
    "peak_memory_mb": ("peak memory, MB", brief),
    "others_cores": ("others, cores", lambda value: f"{value:.2f}"),
}


TRAINING_HEADINGS = ["training, patches/s", "of ceiling", "waiting"]


def headings(record: Record) -> list[str]:
    """Return the table's columns."""
    training = TRAINING_HEADINGS if _has_training(record) else []
    return ["loader", *(heading for heading, _ in COLUMNS.values()), "of floor", "dali is", *training]


def _has_training(record: Record) -> bool:
    return any(row["training"] for row in record["rows"])


def cells(record: Record, gap: str) -> list[list[str]]:
    """Return the table's rows: the median and, after ``gap``, the range of the runs; a failed row says so."""
    made = []
    for row in record["rows"]:
        name = gap.join((row["loader"], ", ".join(filter(None, (row["device"], row["settings"])))))
        training = training_cells(row, gap) if _has_training(record) else []
        if row["summary"] is None:
            made.append([name, "FAILED", *[""] * (len(COLUMNS) + 1), *training])
            continue
        rate = row["summary"]["patches_per_s"]["median"]
        numbers = [_number(row, metric, gap) for metric in COLUMNS]
        floor = _floor_rate(record, row["batch_size"])
        share = "" if floor is None or row["loader"] == CEILING else f"{rate / floor:.0%}"
        made.append([name, *numbers, share, _lead(record, row), *training])
    return made


def training_cells(row: Record, gap: str) -> list[str]:
    """Return the cells under ``TRAINING_HEADINGS``; empty ones for a row that was not trained from."""
    training = row["training"]
    if training is None:
        return [""] * len(TRAINING_HEADINGS)
    share = "" if training["of_ceiling"] is None else f"{training['of_ceiling']:.1%}"
    return [_spread(training["patches_per_s"], brief, gap), share, f"{training['waiting']['median']:.1%}"]


def _lead(record: Record, row: Record) -> str:
    """Say how many times as fast dali is on the same device, at the same batch size."""
    ours = [
        other["summary"]["patches_per_s"]["median"]
        for other in record["rows"]
        if other["loader"] == "dali"
        and other["summary"]
        and (other["device"], other["batch_size"]) == (row["device"], row["batch_size"])
    ]
    if not ours or row["loader"] in ("dali", CEILING):
        return ""
    return f"{ours[0] / row['summary']['patches_per_s']['median']:.1f}x"


def _floor_rate(record: Record, batch_size: int) -> float | None:
    """Return the patches per second of plain numpy with the most threads at this batch size, if it was measured."""
    floors = [
        row for row in record["rows"] if row["loader"] == FLOOR and row["summary"] and row["batch_size"] == batch_size
    ]
    return floors[-1]["summary"]["patches_per_s"]["median"] if floors else None


def _number(row: Record, metric: str, gap: str) -> str:
    """Return a cell; an empty one for the first batch of a loader that has no epochs."""
    if metric == "first_batch_s" and row["loader"] in WITHOUT_EPOCHS:
        return ""
    return _spread(row["summary"][metric], COLUMNS[metric][1], gap)


def _spread(values: dict[str, float], write: Writer, gap: str) -> str:
    return f"{write(values['median'])}{gap}({write(values['min'])}..{write(values['max'])})"


def describe(record: Record) -> list[str]:
    """Return the lines that stand with every table: failures, what was left out, data, machine, commit, versions."""
    data, options, machine, commit = (record[name] for name in ("data", "options", "machine", "commit"))
    median, patch = (" x ".join(map(str, sides)) for sides in (data["shape_dhw"]["median"], options["patch"]))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    gpu = machine["gpu"] or "none"
    changed = " with changes" if commit and commit["dirty"] else ""
    sizes = ", ".join(str(size) for size in sorted({row["batch_size"] for row in record["rows"]}))
    return [
        *(f"NOISY MACHINE: {doubt}" for doubt in record["noisy"]),
        *(f"FAILED: {row['label']}: {row['failure']}" for row in record["rows"] if row["failure"]),
        *left_out_lines(record),
        f"Numbers: median (least..most) of {options['runs']} runs of {options['seconds']:g} s",
        f"Data: {data['name']}, {data['cases']} cases of about {median}, {data['channels']} x {data['image_dtype']}",
        f"Work: patch {patch}, batch {sizes}, augment {options['augment']}",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB; GPU: {gpu}",
        f"Code: commit {commit['hash'][:12] + changed if commit else 'unknown'}, {record['date']}",
        f"Versions: Python {machine['python']}, {versions}; memory measured as {record['memory_kind'].upper()}",
    ]


def left_out_lines(record: Record) -> list[str]:
    """Name what is not measured, a line for each reason."""
    left_out: dict[str, list[str]] = {}
    for row in record["left_out"]:
        left_out.setdefault(row["reason"], []).append(row["label"])
    return [f"Left out, {reason}: {'; '.join(labels)}" for reason, labels in left_out.items()]


def show(record: Record) -> None:
    """Print the table and what stands with it."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST * len(headings(record)))
    table = Table(*(heading.replace(", ", "\n") for heading in headings(record)), box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
        column.justify = "left" if column is table.columns[0] else "right"
    for row in cells(record, "\n"):
        table.add_row(*row)
    console.print(table)
    for line in describe(record):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def markdown(record: Record, picture: str) -> str:
    """Write the same as a Markdown page that shows ``picture``."""
    titles = headings(record)
    table = [titles, ["---", *["---:"] * (len(titles) - 1)], *cells(record, " ")]
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines = [f"- {line}" for line in (*describe(record), *record["method"])]
    title = f"# Loader comparison: {record['data']['name']}"
    return "\n".join([title, "", *rows, "", f"![patches per second]({picture})", "", *lines, ""])


def write(record: Record, folder: Path) -> list[Path]:
    """Write MACHINE_DATE.json, .md and .png into ``folder``; another result of the day stays, this one is numbered."""
    return write_files(record, free_paths(record, "", folder), lambda picture: markdown(record, picture), plot)
