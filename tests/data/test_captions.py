"""Captions are read, cleaned and filtered, and what is dropped is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipline.config.dataset import CaptionRules
from clipline.data.captions import Caption, Dropped, clean, filter_captions, read_captions, without_repeats, words
from clipline.errors import CliplineError


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  two \t dogs\r\n run ", "two dogs run"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u0000b\u0007c", "a b c"),
        ("soft\u00adhyphen \ufeffand\u200b zero width", "softhyphen and zero width"),
        ("no\u00a0break\u3000wide", "no break wide"),
        ("line\u2028separator", "line separator"),
        ("salt &amp; pepper &#39;n&#x27; &quot;spice&quot;", "salt & pepper 'n' \"spice\""),
        ("AT&T and R&D; cats &notes", "AT&T and R&D; cats &notes"),
        ("&#0;&#x110000;x", "\ufffd\ufffdx"),
        (
            "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
            "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u202etxet\u202c", "txet"),
        ("Zwei HUNDE", "Zwei HUNDE"),
        ("\u200b\t\x00", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


def test_lowercase_only_if_asked() -> None:
    assert clean("Two DOGS", lowercase=True) == "two dogs"


@pytest.mark.parametrize(("text", "count"), [("", 0), (" . ", 0), ("--- !", 0), ("Two dogs .", 2), ("犬が走る", 1)])
def test_words_hold_a_letter_or_digit(text: str, count: int) -> None:
    assert words(text) == count


def rows(*texts: str, image: str = "a.jpg") -> list[Caption]:
    return [Caption(image, text, None, line) for line, text in enumerate(texts, start=2)]


def test_each_reason_is_counted_with_examples() -> None:
    dropped = Dropped()
    captions = rows("one two three", "one", ".", "", "a b c d e f", " one  two ")
    kept = filter_captions(captions, CaptionRules(min_words=2, max_words=5), dropped)
    assert [caption.text for caption in kept] == ["one two three", "one two"]
    report = dropped.report()
    assert {reason: part["count"] for reason, part in report.items()} == {
        "no words": 2,
        "fewer than 2 words": 1,
        "more than 5 words": 1,
    }
    assert next(iter(report)) == "no words"
    assert report["fewer than 2 words"]["examples"] == [{"line": 3, "image": "a.jpg", "caption": "one"}]


def test_examples_stay_few() -> None:
    dropped = Dropped()
    filter_captions(rows(*[""] * 100), CaptionRules(), dropped)
    assert dropped.counts == {"no words": 100}
    assert len(dropped.examples["no words"]) == 5


def test_repeats_go_from_training_images_alone() -> None:
    dropped = Dropped()
    captions = [
        *rows("A dog.", "a DOG.", "a cat"),
        *rows("a dog.", image="b.jpg"),
        *rows("x", "x", image="t.jpg"),
    ]
    kept = without_repeats(captions, {"a.jpg": "train", "b.jpg": "train", "t.jpg": "test"}, dropped)
    assert [(caption.image, caption.text) for caption in kept] == [
        ("a.jpg", "A dog."),
        ("a.jpg", "a cat"),
        ("b.jpg", "a dog."),
        ("t.jpg", "x"),
        ("t.jpg", "x"),
    ]
    assert dropped.counts == {"repeats another caption of its training image": 1}


def test_read_keeps_quotes_newlines_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes('\ufeffimage,caption\r\na.jpg,"two ""big"" dogs,\nrun"\r\n\r\nb.jpg,x\r\n'.encode())
    assert read_captions(path) == [
        Caption("a.jpg", 'two "big" dogs,\nrun', None, 2),
        Caption("b.jpg", "x", None, 5),
    ]


def test_read_takes_the_split_column_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("split,caption,image\nval,x,a.jpg\n")
    assert read_captions(path) == [Caption("a.jpg", "x", "val", 2)]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "line 1: no column `image`; needed: image, caption; found: nothing"),
        (b"image,text\na.jpg,x\n", "line 1: no column `caption`; needed: image, caption; found: image, text"),
        (b"image,caption\n", "no captions below the header"),
        (b"image,caption\na.jpg,ok\nb.jpg,caf\xe9 \n", "line 3: not UTF-8 (byte 0xe9)"),
        (b"image,caption\na.jpg,ok\nb.jpg\n", "line 3: 1 columns where the header has 2: 'b.jpg'"),
        (b"image,caption\na.jpg,one, two\n", "line 2: 3 columns where the header has 2"),
        (b"image,caption\na.jpg,ok\n,x\n", "line 3: the image name is empty"),
        (b'image,caption\na.jpg,ok\nb.jpg,"open\nc.jpg,x\n', "line 3: unreadable: unexpected end of data"),
        (b'image,caption\na.jpg,"x" y\n', "line 2: unreadable: ',' expected after '\"'"),
    ],
)
def test_unreadable_captions_say_the_line(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(content)
    with pytest.raises(CliplineError) as caught:
        read_captions(path)
    assert str(path) in str(caught.value)
    assert wanted in str(caught.value)


def test_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").mkdir()
    with pytest.raises(CliplineError, match=r"captions\.csv: cannot be read: Is a directory"):
        read_captions(tmp_path / "captions.csv")


def test_missing_captions_name_the_stage(tmp_path: Path) -> None:
    with pytest.raises(CliplineError, match=r"captions\.csv: no such file\. Fix: run the download stage"):
        read_captions(tmp_path / "captions.csv")
