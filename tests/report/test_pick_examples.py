"""The failures shown are the worst ones, with the rank that the metrics count."""

import json

import numpy as np
import pytest
from PIL import Image

from clipline import retrieval
from clipline.evaluation import Embedded
from clipline.pictures import gallery
from clipline.report.examples import Examples
from clipline.report.pick_examples import RIGHT, WRONG, draw_failures, draw_sample, pick_examples


@pytest.fixture(scope="module")
def ranks(embedded, split):
    return retrieval.both_ranks(embedded.images, embedded.texts, split.caption_image)


@pytest.fixture
def titles(monkeypatch):
    """The rows of every picture that is drawn."""
    drawn = []
    draw = gallery.draw
    monkeypatch.setattr(gallery, "draw", lambda rows, path: (drawn.extend(rows), draw(rows, path)))
    return drawn


def test_captions_that_fail_worst_come_first_one_for_each_image(embedded, split, ranks):
    examples = pick_examples(embedded, split, ranks, queries=4, top=5)
    places = [example.place for example in examples.captions]
    assert places[0] == ranks[1].max() + 1
    assert places == sorted(places, reverse=True) and all(place > 1 for place in places)
    own = [example.hits[0].image for example in examples.captions]
    assert len(set(own)) == len(own)
    for example in examples.captions:
        row = split.captions.index(example.query)
        right, *others = example.hits
        assert right.image == split.image_names[split.caption_image[row]] and right.right
        assert right.place == example.place == ranks[1][row] + 1
        assert [hit.place for hit in others] == [place for place in range(1, 6) if place != example.place][:4]
        scores = [hit.score for hit in others]
        assert scores == sorted(scores, reverse=True) and not any(hit.right for hit in others)


def test_images_that_fail_worst_show_the_captions_they_find(embedded, split, ranks):
    examples = pick_examples(embedded, split, ranks, queries=4, top=5)
    assert len(examples.images) == 2
    worst = examples.images[0]
    assert worst.place == ranks[0].max() + 1 and worst.among == len(split.captions)
    row = int(ranks[0].argmax())
    right, *others = worst.hits
    assert right.image == split.image_names[row] and right.text in worst.query
    best = int((embedded.texts @ embedded.images[row]).argmax())
    assert others[0].text == split.captions[best] and others[0].place == 1
    assert len(others) == 4 and right.image not in {hit.image for hit in others}


def test_the_sample_is_the_same_each_time_and_in_order(embedded, split, ranks):
    first, second = (pick_examples(embedded, split, ranks, queries=3, top=4) for _ in range(2))
    assert first == second and len(first.sample) == 3
    for example in first.sample:
        assert [hit.place for hit in example.hits] == [1, 2, 3, 4]
        assert sum(hit.right for hit in example.hits) == (example.place <= 4)


def test_json_and_back(embedded, split, ranks):
    examples = pick_examples(embedded, split, ranks, queries=2, top=3)
    assert Examples.from_dict(json.loads(json.dumps(examples.as_dict()))) == examples


def test_the_pictures_say_the_rank_in_words(embedded, split, ranks, workspace, tmp_path, titles):
    examples = pick_examples(embedded, split, ranks, queries=2, top=3)
    images = workspace / "data/raw/images"
    draw_failures(examples, images, tmp_path / "failures.png")
    assert f"at rank {ranks[1].max() + 1} of 10" in titles[0].title
    assert f"at rank {ranks[0].max() + 1} of 20" in titles[2].title
    assert titles[0].cells[0].caption.startswith(f"right, rank {ranks[1].max() + 1}, ")
    assert titles[0].cells[0].frame == RIGHT and titles[0].cells[1].frame == WRONG
    draw_sample(examples, images, tmp_path / "gallery.png")
    assert Image.open(tmp_path / "gallery.png").width == Image.open(tmp_path / "failures.png").width


def test_a_model_without_failures(split, workspace, tmp_path, titles):
    images = np.eye(len(split.image_names), dtype=np.float32)
    perfect = Embedded(images, images[split.caption_image])
    ranks = retrieval.both_ranks(perfect.images, perfect.texts, split.caption_image)
    examples = pick_examples(perfect, split, ranks, queries=2, top=3)
    assert examples.captions == examples.images == []
    draw_failures(examples, workspace / "data/raw/images", tmp_path / "failures.png")
    assert titles[0].title == "Every caption and every image finds its own at once"
    assert Image.open(tmp_path / "failures.png").width > 200
