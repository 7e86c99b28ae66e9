"""One file -> pixels, size and hash, or the reason why not."""

import hashlib
import os
from pathlib import Path

import pytest

from clipline.embed import item as module
from clipline.embed.decode import Decoded, decode, load
from clipline.embed.item import Failure, FileItem
from clipline.image import Preprocess
from tests import factories

PREPROCESS = Preprocess(16)


def run(path: Path) -> Decoded | Failure:
    item = FileItem(path.name, str(path))
    return decode(load(item, item.stat()), PREPROCESS)


def test_a_decoded_file(tmp_path):
    path = factories.save(tmp_path / "a.png", (1, 2, 3), (50, 20))
    os.utime(path, ns=(5, 1_700_000_000_123_456_789))
    result = run(path)
    assert (result.path, result.width, result.height) == ("a.png", 50, 20)
    assert result.stat.bytes == path.stat().st_size
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.stat.mtime_ns == path.stat().st_mtime_ns
    assert result.pixels.shape == (16, 16, 3)
    assert result.pixels[3, 3].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "empty file"),
        ("a.jpg", b"plain text", "not an image that Pillow can read"),
        ("a.heic", b"no HEIC", "not an image that Pillow can read"),
        ("a.JPG", b"\x00\x00\x00\x18ftypheic", "Pillow does not read HEIC: convert it to JPEG"),
    ],
)
def test_reasons(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    result = run(tmp_path / name)
    assert result == Failure(name, "decode", reason)
    assert result.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "large.jpg").write_bytes(b"x" * 101)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    for name, reason in [
        ("gone.jpg", "No such file or directory"),
        ("pipe.jpg", "not a regular file"),
        ("large.jpg", "101 bytes is over the limit of 100"),
    ]:
        with pytest.raises(OSError, match=reason):
            FileItem(name, str(tmp_path / name)).read()
