"""Any-match retrieval: R@k and median rank in both directions. Pure numpy.

A query scores at k if any of its positives is among the k best. A positive counts behind every negative of equal
score (pessimistic ties), so a model that maps everything to one point scores 0. Where there are no ties this
equals CLIP_benchmark's `recall_at_k`.
"""

from __future__ import annotations

import numpy as np

RECALL_AT = (1, 5, 10)
CHUNK = 512  # queries per block of the score matrix: 512 x 1,000,000 float32 is 2 GB


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """float [n, D] -> float32 [n, D], each row of length 1."""
    embeddings = np.asarray(embeddings, dtype=np.float32)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def ranks(queries: np.ndarray, gallery: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray) -> np.ndarray:
    """How many negatives stand before each query's best positive: 0 is a hit at 1. int64 [q].

    queries: float32 [q, D]; gallery: float32 [g, D]; a gallery row is a positive of a query with the same id.
    Raises ValueError on a value that is not finite (it would compare as a perfect rank) and on a query without
    a positive.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("embeddings hold NaN or infinity")
    if missing := set(query_ids.tolist()) - set(gallery_ids.tolist()):
        raise ValueError(f"{len(missing)} queries have nothing to find, e.g. id {min(missing)}")
    found = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), CHUNK):
        block = slice(start, start + CHUNK)
        scores = queries[block] @ gallery.T
        positive = query_ids[block, None] == gallery_ids[None, :]
        best = np.where(positive, scores, -np.inf).max(axis=1, keepdims=True)
        found[block] = ((scores >= best) & ~positive).sum(axis=1)
    return found


def both_ranks(images: np.ndarray, texts: np.ndarray, text_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks image-to-text [n] and text-to-image [m].

    images: [n, D]; texts: [m, D]; text_image: int [m], the row of each text's image.
    """
    images, texts = normalise(images), normalise(texts)
    image_ids = np.arange(len(images))
    return ranks(images, texts, image_ids, text_image), ranks(texts, images, text_image, image_ids)


def recall(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent and the median rank (1 is first) for both directions."""
    figures: dict[str, float] = {}
    for name, found in (("i2t", i2t), ("t2i", t2i)):
        for k in RECALL_AT:
            figures[f"{name}_r{k}"] = round(100 * float((found < k).mean()), 4)
        figures[f"{name}_median_rank"] = float(np.median(found)) + 1
    return figures


def evaluate(images: np.ndarray, texts: np.ndarray, text_image: np.ndarray) -> dict[str, float]:
    """The retrieval figures of images [n, D] and texts [m, D], with the numbers of both.

    text_image: int [m], the row of each text's image. Embeddings need not be normalised.
    """
    figures = recall(*both_ranks(images, texts, text_image))
    return {**figures, "images": len(images), "captions": len(texts)}
