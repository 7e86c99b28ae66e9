"""Word confusion: which word of a query is missing in the image found first, and which word that image shows instead.

A dataset of captions has no classes, so its words stand in for them. A word of the query counts as found where
any caption of the found image has it. If not, the word found instead is the one, new in that image, that captions use
most like the missing word: between the same neighbours ("a _ dog"), as in distributional semantics (Harris 1954). So
colours are compared with colours and animals with animals, in every language that separates words by spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipline.report.ranking import write_csv

SHOWN = 20  # words on each side of the matrix: more are unreadable
QUERIES = 5000  # captions in the sample of queries
CANDIDATES = 300  # the most frequent content words, from which the shown words are taken
MIN_CAPTIONS = 5  # captions that must contain a word
AGREEMENT = 2.5  # captions of one image share a content word at least this many times as often as any two captions do
COMMON = 0.1  # with one caption per image: words in more than this share of the captions are taken for grammar
MIN_SIMILARITY = 0.4  # cosine of two words' contexts from which one may stand for the other
OTHER = "(other)"


@dataclass(frozen=True)
class Confusion:
    """Confused words; empty where captions share no words.

    words: w words of queries, similar ones side by side. counts: int64 [w, w + 1], word of the query by word found; the
    last column counts images that show no similar word.
    """

    words: list[str]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Rows in percent: float64 [w, w + 1]."""
        return 100 * self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    def worst(self) -> tuple[str, str, float] | None:
        """The most frequent mistake: the word asked for, the word found, and the percentage of such queries."""
        count = len(self.words)
        wrong = self.counts[:, :-1] * (1 - np.eye(count, dtype=np.int64))
        if not wrong.any():
            return None
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        return self.words[row], self.words[column], float(self.shares[row, column])

    def write(self, path: Path) -> None:
        """Write a CSV file with one row per word and query, as the `confusion` template of `dvc plots` counts them."""
        columns = [*self.words, OTHER]
        rows = (
            (word, columns[column])
            for row, word in enumerate(self.words)
            for column in range(len(columns))
            for _ in range(int(self.counts[row, column]))
        )
        write_csv(path, ("asked", "found"), rows)


def confusion(captions: Sequence[str], caption_image: np.ndarray, first_image: np.ndarray) -> Confusion:
    """Count the words of queries against those of the images that they find first.

    captions: m texts; caption_image: int64 [m], each one's own image; first_image: int64 [m], the image it finds first.
    """
    texts = [_words(caption) for caption in captions]
    by_image = [set[str]() for _ in range(int(caption_image.max()) + 1)]
    for text, image in zip(texts, caption_image, strict=True):
        by_image[image].update(text)
    vocabulary = _content_words(texts, caption_image)
    similarity, index = _context_similarity(texts, vocabulary), {word: row for row, word in enumerate(vocabulary)}
    queries = np.arange(len(texts))
    if len(queries) > QUERIES:
        queries = np.random.default_rng(0).choice(len(queries), QUERIES, replace=False)
    counts: Counter[tuple[int, int]] = Counter()
    for query in queries:
        shown = by_image[first_image[query]]
        new = [index[word] for word in sorted(shown - by_image[caption_image[query]]) if word in index]
        for word in sorted(set(texts[query]) & index.keys()):
            row = index[word]
            counts[row, row if word in shown else _substitute(similarity[row], new)] += 1
    return _most_confused(vocabulary, similarity, counts)


def _words(caption: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", caption.lower())


def _content_words(texts: Sequence[list[str]], caption_image: np.ndarray) -> list[str]:
    """Frequent words that say something about the image, the most frequent first.

    Captions of one image agree on these ("dog") far more often than on grammar ("the"). With one caption per image
    only the frequency of a word tells them apart.
    """
    size = np.bincount(caption_image)
    many = bool((size > 1).any())
    inside = Counter((word, int(image)) for text, image in zip(texts, caption_image, strict=True) for word in set(text))
    total, again, chances = Counter[str](), Counter[str](), Counter[str]()
    for (word, image), count in inside.items():
        total[word] += count
        again[word] += count * (count - 1)
        chances[word] += count * (int(size[image]) - 1)

    def has_content(word: str) -> bool:
        share = total[word] / len(texts)
        return again[word] > AGREEMENT * share * chances[word] if many else share <= COMMON

    frequent = sorted((word for word in total if total[word] >= MIN_CAPTIONS), key=lambda word: (-total[word], word))
    return [word for word in frequent if has_content(word)][:CANDIDATES]


def _context_similarity(texts: Sequence[list[str]], vocabulary: Sequence[str]) -> np.ndarray:
    """Cosines of the words' contexts, the words before and after: float32 [w, w], zeros on the diagonal."""
    rows = {word: row for row, word in enumerate(vocabulary)}
    beside: Counter[tuple[int, str]] = Counter()
    for text in texts:
        padded = ["^", *text, "$"]
        for before, word, after in zip(padded, padded[1:], padded[2:], strict=False):
            if word in rows:
                beside[rows[word], f"{before} _"] += 1
                beside[rows[word], f"_ {after}"] += 1
    columns = {context: column for column, context in enumerate(dict.fromkeys(context for _, context in beside))}
    table = np.zeros((len(vocabulary), max(len(columns), 1)), np.float32)
    for (row, context), count in beside.items():
        # Square roots, so that one frequent phrase does not dominate.
        table[row, columns[context]] = np.sqrt(count)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    similarity = table @ table.T
    np.fill_diagonal(similarity, 0)
    return similarity


def _substitute(similarity: np.ndarray, new: list[int]) -> int:
    """Of the new words the one most similar to the missing word, or -1. similarity: float32 [w]."""
    best = max(new, key=lambda row: similarity[row], default=-1)
    return best if best >= 0 and similarity[best] >= MIN_SIMILARITY else -1


def _most_confused(vocabulary: Sequence[str], similarity: np.ndarray, counts: Counter[tuple[int, int]]) -> Confusion:
    """The matrix of the words that are confused with others most often."""
    mistakes: Counter[int] = Counter()
    for (row, column), count in counts.items():
        if column not in (row, -1):
            mistakes.update({row: count, column: count})
    worst = sorted(mistakes, key=lambda row: (-mistakes[row], row))[:SHOWN]
    order = _side_by_side(worst, similarity)
    position = {row: number for number, row in enumerate(order)}
    table = np.zeros((len(order), len(order) + 1), np.int64)
    for (row, column), count in counts.items():
        if row in position:
            table[position[row], position.get(column, len(order))] += count
    return Confusion([vocabulary[row] for row in order], table)


def _side_by_side(rows: list[int], similarity: np.ndarray) -> list[int]:
    """Order the words so that each is followed by the most similar of the rest; the first one stays the first."""
    order, left = rows[:1], rows[1:]
    while left:
        order.append(max(left, key=lambda row: similarity[order[-1], row]))
        left.remove(order[-1])
    return order
