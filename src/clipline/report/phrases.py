"""Facts in words and in rows of tables: what the page and the model card say alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipline.report.facts import Facts

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
RECALLS = (1, 5, 10)
LOSSES = {
    "infonce": "InfoNCE",
    "multi_positive": "multi-positive",
    "siglip": "SigLIP",
    "soft_target": "soft-target",
}
PHASES = {
    "data": "reading data",
    "forward_backward": "forward and backward passes",
    "optimizer": "optimiser steps",
    "eval": "validation",
    "other": "everything else",
}


@dataclass(frozen=True)
class Gate:
    """One exported graph: what was measured and what it had to reach. None: not measured."""

    graph: str
    shipped: bool
    why: str
    min_cosine: float | None
    least_cosine: float | None
    max_abs: float | None
    most_abs: float | None
    delta_r1: float | None
    most_drop: float | None
    megabytes: float | None
    images_per_second: float | None


def tower(part: Mapping[str, Any]) -> str:
    """An image or text tower in a few words. Where a local file lies is nobody else's business."""
    if part.get("tower") == "vit":
        name = f"a vision transformer of {part['depth']} layers, {part['width']} wide,"
    elif part.get("tower") == "timm":
        name = f"timm's {part['name']},"
    else:
        name = f"{part['architecture']} ({part['name']})," if part["name"] else f"{part['architecture']},"
    if part["weights"] == "random":
        return f"{name} from scratch"
    return f"{name} pretrained and {'fine-tuned' if part['trainable'] else 'frozen'}"


def sentence(facts: Facts) -> str:
    """What the model is, in one sentence."""
    train, recipe = facts.prepared["splits"]["train"], facts.recipe
    loss = LOSSES.get(recipe["loss"]["kind"], recipe["loss"]["kind"])
    best = facts.info.get("best", {})
    kept = f" (epoch {best['epoch']:.0f} was best and is kept)" if "epoch" in best else ""
    return (
        f"A CLIP model that brings images and sentences into one space of {facts.manifest['dim']:,} dimensions: its "
        f"image tower is {tower(recipe['image'])}; its text tower is {tower(recipe['text'])}; and it learned from "
        f"{train['images']:,} images with {train['captions']:,} captions of {facts.dataset}, in "
        f"{len(epochs(facts))} epochs{kept} with the {loss} loss."
    )


def epochs(facts: Facts) -> list[dict[str, float]]:
    """The rows of train.csv that end an epoch: those with a validation."""
    return [row for row in facts.rows if "val_loss" in row] or facts.rows


def recalls(figures: Mapping[str, float]) -> list[float]:
    """R@1, R@5, R@10 image to text, then text to image."""
    return [figures[f"{direction}_r{k}"] for direction in DIRECTIONS for k in RECALLS]


def gates(facts: Facts) -> list[Gate]:
    """Every graph and precision of reports/export.json against its gate of params.yaml."""
    return [
        _gate(f"{side}{'' if precision == 'fp32' else f'.{precision}'}.onnx", precision, figures, facts)
        for side in ("image", "text")
        for precision, figures in facts.export[side].items()
    ]


def _gate(graph: str, precision: str, figures: Mapping[str, Any], facts: Facts) -> Gate:
    plain = precision == "fp32"
    wanted = facts.gates if plain else facts.gates[precision]
    deltas = facts.export["test"]["delta_r1"] if plain else figures.get("delta_r1", {})
    size, speed = figures.get("bytes"), figures.get("images_per_second")
    return Gate(
        graph=graph,
        shipped=figures["shipped"],
        why=figures.get("why", ""),
        min_cosine=figures.get("min_cosine"),
        least_cosine=wanted["min_cosine"],
        max_abs=figures.get("max_abs"),
        most_abs=wanted.get("max_abs"),
        # Of both directions the one that lost more.
        delta_r1=min(deltas.values(), default=None),
        most_drop=wanted["max_r1_drop"],
        megabytes=size / 1e6 if size is not None else None,
        images_per_second=speed,
    )


def left_out(facts: Facts) -> list[str]:
    """What the preprocess stage dropped, and why."""
    parts = (("images", facts.prepared["images"]["left out"]), ("captions", facts.prepared["captions"]["dropped"]))
    return [
        f"{part['count']:,} {what} ({why})" for what, reasons in parts for why, part in reasons.items() if part["count"]
    ]


def phases(facts: Facts) -> dict[str, float]:
    """Seconds of the whole training by what they went into, the most first."""
    total: dict[str, float] = {}
    for row in facts.rows:
        for name, value in row.items():
            if name.startswith("seconds_"):
                phase = name.removeprefix("seconds_")
                phase = PHASES.get(phase, phase)
                total[phase] = total.get(phase, 0.0) + value
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def commands(facts: Facts) -> str:
    """How to make the model again, as shell lines."""
    seed = facts.info["seed"]
    return "\n".join(
        [
            *([f"git checkout {facts.revision}"] if facts.revision else []),
            f"dvc exp run -S data={facts.dataset} -S recipe={facts.info['recipe']} -S train.seed={seed}",
            "sha256sum models/checkpoint/model.safetensors",
        ]
    )


def dirty(facts: Facts) -> bool:
    """Whether code or settings differed from the commit that is named."""
    return facts.tags.get("git_dirty") == "true"


def determinism(facts: Facts) -> str:
    """What the same inputs promise, and what they do not."""
    if facts.tags.get("device", "cpu") != "cpu":
        return (
            "It was trained on a GPU, where sums are taken in no fixed order: the same git revision, settings, data "
            "and seed give much the same checkpoint, but not the same bits. This one is the file of SHA-256 "
            f"{facts.weights}. Trained on a CPU it would be the same bit for bit, on the same type of machine."
        )
    return (
        "The same git revision, settings, data and seed give the same checkpoint and the same exported graphs on the "
        "same type of machine, with the same library versions and as many threads, bit for bit: SHA-256 "
        f"{facts.weights}. Neither holds a time or a commit, so dvc.lock then names them by the same hashes too. "
        "models/run.json differs: it holds the id and the start of the MLflow run, and the commit. Times and speeds, "
        "in reports/train.csv and reports/export.json, differ as well."
    )
