"""The form of a result file as a JSON schema: what a record lacks or has too much is an error before it is written."""

from __future__ import annotations

from benchmarks.reporting.schema import COUNT, DATE, NUMBER, SPREAD, TEXT, TRIPLE, Schema, exactly, list_of, or_null

FORMAT_VERSION = 2
BENCHMARK = "loader_compare"

METRICS = ("patches_per_s", "mb_per_s", "cpu_s_per_patch", "first_batch_s", "peak_memory_mb", "others_cores")
MACHINE = {"cpu": TEXT, "cores": COUNT, "ram_gib": NUMBER, "gpu": or_null(TEXT), "num_gpus": COUNT}
DATA = {
    "name": TEXT,
    "cases": COUNT,
    "distinct": COUNT,
    "channels": COUNT,
    "image_dtype": TEXT,
    "stored_mb": NUMBER,
    "shape_dhw": exactly(dict.fromkeys(("min", "median", "max"), TRIPLE)),
}
WORK = {"augment": TEXT, "patch": TRIPLE, "batch_size": COUNT, "samples_per_case": COUNT, "seed": COUNT}
PROTOCOL = {"runs": COUNT, "seconds": NUMBER, "threads": COUNT, "workers": COUNT, "device": TEXT, "train": TEXT}
RUN = exactly({"batches": COUNT, "wall_s": NUMBER, **dict.fromkeys(METRICS, NUMBER)})
TRAINING = exactly(
    {
        "net": TEXT,
        "steps": COUNT,
        "wall_s": NUMBER,
        "patches_per_s": SPREAD,
        "waiting": SPREAD,
        "gpu_utilisation": or_null(NUMBER),
        "gpu_memory_mb": or_null(NUMBER),
        "of_ceiling": or_null(NUMBER),
    }
)
ROW = exactly(
    {
        "label": TEXT,
        "loader": TEXT,
        "device": {"enum": ["cpu", "gpu"]},
        "settings": {"type": "string"},
        "tuning": {"type": "string"},
        "batch_size": COUNT,
        "workers": or_null(COUNT),
        "checked": TEXT,
        "failure": or_null(TEXT),
        "start_s": NUMBER,
        "runs": list_of(RUN),
        "summary": or_null(exactly(dict.fromkeys(METRICS, SPREAD))),
        "training": or_null(TRAINING),
    },
    optional=["tuning"],
)
SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "voxelfeed loader comparison",
    **exactly(
        {
            "format_version": {"const": FORMAT_VERSION},
            "benchmark": {"const": BENCHMARK},
            "date": DATE,
            "machine": exactly({**MACHINE, "system": TEXT, "python": TEXT}),
            "commit": or_null(exactly({"hash": TEXT, "dirty": {"type": "boolean"}})),
            "versions": {"type": "object", "additionalProperties": TEXT},
            "data": exactly(DATA, optional=["distinct"]),
            "options": exactly(WORK | PROTOCOL),
            "method": list_of(TEXT),
            "memory_kind": {"enum": ["pss", "uss", "rss"]},
            "rows": list_of(ROW),
            "noisy": list_of(TEXT),
            "left_out": list_of(exactly({"label": TEXT, "reason": TEXT})),
            "repeats": list_of(TEXT),
        },
        optional=["repeats"],
    ),
}
