"""Does the loader change the Dice reached, and how much does the seed? ``python benchmarks/article.py quality``."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.data import ensure_store, median_patch, parse_numbers
from benchmarks.measuring.origin import describe_data
from benchmarks.measuring.processes import run_command
from benchmarks.reporting.figure import INK, OURS, PEER, beside, finish, new_panels
from benchmarks.reporting.result import Record, contents, groups_of, make_row
from preprocessing.console.flags import DEFAULT_SHARDS, AutoTriple
from preprocessing.console.progress import shown
from preprocessing.volumes.grid import Int3
from training.trainer.record import read_metrics

log = logging.getLogger(__name__)
BY_LOADER, BY_SEED = "loader", "loader and seed"
OF_SEED, FOLDER = ", seed ", "{}-seed-{}"
TRAINED_BEFORE = "Trained before, perhaps beside other work, so their minutes do not compare: {}."
METHOD = [
    (
        "python -m training.run, preset fast, the same recipe for every loader. A seed decides the weights, which "
        "fifth of the cases is held out, and every patch; so seeds differ by the cases they are scored on, too."
    ),
    "Scores are those of the best epoch: the mean over structures of the means over held-out cases.",
    "The standard deviation is of a sample (n - 1); with one seed there is none.",
    "Minutes are of steps and validation, without imports.",
]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Train the same recipe from several loaders with several seeds, and compare Dice and HD95 on held-out cases.

    Runs that --runs-folder holds already are not trained again, and one that was interrupted goes on.
    """

    shards: Path = DEFAULT_SHARDS
    """Shard store. The default is the synthetic phantom, made on first use."""
    loaders: str = "dali,torch,monai-cache"
    """Comma list."""
    seeds: str = "0,1,2,3,4"
    """Comma list."""
    other_seeds: str = ""
    """Comma list for every loader but the first, whose seeds show how much chance matters; empty takes --seeds."""
    patch: AutoTriple = None
    """Patch size. auto takes the median volume, at most 128 a side; without a GPU take less."""
    epochs: int = 0
    """Passes over the training cases; 0 takes what the preset needs."""
    runs_folder: Path = Path("runs/quality")
    """Folder for the runs, one each, LOADER-seed-SEED."""
    output: Path = Path("benchmarks/results")
    """Folder for training-quality_MACHINE_DATE.json, .md and .png."""


def measure_quality(options: Quality) -> Record:
    """Run the experiment; returns data, options, runs, rows and method."""
    seeds = _seeds_by_loader(options)
    store = ensure_store(options.shards)
    patch = options.patch or median_patch(store)
    wanted = [(loader, seed) for loader, own in seeds.items() for seed in own]
    found = [run for run in wanted if read_metrics(options.runs_folder / FOLDER.format(*run))]
    finished = {run: _train(options, patch, *run) for run in shown(wanted, "training")}
    rows = [quality_row(loader, [finished[loader, seed] for seed in own]) for loader, own in seeds.items()]
    rows += [quality_row(_label(loader, seed), [run], BY_SEED) for (loader, seed), run in finished.items()]
    described = {"patch": list(patch), "seeds": options.seeds, "preset": "fast", "epochs": options.epochs or "auto"}
    method = [*METHOD, *([TRAINED_BEFORE.format("; ".join(_label(*run) for run in found))] if found else [])]
    return contents(describe_data(store), described, max(map(len, seeds.values())), rows, method)


def _seeds_by_loader(options: Quality) -> dict[str, list[int]]:
    first, *others = options.loaders.split(",")
    seeds = parse_numbers("--seeds", options.seeds, least=0)
    other_seeds = parse_numbers("--other-seeds", options.other_seeds or options.seeds, least=0)
    return {first: seeds} | dict.fromkeys(others, other_seeds)


def _label(loader: str, seed: int) -> str:
    return f"{loader}{OF_SEED}{seed}"


def _train(options: Quality, patch: Int3, loader: str, seed: int) -> dict[str, float | None]:
    """Train unless it is done; returns the figures of the run."""
    folder = options.runs_folder / FOLDER.format(loader, seed)
    flags = {"loader": loader, "shards": options.shards, "output": folder, "patch": ",".join(map(str, patch))}
    run_command("training.run", flags | {"epochs": options.epochs, "seed": seed, "resume": "auto"})
    lines = read_metrics(folder)
    best = max((line for line in lines if line["dice"]), key=lambda line: float(line["dice"]["mean"]))
    log.info("%s: mean Dice %.4f in epoch %d", folder, best["dice"]["mean"], best["epoch"])
    seconds = [value for line in lines for name, value in line["split"].items() if name.endswith("_s")]
    seconds += [line["validation_s"] for line in lines]
    return {"dice": best["dice"]["mean"], "hd95_mm": best["hd95_mm"]["mean"], "minutes": sum(seconds) / 60}


def quality_row(label: str, runs: Sequence[Mapping[str, float | None]], group: str = BY_LOADER) -> Record:
    """Put the runs of a loader together, one per seed; where no structure was found there is no HD95."""
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    found = {name: [value for value in values if value is not None] for name, values in columns.items()}
    summary = {name: values for name, values in found.items() if values}
    if group == BY_LOADER:
        summary["dice_mean"] = [statistics.fmean(found["dice"])]
        if len(found["dice"]) > 1:
            summary["dice_std"] = [statistics.stdev(found["dice"])]
    return make_row(group, label, summary)


def draw_quality(record: Record, path: Path) -> None:
    """Draw a dot per run and a bar per loader: the mean Dice over its seeds."""
    loaders, runs = groups_of(record).values()
    figure, (axes,) = new_panels([len(loaders)])
    for place, row in enumerate(loaders):
        of_loader = [run for run in runs if run["label"].startswith(row["label"] + OF_SEED)]
        mean, std = (row["summary"].get(name, {}).get("median") for name in ("dice_mean", "dice_std"))
        dice = [run["summary"]["dice"]["median"] for run in of_loader]
        axes.plot(dice, [place] * len(dice), "o", color=PEER if place else OURS, markersize=7, alpha=0.7)
        axes.plot(mean, place, "|", color=INK, markersize=22, markeredgewidth=2)
        beside(axes, f"{mean:.4f}" + (f", deviation {std:.4f}" if std else ""), (mean, place - 0.2))
    axes.set_yticks(range(len(loaders)), [row["label"] for row in loaders])
    axes.set_ylim(len(loaders) - 0.4, -0.7)
    axes.margins(x=0.15)
    axes.set_xlabel("mean Dice of held-out cases: a dot for each seed, a bar for their mean", loc="left", size=9)
    axes.set_title(f"{record['data']['name']}: the same recipe from each loader", loc="left")
    finish(figure, record, path, shows="")
