"""What the fuzzer feeds: one function for each kind of hostile bytes, which raises unless a promise was kept.

Each takes any bytes. The promises: nothing but an error that a user can fix, nothing written outside the folder that
was given, what is read can be used, and what is written reads back as it was.
"""

from __future__ import annotations

import struct
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipline.config.dataset import Archive, CaptionRules, Expect, HashSplit, NoOptions, TableSource
from clipline.data.captions import clean, read_captions
from clipline.data.sources import archive as archives
from clipline.data.sources import fetch
from clipline.data.sources.raw import CaptionRow, write_captions
from clipline.data.sources.table import read_table
from clipline.embed.item import Failure
from clipline.embed.sources.shards import Shards
from clipline.embed.sources.table import Table
from clipline.embeddings import manifest as embeddings
from clipline.errors import CliplineError, UsageError
from clipline.image import ImageError, Preprocess
from clipline.runtime.bundle import Bundle

ARCHIVE = Archive(
    kind="archive",
    path="set by the target",
    source=NoOptions(),
    expect=Expect(images=None, captions=None),
    captions=CaptionRules(),
    split=HashSplit(kind="hash"),
)
PNG = b"\x89PNG\r\n\x1a\n"


def image(data: bytes) -> None:
    """Any bytes are an ImageError with a reason, or S x S pixels. A PNG gets right checksums, to reach its decoder."""
    preprocess = Preprocess(32, ("shortest", "squash")[len(data) % 2])
    try:
        pixels, size = preprocess.read(_png_checksums(data) if data.startswith(PNG) else data)
    except ImageError as error:
        assert str(error)
        return
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert min(size) > 0


def archive(data: bytes) -> None:
    """Any bytes are an error, or images and captions that belong together; nothing is written outside the cache.

    The first byte says whether a tar's checksums are fixed, to reach what comes after them.
    """
    if data[:1] == b"t":
        data = _tar_checksums(data[1:])
    with tempfile.TemporaryDirectory() as folder:
        top, path = Path(folder), Path(folder, "in", "a.tar")
        path.parent.mkdir()
        path.write_bytes(data)
        dataset = ARCHIVE.model_copy(update={"path": str(path)})
        try:
            found = fetch(dataset, top / "raw", top / "cache" / "x")
        except CliplineError:
            found = None
            assert not (top / "raw").exists()
        if found:
            images = {row.image for row in read_captions(top / "raw" / "captions.csv")}
            assert {file.name for file in (top / "raw" / "images").iterdir()} == images
        assert {entry.name for entry in top.iterdir()} <= {"in", "cache", "raw"}
        assert [entry.name for entry in path.parent.iterdir()] == ["a.tar"]
        _shard(path)


def _shard(path: Path) -> None:
    try:
        items = list(Shards([path], path.parent))
    except UsageError:
        return
    for item in items:
        item.path.encode()
        if not isinstance(item, Failure):
            assert item.path.startswith("a.tar/")
            assert ".." not in item.path.split("/")
            assert len(item.read()) == item.stat().bytes


def captions(data: bytes) -> None:
    """Any bytes are an error with the file's name, or rows that are written and read back as they were."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "captions.csv")
        path.write_bytes(data)
        _allowed(lambda: list(Table(path)), path)
        for source in (TableSource(captions="x"), TableSource(captions="x", delimiter="|", split_column="split")):
            table = _allowed(lambda source=source: read_table(path, source), path)
            if table:
                _round_trip(table.rows, path.with_name("copy.csv"))
        for name in ("captions.txt", "Flickr8k.token.txt"):
            text = data.decode("utf-8", errors="replace")
            table = _allowed(lambda name=name, text=text: archives._TABLES[name.casefold()](text, str(path)), path)
            _round_trip(table and table.rows, path.with_name("copy.csv"))
        for caption in _allowed(lambda: read_captions(path), path) or []:
            text = clean(caption.text)
            assert text == " ".join(text.split())
            assert unicodedata.is_normalized("NFC", text)
            assert not {unicodedata.category(letter) for letter in text} & {"Cc", "Cs", "Zl", "Zp"}


def _allowed(call: Callable, path: Path) -> object:
    try:
        return call()
    except CliplineError as error:
        assert path.name in str(error)
        return None


def _round_trip(rows: list[CaptionRow] | None, path: Path) -> None:
    if not rows:
        return
    write_captions(path, rows)
    assert [(row.image, row.caption) for row in rows] == [(row.image, row.text) for row in read_captions(path)]


def manifest(data: bytes) -> None:
    """Any bytes are a UsageError that names the file, or a manifest whose JSON reads back as the same."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        (top / "manifest.json").write_bytes(data)
        (top / "preprocess.json").write_bytes(data)
        try:
            found = embeddings.read(top)
        except UsageError as error:
            assert folder in str(error)
        else:
            (top / "manifest.json").write_text(found.model_dump_json(), encoding="utf-8")
            assert embeddings.read(top) == found
            found.root_folder(top), found.model_folder(top), found.precision
        (top / "manifest.json").write_bytes(data)
        for part in data.split(b"\0", 1):
            (top / "preprocess.json").write_bytes(part)
            try:
                Bundle(top)
            except UsageError as error:
                assert folder in str(error)
            (top / "manifest.json").write_bytes(part)


def _png_checksums(data: bytes) -> bytes:
    out, at = bytearray(PNG), len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out) + data[at:]


def _tar_checksums(data: bytes) -> bytes:
    out = bytearray(data)
    for at in range(0, len(out) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + tarfile.BLOCKSIZE])
    return bytes(out)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": image,
    "archive": archive,
    "captions": captions,
    "manifest": manifest,
}
