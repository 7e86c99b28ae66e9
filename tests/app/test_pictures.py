"""Thumbnails and originals, and what is kept of them."""

import io
import struct

import pytest
from PIL import Image

from clipline.app import pictures
from clipline.app.library import GoneError, Library
from clipline.app.pictures import SIDE, Thumbnails
from clipline.app.uploads import Uploads
from clipline.errors import UsageError
from tests import factories


@pytest.fixture
def edition(album):
    return Library(album / "index", None, None, "cpu").now()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def jpeg(size=(60, 40), colour=(250, 0, 0), **options) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG", **options)
    return data.getvalue()


def turned(size: tuple[int, int]) -> bytes:
    """A JPEG file to be shown with its left side up."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(size, exif=exif)


def test_thumbnails_are_small_upright_and_kept(edition, album):
    (album / "photos" / "000.png").write_bytes(turned((3000, 2000)))
    kept = Thumbnails()
    made = kept.get(edition, 0)
    assert opened(made).size == (320, SIDE)
    assert kept.get(edition, 0) is made
    small = opened(kept.get(edition, 1))
    assert small.size == (60, 40), "never enlarged"


def test_thumbnails_follow_the_files_end(edition, album):
    kept = Thumbnails()
    kept.get(edition, 0)
    (album / "photos" / "000.png").unlink()
    with pytest.raises(GoneError, match="not on disk any more"):
        kept.get(edition, 0)
    (album / "photos" / "001.png").write_bytes(b"no image")
    with pytest.raises(GoneError, match="cannot be read"):
        kept.get(edition, 1)


def test_thumbnails_stay_within_bounds(edition):
    one = len(Thumbnails().get(edition, 0))
    kept = Thumbnails(cache_bytes=5 * one)
    for row in range(20):
        kept.get(edition, row)
    assert 3 <= len(kept._kept) <= 6
    assert sum(map(len, kept._kept.values())) <= 5 * one
    assert (edition.name, 19) in kept._kept


def test_a_bomb_in_the_folder(edition, album, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(GoneError, match="cannot be read"):
        Thumbnails().get(edition, 0)
    with pytest.raises(GoneError, match="cannot be read"):
        pictures.original(edition.file(0))


def test_a_postscript_file_is_not_run(edition, album):
    (album / "photos" / "000.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for ask in (lambda: Thumbnails().get(edition, 0), lambda: pictures.original(edition.file(0))):
        with pytest.raises(GoneError, match="cannot be read"):
            ask()


def test_originals_are_told_by_what_they_hold(album):
    file = album / "photos" / "name.png"
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF"):
        Image.new("RGB", (20, 20)).save(file, kind)
        assert pictures.original(file) == (f"image/{kind.lower()}", None)
    for kind in ("TIFF", "PPM"):
        Image.new("RGB", (20, 20)).save(file, kind)
        media, data = pictures.original(file)
        assert (media, opened(data).format) == ("image/jpeg", "JPEG")
    file.write_text("<script>alert(1)</script>")
    with pytest.raises(GoneError):
        pictures.original(file)


def test_uploads_are_embedded_and_forgotten(edition):
    uploads = Uploads(max_uploads=3)
    tokens = [uploads.add(jpeg(colour=colour), edition.model) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    assert uploads.get(tokens[0]).vector == pytest.approx(factories.unit((1, 0, 0)), abs=0.02)
    assert opened(uploads.get(tokens[0]).thumbnail).size == (60, 40)
    uploads.add(turned((40, 60)), edition.model)
    assert uploads.get(tokens[0]), "the one used last stays"
    with pytest.raises(GoneError, match="drop it again"):
        uploads.get(tokens[1])
    assert len(set(tokens)) == 3 and all(len(token) > 20 for token in tokens)


def test_uploads_that_cannot_be_used(edition, monkeypatch):
    uploads = Uploads()
    for data, words in [
        (b"", "empty file"),
        (b"\0\0\0\x18ftypheic", "does not read HEIC: convert it"),
        (jpeg((300, 300))[:400], "cannot"),
        (jpeg(colour=(90, 90, 90)), "finds nothing"),  # the colour model gives grey a zero vector
        (jpeg(colour=(255, 255, 255)), "finds nothing"),  # and white NaN
    ]:
        with pytest.raises(UsageError, match=words):
            uploads.add(data, edition.model)
    monkeypatch.setattr("clipline.app.uploads.MAX_PIXELS", 2000)
    with pytest.raises(UsageError, match="60 x 40 pixels is over the limit"):
        uploads.add(jpeg(), edition.model)
    assert not uploads._kept


def test_a_tile_far_larger_than_its_upload_counts(edition):
    """A TIFF of 100 x 100 pixels whose only tile has 13,000 x 13,000: 134 bytes, and 169 MB once decoded."""
    tags = {256: 100, 257: 100, 258: 8, 259: 1, 262: 1, 277: 1, 322: 13_000, 323: 13_000, 324: 8, 325: 0}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    with pytest.raises(UsageError, match="13000 x 13000 pixels is over the limit of 64,000,000"):
        Uploads().add(data, edition.model)
