"""Train all folds of a study and report them together: ``python -m training.study --folds 5``."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.console.errors import EXIT_DONE, InputError, RunError
from preprocessing.console.flags import main
from preprocessing.shards.files import write_json
from preprocessing.shards.store import open_store
from preprocessing.to_shards import ensure_phantom
from training.distributed.world import choose_device, read_world
from training.inference.scores import Scores
from training.model.checkpoint import BEST, LAST, load_checkpoint
from training.model.compute import choose_amp
from training.options import AUTO, check_options
from training.options import Options as RunOptions
from training.trainer.pooled import pooled_rows, score_held_out, worst_cases
from training.trainer.record import read_metrics, without_nan
from training.trainer.splits import choose_split, num_folds_in, write_folds
from training.trainer.stop import StopRequest, listen_for_stop

log = logging.getLogger(__name__)
NUM_WORST = 10
LOOK_EVERY_S = 0.2
LEAD = (
    "The best model of each fold on the cases that it did not see. Mean and standard deviation over cases, and how "
    "many cases have a value: a distance is not defined where one of both maps lacks the structure."
)


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Train every fold of --folds or --splits, one after the other, score each on the cases it did not see, and pool.

    Takes every flag of training.run but --fold and --resume. Killed or stopped, the same command goes on where it was;
    folds that are finished are kept. Writes OUTPUT/fold_0, fold_1, ... (run folders), study.json and report.html.
    """

    output: Path = Path("runs/study")
    """Folder of the study."""
    folds: int = 5
    """Folds to deal the cases over; 0 where --splits has them."""
    processes: int = 1
    """Processes for each fold, started by torchrun on this machine: one for each GPU."""


def study(options: Options) -> int:
    """Run the command; returns the exit code."""
    if options.splits is not None:
        options = dataclasses.replace(options, folds=0)
    _check(options)
    ensure_phantom(options.shards)
    store = open_store(options.shards)
    num_folds = num_folds_in(options.splits) if options.splits is not None else options.folds
    splits = [choose_split(dataclasses.replace(options, fold=fold), store.labelled_ids) for fold in range(num_folds)]
    options.output.mkdir(parents=True, exist_ok=True)
    write_folds(options.output, splits[0])
    runs = [options.output / f"fold_{fold}" for fold in range(num_folds)]
    with listen_for_stop() as stop:
        for fold, run in enumerate(runs):
            if not _is_finished(run):
                log.info("fold %d of %d: %s", fold, num_folds, run)
                _train(options, fold, run, stop)
            if stop.signal is not None:
                log.info("stopped in fold %d: to go on, give the same command", fold)
                return 130 if stop.signal is signal.SIGINT else EXIT_DONE
    device = choose_device(options.device, read_world())
    amp = choose_amp(options.amp, device)
    folds = [score_held_out(run, store, device, amp) for run in runs]
    _report(options.output, runs, folds)
    return EXIT_DONE


def _check(options: Options) -> None:
    if options.fold or options.resume != "never" or options.output == AUTO:
        raise InputError("--fold and --resume are the study's own, and --output is a folder; leave the first two out")
    if options.processes < 1:
        raise InputError(f"--processes {options.processes}: at least 1")
    if options.held_out == 0 or (not options.folds and options.splits is None):
        raise InputError("a study needs --folds 2 or more, or --splits FILE")
    check_options(options)


def _is_finished(run: Path) -> bool:
    """Whether the last epoch of a fold is saved: killed after that, a run has nothing left to train."""
    last = run / "checkpoints" / LAST
    if not (last.exists() and (run / "checkpoints" / BEST).exists()):
        return False
    content = load_checkpoint(last)
    return bool(content["progress"]["epoch"] >= content["options"]["epochs"])


def _train(options: Options, fold: int, run: Path, stop: StopRequest) -> None:
    """Train one fold in a process of its own, which hears of a wish to stop and saves.

    Raises ``RunError`` where it ends otherwise than done or stopped.
    """
    words = [sys.executable, "-m", "training.run"]
    if options.processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes)]
        words = [sys.executable, *launcher, "-m", "training.run"]
    flags = run_flags(dataclasses.replace(options, output=run, fold=fold, resume="auto"))
    # a session of its own: Ctrl-C then reaches the child through here, once
    process = subprocess.Popen([*words, *flags], start_new_session=True, preexec_fn=_end_with_parent)  # noqa: PLW1509
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_EVERY_S)
        if stop.signal is not None:
            process.send_signal(stop.signal)
            process.wait()
    if stop.signal is None and not _is_finished(run):
        code = process.returncode
        raise RunError(f"fold {fold} did not end (exit code {code}); see above, then give the same command to go on")


def _end_with_parent() -> None:
    """Have Linux send SIGTERM when the process that studies is gone, also by SIGKILL: the fold saves and ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def run_flags(options: Options) -> list[str]:
    """Write the options down as flags of training.run, as far as they differ from its defaults."""
    words = []
    for field in dataclasses.fields(RunOptions):
        value = getattr(options, field.name)
        if value != getattr(RunOptions, field.name, None):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value).strip()
            words += [f"--{field.name.replace('_', '-')}", text]
    return words


def _report(output: Path, runs: Sequence[Path], folds: Sequence[Scores]) -> None:
    from preprocessing.console.page import picture, png_of, table, write_page  # half a second of matplotlib

    rows = list(pooled_rows(folds))
    metrics = list(rows[0][2]) if rows else []
    cells = [(part, name, *(_text(*of[metric]) for metric in metrics)) for part, name, of in rows]
    worst = [(case_id, f"fold {fold}", f"{dice:.3f}") for dice, fold, case_id in worst_cases(folds, NUM_WORST)]
    content = {"folds": [run.name for run in runs], "pooled": _plain(rows), "cases": list(folds)}
    write_json(output / "study.json", without_nan(content))
    lines = [read_metrics(run) for run in runs]
    sections = [
        f"<p>{LEAD}</p>",
        table(cells, header=("part", "structure", *(metric.replace("_", " ") for metric in metrics))),
        picture(png_of(_curves(lines), dpi=120), "Mean Dice on the validation cases of each fold.", alt="curves"),
        f"<h2>The {len(worst)} worst cases</h2>" + table(worst, header=("case", "fold", "mean dice")),
    ]
    write_page(output / "report.html", f"{output.resolve().name}: {len(runs)} folds", sections)
    for part, name, *texts in cells:
        if part == "all folds":
            log.info("%s, %s: %s", part, name, ", ".join(map(" ".join, zip(metrics, texts, strict=True))))
    log.info("report: %s", (output / "report.html").resolve().as_uri())


def _text(mean: float, deviation: float, count: int) -> str:
    return "n/a" if not count else f"{mean:.3f} +- {deviation:.3f} ({count})"


def _plain(rows: Sequence[tuple[str, str, Mapping[str, tuple[float, float, int]]]]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for part, name, of in rows:
        values = {metric: dict(zip(("mean", "std", "cases"), spread, strict=True)) for metric, spread in of.items()}
        plain.setdefault(part, {})[name] = values
    return plain


def _curves(lines: Sequence[Sequence[Mapping[str, Any]]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    for fold, own in enumerate(lines):
        validated = [line for line in own if line["dice"] and line["dice"]["mean"] is not None]
        means = [line["dice"]["mean"] for line in validated]
        axes.plot([line["epoch"] for line in validated], means, marker=".", label=f"fold {fold}")
    axes.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, ncols=2)
    return figure


if __name__ == "__main__":
    main(study, Options)
