"""Which word of a query the image found first lacks, and what it shows instead: confusion, for any captions.

A dataset of captions has no classes, so its words stand in for them. A word of the query counts as found where
any caption of the found image has it. If not, what was found instead is the word, new in that image, that
captions use most like the one asked for: between the same neighbours ("a _ dog"), as in distributional semantics
(Harris 1954). So colours stand against colours and animals against animals, in every language that puts spaces
between its words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipline.report.ranking import write_csv

SHOWN = 20  # words on each side of the matrix: more cannot be read
QUERIES = 5000  # captions that are looked at
CANDIDATES = 300  # frequent words among which the shown ones and their likes are sought
FEWEST = 5  # captions that a word must stand in
AGREEMENT = 2.5  # captions of one image share a content word at least so much oftener than any two captions do
COMMON = 0.1  # without two captions per image: words in more of the captions than that are taken for grammar
ALIKE = 0.4  # cosine of two words' neighbours from which one may stand for the other
OTHER = "(other)"


@dataclass(frozen=True)
class Confusion:
    """words: as asked, in the order of their likeness. counts: int64 [w, w + 1], asked by found; the last column is
    of images that show no such word. Empty where captions share no words."""

    words: list[str]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Rows in percent: float64 [w, w + 1]."""
        return 100 * self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    def worst(self) -> tuple[str, str, float] | None:
        """The commonest mistake: the word asked, the word found instead, and in what percent of such queries."""
        count = len(self.words)
        wrong = self.counts[:, :-1] * (1 - np.eye(count, dtype=np.int64))
        if not wrong.any():
            return None
        asked, found = np.unravel_index(wrong.argmax(), wrong.shape)
        return self.words[asked], self.words[found], float(self.shares[asked, found])

    def write(self, path: Path) -> None:
        """A CSV with a row per word and query, as the `confusion` template of `dvc plots` counts them."""
        found = [*self.words, OTHER]
        rows = (
            (word, found[column])
            for row, word in enumerate(self.words)
            for column in range(len(found))
            for _ in range(int(self.counts[row, column]))
        )
        write_csv(path, ("asked", "found"), rows)


def confusion(captions: Sequence[str], caption_image: np.ndarray, found: np.ndarray) -> Confusion:
    """Count the words of queries against those of the images that they find first.

    captions: m texts; caption_image: int64 [m], each one's own image; found: int64 [m], the image it finds first.
    """
    texts = [_words(caption) for caption in captions]
    by_image = [set[str]() for _ in range(int(caption_image.max()) + 1)]
    for text, image in zip(texts, caption_image, strict=True):
        by_image[image].update(text)
    known = _content_words(texts, caption_image)
    likeness, index = _likeness(texts, known), {word: row for row, word in enumerate(known)}
    asked = np.arange(len(texts))
    if len(asked) > QUERIES:
        asked = np.random.default_rng(0).choice(len(asked), QUERIES, replace=False)
    counts: Counter[tuple[int, int]] = Counter()
    for query in asked:
        there = by_image[found[query]]
        new = [index[word] for word in sorted(there - by_image[caption_image[query]]) if word in index]
        for word in sorted(set(texts[query]) & index.keys()):
            row = index[word]
            counts[row, row if word in there else _instead(likeness[row], new)] += 1
    return _shown(known, likeness, counts)


def _words(caption: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", caption.lower())


def _content_words(texts: Sequence[list[str]], caption_image: np.ndarray) -> list[str]:
    """Frequent words that say something about the image, the most frequent first.

    Captions of one image agree on these ("dog") far oftener than on grammar ("the"). With one caption for each
    image nothing tells both apart but how common they are.
    """
    size = np.bincount(caption_image)
    many = bool((size > 1).any())
    inside = Counter((word, int(image)) for text, image in zip(texts, caption_image, strict=True) for word in set(text))
    total, again, chances = Counter[str](), Counter[str](), Counter[str]()
    for (word, image), count in inside.items():
        total[word] += count
        again[word] += count * (count - 1)
        chances[word] += count * (int(size[image]) - 1)

    def says_something(word: str) -> bool:
        share = total[word] / len(texts)
        return again[word] > AGREEMENT * share * chances[word] if many else share <= COMMON

    frequent = sorted((word for word in total if total[word] >= FEWEST), key=lambda word: (-total[word], word))
    return [word for word in frequent if says_something(word)][:CANDIDATES]


def _likeness(texts: Sequence[list[str]], known: Sequence[str]) -> np.ndarray:
    """Cosines of the words' neighbours, the one before and the one after: float64 [w, w], zeros on the diagonal."""
    rows = {word: row for row, word in enumerate(known)}
    beside: Counter[tuple[int, str]] = Counter()
    for text in texts:
        padded = ["^", *text, "$"]
        for before, word, after in zip(padded, padded[1:], padded[2:], strict=False):
            if word in rows:
                beside[rows[word], f"{before} _"] += 1
                beside[rows[word], f"_ {after}"] += 1
    columns = {context: column for column, context in enumerate(dict.fromkeys(context for _, context in beside))}
    table = np.zeros((len(known), max(len(columns), 1)), np.float32)
    for (row, context), count in beside.items():
        # Square roots: one frequent phrase must not decide.
        table[row, columns[context]] = np.sqrt(count)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    likeness = table @ table.T
    np.fill_diagonal(likeness, 0)
    return likeness


def _instead(likeness: np.ndarray, new: list[int]) -> int:
    """The new word that is most like the one asked for, or -1. likeness: float [w]."""
    best = max(new, key=lambda row: likeness[row], default=-1)
    return best if best >= 0 and likeness[best] >= ALIKE else -1


def _shown(known: Sequence[str], likeness: np.ndarray, counts: Counter[tuple[int, int]]) -> Confusion:
    """The words that are confused with others most often, neighbours in the order of their likeness."""
    mixed: Counter[int] = Counter()
    for (row, column), count in counts.items():
        if column not in (row, -1):
            mixed.update({row: count, column: count})
    chosen = [row for row, _ in sorted(mixed.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]]
    order = _chain(chosen, likeness)
    place = {row: number for number, row in enumerate(order)}
    table = np.zeros((len(order), len(order) + 1), np.int64)
    for (row, column), count in counts.items():
        if row in place:
            table[place[row], place.get(column, len(order))] += count
    return Confusion([known[row] for row in order], table)


def _chain(rows: Iterable[int], likeness: np.ndarray) -> list[int]:
    """Start at the first row, and go on to the nearest that is left."""
    left = list(rows)
    order = left[:1]
    left = left[1:]
    while left:
        order.append(max(left, key=lambda row: likeness[order[-1], row]))
        left.remove(order[-1])
    return order
