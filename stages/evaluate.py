"""Evaluate: models/checkpoint on the test split -> reports/metrics.json, curves and gallery pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipline import evaluation, gallery, plots, tracking
from clipline.config.run import EvaluateParams, load_run
from clipline.data.prepared import Prepared, Split
from clipline.image import Preprocess
from clipline.model.device import pick_device
from clipline.model.embedder import TorchModel
from clipline.train import checkpoint
from stages.common import run_stage, say

RAW_IMAGES, CHECKPOINT, RECEIPT = Path("data/raw/images"), Path("models/checkpoint"), Path("models/run.json")
REPORTS = Path("reports")
RIGHT, WRONG = "#2e9e4f", "#d1382c"


def main() -> None:
    """Measure the trained model with torch, draw what it finds, and log both into the model's run."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    found = checkpoint.load(CHECKPOINT)
    split = data.split("test")
    model = TorchModel(found.model, data.tokenizer, pick_device(run.params.train.device))
    preprocess = Preprocess(found.recipe.inputs.image_size, found.recipe.inputs.resize)
    embedded = evaluation.embed_split(
        model, split, RAW_IMAGES, preprocess, run.params.evaluate.batch_size, "test split"
    )
    figures = evaluation.metrics(embedded, split)

    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "metrics.json").write_text(json.dumps({"test": figures}, indent=2) + "\n")
    draw_gallery(embedded, split, run.params.evaluate, REPORTS / "gallery.png")
    plots.curves(REPORTS / "train.csv", REPORTS / "curves.png")
    with tracking.resume(
        RECEIPT, experiment=run.params.tracking.experiment, stage="evaluate", history=REPORTS / "train.csv"
    ) as tracked:
        tracked.log_metrics({f"test_{name}": value for name, value in figures.items()}, step=0)
        for name in ("gallery.png", "curves.png"):
            tracked.log_artifact(REPORTS / name)  # not in a folder: the compare page shows only the top
    say(
        f"test: i2t R@1/5/10 {figures['i2t_r1']:.1f}/{figures['i2t_r5']:.1f}/{figures['i2t_r10']:.1f}, "
        f"t2i {figures['t2i_r1']:.1f}/{figures['t2i_r5']:.1f}/{figures['t2i_r10']:.1f} "
        f"on {figures['images']} images and {figures['captions']} captions"
    )


def draw_gallery(embedded: evaluation.Embedded, split: Split, params: EvaluateParams, path: Path) -> None:
    """For some captions, drawn from a fixed seed, the best images: the right one framed green, others red."""
    count = min(params.queries, len(split.captions))
    chosen = np.random.default_rng(0).choice(len(split.captions), count, replace=False)
    rows = []
    for caption in chosen:
        scores = embedded.images @ embedded.texts[caption]
        cells = [
            gallery.Cell(
                RAW_IMAGES / split.image_names[image],
                f"{scores[image]:.3f}",
                RIGHT if image == split.caption_image[caption] else WRONG,
            )
            for image in np.argsort(-scores, kind="stable")[: params.top]
        ]
        rows.append(gallery.Row(split.captions[caption], cells))
    gallery.draw(rows, path)


if __name__ == "__main__":
    run_stage(main)
