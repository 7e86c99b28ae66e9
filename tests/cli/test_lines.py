"""Text files as people and their editors write them."""

import io
from types import SimpleNamespace

import pytest

from clipline.cli import inputs
from clipline.cli.inputs import read_lines
from clipline.errors import UsageError


def test_lines_of_a_file_and_of_standard_input(tmp_path, monkeypatch):
    data = "\ufeff red \r\n\r\n\tgrün\n".encode()
    (tmp_path / "words.txt").write_bytes(data)
    monkeypatch.setattr(inputs.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    for file in (tmp_path / "words.txt", inputs.Path("-")):
        assert read_lines(file, "words") == ["red", "grün"]


def test_what_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"x: not a text in UTF-8\. Fix: save the labels as UTF-8"):
        read_lines(tmp_path / "x", "labels")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_lines(tmp_path, "labels")
