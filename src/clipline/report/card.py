"""reports/model_card.md: the card that the Hugging Face hub shows beside a model."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from clipline.report import phrases
from clipline.report.facts import Facts
from clipline.report.templates import fill


def render(facts: Facts) -> str:
    """The card, its metadata above the text. The figures are the exported graphs'."""
    text = fill("card.md.j2", escape=False, facts=facts, phrases=phrases)
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{text}"))


def metadata(facts: Facts) -> ModelCardData:
    """What the hub reads: tags, and R@k of the exported model on the test split.

    It names no licence: the weights' and the data's owners decide on that.
    """
    results = [
        EvalResult(
            task_type="image-text-retrieval",
            task_name=f"Retrieval, {words}",
            dataset_type=facts.dataset,
            dataset_name=facts.dataset,
            dataset_split="test",
            dataset_revision=facts.info["dataset_fingerprint"],
            metric_type=f"{direction}_recall_at_{k}",
            metric_name=f"R@{k}, {words}",
            metric_value=facts.exported[f"{direction}_r{k}"],
        )
        for direction, words in phrases.DIRECTIONS.items()
        for k in phrases.RECALLS
    ]
    names = [part["name"] for part in (facts.recipe["image"], facts.recipe["text"]) if part.get("name")]
    return ModelCardData(
        model_name=f"{facts.info['recipe']} on {facts.dataset}",
        library_name="onnx",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "clipline", "image-text-retrieval", "feature-extraction"],
        # Of the two towers only a hub id, `owner/name`, is what the hub takes for a base model.
        base_model=[name for name in names if name.count("/") == 1] or None,
        eval_results=results,
    )
