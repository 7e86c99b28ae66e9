"""Plots are drawn from the data that exists, and missing data is a clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from clipline.errors import CliplineError
from clipline.pictures import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    figures = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def legend(figure: Figure, panel: int = 0) -> list[str]:
    box = figure.axes[panel].get_legend() or figure.legends[0]
    return [text.get_text() for text in box.get_texts()]


def lengths(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_caption_lengths_show_shares_and_the_cut(tmp_path: Path, drawn: list[Figure]) -> None:
    data = {"train": lengths(4, 4, 5, 9), "val": lengths(5, 12), "test": lengths(3)}
    plots.caption_lengths(data, 8, tmp_path / "lengths.png")
    (figure,) = drawn
    assert legend(figure) == [
        "train: 4 captions, 25.0% truncated",
        "val: 2 captions, 50.0% truncated",
        "test: 1 captions, 0.0% truncated",
        "max_length 8",
    ]
    panel = figure.axes[0]
    train = panel.patches[0].get_data()
    assert train.values[4] == 0.5
    assert train.values.sum() == pytest.approx(1)
    assert [line.get_xdata()[0] for line in panel.lines] == [8.5]


def test_a_limit_far_beyond_the_captions_does_not_squeeze_them(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.caption_lengths({"train": lengths(4, 8)}, 512, tmp_path / "lengths.png")
    assert legend(drawn[0])[-1] == "max_length 512 (beyond the axis)"
    assert drawn[0].axes[0].get_xlim()[1] < 20


def test_same_data_same_bytes_and_nothing_else_left(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plots.caption_lengths({"train": lengths(4, 8), "test": lengths()}, 8, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.size > (500, 300)


TRAIN = """step,epoch,train_loss,val_loss,val_i2t_r1,val_t2i_r1,val_i2t_r5,val_t2i_r5,lr_image,temperature,images
10,1,3.0,3.2,5,4,20,18,1e-4,0.07,100
15,1.5,2.5,,,,,,1e-4,0.07,100
20,2,2.0,2.9,9,8,30,28,1e-4,0.06,100
"""


def test_curves_draw_loss_and_recall_against_the_epoch(tmp_path: Path, drawn: list[Figure]) -> None:
    (tmp_path / "train.csv").write_text(TRAIN)
    plots.curves(tmp_path / "train.csv", tmp_path / "curves.png")
    (figure,) = drawn
    assert legend(figure) == ["train", "val"]
    assert legend(figure, 1) == ["image to text R@1", "image to text R@5", "text to image R@1", "text to image R@5"]
    train, val = figure.axes[0].lines
    assert (train.get_xdata().tolist(), train.get_ydata().tolist()) == ([1, 1.5, 2], [3, 2.5, 2])
    assert (val.get_xdata().tolist(), val.get_ydata().tolist()) == ([1, 2], [3.2, 2.9])
    assert figure.axes[1].lines[3].get_ydata().tolist() == [18, 28]


@pytest.mark.parametrize(
    ("content", "panels", "wanted"),
    [
        ("epoch,train_loss\n1,2.0\n", 1, ["train"]),
        ("epoch,train_loss,val_loss\n1,2.0,\n2,1.0,\n", 1, ["train"]),
        ("epoch,val_loss,val_t2i_r10\n1,2.0,50\n", 2, ["val"]),
    ],
)
def test_only_columns_that_hold_numbers_are_drawn(
    tmp_path: Path, drawn: list[Figure], content: str, panels: int, wanted: list[str]
) -> None:
    (tmp_path / "train.csv").write_text(content)
    plots.curves(tmp_path / "train.csv", tmp_path / "curves.png")
    assert len(drawn[0].axes) == panels
    assert legend(drawn[0]) == wanted


def test_one_epoch_is_a_visible_point(tmp_path: Path, drawn: list[Figure]) -> None:
    (tmp_path / "train.csv").write_text("epoch,train_loss\n1,2.0\n")
    plots.curves(tmp_path / "train.csv", tmp_path / "curves.png")
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, r"train\.csv: no such file\. Fix: run the train stage"),
        ("", "no epoch or no loss to draw; columns: none"),
        ("epoch,train_loss\n", "no epoch or no loss to draw; columns: none"),
        ("step,train_loss\n1,2.0\n", "no epoch or no loss to draw; columns: step, train_loss"),
        ("epoch,train_loss\n1,2.0\n2,oops\n", r"line 3: train_loss: 'oops' is no number"),
    ],
)
def test_nothing_to_draw_is_a_clear_error(tmp_path: Path, content: str | None, wanted: str) -> None:
    if content is not None:
        (tmp_path / "train.csv").write_text(content)
    with pytest.raises(CliplineError, match=wanted):
        plots.curves(tmp_path / "train.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
