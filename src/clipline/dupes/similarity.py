"""Compare every image with every other: exactly, and in blocks, so that memory does not grow with their number squared.

vectors: [n, dim] of float16 or float32, L2-normalised, may be memory-mapped. The similarity is the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

ROWS = 2048  # in a block: 16 MB of scores, and 64 MB of pairs where all are similar
ROUNDING = 1e-6  # the cosine of two copies of one vector may be less than 1 by this much

Advance = Callable[[int], None]  # called with a number of pairs done


def pairs_in(count: int) -> int:
    """How many pairs `groups` and `nearest` compare, an image with itself included: the sum of calls of `advance`."""
    return sum((stop - start) * (count - start) for start, stop in _bounds(count))


def groups(vectors: np.ndarray, threshold: float, advance: Advance = lambda pairs: None) -> list[np.ndarray]:
    """The rows of each group of two or more images, ascending; groups in the order of their first rows.

    Two images are in one group if their similarity is at least `threshold`, or a chain of such pairs connects them.
    """
    union = UnionFind(len(vectors))
    for (first, second), scores in _blocks(vectors):
        left, right = np.nonzero(scores >= threshold - ROUNDING)
        union.join(left + first, right + second)
        advance(scores.size)
    roots = union.roots(np.arange(len(vectors)))
    order = np.argsort(roots, kind="stable")
    edges = np.flatnonzero(np.diff(roots[order])) + 1
    return [rows for rows in np.split(order, edges) if len(rows) > 1]


def nearest(vectors: np.ndarray, neighbours: int, advance: Advance = lambda pairs: None) -> np.ndarray:
    """The mean similarity of each image to its `neighbours` most similar others: float32 [n].

    Where there are fewer others it is the mean of all. Raises ValueError for fewer than two images.
    """
    count = len(vectors)
    if count < 2:
        raise ValueError("one image alone has no neighbours")
    neighbours = min(neighbours, count - 1)
    best = np.full((count, neighbours), -np.inf, np.float32)

    def keep(start: int, scores: np.ndarray) -> None:
        rows = slice(start, start + len(scores))
        both = np.concatenate([best[rows], scores], axis=1)
        best[rows] = np.partition(both, -neighbours, axis=1)[:, -neighbours:]

    for (first, second), scores in _blocks(vectors):
        if first == second:
            np.fill_diagonal(scores, -np.inf)
        else:
            keep(second, scores.T)
        keep(first, scores)
        advance(scores.size)
    return best.mean(axis=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32, each row normalised again: in float16 its length is wrong by up to 1 in 2,000."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _bounds(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]


def _blocks(vectors: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """((first row, first column), scores float32 [r, c]) of every pair of blocks, each pair once."""
    bounds = _bounds(len(vectors))
    for number, (start, stop) in enumerate(bounds):
        rows = unit(vectors[start:stop])
        for begin, end in bounds[number:]:
            columns = rows if begin == start else unit(vectors[begin:end])
            yield (start, begin), rows @ columns.T


class UnionFind:
    """Disjoint sets of rows: a tree for each set, in which a row points to a smaller one and the root to itself."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def roots(self, rows: np.ndarray) -> np.ndarray:
        """The smallest row of the set of each of `rows`."""
        roots = self._parent[rows]
        while not np.array_equal(roots, parents := self._parent[roots]):
            roots = parents
        self._parent[rows] = roots  # path compression
        return roots

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Merge the set of each of `left` with that of the element of `right` at the same position."""
        while True:
            left, right = self.roots(left), self.roots(right)
            apart = left != right
            if not apart.any():
                return
            left, right = left[apart], right[apart]
            # A root with several partners gets the smallest here, and the others in the next rounds.
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))
