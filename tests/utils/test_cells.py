"""Cells of tables that hold an image or name one, and cells that hold several texts."""

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from clipline.utils.cells import image_or_path, texts


def encoded(kind, **options):
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (9, 200, 3)).save(file, kind, **options)
    return file.getvalue()


PHOTO = encoded("JPEG")
TEXT = base64.b64encode(PHOTO).decode()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("suffix", ["", "no_jp2"])
def test_every_format_is_known_by_its_first_bytes(kind, suffix):
    data = encoded(kind, no_jp2=True) if suffix and kind == "JPEG2000" else encoded(kind)
    assert image_or_path(data) == data
    assert image_or_path(base64.b64encode(data)) == data


@pytest.mark.parametrize(
    "cell",
    [
        {"bytes": PHOTO, "path": "a.jpg"},
        {"bytes": TEXT},
        {"bytes": None, "path": TEXT},
        TEXT,
        base64.urlsafe_b64encode(PHOTO).decode().rstrip("="),
        base64.encodebytes(PHOTO).decode(),
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:;BASE64,{TEXT}",
        "data:image/jpeg," + "".join(f"%{byte:02X}" for byte in PHOTO),
        str(PHOTO),
        str({"bytes": PHOTO, "path": None}),
    ],
)
def test_an_image_in_any_writing(cell):
    assert image_or_path(cell) == PHOTO


def test_the_hubs_bytes_are_an_image_whatever_they_are():
    assert image_or_path({"bytes": b"not an image", "path": "a.jpg"}) == b"not an image"
    assert image_or_path(b"\1\0\2") == b"\1\0\2"


@pytest.mark.parametrize(
    "path",
    ["a.jpg", "b'a.jpg", "/9j/4AAQSkZJRg", f"{TEXT[:60]}.jpg", "data:a.jpg", "data, 1.jpg", "P1 a.jpg", "GIF89a.gif"],
)
def test_what_only_looks_like_an_image_is_a_path(path):
    assert image_or_path(path) == path
    assert image_or_path(path.encode()) == path
    assert image_or_path({"bytes": None, "path": path}) == path


def test_names_that_are_no_utf8_and_empty_cells():
    assert image_or_path(b"caf\xe9.jpg") == "caf\udce9.jpg"
    assert [image_or_path(cell) for cell in ("", b"", None, {}, {"bytes": None, "path": None})] == [None] * 5


@pytest.mark.parametrize("cell", ["data:image/png;base64,!!", "data:;base64,A", "{'bytes': [", "b'" + "(" * 9999])
def test_damaged_cells_are_no_traceback(cell):
    assert isinstance(image_or_path(cell), bytes | str | None)


TEXTS = ["a cat, asleep", 'it says "stop"', "it's", "\U0001f600 é", "back\\slash"]


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps(TEXTS),
        json.dumps(TEXTS, ensure_ascii=False, indent=1),
        str(TEXTS),
        str(np.array(TEXTS)),
        f" {TEXTS} ",
    ],
)
def test_a_list_of_texts_as_text(cell):
    assert texts(cell) == TEXTS


@pytest.mark.parametrize(
    "cell", ["a cat", "[a, b]", "[1, 2]", '["a", 1]', '"a"', "['a'", "['a']]", "a ['b']", '[["a"]]', '{"a": "b"}', ""]
)
def test_other_cells_are_one_text(cell):
    assert texts(cell) == [cell]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("[]", []),
        ('["a", null]', ["a"]),
        ("[None, 'a', nan]", ["a"]),
        (r"['C:\Users', 'a\'b']", [r"C:\Users", "a'b"]),
        ("['two\nlines']", ["two\nlines"]),
        (r'["\ud800"]', ["\ufffd"]),
        ("[' a ', '']", ["a", ""]),
    ],
)
def test_odd_lists(cell, found):
    assert texts(cell) == found


def test_a_hostile_list_takes_no_time():
    start = time.monotonic()
    assert len(texts("[" + "'a'    " * 20_000)) == 1
    assert time.monotonic() - start < 1
