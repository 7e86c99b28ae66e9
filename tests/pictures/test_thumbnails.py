"""Thumbnails as data URIs."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from clipline.errors import CliplineError
from clipline.pictures import thumbnails


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_the_long_side_shrinks_and_nothing_grows(tmp_path):
    Image.new("RGB", (900, 450), (200, 30, 30)).save(tmp_path / "a.png")
    made = thumbnails.of_image(tmp_path / "a.png")
    assert made.startswith("data:image/jpeg;base64,")
    assert opened(made).size == (thumbnails.SIDE, thumbnails.SIDE // 2)
    assert opened(thumbnails.of_pixels(np.zeros((30, 40, 3), np.uint8))).size == (40, 30)
    assert Image.open(io.BytesIO(thumbnails.jpeg(Image.new("RGB", (900, 450))))).size == (900, 450)


def test_a_png_goes_as_it_is(tmp_path):
    Image.new("RGB", (900, 450)).save(tmp_path / "a.png")
    assert opened(thumbnails.of_png(tmp_path / "a.png")).size == (900, 450)
    with pytest.raises(CliplineError, match=r"b\.png: no such file"):
        thumbnails.of_png(tmp_path / "b.png")
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(CliplineError, match=r"a\.png: not an image"):
        thumbnails.of_image(tmp_path / "a.png")
