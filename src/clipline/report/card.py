"""reports/model_card.md: the card that the Hugging Face hub shows beside a model."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from clipline.report import phrases
from clipline.report.summary import RunSummary
from clipline.report.templates import fill


def render(summary: RunSummary) -> str:
    """The card as text, metadata first. Its figures are those of the exported graphs."""
    text = fill("card.md.j2", escape=False, summary=summary, phrases=phrases)
    return str(ModelCard(f"---\n{metadata(summary).to_yaml()}\n---\n\n{text}"))


def metadata(summary: RunSummary) -> ModelCardData:
    """What the hub reads: tags, and R@k of the exported model on the test split.

    It names no licence, which is for the owners of the weights and the data to choose.
    """
    results = [
        EvalResult(
            task_type="image-text-retrieval",
            task_name=f"Retrieval, {words}",
            dataset_type=summary.dataset,
            dataset_name=summary.dataset,
            dataset_split="test",
            dataset_revision=summary.info["dataset_fingerprint"],
            metric_type=f"{direction}_recall_at_{k}",
            metric_name=f"R@{k}, {words}",
            metric_value=summary.exported[f"{direction}_r{k}"],
        )
        for direction, words in phrases.DIRECTIONS.items()
        for k in phrases.RECALLS
    ]
    names = [part["name"] for part in (summary.recipe["image"], summary.recipe["text"]) if part.get("name")]
    return ModelCardData(
        model_name=f"{summary.info['recipe']} on {summary.dataset}",
        library_name="onnx",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "clipline", "image-text-retrieval", "feature-extraction"],
        # The hub accepts only its own ids, `owner/name`, as base models; timm's names are none.
        base_model=[name for name in names if name.count("/") == 1] or None,
        eval_results=results,
    )
