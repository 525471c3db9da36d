"""Write one self-contained page about a run: ``python -m training.report --run runs/demo``."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from preprocessing.console.errors import EXIT_DONE, InputError
from preprocessing.console.flags import main
from preprocessing.console.page import picture, png_of, table, write_page
from training.inference.outputs import SCORES
from training.inference.overlay import PREDICTED_COLOUR, TRUE_COLOUR
from training.inference.scores import METRICS
from training.trainer.record import read_metrics, read_run
from training.trainer.showcase import FOLDER
from training.trainer.showcase import SCORES as VALIDATION
from training.trainer.timing import PARTS, TimeSplit, describe_limit, total_split

log = logging.getLogger(__name__)
STYLE = """
body { max-width: 60rem } .lead { color: #555 }
td, th { padding: .2rem .7rem; text-align: right }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
tr:nth-child(even) { background: #f4f4f4 } figcaption { color: #555 }
details { margin: 1rem 0 } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem } dd { margin: 0 }
"""
COLOURS = ("#4878a8", "#e49444", "#a87c9f", "#6a9f58", "#bbbbbb")  # of PARTS
LEGEND = f"<p>Outlines: <b style='color:{TRUE_COLOUR}'>true</b>, <b style='color:{PREDICTED_COLOUR}'>predicted</b>.</p>"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write report.html into a run folder: curves, time split, scores and overlays of held-out cases, options."""

    run: Path = Path("runs/demo")
    """Run folder (the --output of training.run)."""
    evaluation: Path | None = None
    """Folder written by training.evaluate; the default is RUN/evaluation, where it is there."""


def report(options: Options) -> int:
    """Run the command; returns the exit code."""
    run, lines = read_run(options.run), read_metrics(options.run)
    if not lines:
        raise InputError(f"{options.run}: no finished epoch yet; train for at least one epoch")
    evaluation = options.evaluation or options.run / "evaluation"
    if options.evaluation is not None and not (evaluation / SCORES).exists():
        raise InputError(f"{evaluation}: no {SCORES} there; make it with python -m training.evaluate")
    path = options.run / "report.html"
    write_page(path, options.run.resolve().name, make_sections(options.run, run, lines, evaluation), STYLE)
    log.info("report: %s", path.resolve().as_uri())
    return EXIT_DONE


def make_sections(
    folder: Path, run: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], evaluation: Path
) -> list[str]:
    """Return the sections of the page as HTML with every picture inside them."""
    total = total_split(lines)
    validated = [line for line in lines if line["dice"]]
    cases = run["cases"]
    lead = (
        f"{len(cases['training'])} training and {len(cases['validation'])} validation cases, "
        f"{_count(lines[-1]['epoch'], 'epoch')}, {_count(lines[-1]['step'], 'step')}; {_best(validated)}"
    )
    return [
        f"<p class=lead>{lead}</p>",
        "<h2>Training</h2>" + _figure(_curves(lines, validated), "Loss per epoch and Dice on the validation cases."),
        "<h2>Where the time went</h2>"
        + _figure(_time_split(total), describe_limit(total, run["options"]["loader"], on_gpu=_was_on_gpu(run))),
        _validation(folder / FOLDER),
        _evaluation(evaluation, run["cases"]["training"]),
        _facts("Options", run["options"]) + _facts("Environment", run["environment"]),
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _best(validated: Sequence[Mapping[str, Any]]) -> str:
    """Say what the best validation reached: a line without any Dice is of an epoch whose cases have no structure."""
    reached = [line["dice"]["mean"] for line in validated if line["dice"]["mean"] is not None]
    if not reached:
        return "not validated" if not validated else "no validation case has a structure to score"
    left_out = ", ".join(validated[-1].get("left_out", ()))
    return f"best validation Dice {max(reached):.3f}" + (
        f" (without {left_out}, which no validation case has)" if left_out else ""
    )


def _was_on_gpu(run: Mapping[str, Any]) -> bool:
    return bool(run["options"]["device"] != "cpu" and run["environment"]["gpu"] != "none")


def _curves(lines: Sequence[Mapping[str, Any]], validated: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, dice = figure.subplots(1, 2)
    loss.plot([line["epoch"] for line in lines], [line["loss"] for line in lines], color="#4878a8", marker=".")
    loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    for structure in validated[0]["dice"] if validated else ():
        values = [line["dice"][structure] for line in validated]
        style = {"color": "black", "linewidth": 2.2} if structure == "mean" else {"linewidth": 1.2}
        dice.plot([line["epoch"] for line in validated], values, marker=".", label=structure, **style)
    dice.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    if validated:
        dice.legend(loc="lower right", frameon=False)
    for axes in (loss, dice):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _time_split(total: TimeSplit) -> Figure:
    figure = Figure(figsize=(9, 1.5), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for (part, title), colour in zip(PARTS.items(), COLOURS, strict=True):
        share = 100 * getattr(total, part) / (total.wall_s or 1)
        axes.barh(0, share, left=left, color=colour, label=f"{title} {share:.1f} %")
        left += share
    axes.set(xlim=(0, 100), yticks=[], xlabel=f"percent of {total.wall_s:.0f} s in {total.steps} steps")
    axes.legend(ncols=len(PARTS), fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _validation(folder: Path) -> str:
    """Show the best, the median and the worst validation case, which training.run left."""
    if not (folder / VALIDATION).exists():
        return ""
    kept = json.loads((folder / VALIDATION).read_text(encoding="utf-8"))
    pictures = []
    for kind in ("best", "median", "worst"):
        for path in folder.glob(f"{kind}_*.png"):
            case_id = path.stem.removeprefix(f"{kind}_")
            caption = html.escape(f"{kind}: {case_id} ({_describe(kept['cases'][case_id])})")
            pictures.append(picture(path.read_bytes(), caption, alt=case_id))
    return f"<h2>Validation cases in epoch {kept['epoch']}</h2>{LEGEND}" + "".join(pictures)


def _describe(score: Mapping[str, Mapping[str, float | None]]) -> str:
    """Write the scores of a case: ``WT Dice 0.912, HD95 2.24 mm; ET ...``; without a distance where there is none."""
    parts = []
    for name, of in score.items():
        distance = "" if of["hd95_mm"] is None else f", HD95 {_number(of['hd95_mm'])} mm"
        parts.append(f"{name} Dice {_number(of['dice'])}{distance}")
    return "; ".join(parts)


def _evaluation(folder: Path, training_cases: Sequence[str]) -> str:
    if not (folder / SCORES).exists():
        return ""
    scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    rows = [("mean", name, metrics) for name, metrics in scores["mean"].items()]
    rows += [(case, name, metrics) for case, by_name in scores["cases"].items() for name, metrics in by_name.items()]
    body = [[case, name, *(_number(metrics[metric]) for metric in METRICS)] for case, name, metrics in rows]
    for row, count in zip(body, scores.get("counts", {}).values(), strict=False):  # the means come first
        row[2 + METRICS.index("hd95_mm")] += f" ({count['hd95_mm']} of {len(scores['cases'])})"
    pictures = "".join(
        picture(path.read_bytes(), html.escape(path.stem), alt=path.stem)
        for path in (folder / "overlays" / f"{case}.png" for case in scores["cases"])
        if path.exists()
    )
    seen = len(set(scores["cases"]) & set(training_cases))
    title, warning = "Held-out cases", ""
    if seen:
        title = "Scored cases"
        warning = (
            f"<p><b>{seen} of {len(scores['cases'])} were trained on: their scores say nothing about new cases.</b></p>"
        )
    scored = table(body, header=("case", "structure", *METRICS))
    return f"<h2>{title}</h2>{warning}{scored}" + (LEGEND + pictures if pictures else "")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _figure(figure: Figure, caption: str) -> str:
    return picture(png_of(figure, dpi=120), html.escape(caption), alt=caption)


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items())
    return f"<details><summary>{title}</summary><dl>{rows}</dl></details>"


if __name__ == "__main__":
    main(report, Options)
