"""Accuracy, and its picture."""

import numpy as np
import pytest
from PIL import Image

from clipline.classify.confusion import RIGHT, WRONG, draw
from clipline.classify.evaluate import Evaluation


@pytest.fixture
def evaluation():
    """Ten cats, of which three are taken for dogs and one for a tree; two dogs, both right; no fish."""
    evaluation = Evaluation(["cat", "dog", "fish"], ["cat", "dog", "fish", "tree", "a", "b", "c"])
    for ranked, count in ((["cat", "dog"], 6), (["dog", "tree", "a", "b", "cat"], 2), (["dog", "a", "b", "c"], 1)):
        for _ in range(count):
            evaluation.add(0, ranked)
    evaluation.add(0, ["tree", "dog", "a", "b", "c", "cat"])
    for _ in range(2):
        evaluation.add(1, ["dog", "cat"])
    return evaluation


def test_figures(evaluation):
    assert evaluation.images == 12
    assert evaluation.top1 == pytest.approx(100 * 8 / 12)
    assert evaluation.top5 == pytest.approx(100 * 10 / 12), "a sixth place is not among five"
    assert evaluation.balanced == pytest.approx((60 + 100) / 2), "a class without images does not count"
    assert evaluation.chance == pytest.approx(100 / 7)
    assert evaluation.confusion.tolist() == [[6, 3, 0, 1, 0, 0, 0], [0, 2, 0, 0, 0, 0, 0], [0] * 7]


def test_per_class(evaluation):
    cat, dog, fish = evaluation.per_class()
    assert (cat["class"], cat["images"], cat["top1"], cat["top5"]) == ("cat", 10, 60, 80)
    assert (cat["confused_with"], cat["confused"]) == ("dog", 30)
    assert (dog["top1"], dog["confused_with"], dog["confused"]) == (100, None, 0)
    assert (fish["images"], fish["top1"], fish["confused_with"]) == (0, 0, None)


def test_json(evaluation):
    content = evaluation.as_dict()
    assert (content["images"], content["top1"], content["top5"], content["chance"]) == (12, 66.67, 83.33, 14.29)
    assert [row["class"] for row in content["classes"]] == ["cat", "dog", "fish"]
    assert content["confusion"][0][1] == 3


def test_nothing_was_predicted():
    empty = Evaluation(["cat", "dog"], ["cat", "dog"])
    assert (empty.images, empty.top1, empty.top5, empty.balanced) == (0, 0, 0, 0)


def shades(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def holds(picture, colour, share) -> bool:
    """Whether a cell with that share of its row is in the picture."""
    shade = [round(247 + (target - 247) * share**0.7) for target in colour]
    return int((np.abs(picture - shade).max(axis=2) <= 1).sum()) > 300


def test_picture(evaluation, tmp_path):
    draw(evaluation, tmp_path / "new" / "confusion.png")
    picture = shades(tmp_path / "new" / "confusion.png")
    for colour, share in ((RIGHT, 0.6), (WRONG, 0.3), (WRONG, 0.1), (RIGHT, 1.0)):
        assert holds(picture, colour, share)
    assert not holds(picture, RIGHT, 0.3) and not holds(picture, WRONG, 0.6)


@pytest.mark.parametrize("count", [2, 60, 400])
def test_pictures_of_any_number_of_classes_stay_small(tmp_path, count):
    names = [f"a class with a rather long name, number {number}" for number in range(count)]
    evaluation = Evaluation(names, names)
    for number in range(count):
        evaluation.add(number, [names[number]])
    draw(evaluation, tmp_path / "confusion.png")
    picture = shades(tmp_path / "confusion.png")
    assert max(picture.shape) < 2200
    assert (np.abs(picture - RIGHT).max(axis=2) <= 1).sum() > count * 9
