"""The image cache holds exactly the pixels of the one preprocessing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipline.data.pack import PixelWriter, decode, pack
from clipline.image import Preprocess


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 photos of many shapes and kinds, a text file and a JPEG cut short."""
    rng = np.random.default_rng(0)
    for number in range(12):
        noise = rng.integers(0, 256, (20 + 7 * number, 90 - 5 * number, 3), dtype=np.uint8)
        image = Image.fromarray(noise).convert(("RGB", "L", "CMYK")[number % 3])
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8  # orientation
        image.save(tmp_path / f"{number:02d}.jpg", exif=exif)
    (tmp_path / "text.jpg").write_text("no photo")
    whole = (tmp_path / "00.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def everything(name: str, digest: bytes) -> bool:
    return True


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_rows_are_the_preprocessing_itself(folder: Path, tmp_path: Path, resize: str) -> None:
    names = [f"{number:02d}.jpg" for number in range(12)]
    preprocess = Preprocess(24, resize)
    packed, broken = pack(folder, names, preprocess, tmp_path / "images.npy", everything)
    pixels = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert isinstance(pixels, np.memmap)
    assert (pixels.shape, pixels.dtype, broken) == ((12, 24, 24, 3), np.uint8, [])
    for row, (image, name) in enumerate(zip(packed, names, strict=True)):
        alone, (width, height) = preprocess.read(folder / name)
        np.testing.assert_array_equal(pixels[row], alone)
        assert (image.name, image.width, image.height) == (name, width, height)
        assert image.digest == hashlib.sha256(alone.tobytes()).digest()


def test_broken_and_refused_images_have_no_row(folder: Path, tmp_path: Path) -> None:
    names = ["text.jpg", "01.jpg", "cut.jpg", "02.jpg", "gone.jpg", "03.jpg"]
    seen = []

    def admit(name: str, digest: bytes) -> bool:
        seen.append(name)
        return name != "02.jpg"

    preprocess = Preprocess(16)
    packed, broken = pack(folder, names, preprocess, tmp_path / "images.npy", admit)
    assert [image.name for image in packed] == ["01.jpg", "03.jpg"]
    assert seen == ["01.jpg", "02.jpg", "03.jpg"]
    reasons = {image.name: image.reason for image in broken}
    assert list(reasons) == ["text.jpg", "cut.jpg", "gone.jpg"]
    assert reasons["text.jpg"] == "not an image that Pillow can read"
    assert "truncated" in reasons["cut.jpg"]
    pixels = np.load(tmp_path / "images.npy")
    np.testing.assert_array_equal(pixels, [preprocess.read(folder / name)[0] for name in ("01.jpg", "03.jpg")])


def test_order_holds_however_many_threads(folder: Path) -> None:
    names = [f"{number % 12:02d}.jpg" for number in range(200)]
    for workers in (1, 7):
        assert [image.name for image, _ in decode(folder, names, Preprocess(8), workers)] == names


@pytest.mark.parametrize("count", [0, 1, 9, 10, 1000])
def test_writer_makes_a_valid_file_of_any_length(tmp_path: Path, count: int) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    with PixelWriter(tmp_path / "x.npy", 4) as writer:
        for row in rows:
            writer.append(row)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), rows)


def test_writer_refuses_another_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"), PixelWriter(tmp_path / "x.npy", 4) as writer:
        writer.append(np.zeros((4, 5, 3), np.uint8))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_full_disk_is_an_error_not_a_crash() -> None:
    with pytest.raises(OSError, match="No space left"), PixelWriter(Path("/dev/full"), 64) as writer:
        for _ in range(100):
            writer.append(np.zeros((64, 64, 3), np.uint8))
