"""Recall at every rank, and the similarities of true pairs and of others. Pure numpy."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipline.retrieval import QUERY_BLOCK
from clipline.utils.files import atomic

MAX_RANK = 100  # of the recall curve
PAIRS = 200_000  # a sample of the other pairs: the full matrix of a large test split has 10^10


@dataclass(frozen=True)
class RecallByRank:
    """Percentage of queries answered within rank k = 1..K, and of captions by chance. All float64 [K]."""

    i2t: np.ndarray
    t2i: np.ndarray
    chance: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """k: int64 [K]."""
        return np.arange(1, len(self.i2t) + 1)

    def write(self, path: Path) -> None:
        """Write a CSV file with one row per rank, for `dvc plots`."""
        columns = (self.ranks, self.i2t, self.t2i, self.chance)
        rows = zip(*(np.round(column, 4).tolist() for column in columns), strict=True)
        write_csv(path, ("k", "image_to_text", "text_to_image", "chance"), rows)


def recall_by_rank(i2t: np.ndarray, t2i: np.ndarray) -> RecallByRank:
    """Recall at every rank up to MAX_RANK, or up to the number of images.

    i2t: int64 [n] and t2i: int64 [m], negatives before the best positive, from `retrieval.both_ranks`.
    """
    ranks = np.arange(1, min(MAX_RANK, len(i2t)) + 1)
    return RecallByRank(_within(i2t, ranks), _within(t2i, ranks), 100 * ranks / len(i2t))


def _within(negatives: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    # Any-match: at k a query is answered if fewer than k negatives come before its best positive.
    return 100 * np.searchsorted(np.sort(negatives), ranks, side="left") / len(negatives)


@dataclass(frozen=True)
class Similarities:
    """Cosines of each caption with its own image, float32 [m], and of a sample of other pairs, float32 [p]."""

    pairs: np.ndarray
    others: np.ndarray

    @property
    def separation(self) -> float:
        """The probability that a true pair is more similar than another pair (the area under the ROC curve)."""
        others = np.sort(self.others)
        below, not_above = (np.searchsorted(others, self.pairs, side=side) for side in ("left", "right"))
        return float((below + not_above).mean() / (2 * max(len(others), 1)))


def similarities(images: np.ndarray, texts: np.ndarray, text_image: np.ndarray) -> Similarities:
    """Cosines of the true pairs, and of at most PAIRS random other pairs (from a fixed seed).

    images: float32 [n, D]; texts: float32 [m, D], both L2-normalised; text_image: int64 [m].
    """
    pairs = np.einsum("md,md->m", texts, images[text_image])
    random = np.random.default_rng(0)
    text = random.integers(len(texts), size=PAIRS)
    image = random.integers(len(images), size=PAIRS)
    other = image != text_image[text]
    text, image = text[other], image[other]
    others = [
        np.einsum("pd,pd->p", texts[text[start : start + QUERY_BLOCK]], images[image[start : start + QUERY_BLOCK]])
        for start in range(0, len(text), QUERY_BLOCK)
    ]
    return Similarities(pairs, np.concatenate(others) if others else np.empty(0, np.float32))


def best_images(texts: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The most similar image of each text: int64 [m]. texts: float32 [m, D]; images: float32 [n, D]."""
    blocks = (texts[start : start + QUERY_BLOCK] @ images.T for start in range(0, len(texts), QUERY_BLOCK))
    return np.concatenate([block.argmax(axis=1) for block in blocks])


def write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file with a header atomically."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(names)
    lines.writerows(rows)
    with atomic(path) as file:
        file.write(text.getvalue().encode("utf-8"))
