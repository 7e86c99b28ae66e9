"""Any-match retrieval: R@k and median rank in both directions, in plain numpy.

A query is a hit at k if any of its positives is among the k best results. A positive ranks behind every negative with
an equal score (pessimistic ties), so that a model that maps everything to one point scores 0. Without ties the figures
equal CLIP_benchmark's `recall_at_k`.
"""

from __future__ import annotations

import numpy as np

RECALL_AT = (1, 5, 10)
QUERY_BLOCK = 512  # queries in a block of the score matrix: 512 x 1,000,000 float32 is 2 GB


def normalise(embeddings: np.ndarray) -> np.ndarray:
    """float [n, D] -> float32 [n, D], each row of length 1."""
    embeddings = np.asarray(embeddings, dtype=np.float32)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def ranks(queries: np.ndarray, gallery: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray) -> np.ndarray:
    """The number of negatives that rank before each query's best positive, int64 [q]; 0 is a hit at 1.

    queries: float32 [q, D]; gallery: float32 [g, D]; a gallery row with the query's id is a positive.
    Raises ValueError for a value that is not finite (its comparisons would give a perfect rank) and for a query without
    a positive.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("embeddings hold NaN or infinity")
    if missing := set(query_ids.tolist()) - set(gallery_ids.tolist()):
        raise ValueError(f"{len(missing)} queries have no positive in the gallery, e.g. id {min(missing)}")
    result = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        scores = queries[block] @ gallery.T
        positive = query_ids[block, None] == gallery_ids[None, :]
        best = np.where(positive, scores, -np.inf).max(axis=1, keepdims=True)
        result[block] = ((scores >= best) & ~positive).sum(axis=1)
    return result


def both_ranks(images: np.ndarray, texts: np.ndarray, text_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of image-to-text, int64 [n], and of text-to-image, int64 [m].

    images: [n, D]; texts: [m, D]; text_image: int [m], the row of each text's image.
    """
    images, texts = normalise(images), normalise(texts)
    image_ids = np.arange(len(images))
    return ranks(images, texts, image_ids, text_image), ranks(texts, images, text_image, image_ids)


def recall(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent and the median rank (1 is first) for the ranks of both directions."""
    figures: dict[str, float] = {}
    for name, direction in (("i2t", i2t), ("t2i", t2i)):
        for k in RECALL_AT:
            figures[f"{name}_r{k}"] = round(100 * float((direction < k).mean()), 4)
        figures[f"{name}_median_rank"] = float(np.median(direction)) + 1
    return figures


def evaluate(images: np.ndarray, texts: np.ndarray, text_image: np.ndarray) -> dict[str, float]:
    """Retrieval figures of images [n, D] and texts [m, D], with their numbers.

    text_image: int [m], the row of each text's image. Embeddings need not be normalised.
    """
    figures = recall(*both_ranks(images, texts, text_image))
    return {**figures, "images": len(images), "captions": len(texts)}
