"""Words are compared with words of their kind, and what is counted is what was found."""

import csv

import numpy as np
import pytest

from clipline.report import word_confusion

COLOURS, SHAPES = ("red", "blue", "green"), ("ring", "star", "box")


@pytest.fixture
def scenes():
    """45 images of a colour and a shape, with two captions each: captions, caption_image, image of (colour, shape)."""
    captions, owner, kinds = [], [], []
    for image in range(45):
        colour, shape = COLOURS[image % 3], SHAPES[image // 3 % 3]
        kinds.append((colour, shape))
        captions += [f"There is a {colour} {shape} on the table.", f"A {colour} {shape}, of the kind"]
        owner += [image, image]
    return captions, np.array(owner), kinds


def test_a_perfect_model_confuses_nothing(scenes):
    captions, owner, _ = scenes
    result = word_confusion.confusion(captions, owner, owner)
    assert result.words == [] and result.worst() is None


def test_colours_are_confused_with_colours(scenes):
    captions, owner, kinds = scenes
    # Red is taken for blue where the shape is the same; all else is found.
    blue = {shape: image for image, (colour, shape) in enumerate(kinds) if colour == "blue"}
    first = np.array([blue[kinds[image][1]] if kinds[image][0] == "red" else image for image in owner])
    result = word_confusion.confusion(captions, owner, first)
    assert sorted(result.words) == ["blue", "red"]
    red, blue = result.words.index("red"), result.words.index("blue")
    assert result.counts[red].tolist() == [30 if column == blue else 0 for column in range(3)]
    assert result.counts[blue, blue] == 30 and result.counts[blue].sum() == 30
    assert result.worst() == ("red", "blue", 100.0)


def test_two_words_wrong_at_once_keep_to_their_kind(scenes):
    captions, owner, kinds = scenes
    wanted = {"red": "green", "ring": "star"}
    other = {kind: image for image, kind in enumerate(kinds)}
    first = np.array([other[wanted["red"], "star"] if kinds[i] == ("red", "ring") else i for i in owner])
    result = word_confusion.confusion(captions, owner, first)
    for asked, instead in wanted.items():
        row = result.counts[result.words.index(asked)]
        assert row[result.words.index(instead)] == 10 and row[-1] == 0


def test_nothing_like_it_is_other(scenes):
    captions, owner, kinds = scenes
    for image, (colour, shape) in enumerate(kinds):
        if (colour, shape) == ("blue", "box"):
            captions[2 * image] = captions[2 * image + 1] = "empty"
    empty = kinds.index(("blue", "box"))
    swapped = {kind: image for image, kind in enumerate(kinds)}
    first = np.array(
        [
            empty if kinds[i] == ("red", "ring") else swapped["blue", "star"] if kinds[i] == ("red", "star") else i
            for i in owner
        ]
    )
    result = word_confusion.confusion(captions, owner, first)
    row = result.counts[result.words.index("red")]
    assert (row[result.words.index("blue")], row[-1]) == (10, 10)


def test_grammar_is_left_out_where_captions_of_an_image_agree_on_it_no_more_than_any(scenes):
    captions, owner, _ = scenes
    texts = [word_confusion._words(caption) for caption in captions]
    assert sorted(word_confusion._content_words(texts, owner)) == sorted(COLOURS + SHAPES)


def test_one_caption_for_each_image_leaves_only_how_common_words_are():
    captions = [
        f"the {word} here" for word in ("oak", "elm", "ash", "fir", "yew", "box", "fig", "bay", "nut", "tea")
    ] * 6
    texts = [word_confusion._words(caption) for caption in captions]
    known = word_confusion._content_words(texts, np.arange(60))
    assert "the" not in known and "here" not in known and "oak" in known


def test_captions_without_common_words(tmp_path):
    result = word_confusion.confusion(["雪の中の犬", "猫", "..."], np.array([0, 1, 2]), np.array([1, 0, 0]))
    assert result.words == []
    result.write(tmp_path / "words.csv")
    assert (tmp_path / "words.csv").read_text() == "asked,found\n"


def test_rows_of_the_csv_are_the_counts(tmp_path):
    result = word_confusion.Confusion(["cat", "dog"], np.array([[3, 1, 2], [0, 4, 0]]))
    result.write(tmp_path / "words.csv")
    rows = [(row["asked"], row["found"]) for row in csv.DictReader((tmp_path / "words.csv").open())]
    counts = {pair: rows.count(pair) for pair in set(rows)}
    assert counts == {("cat", "cat"): 3, ("cat", "dog"): 1, ("cat", word_confusion.OTHER): 2, ("dog", "dog"): 4}
    assert result.worst() == ("cat", "dog", pytest.approx(100 / 6))


def test_many_queries_are_sampled_and_few_words_are_shown(monkeypatch):
    monkeypatch.setattr(word_confusion, "QUERIES", 50)
    monkeypatch.setattr(word_confusion, "SHOWN", 2)
    names = ("oak", "elm", "ash", "fir")
    captions = [f"a {names[image % 4]} tree {turn}" for image in range(40) for turn in ("up", "down")]
    owner = np.repeat(np.arange(40), 2)
    result = word_confusion.confusion(captions, owner, (owner + 1) % 40)
    assert len(result.words) == 2
    assert 0 < result.counts.sum() <= 50
