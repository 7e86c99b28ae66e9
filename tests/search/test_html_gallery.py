"""The page of images found: one file, safe whatever names and queries hold, and its links lead to the images."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from clipline.errors import CliplineError
from clipline.search import html_gallery
from clipline.search.searcher import Answer, Result

NASTY = "<script>alert(1)</script> \"' & %41 #a ?b.png"


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photos" / NASTY.replace("/", "")
    path.parent.mkdir()
    Image.new("RGB", (900, 500), (200, 30, 30)).save(path, "PNG")
    return path


def test_nothing_is_fetched_or_run(photo, tmp_path):
    answer = Answer(NASTY, [Result(NASTY, photo, 0.51234)], None)
    html_gallery.write([answer, Answer(NASTY, [], photo)], tmp_path / "out" / "found.html")
    text = (tmp_path / "out" / "found.html").read_text()
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert text.count('src="data:image/jpeg;base64,') == 2 == text.count("src=")
    assert NASTY in unescape(text)
    assert "0.512" in text and "No image was found" in text
    assert "default-src 'none'" in text
    (link,) = re.findall('href="([^"]*)"', text)
    assert (tmp_path / "out" / unquote(unescape(link))).resolve() == photo


def test_an_image_that_several_queries_find_is_read_once(photo, monkeypatch):
    read, real = [], html_gallery.of_image
    monkeypatch.setattr(html_gallery, "of_image", lambda path: read.append(path) or real(path))
    html_gallery.render([Answer("a", [Result("x", photo, 0.5)]), Answer("b", [Result("x", photo, 0.4)])], photo.parent)
    assert read == [photo]


def test_an_image_that_cannot_be_read_is_named_and_an_old_page_stays(photo, tmp_path):
    (tmp_path / "found.html").write_text("old")
    photo.write_text("text")
    with pytest.raises(CliplineError, match="not an image"):
        html_gallery.write([Answer("a", [Result("x", photo, 0.5)])], tmp_path / "found.html")
    assert (tmp_path / "found.html").read_text() == "old"


def test_a_path_that_cannot_be_written(photo, tmp_path):
    with pytest.raises(CliplineError, match="cannot be written"):
        html_gallery.write([Answer("a", [Result("x", photo, 0.5)])], photo / "found.html")
