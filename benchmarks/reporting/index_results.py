"""Make the index of all results and the README's table: ``python -m benchmarks.reporting.index_results``."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a file: the repository is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders.table import CEILING, FLOOR
from benchmarks.measuring.origin import REPOSITORY, count_cases
from benchmarks.reporting.comparison_aims import missed_aims
from benchmarks.reporting.comparison_page import lead
from benchmarks.reporting.comparison_schema import BENCHMARK as COMPARISON
from benchmarks.reporting.page import brief, markdown_table
from benchmarks.reporting.result import ORIGIN, Record, Spread
from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import main

log = logging.getLogger(__name__)
INDEX = "README.md"
BEGIN, END = "<!-- table: benchmarks/results, made by benchmarks/reporting/index_results.py -->", "<!-- end -->"
QUESTIONS = {
    COMPARISON: "How fast do loaders deliver the same patches?",
    "gpu-check": "What does a GPU make of it?",
    "convert": "What does it cost to convert a case?",
    "article-load": "How long does one image take to load?",
    "article-epoch": "How long are epochs of MONAI's data sets and ours, with memory enough and too little?",
    "article-workers": "How many workers are too few, how many too many?",
    "article-split": "Where does the time of a training step go?",
    "article-project": "What would the article's epochs take and cost on its instances?",
    "training-quality": "Does the loader change what is learnt, and how much does the seed?",
    "steady-state": "Does it stay as fast with many cases and over many batches, and how near is it to a plain copy?",
    "cold-reads": "Which way to read is fastest where the page cache is cold?",
    "scale": "What becomes of it at 48,884 cases, 64 ranks and a slower disk?",
}
COMMANDS = {name: f"benchmarks/article.py {name.removeprefix('article-')}" for name in QUESTIONS if "article" in name}
COMMANDS |= {
    COMPARISON: "benchmarks/loader_compare.py",
    "gpu-check": "benchmarks/gpu_check.py",
    "convert": "benchmarks/convert_compare.py",
    "training-quality": "benchmarks/experiments/quality.py",
    "steady-state": "benchmarks/steady_state.py",
    "cold-reads": "benchmarks/cold_reads.py",
    "scale": "benchmarks/scale.py",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """A result file and what it holds."""

    path: Path
    record: Record

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return str(self.record["benchmark"])


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
    """Read and check all results, newest first; raises ``InputError`` for one that says too little to be a result."""
    import jsonschema

    results = []
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        try:
            jsonschema.validate(record, {"type": "object", "properties": ORIGIN, "required": list(ORIGIN)})
        except jsonschema.ValidationError as error:
            raise InputError(f"{path}: {error.message}; run its benchmark again, or delete it") from error
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
    for benchmark, question in QUESTIONS.items():
        found = [result for result in results if result.benchmark == benchmark]
        if not found:
            continue
        head = ["result", "data", "machine", "commit", "others, cores"]
        table = [head, *(_cells(result) for result in found)]
        picture = found[0].path.with_suffix(".png")
        parts += [f"## {question}", f"`python {COMMANDS[benchmark]}`", "\n".join(markdown_table(table, len(head) - 1))]
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
        _others(record),
    ]


def _others(record: Record) -> str:
    """Write what else the machine did meanwhile, in cores: the mean, or the worst row's median, where it is known."""
    if "noise" in record:
        return f"{record['noise']['others_cores']:.2f}"
    rows = [row for part in record.get("loaders", [record]) for row in part["rows"] if row["summary"]]
    return f"{max(row['summary']['others_cores']['median'] for row in rows):.2f}" if rows else ""


def with_table(readme: str, results: list[Result]) -> str:
    """Return the README's text with its table made from the newest comparison of loaders; ``InputError`` if none."""
    newest = next((result for result in results if result.benchmark == COMPARISON), None)
    begin, end = readme.find(BEGIN), readme.find(END)
    if newest is None or not 0 <= begin < end:
        raise InputError("there is no result of loader_compare, or README.md lacks the markers of its table")
    return f"{readme[:begin]}{BEGIN}\n{readme_table(newest)}\n{readme[end:]}"


def readme_table(result: Result) -> str:
    """Write the fastest row of every loader and device, the ceiling left out, and where the figures come from."""
    record = result.record
    fastest: dict[tuple[str, str], Record] = {}
    for row in record["rows"]:
        key = row["loader"], row["device"]
        is_shown = row["summary"] and row["loader"] != CEILING and row["batch_size"] == record["options"]["batch_size"]
        if is_shown and _rate(row) > _rate(fastest.get(key)):
            fastest[key] = row
    head = ["loader", "patches/s", "dali is", "CPU ms per patch", "peak memory, MB"]
    rows = [
        [
            f"`{row['loader']}`, " + ", ".join(filter(None, (row["device"], row["settings"]))),
            _range(row["summary"]["patches_per_s"]),
            lead(record, row),
            brief(1e3 * row["summary"]["cpu_s_per_patch"]["median"]),
            brief(row["summary"]["peak_memory_mb"]["median"]),
        ]
        for row in fastest.values()
    ]
    return "\n".join([*markdown_table([head, *rows]), "", " ".join(filter(None, _caption(result)))])


def _caption(result: Result) -> list[str]:
    """Write where the figures come from, what is to be known of the rows, and what was missed, in sentences."""
    record = result.record
    machine, data, options = record["machine"], record["data"], record["options"]
    return [
        (
            f"{data['name']}, {count_cases(data)}, patches of {' x '.join(map(str, options['patch']))} x "
            f"{data['channels']}, augment {options['augment']}, batch {options['batch_size']}; median (least..most) of "
            f"{options['runs']} runs on {machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}; "
            f"[page](benchmarks/results/{result.path.with_suffix('.md').name})."
        ),
        _hints([row["loader"] for row in record["rows"] if row["summary"]]),
        missed_aims(record),
        "NOISY MACHINE: the page says which rows to doubt." if record["noisy"] else "",
    ]


def _hints(loaders: list[str]) -> str:
    """Say what makes rows cheaper or dearer than they need be, of the loaders that are shown."""
    reusing = [f"`{name}`" for name in ("dali", FLOOR) if name in loaders]
    decoding = [f"`{name}`" for name in ("monai", "monai-persistent") if name in loaders]
    hints = [f"{' and '.join(reusing)}: buffers reused (`reuse_buffers=True`, not the default)"] if reusing else []
    hints += [f"{' and '.join(decoding)}: one volume decoded per patch"] if decoding else []
    return f"{'; '.join(hints)}." if hints else ""


def _rate(row: Record | None) -> float:
    return float(row["summary"]["patches_per_s"]["median"]) if row else 0.0


def _range(values: Spread) -> str:
    return f"{brief(values['median'])} ({brief(values['min'])}..{brief(values['max'])})"


if __name__ == "__main__":
    main(write_index, Options)
