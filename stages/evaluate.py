"""Evaluate: models/checkpoint on the test split -> reports/metrics.json, pictures, and their data."""

from __future__ import annotations

import json
from pathlib import Path

from clipline import evaluation, retrieval
from clipline.config.run import EvaluateParams, load_run
from clipline.data.prepared import Prepared, Split
from clipline.image import Preprocess
from clipline.model.device import pick_device
from clipline.model.embedder import TorchModel
from clipline.pictures import plots
from clipline.report import figures, ranking, word_confusion
from clipline.report.pick_examples import draw_failures, draw_sample, pick_examples
from clipline.train import checkpoint
from stages.common import HISTORY, resume_run, run_stage, say

RAW_IMAGES, CHECKPOINT, REPORTS = Path("data/raw/images"), Path("models/checkpoint"), Path("reports")
PICTURES = ("gallery.png", "failures.png", "curves.png", "recall.png", "similarity.png", "words.png")


def main() -> None:
    """Measure the trained model with torch, draw the results, and log both into the model's run."""
    run, data = load_run(), Prepared(Path("data/prepared"))
    trained, split = checkpoint.load(CHECKPOINT), data.split("test")
    model = TorchModel(trained.model, data.tokenizer, pick_device(run.params.train.device))
    preprocess = Preprocess(trained.recipe.inputs.image_size, trained.recipe.inputs.resize)
    embedded = evaluation.embed_split(
        model, split, RAW_IMAGES, preprocess, run.params.evaluate.batch_size, "test split"
    )
    metrics = evaluation.metrics(embedded, split)

    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "metrics.json").write_text(json.dumps({"test": metrics}, indent=2) + "\n")
    analyse(embedded, split, run.params.evaluate)
    plots.curves(HISTORY, REPORTS / "curves.png")
    with resume_run(run, "evaluate") as tracked:
        tracked.log_metrics({f"test_{name}": value for name, value in metrics.items()}, step=0)
        for name in PICTURES:
            tracked.log_artifact(REPORTS / name)  # at the top: MLflow's compare page shows no folders
    say(
        f"test: i2t R@1/5/10 {metrics['i2t_r1']:.1f}/{metrics['i2t_r5']:.1f}/{metrics['i2t_r10']:.1f}, "
        f"t2i {metrics['t2i_r1']:.1f}/{metrics['t2i_r5']:.1f}/{metrics['t2i_r10']:.1f} "
        f"on {metrics['images']} images and {metrics['captions']} captions"
    )


def analyse(embedded: evaluation.Embedded, split: Split, params: EvaluateParams) -> None:
    """Write examples, recall by rank, similarities and confused words, as pictures and as data for `dvc plots`."""
    images, texts = retrieval.normalise(embedded.images), retrieval.normalise(embedded.texts)
    i2t, t2i = retrieval.both_ranks(images, texts, split.caption_image)

    embedded = evaluation.Embedded(images, texts)
    examples = pick_examples(embedded, split, (i2t, t2i), queries=params.queries, top=params.top)
    text = json.dumps(examples.as_dict(), indent=1, ensure_ascii=False)
    (REPORTS / "examples.json").write_text(text + "\n", encoding="utf-8")
    draw_sample(examples, RAW_IMAGES, REPORTS / "gallery.png")
    draw_failures(examples, RAW_IMAGES, REPORTS / "failures.png")

    recall = ranking.recall_by_rank(i2t, t2i)
    recall.write(REPORTS / "recall.csv")
    figures.recall(recall, REPORTS / "recall.png")
    figures.similarity(ranking.similarities(images, texts, split.caption_image), REPORTS / "similarity.png")

    confused = word_confusion.confusion(split.captions, split.caption_image, ranking.best_images(texts, images))
    confused.write(REPORTS / "words.csv")
    figures.words(confused, REPORTS / "words.png")


if __name__ == "__main__":
    run_stage(main)
