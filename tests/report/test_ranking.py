"""Recall by rank agrees with the figures that are reported, and similarities are those of the right pairs."""

import csv

import numpy as np
import pytest

from clipline import retrieval
from clipline.report import ranking


@pytest.fixture
def embedded():
    """30 images of 4 captions each in 6 dimensions, noisy: images, texts, text_image."""
    random = np.random.default_rng(1)
    owner = np.repeat(np.arange(30), 4)
    images = random.normal(size=(30, 6))
    texts = images[owner] + random.normal(size=(120, 6))
    return retrieval.normalise(images), retrieval.normalise(texts), owner


def test_recall_by_rank_agrees_with_the_metrics(embedded, tmp_path):
    i2t, t2i = retrieval.both_ranks(*embedded)
    result, figures = ranking.recall_by_rank(i2t, t2i), retrieval.recall(i2t, t2i)
    for k in retrieval.RECALL_AT:
        assert result.i2t[k - 1] == pytest.approx(figures[f"i2t_r{k}"], abs=1e-3)
        assert result.t2i[k - 1] == pytest.approx(figures[f"t2i_r{k}"], abs=1e-3)
    assert result.t2i[-1] == result.chance[-1] == 100, "among all images is the right one"
    assert result.chance[2] == pytest.approx(10)
    result.write(tmp_path / "recall.csv")
    rows = list(csv.DictReader((tmp_path / "recall.csv").open()))
    assert [int(row["k"]) for row in rows] == list(range(1, 31))
    assert float(rows[4]["text_to_image"]) == figures["t2i_r5"]


def test_no_more_than_a_hundred_ranks():
    assert len(ranking.recall_by_rank(np.zeros(500, int), np.zeros(700, int)).ranks) == 100


def test_similarities_of_true_and_other_pairs(embedded):
    images, texts, owner = embedded
    result = ranking.similarities(images, texts, owner)
    assert np.allclose(result.pairs, [texts[row] @ images[owner[row]] for row in range(120)], atol=1e-6)
    scores = texts @ images.T
    others = scores[owner[:, None] != np.arange(30)[None, :]]
    assert result.others.mean() == pytest.approx(others.mean(), abs=0.01)
    exact = np.mean(result.pairs[:, None] > others[None, :])
    assert result.separation == pytest.approx(exact, abs=0.01)


def test_separation_of_equal_and_of_clear_pairs():
    same = ranking.Similarities(np.full(5, 0.3), np.full(9, 0.3))
    clear = ranking.Similarities(np.array([0.5, 0.6]), np.array([0.1, 0.4]))
    assert (same.separation, clear.separation) == (0.5, 1.0)


def test_best_images(embedded, monkeypatch):
    images, texts, _ = embedded
    monkeypatch.setattr(ranking, "QUERY_BLOCK", 7)
    assert ranking.best_images(texts, images).tolist() == (texts @ images.T).argmax(axis=1).tolist()
