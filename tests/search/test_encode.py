"""Queries as vectors: files, Pillow's images, and texts from which others are subtracted."""

import struct

import numpy as np
import pytest
from PIL import Image

from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel
from clipline.search import encode


@pytest.fixture(scope="module")
def model(bundle):
    return OnnxModel(bundle, provider="cpu", threads=1)


def test_files_and_pillow_images_are_the_same(model, tmp_path):
    turned = Image.new("RGB", (40, 30), (0, 0, 250))
    turned.paste((250, 0, 0), (0, 0, 12, 30))  # more of it stays where the photo is upright
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(tmp_path / "clear.png")
    paths = [tmp_path / "turned.png", tmp_path / "clear.png"] * 20  # more than a batch
    opened = [Image.open(path) for path in paths]
    vectors = encode.embed_images(model, paths)
    assert vectors.shape == (40, 3) and vectors.dtype == np.float32
    assert np.allclose(vectors, encode.embed_images(model, opened), atol=1e-6)
    assert np.allclose(vectors, encode.embed_images(model, [str(path) for path in paths]))
    assert encode.embed_images(model, []).shape == (0, 3)


def test_what_cannot_be_embedded_is_named(model, tmp_path):
    Image.effect_noise((300, 300), 90).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("text")
    Image.new("RGB", (9, 9), "white").save(tmp_path / "white.png")
    for name, why in [
        ("none.jpg", "no such file"),
        ("text.jpg", "not an image"),
        ("cut.png", "cannot decode"),
        ("white.png", "no finite embedding"),
    ]:
        with pytest.raises(CliplineError, match=rf"{name}: .*{why}"):
            encode.embed_images(model, [tmp_path / name])
    with pytest.raises(CliplineError, match="image 0: cannot decode"):
        encode.embed_images(model, [Image.open(tmp_path / "cut.png")])


def test_subtract_mean(model):
    red, green, blue = encode.embed_texts(model, ["red", "green", "blue"])
    assert np.allclose(encode.subtract_mean(red[None], np.empty((0, 3))), red)
    vectors = encode.subtract_mean(np.stack([red, blue]), green[None])
    assert np.allclose(vectors[0], (red - green) / np.linalg.norm(red - green), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    mean = encode.subtract_mean(red[None], np.stack([green, blue]))[0]
    assert np.allclose(mean, red, atol=1e-6), "green and blue together are the contrary of red"
    with pytest.raises(UsageError, match="nothing is left"):
        encode.subtract_mean(red[None], red[None])


def test_exif_that_pillow_cannot_write_again(model, tmp_path):
    """A description that is a number: Pillow's own turning fails on it."""
    entries = struct.pack("<HHIf", 270, 11, 1, 1.5) + struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    exif = b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + bytes(4)
    Image.new("RGB", (40, 30), (250, 0, 0)).save(tmp_path / "odd.jpg", exif=exif)
    vectors = encode.embed_images(model, [Image.open(tmp_path / "odd.jpg")])
    assert np.array_equal(vectors, encode.embed_images(model, [tmp_path / "odd.jpg"]))


def test_zeros_are_no_embedding(model, tmp_path):
    Image.new("RGB", (9, 9), (90, 90, 90)).save(tmp_path / "grey.png")
    with pytest.raises(CliplineError, match=r"grey\.png: .*zeros alone"):
        encode.embed_images(model, [tmp_path / "grey.png"])
