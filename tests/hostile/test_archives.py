"""Malicious archives are refused with a message: no file outside, no partial result, bounded time and memory.

More of them, and cut and killed ones, are in tests/data/archives/test_extract.py; tar shards in
tests/embed/sources/test_shards.py.
"""

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from clipline.config.dataset import Archive, CaptionRules, Expect, HashSplit, NoOptions
from clipline.data.archives.members import DamagedError
from clipline.data.archives.readers import open_reader
from clipline.data.sources import fetch
from clipline.embed.item import Failure
from clipline.embed.sources.shards import Shards
from clipline.errors import CliplineError

CAPTIONS = b"image,caption\na.jpg,A dog\nb.jpg,Grass\n"
FILES = {"captions.txt": CAPTIONS, "Images/a.jpg": b"a" * 100, "Images/b.jpg": b"b" * 100}
ZEROS = bytes(1 << 20)


def dataset(path: Path) -> Archive:
    everything = Expect(images=None, captions=None)
    parts = {"source": NoOptions(), "expect": everything, "captions": CaptionRules(), "split": HashSplit(kind="hash")}
    return Archive(kind="archive", path=str(path), **parts)


@pytest.fixture
def refused(tmp_path):
    """refused(path) -> the error message; asserts that nothing but the lock was written."""

    def run(path: Path, kind: type[Exception] = CliplineError) -> str:
        before = {entry: entry.stat().st_mtime_ns for entry in tmp_path.rglob("*") if entry.is_file()}
        with pytest.raises(kind) as caught:
            fetch(dataset(path), tmp_path / "out" / "raw", tmp_path / "cache" / "x")
        after = {entry for entry in tmp_path.rglob("*") if entry.is_file() and entry.name != "x.lock"}
        unfinished = {entry for entry in after - set(before) if tmp_path / "cache" in entry.parents}
        assert after - unfinished == {entry for entry in before if entry.name != "x.lock"}
        assert not (tmp_path / "out" / "raw").exists()
        assert str(path) in str(caught.value)
        return str(caught.value)

    return run


def zipped(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def changed(path: Path, old: bytes, new: bytes, times: int = 1) -> Path:
    """Replace the first `times` occurrences of `old` in a file."""
    data = path.read_bytes()
    assert data.count(old) >= times
    path.write_bytes(data.replace(old, new, times))
    return path


def central(path: Path, name: str, at: int, value: bytes) -> Path:
    """Change the entry of `name` in a zip's central directory, `at` bytes after its start."""
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[start + at : start + at + len(value)] = value
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- zip


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bounds_are_refused(method, refused, tmp_path):
    """900 bytes of bzip2 decompress to a gigabyte, which zipfile would do at once."""
    message = refused(zipped(tmp_path / "a.zip", FILES, method))
    assert "only stored and deflated ones are unpacked here. Fix: pack it again" in message
    assert "'captions.txt' is packed with" in message


@pytest.mark.parametrize(("claimed", "word"), [(1, "Bad CRC-32"), (1 << 30, "bytes")])
def test_a_size_that_lies_is_found(claimed, word, refused, tmp_path):
    path = zipped(tmp_path / "a.zip", FILES | {"Images/b.jpg": b"b" * 100_000}, zipfile.ZIP_DEFLATED)
    path = central(path, "Images/b.jpg", 24, struct.pack("<I", claimed))
    assert word in refused(path) or "100 times" in refused(path)


def test_a_bomb_of_overlapping_members(refused, tmp_path):
    """Many names for the same compressed zeros (Fifield 2019): each is small, but not all of them together."""
    path = zipped(tmp_path / "a.zip", FILES | {"Images/bomb": ZEROS * 8}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as archive:
        bomb = archive.getinfo("Images/bomb")
        for number in range(50):
            again = zipfile.ZipInfo(f"Images/{number}.jpg")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "external_attr"):
                setattr(again, name, getattr(bomb, name))
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
        archive._didModify = True
    assert "100 times its own size" in refused(path)


def test_an_archive_in_an_archive_is_a_file_like_any_other(refused, tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"bomb": ZEROS}, zipfile.ZIP_DEFLATED).read_bytes()
    path = zipped(tmp_path / "a.zip", FILES | {"Images/a.jpg": inner})
    fetch(dataset(path), tmp_path / "out" / "raw", tmp_path / "cache" / "x")
    assert (tmp_path / "out" / "raw" / "images" / "a.jpg").read_bytes() == inner


@pytest.mark.parametrize(
    ("at", "value", "word"),
    [
        (42, struct.pack("<I", 0x7FFFFFFF), "cut short or damaged"),  # where its header should be
        (10, struct.pack("<H", 99), "packed with method 99"),
        (6, struct.pack("<H", 0xFF), "pack it again as a plain zip"),  # a version of zip from the future
        (8, struct.pack("<H", 1), "password"),
        (16, b"\0\0\0\0", "Bad CRC-32"),
    ],
)
def test_a_central_directory_that_lies(at, value, word, refused, tmp_path):
    assert word in refused(central(zipped(tmp_path / "a.zip"), "Images/a.jpg", at, value))


def test_a_local_header_of_another_name(refused, tmp_path):
    path = changed(zipped(tmp_path / "a.zip"), b"Images/a.jpg", b"Images/../../e.jpg"[:12])
    assert "differ" in refused(path, DamagedError)


def test_corrupt_extra_fields(refused, tmp_path):
    info = zipfile.ZipInfo("Images/a.jpg")
    info.extra = struct.pack("<HH", 1, 60000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("captions.txt", CAPTIONS)
        archive.writestr(info, b"a")
    assert "cut short or damaged" in refused(tmp_path / "a.zip", DamagedError)


def test_real_zip64_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in FILES.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    fetch(dataset(tmp_path / "a.zip"), tmp_path / "out" / "raw", tmp_path / "cache" / "x")
    assert (tmp_path / "out" / "raw" / "images" / "b.jpg").read_bytes() == FILES["Images/b.jpg"]


def test_names_in_another_encoding_are_read_as_zip_says(tmp_path):
    """Without its mark of UTF-8 a zip's names are code page 437: a caption finds its image by that reading."""
    path = zipped(tmp_path / "a.zip", {"captions.txt": "image,caption\nHünd.jpg,x\n".encode(), "Images/H?nd.jpg": b"a"})
    fetch(dataset(changed(path, b"H?nd", b"H\x81nd", 2)), tmp_path / "out" / "raw", tmp_path / "cache" / "x")
    assert [entry.name for entry in (tmp_path / "out" / "raw" / "images").iterdir()] == ["Hünd.jpg"]


def test_marked_as_utf8_and_is_not(refused, tmp_path):
    path = zipped(tmp_path / "a.zip", FILES | {"Images/é.jpg": b"a"})
    assert "cut short or damaged" in refused(changed(path, "é".encode(), b"\xff\xfe", 2), DamagedError)


def test_a_name_too_long_for_the_disk_is_shortened(tmp_path):
    name = "/".join(["folder"] * 50) + ".jpg"
    files = {"captions.txt": f"image,caption\n{name},x\n".encode(), f"Images/{name}": b"a"}
    path = zipped(tmp_path / "a.zip", files)
    fetch(dataset(path), tmp_path / "out" / "raw", tmp_path / "cache" / "x")
    (image,) = (tmp_path / "out" / "raw" / "images").iterdir()
    assert image.name.endswith("__folder.jpg")
    assert image.read_bytes() == b"a"


# ---------------------------------------------------------------- tar


def member(name: str, data: bytes = b"", **header) -> bytes:
    """Header (in GNU's form) and data of one member, padded; any field may lie."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def sized(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header with a valid checksum, whose size may be negative."""
    block = bytearray(member(name, type=kind)[:512])
    block[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    block[124] = 0xFF if size < 0 else 0x80 | block[124]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**records: str) -> bytes:
    """An extended header."""
    body = b""
    for key, value in records.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(text) + len(str(len(text)))
        length = len(text) + len(str(length))
        body += str(length).encode() + text
    return member("extended", body, type=tarfile.XHDTYPE)


GOOD = b"".join(member(name, data) for name, data in FILES.items())
END = bytes(1024)


@pytest.mark.parametrize("size", [-512, -(1 << 40), 1 << 40, 1 << 62])
@pytest.mark.timeout(30)
def test_sizes_that_lie(size, refused, tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + sized("Images/evil.jpg", size) + GOOD[:512] + END)
    refused(tmp_path / "a.tar")


@pytest.mark.timeout(30)
def test_an_extended_size_below_zero_does_not_go_round_and_round(refused, tmp_path):
    """CVE-2025-8194: tarfile went back to the header before, for ever."""
    (tmp_path / "a.tar").write_bytes(GOOD + pax(size="-2048") + member("Images/evil.jpg") + END)
    assert "damaged" in refused(tmp_path / "a.tar", DamagedError)


def sparse(entries: int, data: bytes) -> bytes:
    head = pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="Images/s", GNU__sparse__realsize="9")
    return head + member("Images/s", f"{entries}\n".encode() + data)


@pytest.mark.parametrize("data", [b"", b"no number\n", b"1\n" * 200_000])
def test_a_sparse_file_whose_list_does_not_end(data, refused, tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + sparse(10**9, data) + END)
    refused(tmp_path / "a.tar", DamagedError)
    (tmp_path / "s.tar").write_bytes(GOOD + sparse(10**9, data) + END)
    failures = [item for item in Shards([tmp_path / "s.tar"], tmp_path) if isinstance(item, Failure)]
    assert [failure.path for failure in failures] == ["s.tar"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_behind_headers_without_end(kind, refused, tmp_path):
    """tarfile reads each by a recursive call, which keeps what it read."""
    (tmp_path / "a.tgz").write_bytes(gzip.compress(GOOD + member("x", bytes(4096), type=kind) * 5000 + GOOD + END, 1))
    refused(tmp_path / "a.tgz", DamagedError)


def test_a_bomb_in_headers_alone(refused, tmp_path):
    """Folders with long extended headers: sizes of members do not show how much is decompressed to list them."""
    path = tmp_path / "a.tgz"
    folder = pax(comment="x" * 1_000_000) + member("folder", type=tarfile.DIRTYPE)
    path.write_bytes(gzip.compress(GOOD) + gzip.compress(folder) * 130 + gzip.compress(END))
    assert path.stat().st_size < 1 << 18
    assert "100 times its own size" in refused(path)


def test_a_name_with_nul(refused, tmp_path):
    files = GOOD[512 + 512 :]
    captions = member("captions.txt", b"image,caption\na\0.jpg,x\n")
    (tmp_path / "a.tar").write_bytes(captions + pax(path="Images/a\0.jpg") + member("x", b"a") + files + END)
    assert "NUL" in refused(tmp_path / "a.tar")


def test_a_name_that_is_no_utf8(refused, tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + member(os.fsdecode(b"Images/caf\xe9.jpg"), b"a") + END)
    assert "is not valid UTF-8" in refused(tmp_path / "a.tar")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_bombs(pack, refused, tmp_path):
    archive = GOOD + sized("Images/bomb.jpg", 400 << 20) + ZEROS + END
    (tmp_path / "a.tar").write_bytes(pack(archive))
    assert "100 times its own size" in refused(tmp_path / "a.tar")


# ---------------------------------------------------------------- many

MEASURE = """
import sys, time
from pathlib import Path
from clipline.data.archives.readers import open_reader
from clipline.embed.sources.shards import Shards
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before, start = peak(), time.process_time()
path, how = Path(sys.argv[1]), sys.argv[2]
count = sum(1 for _ in Shards([path], path.parent)) if how == "shard" else len(open_reader(path).members)
print(count, time.process_time() - start, (peak() - before) / 1024)
"""


def many(path: Path, count: int) -> Path:
    """An archive of `count` empty images; written raw, as Python's own writers take minutes for a million."""
    names = [b"Images/%08d.jpg" % number for number in range(count)]
    if path.suffix == ".tar":
        head = bytearray(member("Images/00000000.jpg")[:512])
        with path.open("wb") as file:
            for name in names:
                head[:19], head[148:156] = name, b" " * 8
                head[148:156] = b"%06o\0 " % sum(head)
                file.write(head)
            file.write(END)
        return path
    local = b"".join(struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, len(n), 0) + n for n in names)
    fields = "<4s6H3I5H2I"
    entries = b"".join(
        struct.pack(fields, b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(n), 0, 0, 0, 0, 0, at * (30 + len(n))) + n
        for at, n in enumerate(names)
    )
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entries), len(local))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(local) + len(entries), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(local + entries + end64 + locator + end)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak of memory")
@pytest.mark.parametrize(
    ("name", "how", "seconds", "kilobytes"),
    [("a.zip", "archive", 60e-6, 2.0), ("a.tar", "archive", 150e-6, 2.0), ("s.tar", "shard", 150e-6, 0.5)],
)
@pytest.mark.timeout(600)
def test_very_many_members(name, how, seconds, kilobytes, tmp_path):
    """Time and memory grow linearly with the number of members; CLIPLINE_MEMBERS=1000000 measures a million."""
    count = int(os.environ.get("CLIPLINE_MEMBERS", "20000"))
    path = many(tmp_path / name, count)
    command = [sys.executable, "-c", MEASURE, str(path), how]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    members, took, memory = (float(figure) for figure in done.stdout.split())
    print(f"{name} ({how}): {members:,.0f} members, {took:.1f} s of CPU, {memory:,.0f} MB")  # noqa: T201 - with -s
    assert members == count
    assert took < seconds * count + 5
    assert memory < kilobytes * count / 1024 + 50
    path.unlink()


def test_very_many_members_of_one_name(tmp_path):
    path = many(tmp_path / "a.tar", 1)
    (tmp_path / "b.tar").write_bytes(path.read_bytes()[:512] * 20_000 + END)
    with pytest.raises(CliplineError, match="is in it twice"):
        open_reader(tmp_path / "b.tar")
    items = list(Shards([tmp_path / "b.tar"], tmp_path))
    assert [type(item) for item in items].count(Failure) == 1
    assert len(items) == 2


def test_what_is_no_seekable_archive_is_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("the system has no named pipes")
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(CliplineError, match="no such file or folder"):
        open_reader(tmp_path / "pipe.zip")


def test_streams_of_headers_are_no_gzip_bomb_of_names(tmp_path, refused):
    """A gzip header may contain an endless file name; it is read by the byte, and no further than the file."""
    head = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 300_000
    (tmp_path / "a.tgz").write_bytes(head)
    refused(tmp_path / "a.tgz")
    buffer = io.BytesIO()
    with gzip.GzipFile("n" * 1000, "w", fileobj=buffer) as file:
        file.write(GOOD + END)
    (tmp_path / "a.tgz").write_bytes(buffer.getvalue())
    assert len(open_reader(tmp_path / "a.tgz").members) == len(FILES)
