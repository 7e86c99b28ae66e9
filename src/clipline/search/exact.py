"""The best rows for a query, exactly: all rows are scored in half precision, then the few that can win in float32.

Half-precision kernels (numkong's, which usearch runs on too) read a million rows of 512 in the time that memory takes
to deliver them; float32 rows would first have to be made. They take the query in half precision as well, and so their
scores are wrong by at most `slack`. Every row within twice that of the n-th best is scored again in float32, so none of
the true best is lost.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from clipline.utils import cores

BLOCK = 16_384  # rows scored in one call: 16 MB of float16 at 512 components
ROUGH_SCORES = 1 << 24  # held at once: 64 MB, 16 queries of a million rows
MAX_LENGTH = 1.01  # of a row: they are L2-normalised, then rounded


class Best(NamedTuple):
    """The best rows for one query, best first; equal scores by row. rows: int64 [k]. scores: float32 [k], cosines."""

    rows: np.ndarray
    scores: np.ndarray


def search(vectors: np.ndarray, queries: np.ndarray, n: int, threads: int | None = None) -> list[Best]:
    """The `n` best rows for each query.

    vectors: float16 or float32 [rows, dim], L2-normalised, may be memory-mapped. queries: float32 [q, dim],
    L2-normalised. threads: None means every core that this process may use.
    """
    results: list[Best] = []
    step = max(1, ROUGH_SCORES // max(1, len(vectors)))
    with ThreadPoolExecutor(threads or cores.available()) as pool:
        for start in range(0, len(queries), step):
            batch = queries[start : start + step]
            rough_scores, slacks = _rough_scores(vectors, batch, pool)
            for query, scores, slack in zip(batch, rough_scores.T, slacks, strict=True):
                results.append(rank(vectors, query, _candidates(scores, n, slack), n))
    return results


def rank(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray, n: int) -> Best:
    """The `n` best of `rows` (int64, ascending), scored in float32. query: float32 [dim]."""
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = vectors[rows[start : start + BLOCK]].astype(np.float32)
        # Row by row, unlike a matrix product: equal rows then have equal scores, wherever they stand.
        scores[start : start + BLOCK] = (block * query).sum(axis=1)
    # Rank non-finite rows last.
    scores[~np.isfinite(scores)] = -np.inf
    best = np.argsort(-scores, kind="stable")[:n]
    return Best(rows[best], scores[best])


def _rough_scores(vectors: np.ndarray, queries: np.ndarray, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [rows, q], and by how much those of each query may be wrong [q]."""
    import numkong

    rounded = np.ascontiguousarray(queries, vectors.dtype)
    lost = np.linalg.norm(queries - rounded.astype(np.float32), axis=1) * MAX_LENGTH
    rounding = vectors.shape[1] * 2.0**-23  # of sums in float32, at worst
    packed = numkong.dots_pack(rounded)
    scores = np.empty((len(vectors), len(queries)), np.float32)

    def fill(start: int) -> None:
        block = vectors[start : start + BLOCK]
        scores[start : start + BLOCK] = np.asarray(numkong.dots_packed(block, packed))

    for _ in pool.map(fill, range(0, len(vectors), BLOCK)):
        pass
    return scores, lost + rounding


def _candidates(scores: np.ndarray, n: int, slack: float) -> np.ndarray:
    """Rows that may be among the `n` best when each of the scores [rows] is wrong by up to `slack`; ascending."""
    if n >= len(scores):
        return np.arange(len(scores))
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    threshold = np.partition(scores, -n)[-n] - 2 * slack
    return np.flatnonzero(scores >= threshold)
