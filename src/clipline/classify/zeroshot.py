"""Zero-shot: the probability of each label or caption for an image. numpy and the exported model, no training.

As in CLIP, a softmax over scale * cosine, with the scale that the model learned (Radford et al., arXiv 2103.00020,
section 3.1). A model trained with the sigmoid loss has a bias too; it is the same for every text of an image, and what
is added to all logits does not change a softmax. Probabilities say which of the given texts fits best, and never that
none of them fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.utils.texts import as_texts

# For bundles that do not name their scale: CLIP's after training, and the maximum of most recipes.
ASSUMED_SCALE = 100.0
PROMPT_BATCH = 256
SHOWN = 5  # notes on texts that are too long

# {} is the label. A prompt should read like the captions that the model was trained on; with several, less depends on
# the wording of each.
TEMPLATES = {
    "captions": [
        "a {}",
        "a photo of a {}",
        "a picture of a {}",
        "there is a {}",
        "a {} in the picture",
        "a close up of a {}",
        "a {} outside",
    ],
    "photo": ["a photo of a {}"],
    "plain": ["{}"],
    # The seven that OpenAI found best on ImageNet for all of CLIP's towers (notebooks/Prompt_Engineering_for_ImageNet).
    "imagenet": [
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ],
    # OpenAI's for CIFAR-10 (data/prompts.md): small and blurred pictures.
    "cifar10": [
        prompt.format(article) + " {}."
        for article in ("a", "the")
        for prompt in (
            "a photo of {}",
            "a blurry photo of {}",
            "a black and white photo of {}",
            "a low contrast photo of {}",
            "a high contrast photo of {}",
            "a bad photo of {}",
            "a good photo of {}",
            "a photo of {} small",
            "a photo of {} big",
        )
    ],
}
DEFAULT_TEMPLATES = "captions"


def class_vectors(
    model: OnnxModel,
    labels: Sequence[str],
    templates: Sequence[str] | None = None,
    advance: Callable[[int], None] = lambda labels: None,
) -> np.ndarray:
    """A vector for each label: float32 [labels, dim], L2-normalised.

    It is the mean of the embeddings of the label in each template, normalised again (arXiv 2103.00020, section 3.1.4).
    templates: each with `{}` for the label; None takes TEMPLATES["captions"]. advance: called with the number of labels
    done. Raises UsageError for what is no text (`as_texts`), and for a template without `{}`.
    """
    templates = as_texts(TEMPLATES[DEFAULT_TEMPLATES] if templates is None else templates, "template")
    check_templates(templates)
    labels = as_texts(labels, "label")
    step = max(1, PROMPT_BATCH // len(templates))
    classes = [np.empty((0, model.dim), np.float32)]
    for start in range(0, len(labels), step):
        batch = labels[start : start + step]
        vectors = model.embed_texts(prompts(batch, templates), PROMPT_BATCH)
        means = vectors.reshape(len(batch), len(templates), -1).mean(axis=1)
        classes.append(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))
        advance(len(batch))
    return np.concatenate(classes)


def prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each label in each template, the templates of a label together."""
    # Not str.format: a label may hold braces.
    return [template.replace("{}", label.strip()) for label in labels for template in templates]


def check_templates(templates: Sequence[str]) -> None:
    """Raise UsageError where there is no template, or one has no `{}` for the label."""
    if not templates:
        raise UsageError("there are no templates. Fix: give one, such as 'a photo of a {}'")
    for template in templates:
        if "{}" not in template:
            raise UsageError(f"template {template!r}: has no {{}} for the label. Fix: such as 'a photo of a {{}}'")


def probabilities(images: np.ndarray, texts: np.ndarray, scale: float) -> np.ndarray:
    """How likely each text is for each image, among these texts: float32 [n, c], rows sum to 1.

    images: [n, dim] of any float type; texts: float32 [c, dim]; both L2-normalised. scale: see `logit_scale`.
    """
    logits = scale * (np.asarray(images, np.float32) @ texts.T)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def top_labels(labels: Sequence[str], shares: np.ndarray, top: int) -> list[list[tuple[str, float]]]:
    """For each image its `top` labels and their probabilities, likeliest first; equal ones in the order of `labels`.

    shares: float32 [n, labels], from `probabilities`.
    """
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    return [[(labels[column], float(row[column])) for column in best] for row, best in zip(shares, order, strict=True)]


def caption_probabilities(model: OnnxModel, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """How likely each caption is for each image, among these captions: float32 [n, captions].

    images: [n, dim], L2-normalised embeddings by `model`. Raises UsageError for what is no text.
    """
    return probabilities(images, caption_vectors(model, captions), logit_scale(model))


def caption_vectors(model: OnnxModel, captions: Sequence[str]) -> np.ndarray:
    """float32 [captions, dim], L2-normalised. Raises UsageError for what is no text (`as_texts`)."""
    return model.embed_texts(as_texts(captions, "caption"))


def logit_scale(model: OnnxModel) -> float:
    """The scale that the model learned; ASSUMED_SCALE where its bundle does not name it."""
    scale = model.bundle.manifest.logit_scale
    return ASSUMED_SCALE if scale is None else scale


def notes(model: OnnxModel, texts: Sequence[str] = ()) -> list[str]:
    """What the user of the probabilities should know, a line each. texts: captions, or labels in their templates."""
    lines = model.cut_notes(list(texts))
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more are longer than the model reads"]
    if model.bundle.manifest.logit_scale is None:
        lines.append(
            f"{model.bundle.folder} does not say its logit scale, so {ASSUMED_SCALE:g} is assumed: the order is right, "
            "the probabilities may be too sure or too unsure. Fix: export the model again"
        )
    return lines
