"""Convert one share of a data set in an array job: which shards, where they go, and what merging needs to know."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.console.places import location, read_file
from preprocessing.conversion.shard_job import ShardJob
from preprocessing.layouts.dataset import Dataset
from preprocessing.layouts.regions import Regions
from preprocessing.shards.entries import check_names
from preprocessing.shards.files import parse_json, write_json
from preprocessing.volumes.image import ConvertOptions

PART = "part.json"


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Share ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Partition:
        """Read ``"2/4"``; raises ``InputError`` for anything else."""
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        made = cls(number=int(match[1]), of=int(match[2])) if match else cls(number=0, of=0)
        if not 1 <= made.number <= made.of:
            raise InputError(f"--partition {text}: write the number of this job and how many there are, 1/4 to 4/4")
        return made

    @property
    def is_whole(self) -> bool:
        """Whether there is only this one."""
        return self.of == 1

    @property
    def folder(self) -> str:
        """Name of the folder in the output that this share is written to."""
        return f"part-{self.number:05d}-of-{self.of:05d}"

    def share(self, jobs: list[ShardJob], root: Path) -> list[ShardJob]:
        """Take this share of the shards, to be written under ``root``: 7 jobs over 3 shares are 2, 2 and 3."""
        first, last = (len(jobs) * number // self.of for number in (self.number - 1, self.number))
        return [dataclasses.replace(job, root=root) for job in jobs[first:last]]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What all shares of one conversion agree on, and what closing the store takes."""

    dataset: Dataset
    options: ConvertOptions
    regions: Regions | None
    shard_names: list[str]

    def agrees_with(self, other: Conversion) -> bool:
        """Tell whether both are of one conversion; each machine may have the data set in another place."""
        return self.to_json() | {"input": ""} == other.to_json() | {"input": ""}

    def to_json(self) -> dict[str, Any]:
        """Return dicts, lists and numbers only; the cases themselves are in the shards."""
        described = dataclasses.asdict(dataclasses.replace(self.dataset, sources=[], root=Path(), regions=None))
        del described["sources"], described["root"], described["regions"]
        return {
            "dataset": described,
            "input": str(self.dataset.root.resolve()),
            "options": self.options.to_json(),
            "regions": self.regions,
            "shard_names": self.shard_names,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Conversion:
        """Rebuild what ``to_json`` made."""
        described, options = dict(content["dataset"]), dict(content["options"])
        for name in ("label_names", "label_remap"):
            described[name] = {int(number): value for number, value in described[name].items()}
        options["spacing"] = None if options["spacing"] is None else tuple(options["spacing"])
        regions = content["regions"]
        return cls(
            dataset=Dataset(**described, root=location(content["input"]), sources=[]),
            options=ConvertOptions(**options),
            regions=None if regions is None else {name: tuple(numbers) for name, numbers in regions.items()},
            shard_names=content["shard_names"],
        )


def write_part(folder: Path, plan: Conversion, jobs: list[ShardJob]) -> None:
    """Say that a share is done: written last, so a folder without it is not."""
    write_json(folder / PART, {"plan": plan.to_json(), "shards": [job.name for job in jobs]})


def read_part(folder: Path) -> tuple[Conversion, list[str]]:
    """Read what ``write_part`` wrote: the plan and the share's shards; raises ``InputError`` where it is not done."""
    path = folder / PART
    try:
        content = parse_json(str(path), read_file(path))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: this share is not finished; run its --partition again") from error
    try:
        plan, shards = Conversion.from_json(content["plan"]), list(content["shards"])
        check_names(*plan.shard_names, *shards)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error!r}); delete it and run its --partition again") from error
    return plan, shards
