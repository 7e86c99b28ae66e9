"""The accuracy of zero-shot labels on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

TOP = 5


class Evaluation:
    """Counts of predictions; `add` one image after the other.

    classes: the names of the classes that images have. labels: all that may be predicted, those of the classes first,
    in the same order. confusion: int64 [classes, labels], images by class and predicted label.
    """

    def __init__(self, classes: Sequence[str], labels: Sequence[str]) -> None:
        self.classes, self.labels = list(classes), list(labels)
        self.confusion = np.zeros((len(classes), len(labels)), np.int64)
        self._in_top = np.zeros(len(classes), np.int64)
        self._columns = {label: column for column, label in enumerate(labels)}

    def add(self, truth: int, ranked: Sequence[str]) -> None:
        """Count an image of class `truth`. ranked: labels, likeliest first, TOP of them or all."""
        columns = [self._columns[label] for label in ranked[:TOP]]
        self.confusion[truth, columns[0]] += 1
        self._in_top[truth] += truth in columns

    @property
    def images(self) -> int:
        """How many images were added."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Percent whose class was the likeliest label."""
        return _percent(self.confusion.diagonal().sum(), self.images)

    @property
    def top5(self) -> float:
        """Percent whose class was among the TOP likeliest labels."""
        return _percent(self._in_top.sum(), self.images)

    @property
    def balanced(self) -> float:
        """The mean of top-1 over the classes: each has the same weight, however many images it has."""
        counts = self.confusion.sum(axis=1)
        has_images = counts > 0
        shares = self.confusion.diagonal()[has_images] / counts[has_images]
        return 100 * float(shares.mean()) if shares.size else 0.0

    @property
    def chance(self) -> float:
        """Percent that guessing gives."""
        return 100 / len(self.labels)

    def per_class(self) -> list[dict[str, Any]]:
        """For each class its images, percentages, and the wrong label predicted most often (None for none)."""
        classes = []
        for row, name in enumerate(self.classes):
            counts = self.confusion[row].copy()
            images, right = int(counts.sum()), int(counts[row])
            counts[row] = 0
            wrong = int(counts.argmax())
            classes.append(
                {
                    "class": name,
                    "label": self.labels[row],
                    "images": images,
                    "top1": _percent(right, images),
                    "top5": _percent(self._in_top[row], images),
                    "confused_with": self.labels[wrong] if counts[wrong] else None,
                    "confused": _percent(counts[wrong], images),
                }
            )
        return classes

    def as_dict(self) -> dict[str, Any]:
        """For JSON; percentages to two digits."""
        figures = {name: round(getattr(self, name), 2) for name in ("top1", "top5", "balanced", "chance")}
        rows = [{key: round(v, 2) if isinstance(v, float) else v for key, v in row.items()} for row in self.per_class()]
        more = {"classes": rows, "labels": self.labels, "confusion": self.confusion.tolist()}
        return {"images": self.images, **figures, **more}


def _percent(part: int, total: int) -> float:
    return 100 * float(part) / total if total else 0.0
