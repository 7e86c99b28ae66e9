"""One file -> pixels and facts, or the reason."""

import hashlib
import os
from pathlib import Path

import pytest

from clipline.embed import decode as module
from clipline.embed.decode import Decoded, decode
from clipline.embed.scan import Failure, Found
from clipline.image import Preprocess

PREPROCESS = Preprocess(16)


def run(path: Path) -> Decoded | Failure:
    return decode(Found(path.name, path), PREPROCESS)


def test_facts(tmp_path, tools):
    path = tools.save(tmp_path / "a.png", (1, 2, 3), (50, 20))
    os.utime(path, ns=(5, 1_700_000_000_123_456_789))
    found = run(path)
    assert (found.path, found.width, found.height) == ("a.png", 50, 20)
    assert found.bytes == path.stat().st_size
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.mtime_ns == 1_700_000_000_123_456_789
    assert found.pixels.shape == (16, 16, 3)
    assert found.pixels[3, 3].tolist() == [1, 2, 3]


BAD = {
    "text.jpg": (b"no image", "decode", "not an image"),
    "empty.jpg": (b"", "decode", "empty file"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "decode", "HEIC"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    data, stage, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    found = run(tmp_path / name)
    assert isinstance(found, Failure)
    assert (found.path, found.stage) == (name, stage)
    assert reason in found.reason


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "large.jpg").write_bytes(b"x" * 101)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert run(tmp_path / "gone.jpg") == Failure("gone.jpg", "read", "No such file or directory")
    assert run(tmp_path / "pipe.jpg") == Failure("pipe.jpg", "read", "not a regular file")
    assert run(tmp_path / "large.jpg") == Failure("large.jpg", "read", "101 bytes is over the limit of 100")
