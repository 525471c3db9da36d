"""What the JSON files of a shard store say: cases and files in an index, shards and totals in the manifest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from preprocessing.console.errors import InputError
from preprocessing.console.places import is_file_name
from preprocessing.volumes.geometry import Geometry
from preprocessing.volumes.statistics import ChannelStatistics, LabelStatistics, schemes_of


def check_names(*names: object) -> None:
    """Raise ``InputError`` for a name that would lead out of a store: whoever copies one writes under these names."""
    for name in names:
        if not is_file_name(name):
            raise InputError(f"{name!r} cannot name a file or folder in a store")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Name of a file beside its index, its size, and xxh3-64 of all its bytes in hexadecimal."""

    name: str
    size_bytes: int
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class CaseEntry:
    """One case in ``index.json``. Shapes and origins are D,H,W.

    ``geometry`` leads from the file's grid to the whole stored one, of shape ``source_shape_dhw`` and ``affine`` (for
    voxels x,y,z); the stored box begins at ``origin_dhw`` in it. ``foreground_counts`` counts the voxels kept of each
    label; what was prepared elsewhere may also have lists of any annotated voxels (0) and of the regions (-1, -2, ...).
    ``sources`` are named from the data set's folder, or whole where they lie elsewhere. ``notes`` say by kind what
    is odd about them.
    """

    case_id: str
    shape_dhw: tuple[int, int, int]
    image_dtype: str
    max_abs_error: float
    nonfinite_voxels: int
    spacing_mm: tuple[float, float, float]
    affine: list[list[float]]
    geometry: Geometry
    source_shape_dhw: tuple[int, int, int]
    origin_dhw: tuple[int, int, int]
    channels: list[ChannelStatistics]
    labels: dict[int, LabelStatistics]
    foreground_counts: dict[int, int]
    image: FileRecord
    label: FileRecord | None
    foreground: FileRecord | None
    sources: list[FileRecord]
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.case_id, *(record.name for record in self.files))

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> CaseEntry:
        """Build an entry from its JSON form (lists become tuples, text keys become label ids)."""
        made = dict(entry)
        for name in ("shape_dhw", "spacing_mm", "source_shape_dhw", "origin_dhw"):
            made[name] = tuple(entry[name])
        made["geometry"] = Geometry.from_json(entry["geometry"])
        made["channels"] = [ChannelStatistics(**channel) for channel in entry["channels"]]
        made["labels"] = {int(k): _label_statistics(v) for k, v in entry["labels"].items()}
        made["foreground_counts"] = {int(k): v for k, v in entry["foreground_counts"].items()}
        for name in ("image", "label", "foreground"):
            made[name] = None if entry[name] is None else FileRecord(**entry[name])
        made["sources"] = [FileRecord(**record) for record in entry["sources"]]
        return cls(**made)

    def to_json(self) -> dict[str, Any]:
        """Return dicts, lists and numbers only."""
        return {name: value for name, value in asdict(self).items() if name != "notes" or value}

    @property
    def files(self) -> list[FileRecord]:
        """The case's files in the shard."""
        return [record for record in (self.image, self.label, self.foreground) if record is not None]


def _label_statistics(entry: dict[str, Any]) -> LabelStatistics:
    start, stop = tuple(entry["start_dhw"]), tuple(entry["stop_dhw"])
    return LabelStatistics(voxels=entry["voxels"], start_dhw=start, stop_dhw=stop)


def find_case(text: str, case_id: str) -> dict[str, Any] | None:
    """Parse one case of the text of an index; ``None`` where it is not laid out as this package writes it.

    A whole index of 64 cases takes 3 ms, and training comes to another case every few steps.
    """
    begin = text.rfind("{", 0, max(text.find(f'"case_id": {json.dumps(case_id)},'), 0))
    try:
        found, _ = json.JSONDecoder().raw_decode(text, max(begin, 0))
    except json.JSONDecodeError:
        return None
    is_case = isinstance(found, dict) and found.get("case_id") == case_id and "image" in found
    return found if is_case else None


@dataclass(frozen=True, kw_only=True)
class Index:
    """What the index of a shard says: its cases, and id and reason of those refused; ``xxh3`` is its own checksum."""

    cases: list[CaseEntry]
    refused: list[dict[str, str]]
    xxh3: str

    @classmethod
    def from_json(cls, content: dict[str, Any], xxh3: str) -> Index:
        """Build an index from its JSON form."""
        refused = [{name: str(entry[name]) for name in ("case_id", "reason")} for entry in content["refused"]]
        return cls(cases=[CaseEntry.from_json(entry) for entry in content["cases"]], refused=refused, xxh3=xxh3)


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard in the manifest: its cases in order, those of them without a label, its size and index checksum."""

    name: str
    case_ids: list[str]
    unlabelled: list[str]
    size_bytes: int
    index_xxh3: str

    def __post_init__(self) -> None:
        check_names(self.name, *self.case_ids)

    @classmethod
    def of_cases(cls, name: str, cases: list[CaseEntry], index_xxh3: str) -> ShardEntry:
        """Sum up the cases of a shard."""
        return cls(
            name=name,
            case_ids=[case.case_id for case in cases],
            unlabelled=[case.case_id for case in cases if case.label is None],
            size_bytes=sum(record.size_bytes for case in cases for record in case.files),
            index_xxh3=index_xxh3,
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the whole store holds; ``image_dtype`` is the smallest dtype that holds every case without loss.

    ``modality`` says how images are normalised when they are delivered: ``mr`` each case by its own statistics, 0 being
    background; ``ct`` clipped, and by the data set's; ``prepared`` not at all, they were before.
    ``channels`` summarises each channel over all cases (CT: over the labelled ones, unless there are none): mean and
    standard deviation pooled exactly, percentiles as the voxel-weighted mean of the cases' own. Prepared images have
    mean 0 there, and the deviation that turns stored numbers into the values that were given: 1, or 1024 for int16.
    ``label_remap`` gives the stored id of each id in the label files (empty where they were kept). ``regions`` is
    ``None`` for a data set without overlapping regions. ``ignore_label`` is the id of voxels that nobody annotated:
    they are in label files, not among ``label_names``, and do not count anywhere. ``split`` lists the cases of a part
    that the data set itself names, such as ``"validation"``; ``region_ids`` gives the label to write for each region
    where the data set says so; ``schemes`` how each channel is normalised where ``modality`` does not. These three are
    in the file where there are any.
    """

    format_version: int
    name: str
    channel_names: list[str]
    label_names: dict[int, str]
    label_remap: dict[int, int]
    modality: str
    regions: dict[str, list[int]] | None
    image_dtype: str
    max_abs_error: float
    channels: list[ChannelStatistics]
    options: dict[str, Any]
    shards: list[ShardEntry]
    errors: FileRecord | None
    ignore_label: int | None = None
    split: dict[str, list[str]] = field(default_factory=dict)
    region_ids: dict[str, int] = field(default_factory=dict)
    schemes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return dicts, lists and numbers only."""
        return {name: v for name, v in asdict(self).items() if v or name not in ("split", "region_ids", "schemes")}

    @property
    def channel_schemes(self) -> list[str]:
        """How each channel is normalised, one of ``SCHEMES``."""
        return schemes_of(self.schemes, self.modality, len(self.channel_names))

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Manifest:
        """Build a manifest from its JSON form."""
        made = {key: value for key, value in entry.items() if key != "checksum"}
        made["label_names"] = {int(k): v for k, v in entry["label_names"].items()}
        made["label_remap"] = {int(k): v for k, v in entry["label_remap"].items()}
        made["channels"] = [ChannelStatistics(**channel) for channel in entry["channels"]]
        made["shards"] = [ShardEntry(**shard) for shard in entry["shards"]]
        made["errors"] = None if entry["errors"] is None else FileRecord(**entry["errors"])
        return cls(**made)
