"""Make the index of all results and the README's table: ``python -m benchmarks.reporting.index_results``."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders.table import CEILING
from benchmarks.measuring.origin import REPOSITORY, count_cases
from benchmarks.reporting.comparison import ALONE
from benchmarks.reporting.comparison import BENCHMARK as COMPARISON
from benchmarks.reporting.page import markdown_table
from benchmarks.reporting.result import Record, brief, check_record, written
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import main

log = logging.getLogger(__name__)
INDEX = "README.md"
BEGIN, END = "<!-- table: benchmarks/results, made by benchmarks/reporting/index_results.py -->", "<!-- end -->"
SHOWN = ("ours", "MONAI at its best", "nnU-Net")  # in the README; the page has all
QUESTIONS = {  # and the command that answers it
    COMPARISON: ("How fast do loaders deliver the same patches?", "loader_compare.py"),
    "gpu-check": ("How fast is everything on a GPU?", "gpu_check.py"),
    "convert": ("What does it cost to convert a case?", "convert_compare.py"),
    "article-load": ("How long does one image take to load?", "article.py load"),
    "article-epoch": ("How long are epochs, with memory enough and with too little?", "article.py epoch"),
    "article-workers": ("How many workers are too few, how many too many?", "article.py workers"),
    "article-split": ("Where does the time of a training step go?", "article.py split"),
    "article-project": ("What would the article's epochs take and cost on its instances?", "article.py project"),
    "training-quality": ("Does the loader change the Dice, and how much does the seed?", "article.py quality"),
    "scale": ("How does it scale to 48,884 cases, 64 ranks and a slower disk?", "scale.py"),
}


class Result(NamedTuple):
    """A result file and what it holds."""

    path: Path
    record: Record


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write benchmarks/results/README.md, and the table between its markers in README.md, from the results' JSON."""

    root: Path = REPOSITORY
    """Checkout to write in."""


def write_index(options: Options) -> int:
    """Run the command; returns the exit code."""
    folder, readme = options.root / "benchmarks" / "results", options.root / "README.md"
    results = read_results(folder)
    (folder / INDEX).write_text(index_page(results), encoding="utf-8")
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), results), encoding="utf-8")
    log.info("written: %s, and the table in %s", folder / INDEX, readme)
    return EXIT_DONE


def read_results(folder: Path) -> list[Result]:
    """Read and check all results, newest first; raises ``InputError`` for one that has not the form of a result."""
    results = []
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        try:
            check_record(record)
        except InputError as error:
            raise InputError(f"{path}: {error}; run its benchmark again, or delete it") from error
        results.append(Result(path=path, record=record))
    return sorted(results, key=lambda result: (str(result.record["date"]), result.path.name), reverse=True)


def index_page(results: list[Result]) -> str:
    """Write the index: a section per benchmark that has results, newest first, its newest picture in it."""
    parts = [
        "# Results",
        (
            "Made by `python -m benchmarks.reporting.index_results` from the JSON files beside it. Every page says "
            "on which machine, commit and data it was measured, how often, and with what spread."
        ),
    ]
    for benchmark, (question, command) in QUESTIONS.items():
        found = [result for result in results if result.record["benchmark"] == benchmark]
        if not found:
            continue
        head = ["result", "data", "machine", "commit", "others, cores"]
        table = [head, *(_cells(result) for result in found)]
        picture = found[0].path.with_suffix(".png")
        parts += [f"## {question}", f"`python benchmarks/{command}`", "\n".join(markdown_table(table, len(head) - 1))]
        if picture.exists():
            parts.append(f"![{question}]({picture.name})")
    return "\n\n".join(parts) + "\n"


def _cells(result: Result) -> list[str]:
    record, page = result.record, result.path.with_suffix(".md").name
    machine, commit = record["machine"], record["commit"]
    return [
        f"[{record['date'][:10]}]({page}){' (not finished)' * record.get('unfinished', False)}",
        f"{record['data']['name']}, {count_cases(record['data'])}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}",
        f"{commit['hash'][:12]}{' with changes' * commit['dirty']}" if commit else "unknown",
        f"{record['noise']['others_cores']:.2f}",
    ]


def with_table(readme: str, results: list[Result]) -> str:
    """Return the README's text with its table made from the newest comparison of loaders; ``InputError`` if none."""
    newest = next((result for result in results if result.record["benchmark"] == COMPARISON), None)
    begin, end = readme.find(BEGIN), readme.find(END)
    if newest is None or not 0 <= begin < end:
        raise InputError("there is no result of loader_compare, or README.md lacks the markers of its table")
    return f"{readme[:begin]}{BEGIN}\n{readme_table(newest)}\n{readme[end:]}"


def readme_table(result: Result) -> str:
    """Write the fastest row of ours, of MONAI's loaders and of nnU-Net's, and where the figures and all rows are."""
    record = result.record
    shown = [
        row
        for row in record["rows"]
        if row["group"] == ALONE and row["summary"] and row["details"]["loader"] != CEILING
        if row["details"]["batch_size"] == record["options"]["batch_size"]
    ]
    shown.sort(key=lambda row: float(row["summary"]["patches_per_s"]["median"]))
    fastest = {(_peer_of(row["details"]["loader"]), row["details"]["device"]): row for row in shown}
    chosen = sorted((SHOWN.index(peer), device) for peer, device in fastest if peer)
    rows = [_readme_cells(fastest[SHOWN[place], device], SHOWN[place]) for place, device in chosen]
    head = ["loader", "patches/s", "dali is", "CPU ms per patch", "peak memory, MB"]
    return "\n".join([*markdown_table([head, *rows]), "", " ".join(_caption(result))])


def _peer_of(loader: str) -> str:
    """Return the name of a row's kind in the README, nothing for one that is on the page only."""
    return SHOWN[1] if loader.startswith("monai") else {"dali": SHOWN[0], "nnunet": SHOWN[2]}.get(loader, "")


def _readme_cells(row: Record, peer: str) -> list[str]:
    details, summary = row["details"], row["summary"]
    return [
        ", ".join(filter(None, (f"{peer} (`{details['loader']}`)", details["device"], details["settings"]))),
        written("patches_per_s", summary["patches_per_s"]),
        written("dali_is", summary["dali_is"]) if "dali_is" in summary else "",
        *(brief(summary[name]["median"]) for name in ("cpu_ms_per_patch", "peak_memory_mb")),
    ]


def _caption(result: Result) -> list[str]:
    """Write where the figures come from, and what to know of some rows, in sentences."""
    record = result.record
    machine, data, options = record["machine"], record["data"], record["options"]
    loaders = {row["details"]["loader"] for row in record["rows"] if row["summary"]}
    hints = ["`dali` reuses its buffers (`reuse_buffers=True`, not the default)."] if "dali" in loaders else []
    return [
        (
            f"{data['name']}, {count_cases(data)}, patches of {' x '.join(map(str, options['patch']))} x "
            f"{data['channels']}, augment {options['augment']}, batch {options['batch_size']}; median (least..most) of "
            f"{record['runs']} runs on {machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}; "
            f"[all {len(loaders)} loaders](benchmarks/results/{result.path.with_suffix('.md').name})."
        ),
        *hints,
        *(["The machine was noisy: the page says which rows to doubt."] if record.get("doubts") else []),
    ]


if __name__ == "__main__":
    main(write_index, Options)
