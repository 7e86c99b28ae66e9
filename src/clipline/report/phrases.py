"""Sentences and table rows that the page and the model card share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipline.report.summary import RunSummary

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
RECALLS = (1, 5, 10)
LOSSES = {"infonce": "InfoNCE", "multi_positive": "multi-positive", "siglip": "SigLIP", "soft_target": "soft-target"}
PHASES = {
    "data": "reading data",
    "forward_backward": "forward and backward passes",
    "optimizer": "optimiser steps",
    "eval": "validation",
    "other": "everything else",
}


@dataclass(frozen=True)
class Gate:
    """One exported graph: what was measured (None: not measured), and the limits of its gate.

    why: why it is not shipped. delta_r1: change of R@1 in percentage points, of the direction that lost more.
    megabytes: of 10^6 bytes.
    """

    graph: str
    shipped: bool
    why: str
    min_cosine: float | None
    required_cosine: float | None
    max_abs: float | None
    allowed_abs: float | None
    delta_r1: float | None
    allowed_drop: float | None
    megabytes: float | None
    images_per_second: float | None


def tower(part: Mapping[str, Any]) -> str:
    """A description of an image or text tower. The path of a local weights file is private, and left out."""
    if part.get("tower") == "vit":
        name = f"a vision transformer of {part['depth']} layers, {part['width']} wide,"
    elif part.get("tower") == "timm":
        name = f"timm's {part['name']},"
    else:
        name = f"{part['architecture']} ({part['name']})," if part["name"] else f"{part['architecture']},"
    if part["weights"] == "random":
        return f"{name} from scratch"
    return f"{name} pretrained and {'fine-tuned' if part['trainable'] else 'frozen'}"


def sentence(summary: RunSummary) -> str:
    """One sentence that describes the model."""
    train, recipe = summary.prepared["splits"]["train"], summary.recipe
    loss = LOSSES.get(recipe["loss"]["kind"], recipe["loss"]["kind"])
    best = summary.info.get("best", {})
    selected = f" (epoch {best['epoch']:.0f} was best and is kept)" if "epoch" in best else ""
    return (
        f"A CLIP model that brings images and sentences into one space of {summary.manifest['dim']:,} dimensions: its "
        f"image tower is {tower(recipe['image'])}; its text tower is {tower(recipe['text'])}; and it learned from "
        f"{train['images']:,} images with {train['captions']:,} captions of {summary.dataset}, in "
        f"{len(epochs(summary))} epochs{selected} with the {loss} loss."
    )


def epochs(summary: RunSummary) -> list[dict[str, float]]:
    """The rows of train.csv that end an epoch: those with a validation."""
    return [row for row in summary.rows if "val_loss" in row] or summary.rows


def recalls(figures: Mapping[str, float]) -> list[float]:
    """R@1, R@5, R@10 image to text, then text to image, in percent."""
    return [figures[f"{direction}_r{k}"] for direction in DIRECTIONS for k in RECALLS]


def gates(summary: RunSummary) -> list[Gate]:
    """Every graph and precision in reports/export.json with its gate in params.yaml."""
    return [
        _gate(f"{side}{'' if precision == 'fp32' else f'.{precision}'}.onnx", precision, measured, summary)
        for side in ("image", "text")
        for precision, measured in summary.export[side].items()
    ]


def _gate(graph: str, precision: str, measured: Mapping[str, Any], summary: RunSummary) -> Gate:
    is_fp32 = precision == "fp32"
    limits = summary.gates if is_fp32 else summary.gates[precision]
    deltas = summary.export["test"]["delta_r1"] if is_fp32 else measured.get("delta_r1", {})
    size = measured.get("bytes")
    return Gate(
        graph=graph,
        shipped=measured["shipped"],
        why=measured.get("why", ""),
        min_cosine=measured.get("min_cosine"),
        required_cosine=limits["min_cosine"],
        max_abs=measured.get("max_abs"),
        allowed_abs=limits.get("max_abs"),
        delta_r1=min(deltas.values(), default=None),
        allowed_drop=limits["max_r1_drop"],
        megabytes=None if size is None else size / 1e6,
        images_per_second=measured.get("images_per_second"),
    )


def left_out(summary: RunSummary) -> list[str]:
    """What the preprocess stage left out, with counts and reasons."""
    parts = (("images", summary.prepared["images"]["left out"]), ("captions", summary.prepared["captions"]["dropped"]))
    return [
        f"{part['count']:,} {what} ({why})" for what, reasons in parts for why, part in reasons.items() if part["count"]
    ]


def phases(summary: RunSummary) -> dict[str, float]:
    """Seconds of the training by phase, the longest first."""
    seconds: Counter[str] = Counter()
    for row in summary.rows:
        for name, value in row.items():
            if name.startswith("seconds_"):
                phase = name.removeprefix("seconds_")
                seconds[PHASES.get(phase, phase)] += value
    return dict(seconds.most_common())


def commands(summary: RunSummary) -> str:
    """Shell commands that train the model again."""
    seed = summary.info["seed"]
    return "\n".join(
        [
            *([f"git checkout {summary.revision}"] if summary.revision else []),
            f"dvc exp run -S data={summary.dataset} -S recipe={summary.info['recipe']} -S train.seed={seed}",
            "sha256sum models/checkpoint/model.safetensors",
        ]
    )


def dirty(summary: RunSummary) -> bool:
    """Whether code or settings differed from the commit that is shown."""
    return summary.tags.get("git_dirty") == "true"


def determinism(summary: RunSummary) -> str:
    """What training again with the same inputs gives: what is identical, and what is not."""
    if summary.tags.get("device", "cpu") != "cpu":
        return (
            "It was trained on a GPU, where sums are taken in no fixed order: the same git revision, settings, data "
            "and seed give much the same checkpoint, but not the same bits. This one is the file of SHA-256 "
            f"{summary.weights}. Trained on a CPU it would be the same bit for bit, on the same type of machine."
        )
    return (
        "The same git revision, settings, data and seed give the same checkpoint and the same exported graphs on the "
        "same type of machine, with the same library versions and as many threads, bit for bit: SHA-256 "
        f"{summary.weights}. Neither holds a time or a commit, so dvc.lock then names them by the same hashes too. "
        "models/run.json differs: it holds the id and the start of the MLflow run, and the commit. Times and speeds, "
        "in reports/train.csv and reports/export.json, differ as well."
    )
