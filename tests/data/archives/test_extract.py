"""Hostile, damaged and interrupted archives."""

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile

import pytest

from clipline.data.archives.members import DamagedError
from clipline.errors import CliplineError


def zip_with(path, files, extra):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names, which is the point here
        for name, content in files.items():
            archive.writestr(name, content)
        for name, mode, content in extra:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def tar_with(path, files, extra):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind, content in extra:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "Images/1_a.jpg"
            archive.addfile(info, io.BytesIO(content))
    return path


REGULAR, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777
HOSTILE = [
    (zip_with, "../evil", REGULAR, b"x", "outside"),
    (zip_with, "Images/../../evil", REGULAR, b"x", "outside"),
    (zip_with, "/tmp/evil", REGULAR, b"x", "outside"),
    (zip_with, "..\\evil", REGULAR, b"x", "outside"),
    (zip_with, "C:\\evil", REGULAR, b"x", "outside"),
    (zip_with, "Images/link.jpg", LINK, b"/etc/passwd", "link"),
    (zip_with, "Images/1_a.jpg", REGULAR, b"x", "twice"),
    (zip_with, "images/1_A.jpg", REGULAR, b"x", "case"),
    (zip_with, "Images/bomb.jpg", REGULAR, bytes(200 << 20), "100 times"),
    (tar_with, "../evil", tarfile.REGTYPE, b"x", "outside"),
    (tar_with, "/tmp/evil", tarfile.REGTYPE, b"x", "outside"),
    (tar_with, "Images/link.jpg", tarfile.SYMTYPE, b"", "link"),
    (tar_with, "Images/hard.jpg", tarfile.LNKTYPE, b"", "link"),
    (tar_with, "Images/device.jpg", tarfile.CHRTYPE, b"", "device"),
    (tar_with, "Images/pipe.jpg", tarfile.FIFOTYPE, b"", "device"),
    (tar_with, "Images/1_a.jpg", tarfile.REGTYPE, b"x", "twice"),
    (tar_with, "Images/1_A.JPG", tarfile.REGTYPE, b"x", "case"),
    (tar_with, "Images/bomb.jpg", tarfile.REGTYPE, bytes(200 << 20), "100 times"),
]


@pytest.mark.parametrize(
    ("write", "name", "kind", "content", "word"),
    HOSTILE,
    ids=[f"{h[0].__name__}-{h[1]}-{h[4]}" for h in HOSTILE],
)
def test_a_hostile_member_refuses_the_whole_archive(write, name, kind, content, word, data, fetch, tmp_path):
    archive = write(tmp_path / "a.bin", data.kaggle_layout(), [(name, kind, content)])
    with pytest.raises(CliplineError, match=f"unsafe, nothing was unpacked.*{word}"):
        fetch("archive", archive)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]
    assert [path.name for path in written] == ["x.lock"]
    assert fetch("archive", write(archive, data.kaggle_layout(), [])).source["images"] == 3


def test_a_header_that_asks_for_all_memory_is_damage(data, fetch, tmp_path):
    info = tarfile.TarInfo("extended")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    whole = data.write_tar(tmp_path / "a.tar", data.kaggle_layout()).read_bytes().rstrip(b"\0")
    forged = whole + bytes(-len(whole) % 512) + info.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
    (tmp_path / "a.tar").write_bytes(forged)
    with pytest.raises(DamagedError, match="absurd size"):
        fetch("archive", tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_a_truncated_archive_is_an_error_wherever_it_is_cut(name, part, data, fetch, tmp_path):
    files = data.kaggle_layout() | {f"Images/more{n}.jpg": os.urandom(3000) for n in range(20)}
    archive = data.pack(tmp_path / name, files)
    whole = archive.read_bytes().rstrip(b"\0")
    archive.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CliplineError, match=r"cut short or damaged|neither a zip nor a tar") as caught:
        fetch("archive", archive)
    assert str(archive) in str(caught.value)
    assert not (tmp_path / "out" / "raw").exists()


def test_a_tar_cut_exactly_between_two_members_is_an_error(data, fetch, tmp_path):
    archive = data.write_tar(tmp_path / "a.tar", data.kaggle_layout())
    with tarfile.open(archive) as opened:
        last = opened.getmembers()[-1].offset
    archive.write_bytes(archive.read_bytes()[:last])
    with pytest.raises(DamagedError, match="mark of its end is missing"):
        fetch("archive", archive)


def test_a_changed_byte_is_found_and_nothing_is_published(data, fetch, tmp_path):
    archive = zip_with(tmp_path / "a.zip", data.kaggle_layout(), [])
    content = bytearray(archive.read_bytes())
    content[content.index(data.photo(1)) + 100] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DamagedError, match=r"Bad CRC-32.*2_b\.jpg"):
        fetch("archive", archive)
    assert not (tmp_path / "out" / "raw").exists()


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>" * 100])
def test_what_is_no_archive_at_all_says_so(content, fetch, tmp_path):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(CliplineError, match="neither a zip nor a tar"):
        fetch("archive", tmp_path / "a.zip")


def test_an_encrypted_zip_says_so(data, fetch, tmp_path):
    archive = zip_with(tmp_path / "a.zip", data.kaggle_layout(), [])
    content = bytearray(archive.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(CliplineError, match="password"):
        fetch("archive", archive)


KILLED = """
import os, signal, sys
from pathlib import Path
from clipline.config.base import validate
from clipline.config.dataset import Dataset
from clipline.data.archives import extract
from clipline.data.sources import fetch
write, written = extract._write, []
def killing(member, *rest):
    write(member, *rest)
    written.append(member.name)
    if len(written) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
extract._write = killing
path, out, cache = sys.argv[1:]
dataset = dict(kind="archive", path=path, source={}, expect=dict(images=None, captions=None), captions={},
               split=dict(kind="hash"))
fetch(validate(Dataset, dataset, "x"), Path(out), Path(cache))
"""


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a"])
def test_a_killed_run_goes_on_where_it_stopped(name, data, fetch, tmp_path):
    captions = data.csv_text([(f"{n}.jpg", f"caption {n}") for n in range(10)]).encode()
    files = {f"Images/{n}.jpg": data.photo(n) for n in range(10)} | {"captions.txt": captions}
    archive = data.pack(tmp_path / name, files)
    arguments = [archive, tmp_path / "out" / "raw", tmp_path / "cache" / "x"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "raw").exists()
    kept = {path.name: path.stat().st_ino for path in (tmp_path / "cache").rglob("*.jpg")}
    assert len(kept) == 4
    spoilt = next(path for path in (tmp_path / "cache").rglob("*.jpg"))
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    (spoilt.parent / "left over.jpg").write_bytes(b"x")
    found = fetch("archive", archive)
    assert found.images == {f"{n}.jpg": data.photo(n) for n in range(10)}
    same = [name for name, inode in kept.items() if (found.folder / "images" / name).stat().st_ino == inode]
    assert sorted(same) == sorted(set(kept) - {spoilt.name})


def test_too_little_space_is_reported_before_anything_is_written(data, fetch, tmp_path, monkeypatch):
    import shutil

    archive = data.write_zip(tmp_path / "a.zip", data.kaggle_layout())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(CliplineError, match="MB are needed and only 0 MB are free"):
        fetch("archive", archive)
    assert not list((tmp_path / "cache").rglob("*.jpg"))
