"""Show a record: a table for the terminal, the same in Markdown, and the three result files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.contenders.table import CEILING, WITHOUT_EPOCHS
from benchmarks.measuring.origin import count_cases
from benchmarks.reporting.comparison_aims import aim_lines
from benchmarks.reporting.comparison_plot import plot
from benchmarks.reporting.comparison_repeats import share_of_floor
from benchmarks.reporting.page import brief, free_paths, markdown_table, print_tables, write_files
from benchmarks.reporting.result import Record, Spread

Writer = Callable[[float], str]


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
        numbers = [_number(row, metric, gap) for metric in COLUMNS]
        share = share_of_floor(record, row)
        of_floor = "" if share is None else _spread(share, "{:.0%}".format, gap)
        made.append([name, *numbers, of_floor, lead(record, row), *training])
    return made


def training_cells(row: Record, gap: str) -> list[str]:
    """Return the cells under ``TRAINING_HEADINGS``; empty ones for a row that was not trained from."""
    training = row["training"]
    if training is None:
        return [""] * len(TRAINING_HEADINGS)
    share = "" if training["of_ceiling"] is None else f"{training['of_ceiling']:.1%}"
    return [_spread(training["patches_per_s"], brief, gap), share, f"{training['waiting']['median']:.1%}"]


def lead(record: Record, row: Record) -> str:
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


def _number(row: Record, metric: str, gap: str) -> str:
    """Return a cell; an empty one for the first batch of a loader that has no epochs."""
    if metric == "first_batch_s" and row["loader"] in WITHOUT_EPOCHS:
        return ""
    return _spread(row["summary"][metric], COLUMNS[metric][1], gap)


def _spread(values: Spread, write: Writer, gap: str) -> str:
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
        *aim_lines(record),
        *record.get("repeats", []),
        *left_out_lines(record),
        f"Numbers: median (least..most) of {options['runs']} runs of {options['seconds']:g} s",
        f"Data: {data['name']}, {count_cases(data)} of about {median}, {data['channels']} x {data['image_dtype']}",
        f"Work: patch {patch}, batch {sizes}, augment {options['augment']}",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB; GPU: {gpu}",
        f"Code: commit {commit['hash'][:12] + changed if commit else 'unknown'}, {record['date']}",
        f"Versions: Python {machine['python']}, {versions}; memory measured as {record['memory_kind'].upper()}",
    ]


def tuning_lines(record: Record) -> list[str]:
    """Say what each loader was tuned with, where the record knows, a line for all rows of a loader that share it."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row in record["rows"]:
        if row.get("tuning"):
            rows.setdefault((row["loader"], row["tuning"]), []).append(row["settings"] or row["device"])
    return [f"Tuned, {loader} ({'; '.join(settings)}): {tuning}" for (loader, tuning), settings in rows.items()]


def left_out_lines(record: Record) -> list[str]:
    """Name what is not measured, a line for each reason."""
    left_out: dict[str, list[str]] = {}
    for row in record["left_out"]:
        left_out.setdefault(row["reason"], []).append(row["label"])
    return [f"Left out, {reason}: {'; '.join(labels)}" for reason, labels in left_out.items()]


def show(record: Record) -> None:
    """Print the table and what stands with it."""
    titles = [heading.replace(", ", "\n") for heading in headings(record)]
    print_tables([[titles, *cells(record, "\n")]], describe(record))


def markdown(record: Record, picture: str) -> str:
    """Write the same as a Markdown page that shows ``picture``."""
    table = markdown_table([headings(record), *cells(record, " ")])
    lines = [f"- {line}" for line in (*describe(record), *tuning_lines(record), *record["method"])]
    title = f"# Loader comparison: {record['data']['name']}"
    return "\n".join([title, "", *table, "", f"![patches per second]({picture})", "", *lines, ""])


def write(record: Record, folder: Path) -> list[Path]:
    """Write MACHINE_DATE.json, .md and .png into ``folder``; another result of the day stays, this one is numbered."""
    return write_files(record, free_paths(record, "", folder), lambda picture: markdown(record, picture), plot)
