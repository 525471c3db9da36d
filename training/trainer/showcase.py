"""Show the validation cases that say most about a finished run: the best, the median and the worst."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.reference import intensity_of
from preprocessing.shards.files import write_json
from preprocessing.shards.store import Store
from training.inference.overlay import draw_overlay, save_figure
from training.inference.predictor import Predictor
from training.inference.scores import Scores, mean_of
from training.inference.sliding import Sliding, predict_volume
from training.model.checkpoint import BEST, load_checkpoint
from training.trainer.record import without_nan
from training.trainer.validate import OVERLAP

FOLDER, SCORES = "validation", "validation.json"


def write_showcase(run: Path, store: Store, device: torch.device, amp: torch.dtype | None) -> list[Path]:
    """Predict three cases with the best checkpoint of ``run`` and draw them; returns the pictures, best case first.

    Also keeps the scores of all validation cases beside them. Without a best checkpoint there is nothing to show.
    """
    path = run / "checkpoints" / BEST
    if not path.exists():
        return []
    content = load_checkpoint(path)
    scores: Scores = content["cases"]
    (run / FOLDER).mkdir(exist_ok=True)
    kept = {name: content[name] for name in ("epoch", "means", "cases")}
    write_json(run / FOLDER / SCORES, without_nan(kept))
    predictor = Predictor.from_checkpoint(content, Sliding(overlap=OVERLAP, amp=amp), device)
    for old in (run / FOLDER).glob("*.png"):
        old.unlink()
    pictures = []
    for name, case_id in choose_cases(scores).items():
        case = store.case(case_id)
        image, label = case.image(), case.label()
        assert label is not None  # it was validated
        intensity = intensity_of(case, store.manifest)
        predicted = predict_volume(predictor.network, image, intensity, predictor.spec, predictor.how)
        pictures.append(run / FOLDER / f"{name}_{case_id}.png")
        save_figure(pictures[-1], draw_overlay(image[..., 0], case.affine, label[..., 0], predicted))
    return pictures


def choose_cases(scores: Scores) -> dict[str, str]:
    """Name the best, median and worst case by mean Dice; fewer when there are fewer cases.

    ``{"a": 0.9, "b": 0.5, "c": 0.7}`` (means) gives best a, median c, worst b.
    """
    means = {case_id: mean_of(score, "dice") for case_id, score in scores.items()}
    ordered = sorted(means, key=lambda case_id: (-means[case_id], case_id))
    places = {"best": 0, "worst": len(ordered) - 1, "median": len(ordered) // 2}
    chosen: dict[str, str] = {}
    for name, place in places.items():
        if ordered[place] not in chosen.values():
            chosen[name] = ordered[place]
    return {name: chosen[name] for name in ("best", "median", "worst") if name in chosen}
