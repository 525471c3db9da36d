"""Hold a comparison against an earlier one of the same work: which medians repeat, and whether the machine did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.contenders.table import CEILING, FLOOR
from benchmarks.reporting.comparison_schema import SCHEMA
from benchmarks.reporting.result import Record, Spread, spread

SAME_WORK = ("patch", "augment", "samples_per_case")


def share_of_floor(record: Record, row: Record) -> Spread | None:
    """Return a row's patches/s as a share of the floor's in the same round; None where one of them was not measured.

    The floor is plain numpy with the most threads at the same batch size. A round lies within a minute or two, so what
    a shared machine is able to do changes little in it, where whole comparisons differ by 10 %.
    """
    floors = [
        other
        for other in record["rows"]
        if other["loader"] == FLOOR and other["summary"] and other["batch_size"] == row["batch_size"]
    ]
    if not floors or row["summary"] is None or row["loader"] == CEILING:
        return None
    rounds = zip(row["runs"], floors[-1]["runs"], strict=True)
    return spread([run["patches_per_s"] / floor["patches_per_s"] for run, floor in rounds])


def agree(one: Spread, other: Spread) -> bool:
    """Whether the median of one lies within the range of the other."""
    return one["min"] <= other["median"] <= one["max"] or other["min"] <= one["median"] <= other["max"]


def find_earlier(record: Record, folder: Path) -> tuple[str, Record] | None:
    """Return the newest comparison in ``folder`` on the same machine, of the same data and work, and its name."""
    same = [pair for pair in _comparisons(folder) if _is_same(record, pair[1])]
    return max(same, key=lambda pair: str(pair[1]["date"]), default=None)


def _comparisons(folder: Path) -> Iterator[tuple[str, Record]]:
    """Read the comparisons in ``folder``; what it holds besides, damaged or not, is passed over."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(SCHEMA)
    for path in folder.glob("*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if validator.is_valid(content):
            yield path.stem, content


def _is_same(record: Record, earlier: Record) -> bool:
    return (
        earlier["date"] < record["date"]
        and all(earlier["machine"][name] == record["machine"][name] for name in ("cpu", "cores", "ram_gib", "gpu"))
        and all(earlier["options"][name] == record["options"][name] for name in SAME_WORK)
        and earlier["data"] == record["data"]
    )


def repeat_lines(record: Record, name: str, earlier: Record) -> list[str]:
    """Say how many medians of ``record`` agree with those of ``earlier``, called ``name``, and which do not."""
    rates, earlier_rates = (
        {_key(row): row["summary"]["patches_per_s"] for row in _measured(of)} for of in (record, earlier)
    )
    shares, earlier_shares = (
        {_key(row): share for row in _measured(of) if row["loader"] != FLOOR and (share := share_of_floor(of, row))}
        for of in (record, earlier)
    )
    lines = [_line(f"Against {name}, patches/s", rates, earlier_rates)]
    if shares.keys() & earlier_shares.keys():
        lines.append(_line(f"Against {name}, share of the floor", shares, earlier_shares))
    return lines


def _measured(record: Record) -> list[Record]:
    return [row for row in record["rows"] if row["summary"] and row["loader"] != CEILING]


def _key(row: Record) -> str:
    return f"{row['label']}, batch {row['batch_size']}"


def _line(what: str, now: Mapping[str, Spread], then: Mapping[str, Spread]) -> str:
    both = [key for key in now if key in then]
    outside = [
        f"{key} ({now[key]['median']:.3g}, then {_written(then[key])})"
        for key in both
        if not agree(now[key], then[key])
    ]
    named = f"; not {'; '.join(outside)}" if outside else ""
    return f"{what}: {len(both) - len(outside)} of {len(both)} medians lie within the range of the other run{named}"


def _written(values: Spread) -> str:
    return f"{values['median']:.3g} from {values['min']:.3g} to {values['max']:.3g}"
