"""The likeliest labels of each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipline.classify.images import Vectors
from clipline.classify.zeroshot import class_vectors, logit_scale, probabilities, top_labels
from clipline.embed.item import Failure
from clipline.errors import TooManyErrorsError, shorten
from clipline.runtime.model import OnnxModel
from clipline.utils.progress import Bar

SHOWN = 5


@dataclass(frozen=True)
class Prediction:
    """An image. path: as embeddings name it. file: to open. labels: with their probabilities, likeliest first."""

    path: str
    file: Path | str
    labels: list[tuple[str, float]]


def prepare(model: OnnxModel, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """`zeroshot.class_vectors` with a progress bar."""
    with Bar("reading labels", len(labels), "labels") as bar:
        return class_vectors(model, labels, templates, bar.advance)


def predict(vectors: Vectors, labels: Sequence[str], classes: np.ndarray, top: int) -> Iterator[Prediction | Failure]:
    """The `top` likeliest of `labels` for each image, block by block; an image that cannot be read is a Failure.

    Within a block images are in order, and failures come after them. classes: float32 [labels, dim], from `prepare`.
    Raises CliplineError where the model or the embeddings fail.
    """
    scale = logit_scale(vectors.model)
    with Bar("classifying", vectors.total, "images") as bar:
        for block in vectors.blocks():
            ranked = top_labels(labels, probabilities(block.vectors, classes, scale), top)
            for path, best in zip(block.paths, ranked, strict=True):
                yield Prediction(path, vectors.file(path), best)
            yield from block.failures
            bar.advance(len(block.paths) + len(block.failures))


class Errors:
    """Counts failures, and keeps the first SHOWN of them."""

    def __init__(self, failures: Iterable[Failure] = ()) -> None:
        self.count = 0
        self._first: list[Failure] = []
        for failure in failures:
            self.add(failure)

    def add(self, failure: Failure) -> None:
        """Count one more."""
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(failure)

    def _lines(self) -> list[str]:
        lines = [f"  {shorten(failure.path)}: {failure.stage}: {failure.reason}" for failure in self._first]
        more = [f"  and {self.count - SHOWN:,} more"] if self.count > SHOWN else []
        return [*lines, *more]

    def enforce(self, total: int, allowed: int) -> list[str]:
        """The lines of a note on the failures, none without any. Raises TooManyErrorsError for more than `allowed`."""
        if not self.count:
            return []
        summary = f"{self.count:,} of {total:,} images could not be used"
        if self.count > allowed:
            raise TooManyErrorsError(
                f"{summary}; --max-errors allows {allowed:,}. The others are done.", *self._lines()
            )
        return [f"{summary}:", *self._lines()]
