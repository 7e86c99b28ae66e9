"""The metric against a slow and simple implementation, and its behaviour with ties and invalid values."""

import numpy as np
import pytest

from clipline import retrieval


def brute_force(images, texts, text_image, k):
    """Any-match recall with explicit sorting; a positive ranks behind every negative of equal score."""
    scores = retrieval.normalise(images) @ retrieval.normalise(texts).T
    i2t = []
    for image, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda text: (-row[text], text_image[text] == image))
        i2t.append(any(text_image[text] == image for text in order[:k]))
    t2i = []
    for text, column in enumerate(scores.T):
        order = sorted(range(len(column)), key=lambda image: (-column[image], image == text_image[text]))
        t2i.append(text_image[text] in order[:k])
    return 100 * np.mean(i2t), 100 * np.mean(t2i)


@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force_with_uneven_captions_and_ties(seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(-1, 2, (30, 3)).astype(np.float32) + 1e-3  # few directions: many ties
    counts = rng.integers(1, 6, 30)
    text_image = rng.permutation(np.repeat(np.arange(30), counts))
    texts = images[text_image] + rng.integers(-1, 2, (len(text_image), 3))
    figures = retrieval.evaluate(images, texts, text_image)
    for k in retrieval.RECALL_AT:
        expected = brute_force(images, texts, text_image, k)
        assert (figures[f"i2t_r{k}"], figures[f"t2i_r{k}"]) == pytest.approx(expected, abs=1e-3)


def test_perfect_and_constant_models():
    eye, text_image = np.eye(20, dtype=np.float32), np.repeat(np.arange(20), 5)
    perfect = retrieval.evaluate(eye, eye[text_image], text_image)
    assert (perfect["i2t_r1"], perfect["t2i_r1"], perfect["i2t_median_rank"]) == (100, 100, 1)
    assert (perfect["images"], perfect["captions"]) == (20, 100)
    same = np.ones((20, 4), dtype=np.float32)
    constant = retrieval.evaluate(same, same[np.zeros(100, int)], text_image)
    assert (constant["i2t_r10"], constant["t2i_r10"], constant["t2i_median_rank"]) == (0, 0, 20)


def test_scale_of_embeddings_does_not_matter():
    rng = np.random.default_rng(0)
    images, texts, text_image = rng.normal(size=(20, 8)), rng.normal(size=(40, 8)), np.arange(40) % 20
    scaled = images * rng.uniform(0.1, 10, (20, 1))
    assert retrieval.evaluate(images, texts, text_image) == retrieval.evaluate(scaled, texts, text_image)


def test_float16_embeddings_are_compared_in_float32():
    halves = np.full((2, 300), 300, np.float16)  # the sum of their squares exceeds float16
    normalised = retrieval.normalise(halves)
    assert normalised.dtype == np.float32 and np.allclose(np.linalg.norm(normalised, axis=1), 1)


def test_the_block_size_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    arguments = rng.normal(size=(50, 8)), rng.normal(size=(150, 8)), np.arange(150) % 50
    expected = retrieval.evaluate(*arguments)
    monkeypatch.setattr(retrieval, "QUERY_BLOCK", 7)
    assert retrieval.evaluate(*arguments) == expected


def test_nan_is_an_error_and_not_a_perfect_rank():
    images = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="NaN"):
        retrieval.evaluate(images * np.nan, images, np.arange(4))


def test_a_query_without_a_positive_is_an_error():
    with pytest.raises(ValueError, match="no positive in the gallery"):
        retrieval.evaluate(np.eye(4), np.eye(4)[:3], np.arange(3))
