"""Galleries: positions of images, frames and text; a failed gallery leaves no file."""

import numpy as np
import pytest
from PIL import Image

from clipline.errors import CliplineError, UsageError
from clipline.pictures.gallery import CELL, GAP, MARGIN, MAT, Cell, Row, draw, grid, save

RED, GREEN, BLUE = (200, 20, 30), (20, 180, 40), (30, 40, 210)


@pytest.fixture
def images(tmp_path):
    """Square, wide and tall images of one colour each."""
    paths = []
    for index, (colour, size) in enumerate([(RED, (50, 50)), (GREEN, (300, 100)), (BLUE, (90, 400))]):
        paths.append(tmp_path / f"{index}.png")
        Image.new("RGB", size, colour).save(paths[-1])
    return paths


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def near(actual, colour) -> bool:
    return bool(np.abs(actual.astype(int) - colour).max() <= 3)


def cell_tops(picture: np.ndarray, x: int) -> list[int]:
    """The rows at which the squares of the column at `x` begin."""
    white = (picture[:, x] == 255).all(axis=1)
    starts = np.flatnonzero(white[:-1] & ~white[1:]) + 1
    ends = np.append(np.flatnonzero(~white[:-1] & white[1:]) + 1, len(white))
    return [int(start) for start, end in zip(starts, ends, strict=False) if end - start >= CELL]


def test_whole_images_are_centred_in_squares(images, tmp_path):
    draw([Row("colours", [Cell(path) for path in images])], tmp_path / "out.png")
    picture = pixels(tmp_path / "out.png")
    assert picture.shape[1] == 2 * MARGIN + 3 * CELL + 2 * GAP
    assert near(picture[2, 2], (255, 255, 255))
    centres = [MARGIN + CELL // 2 + step * (CELL + GAP) for step in range(3)]
    top = cell_tops(picture, centres[0])[0]
    for x, colour in zip(centres, (RED, GREEN, BLUE), strict=True):
        assert near(picture[top + CELL // 2, x], colour)
    mat = tuple(bytes.fromhex(MAT[1:]))
    assert near(picture[top + 5, centres[0]], RED), "a small square fills its cell"
    assert near(picture[top + 5, centres[1]], mat), "a wide image has bars above and below"
    assert near(picture[top + CELL // 2, centres[2] - CELL // 2 + 5], mat), "a tall one beside it"


def test_frames(images, tmp_path):
    cells = [Cell(images[2], "0.9", "#00ff00"), Cell(images[2], "0.1", "#ff0000"), Cell(images[2], "0.0")]
    draw([Row("query", cells)], tmp_path / "out.png")
    picture = pixels(tmp_path / "out.png")
    top = cell_tops(picture, MARGIN + 1)[0]
    for step, colour in enumerate([(0, 255, 0), (255, 0, 0), tuple(bytes.fromhex(MAT[1:]))]):
        left = MARGIN + step * (CELL + GAP)
        assert near(picture[top + 2, left + 2], colour)
        assert near(picture[top + CELL - 3, left + CELL - 3], colour)


def test_rows_and_wrapping(images, tmp_path):
    rows = [Row("one", [Cell(images[0])] * 5), Row("two", [Cell(images[1])] * 2)]
    draw(rows, tmp_path / "wide.png")
    draw(rows, tmp_path / "wrapped.png", columns=2)
    wide, wrapped = pixels(tmp_path / "wide.png"), pixels(tmp_path / "wrapped.png")
    assert wide.shape[1] == 2 * MARGIN + 5 * CELL + 4 * GAP
    assert wrapped.shape[1] == 2 * MARGIN + 2 * CELL + GAP
    assert len(cell_tops(wide, MARGIN + 5)) == 2
    assert len(cell_tops(wrapped, MARGIN + 5)) == 4


def test_a_long_title_wraps_and_pushes_the_images_down(images, tmp_path):
    tops = []
    for number, title in enumerate(["dog", "a dog that runs through deep snow", "unbroken" * 60]):
        draw([Row(title, [Cell(images[0])])], tmp_path / f"{number}.png")
        picture = pixels(tmp_path / f"{number}.png")
        tops.append(cell_tops(picture, MARGIN + 1)[0])
        ink = (picture[MARGIN : tops[-1]] < 128).all(axis=2)
        assert ink.any(), "the title is drawn"
        assert not ink[:, -MARGIN:].any(), "and keeps the margin"
    assert tops[0] < tops[1] < tops[2]


def test_captions_are_drawn_in_the_frame_s_colour(images, tmp_path):
    below = {}
    for caption in ("", "0.123"):
        draw([Row("q", [Cell(images[0], caption, "#ff0000")])], tmp_path / "out.png")
        picture = pixels(tmp_path / "out.png")
        foot = picture[cell_tops(picture, MARGIN + 1)[0] + CELL :]
        below[caption] = int(((foot[..., 0] > 200) & (foot[..., 1] < 100)).sum())
    assert below[""] == 0
    assert below["0.123"] > 20


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp"])
def test_kinds_of_picture(images, tmp_path, suffix):
    path = tmp_path / "new" / f"out.{suffix}"
    draw([Row("q", [Cell(images[0])])], path)
    assert Image.open(path).width == 2 * MARGIN + CELL
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_kind_is_refused(images, tmp_path):
    with pytest.raises(UsageError, match=r"\.png"):
        draw([Row("q", [Cell(images[0])])], tmp_path / "out.pdf")


def test_a_missing_image_is_named_and_an_old_picture_stays(images, tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    with pytest.raises(CliplineError, match=r"gone\.jpg: no such file"):
        draw([Row("q", [Cell(images[0]), Cell(tmp_path / "gone.jpg")])], path)
    assert path.read_bytes() == b"old"


def test_a_place_that_cannot_be_written(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CliplineError, match="cannot be written"):
        draw([Row("q", [Cell(images[0])])], tmp_path / "file" / "out.png")


def test_the_same_input_gives_the_same_bytes(images, tmp_path):
    for name in ("a.png", "b.png"):
        draw([Row("q", [Cell(path, "0.5") for path in images])], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("count", "columns"), [(0, 1), (1, 1), (2, 2), (4, 2), (9, 3), (10, 4), (100, 8)])
def test_grid(count, columns):
    assert grid(count) == columns


@pytest.mark.parametrize(("suffix", "most"), [(".webp", 16_383), (".jpg", 65_500)])
def test_the_longest_side_that_a_format_holds(tmp_path, suffix, most):
    path = tmp_path / f"long{suffix}"
    save(Image.new("RGB", (1, most)), path)
    assert Image.open(path).size == (1, most)
    path.write_text("old")
    with pytest.raises(UsageError, match=rf"at most {most:,} pixels a side.* 1 x {most + 1:,}\. Fix: .*\.png"):
        save(Image.new("RGB", (1, most + 1)), path)
    assert path.read_text() == "old"
    save(Image.new("RGB", (1, most + 1)), tmp_path / "long.png")
