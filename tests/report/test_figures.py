"""The pictures hold the data, and their titles say what they show."""

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from clipline.pictures import plots
from clipline.report import figures, word_confusion
from clipline.report.ranking import RecallByRank, Similarities


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is saved."""
    saved = []
    save = plots.save
    monkeypatch.setattr(figures, "save", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


def overlaps(figure) -> list[tuple[str, str]]:
    """Pairs of texts of the figure that touch each other."""
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    # A rotated tick label's box is larger than its letters: those are not compared.
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_rotation() in (0, 90)]
    return [
        (one, other)
        for number, (one, box) in enumerate(boxes)
        for other, second in boxes[number + 1 :]
        if box.width and second.width and box.shrunk(0.9, 0.9).overlaps(second.shrunk(0.9, 0.9))
    ]


@pytest.mark.parametrize("last", [1, 7, 100])
def test_recall(tmp_path, drawn, last):
    values = np.linspace(50, 100, last)
    figures.recall(RecallByRank(values, values / 2, np.linspace(1, 100, last)), tmp_path / "recall.png")
    (figure,) = drawn
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert np.array_equal(lines["image to text"], values) and np.array_equal(lines["text to image"], values / 2)
    assert np.array_equal(lines["text to image, by chance"], np.linspace(1, 100, last))
    at = min(10, last)
    assert figure.get_suptitle() == f"{int(values[at - 1] / 2)}% of captions find their image among the first {at}"
    assert figure.axes[0].get_xscale() == "log"
    assert overlaps(figure) == []


def test_similarity(tmp_path, drawn):
    random = np.random.default_rng(0)
    cosines = Similarities(random.normal(0.5, 0.1, 300), random.normal(0.1, 0.1, 5000))
    figures.similarity(cosines, tmp_path / "similarity.png")
    (figure,) = drawn
    assert 0.995 < cosines.separation < 0.998
    assert figure.get_suptitle() == "A true pair is more alike than another pair 99.7% of the time"
    shares = [patch.get_data().values.sum() for patch in figure.axes[0].patches]
    assert shares == pytest.approx([1, 1, 1, 1])
    assert overlaps(figure) == []


def test_similarity_of_a_model_that_knows_one_point_alone(tmp_path):
    figures.similarity(Similarities(np.ones(3), np.ones(4)), tmp_path / "similarity.png")
    assert Image.open(tmp_path / "similarity.png").width > 500


def test_words(tmp_path, drawn):
    counts = np.array([[60, 30, 10], [0, 95, 5]])
    figures.words(word_confusion.Confusion(["boy", "girl"], counts), tmp_path / "words.png")
    (figure,) = drawn
    assert figure.get_suptitle() == "Asked for “boy”, the first image shows “girl” instead 30% of the time"
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["boy", "girl", word_confusion.OTHER]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["boy (100)", "girl (100)"]
    cells = {text.get_position(): text.get_text() for text in panel.texts}
    assert cells == {(0, 0): "60", (1, 0): "30", (2, 0): "10", (1, 1): "95", (2, 1): "5"}


@pytest.mark.parametrize("count", [2, 20])
def test_words_do_not_overlap(tmp_path, drawn, count):
    names = [f"{'abcdefghijklmnopqrst'[row]}ownership" for row in range(count)]
    counts = np.random.default_rng(0).integers(100, 1000, (count, count + 1))
    figures.words(word_confusion.Confusion(names, counts), tmp_path / "words.png")
    assert overlaps(drawn[0]) == []


def test_nothing_confused_is_said(tmp_path, drawn):
    figures.words(word_confusion.Confusion([], np.zeros((0, 1), int)), tmp_path / "words.png")
    assert drawn[0].get_suptitle() == "No word was confused with another"


def test_same_data_same_bytes(tmp_path):
    curves = RecallByRank(*(np.linspace(1, 100, 20) for _ in range(3)))
    for name in ("a.png", "b.png"):
        figures.recall(curves, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
