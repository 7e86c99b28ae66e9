"""Evaluate: models/checkpoint on the test split -> reports/metrics.json, pictures, and their data."""

from __future__ import annotations

import json
from pathlib import Path

from clipline import evaluation, retrieval, tracking
from clipline.config.run import EvaluateParams, load_run
from clipline.data.prepared import Prepared, Split
from clipline.image import Preprocess
from clipline.model.device import pick_device
from clipline.model.embedder import TorchModel
from clipline.pictures import plots
from clipline.report import choose, figures, ranking, word_confusion
from clipline.train import checkpoint
from stages.common import run_stage, say

RAW_IMAGES, CHECKPOINT, RECEIPT = Path("data/raw/images"), Path("models/checkpoint"), Path("models/run.json")
REPORTS = Path("reports")
PICTURES = ("gallery.png", "failures.png", "curves.png", "recall.png", "similarity.png", "words.png")


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
    look(embedded, split, run.params.evaluate)
    plots.curves(REPORTS / "train.csv", REPORTS / "curves.png")
    with tracking.resume(
        RECEIPT, experiment=run.params.tracking.experiment, stage="evaluate", history=REPORTS / "train.csv"
    ) as tracked:
        tracked.log_metrics({f"test_{name}": value for name, value in figures.items()}, step=0)
        for name in PICTURES:
            tracked.log_artifact(REPORTS / name)  # not in a folder: the compare page shows only the top
    say(
        f"test: i2t R@1/5/10 {figures['i2t_r1']:.1f}/{figures['i2t_r5']:.1f}/{figures['i2t_r10']:.1f}, "
        f"t2i {figures['t2i_r1']:.1f}/{figures['t2i_r5']:.1f}/{figures['t2i_r10']:.1f} "
        f"on {figures['images']} images and {figures['captions']} captions"
    )


def look(embedded: evaluation.Embedded, split: Split, params: EvaluateParams) -> None:
    """Draw what the figures do not show, and write it down for the report and for `dvc plots`."""
    images, texts = retrieval.normalise(embedded.images), retrieval.normalise(embedded.texts)
    i2t, t2i = retrieval.both_ranks(images, texts, split.caption_image)

    found = choose.choose(evaluation.Embedded(images, texts), split, (i2t, t2i), queries=params.queries, top=params.top)
    text = json.dumps(found.as_dict(), indent=1, ensure_ascii=False)
    (REPORTS / "examples.json").write_text(text + "\n", encoding="utf-8")
    choose.draw_sample(found, RAW_IMAGES, REPORTS / "gallery.png")
    choose.draw_failures(found, RAW_IMAGES, REPORTS / "failures.png")

    recall = ranking.recall_by_rank(i2t, t2i)
    recall.write(REPORTS / "recall.csv")
    figures.recall(recall, REPORTS / "recall.png")
    figures.similarity(ranking.similarities(images, texts, split.caption_image), REPORTS / "similarity.png")

    mixed = word_confusion.confusion(split.captions, split.caption_image, ranking.best_images(texts, images))
    mixed.write(REPORTS / "words.csv")
    figures.words(mixed, REPORTS / "words.png")


if __name__ == "__main__":
    run_stage(main)
