"""A folder of good photos among hostile files: all good ones are embedded, each bad one is listed with its reason."""

import io
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import factories
from tests.helpers import UNPRIVILEGED

GOOD, VANISHING = 1000, 10
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and names as Unix knows them"),
    pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root without setpriv"),
]


def encoded(kind: str, size: int = 60) -> bytes:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header claims a size, whatever is in it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def hostile(folder: Path) -> set[str]:
    """Fill `folder` with bad files; their paths."""
    folder.mkdir()
    files: dict[bytes, bytes] = {}
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        whole = encoded(kind)
        for percent in range(5, 100, 5):
            files[f"cut-{percent:02d}.{kind.lower()}".encode()] = whole[: len(whole) * percent // 100]
    for index in range(20):
        files[f"zero-{index}.jpg".encode()] = b""
        files[f"text-{index}.png".encode()] = f"not an image {index}".encode()
        files[f"bomb-{index}.png".encode()] = png(30_000, 30_000 + index, bytes(1000))
        files[f"absurd-{index}.png".encode()] = png(2**31 - 1, 2**31 - 1 - index, b"")
    files |= {b"new\nline.jpg": b"1", b"quo\"te'.jpg": b"2", b"not-utf8-\xff\xfe.jpg": b"3", b" space .jpg": b"4"}
    for name, data in files.items():
        (folder / os.fsdecode(name)).write_bytes(data)
    for index in range(5):
        os.mkfifo(folder / f"pipe-{index}.jpg")
        (folder / f"nowhere-{index}.jpg").symlink_to("gone")
        (folder / f"circle-{index}.jpg").symlink_to(f"circle-{index}.jpg")
        secret = folder / f"secret-{index}.jpg"
        secret.write_bytes(encoded("JPEG"))
        secret.chmod(0)
    (folder / "circle").symlink_to(".")
    return {path.name for path in folder.iterdir()} - {"circle"}


@pytest.mark.timeout(180)
def test_all_good_ones_and_each_bad_one(bundle, tmp_path):
    photos = tmp_path / "photos"
    good = {f"{index // 100}/{index:04d}.png" for index in range(GOOD)}
    for index, name in enumerate(sorted(good)):
        factories.save(photos / name, (index % 250, 100 + index // 10, 7), (40 + index % 50, 40))
    bad = {f"bad/{name}" for name in hostile(photos / "bad")}
    # Names that sort last, so that they are there when the run begins, and gone when it comes to them.
    vanishing = [factories.save(photos / "zz" / f"{index}.png", size=(41 + index, 30)) for index in range(VANISHING)]
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from clipline.cli import main; main()", "embed", photos, "--model", bundle]
    process = subprocess.Popen(
        [*UNPRIVILEGED, *command, "--out", out, "--part-rows", "50", "--batch-size", "8", "--provider", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (out / "data" / "part-00000.parquet").exists() and process.poll() is None:
        time.sleep(0.005)
    for path in vanishing:
        path.unlink()
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 3, stderr.decode(errors="replace")
    assert {row["path"] for row in factories.rows(out)} == good
    errors = {row["path"]: row for row in factories.errors(out)}
    named = {path.replace(os.fsdecode(b"\xff\xfe"), "%FF%FE") for path in bad}
    # What vanished before its folder was listed is not an error.
    assert named <= set(errors) <= named | {f"zz/{path.name}" for path in vanishing}
    assert len(bad) >= 200 - VANISHING
    assert all(row["stage"] in {"read", "decode"} and row["reason"] for row in errors.values())
    reasons = {name: errors[f"bad/{name}"]["reason"] for name in ("pipe-0.jpg", "secret-0.jpg", "circle-0.jpg")}
    assert reasons == {
        "pipe-0.jpg": "not a regular file",
        "secret-0.jpg": "Permission denied",
        "circle-0.jpg": "Too many levels of symbolic links",
    }
    assert "exceeds limit" in errors["bad/bomb-0.png"]["reason"]
    assert list(out.glob(".*")) == []
