"""Labels, templates and text files as people and their editors write them."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipline.classify.zeroshot import TEMPLATES
from clipline.cli import inputs
from clipline.cli.inputs import read_labels, read_lines, read_templates
from clipline.errors import UsageError


def test_labels(tmp_path):
    assert read_labels(" dog, a cat ,,horse", None) == ["dog", "a cat", "horse"]
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffdog, running\r\n\r\n#1 fan\nKüste\n".encode())
    assert read_labels(None, file) == ["dog, running", "#1 fan", "Küste"]


@pytest.mark.parametrize(
    ("labels", "text", "message"),
    [
        (None, None, "name the labels"),
        ("dog,cat", "dog\ncat", "name the labels"),
        ("dog", None, "1 label: there is nothing to choose"),
        (" , ", None, "0 labels"),
        ("dog,cat,dog", None, "'dog' comes twice"),
    ],
)
def test_labels_that_cannot_serve(tmp_path, labels, text, message):
    file = tmp_path / "labels.txt"
    if text:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_labels(labels, file if text else None)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt: cannot be read: No such file"):
        read_labels(None, tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("Küste\nStraße".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt: not a text in UTF-8"):
        read_labels(None, tmp_path / "latin.txt")


def test_templates(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a {} here\n\nno more {}\n")
    assert read_templates([], None) == TEMPLATES["captions"]
    assert read_templates([], "plain") == ["{}"]
    assert read_templates(["a {}"], None) == ["a {}"]
    assert read_templates([], str(file)) == ["a {} here", "no more {}"]


@pytest.mark.parametrize(
    ("templates", "name", "message"),
    [
        (["a {}"], "plain", "cannot both be used"),
        ([], "none", "neither a file nor one of captions, photo, plain"),
        (["a dog"], None, r"has no \{\}"),
    ],
)
def test_templates_that_cannot_serve(templates, name, message):
    with pytest.raises(UsageError, match=message):
        read_templates(templates, name)


def test_lines_of_a_file_and_of_standard_input(tmp_path, monkeypatch):
    data = "\ufeff red \r\n\r\n\tgrün\n".encode()
    (tmp_path / "words.txt").write_bytes(data)
    monkeypatch.setattr(inputs.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    for file in (tmp_path / "words.txt", Path("-")):
        assert read_lines(file, "words") == ["red", "grün"]


def test_what_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"x: not a text in UTF-8\. Fix: save the labels as UTF-8"):
        read_lines(tmp_path / "x", "labels")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_lines(tmp_path, "labels")
