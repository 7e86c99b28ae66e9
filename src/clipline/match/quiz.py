"""Multiple-choice questions on captioned images, and the answers of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipline.classify.images import Images
from clipline.classify.zeroshot import logit_scale, probabilities
from clipline.embed.item import Failure
from clipline.embed.sources.files import Files
from clipline.embeddings.paths import to_name
from clipline.errors import UsageError
from clipline.match.captions import Captioned
from clipline.runtime.model import OnnxModel
from clipline.utils.progress import Bar

BATCH = 256


@dataclass(frozen=True)
class Quiz:
    """One question for each of q captions, with k choices.

    images: int64 [q]. choices: int64 [q, k], captions in the order shown. answers: int64 [q], the position of the true
    one. probabilities: float32 [q, k], by the model.
    """

    images: np.ndarray
    choices: np.ndarray
    answers: np.ndarray
    probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether the true one is likelier than all others: bool [q]. A tie is not right."""
        rows = np.arange(len(self.answers))
        others = self.probabilities.copy()
        others[rows, self.answers] = -1
        return self.probabilities[rows, self.answers] > others.max(axis=1)

    @property
    def accuracy(self) -> float:
        """Percent of the questions that the model answers right."""
        return 100 * float(self.right.mean())

    @property
    def chance(self) -> float:
        """Percent that guessing gives."""
        return 100 / self.choices.shape[1]

    @property
    def uncertainty(self) -> float:
        """The standard error of the accuracy in percentage points, over images: captions of one are not independent."""
        right = self.right
        means = np.bincount(self.images, weights=right) / np.maximum(np.bincount(self.images), 1)
        means = means[np.unique(self.images)]
        return 100 * float(means.std() / math.sqrt(len(means)))


def ask(model: OnnxModel, data: Captioned, choices: int, seed: int) -> tuple[Quiz, list[Failure]]:
    """Ask about every caption once, with `choices`: wrong ones are captions of other images, drawn with `seed`.

    Images that cannot be read are left out, and returned. Raises UsageError where there are too few images.
    """
    if choices > len(data.names):
        raise UsageError(f"{data.where}: {len(data.names)} images, too few for {choices} choices")
    vectors, failures = _images(model, data)
    texts = _texts(model, data.captions)
    drawn, answers = _draw(data, choices, np.random.default_rng(seed))
    asked = np.flatnonzero(vectors[data.caption_image].any(axis=1))
    if not asked.size:
        raise UsageError(f"{data.where}: none of its images can be read: {failures[0].path}: {failures[0].reason}")
    drawn, answers, images = drawn[asked], answers[asked], data.caption_image[asked]
    scale = logit_scale(model)
    shares = [
        probabilities(vectors[image][None], texts[row], scale)[0] for image, row in zip(images, drawn, strict=True)
    ]
    return Quiz(images, drawn, answers, np.stack(shares)), failures


def _images(model: OnnxModel, data: Captioned) -> tuple[np.ndarray, list[Failure]]:
    """float32 [n, dim], zeros where an image cannot be read."""
    source = Images(Files(data.folder, data.names), model)
    rows = {name: row for row, name in enumerate(data.names)}
    vectors, failures = np.zeros((len(data.names), model.dim), np.float32), []
    with Bar("reading images", source.total, "images") as bar:
        for block in source.blocks():
            vectors[[rows[to_name(path)] for path in block.paths]] = block.vectors
            failures += block.failures
            bar.advance(len(block.paths) + len(block.failures))
    return vectors, failures


def _texts(model: OnnxModel, captions: list[str]) -> np.ndarray:
    """float32 [m, dim]; embedded in the order of their lengths, so that a batch holds little padding."""
    order = sorted(range(len(captions)), key=lambda row: len(captions[row]))
    vectors = np.empty((len(captions), model.dim), np.float32)
    with Bar("reading captions", len(captions), "captions") as bar:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            vectors[batch] = model.embed_texts([captions[row] for row in batch], BATCH)
            bar.advance(len(batch))
    return vectors


def _draw(data: Captioned, choices: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each caption the captions shown, int64 [m, choices], and its position among them, int64 [m]."""
    order = np.argsort(data.caption_image, kind="stable")
    counts = np.bincount(data.caption_image, minlength=len(data.names))
    starts = np.cumsum(counts) - counts
    shown = np.empty((len(data.captions), choices), np.int64)
    answers = random.integers(choices, size=len(data.captions))
    for row, image in enumerate(data.caption_image):
        # Images other than this one, each at most once.
        others = random.choice(len(data.names) - 1, choices - 1, replace=False)
        others += others >= image
        wrong = order[starts[others] + random.integers(counts[others])]
        shown[row] = np.insert(wrong, answers[row], row)
    return shown, answers
