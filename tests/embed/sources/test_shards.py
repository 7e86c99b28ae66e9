"""Images inside tar shards: which members are taken, damaged and hostile shards, and complete bytes."""

import gzip
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipline.embed.item import MAX_BYTES, Failure, Stat
from clipline.embed.sources.shards import ShardItem, Shards
from clipline.errors import UsageError


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **header) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_700_000_000
    for key, value in header.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def shard(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            add(tar, name, data)
    return path


def walk(*files: Path, **options) -> tuple[list[ShardItem], list[Failure]]:
    items = list(Shards(files, files[0].parent, **options))
    return [item for item in items if not isinstance(item, Failure)], [
        item for item in items if isinstance(item, Failure)
    ]


def samples(count: int, size: int = 700) -> dict[str, bytes]:
    """WebDataset's layout: an image and its text under one name."""
    members = {}
    for index in range(count):
        members[f"{index:05}.jpg"] = bytes([index % 255 + 1]) * (size + index)
        members[f"{index:05}.txt"] = b"a caption"
    return members


def test_images_in_order_with_size_and_time(tmp_path):
    members = samples(30)
    files = [shard(tmp_path / f"{name}.tar", members) for name in ("b", "a", "a-b")]
    items, failures = walk(*files)
    assert failures == []
    names = [name for name in members if name.endswith(".jpg")]
    assert [item.path for item in items] == [f"{file}.tar/{name}" for file in ("a-b", "a", "b") for name in names]
    assert [item.read() for item in items] == [members[name] for name in names] * 3
    assert items[7].stat() == Stat(707, 1_700_000_000 * 10**9)
    assert list(Shards(files, tmp_path)) == items


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar(tmp_path, form):
    long = "/".join(["folder" * 5] * 3) + "/" + "n" * 90 + ".jpg"
    members = {"a.jpg": b"a", long: b"long", "empty.PNG": b"", "sub/x.webp": b"x" * 512}
    items, failures = walk(shard(tmp_path / "s.tar", members, form))
    assert {item.path.removeprefix("s.tar/"): item.read() for item in items} == members
    assert failures == []


def test_threads_read_one_shard_at_once(tmp_path):
    members = samples(400, 3000)
    items, _ = walk(shard(tmp_path / "s.tar", members))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(ShardItem.read, items * 3))
    assert read == [data for name, data in members.items() if name.endswith(".jpg")] * 3


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process reads")
def test_a_walk_reads_headers_not_images(tmp_path):
    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    file = shard(tmp_path / "s.tar", samples(50, 200_000))
    before = read()
    items, _ = walk(file)
    assert len(items) == 50
    assert read() - before < file.stat().st_size / 10


def test_patterns_hidden_names_and_folders(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        add(tar, "./a.jpg", b"a")
        add(tar, "/b.jpg", b"b")
        add(tar, "x//./c.png", b"c")
        add(tar, "._a.jpg", b"mac")
        add(tar, ".hidden/d.jpg", b"d")
        add(tar, "album.jpg", type=tarfile.DIRTYPE)
        add(tar, "album.jpg/e.jpg", b"e")
    items, failures = walk(tmp_path / "s.tar")
    assert [(item.path, item.read()) for item in items] == [
        ("s.tar/a.jpg", b"a"),
        ("s.tar/b.jpg", b"b"),
        ("s.tar/x/c.png", b"c"),
        ("s.tar/album.jpg/e.jpg", b"e"),
    ]
    assert failures == []
    assert [item.path for item in walk(tmp_path / "s.tar", include=["*.png"])[0]] == ["s.tar/x/c.png"]
    assert walk(tmp_path / "s.tar", exclude=["s.tar"]) == ([], [])


def test_hostile_members(tmp_path):
    """Nothing is opened or written under a member's name; what is no plain file is listed, not read."""
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    inside = tmp_path / "in"
    inside.mkdir()
    with tarfile.open(inside / "s.tar", "w", encoding="utf-8", errors="surrogateescape") as tar:
        add(tar, "../secret.jpg", b"x")
        add(tar, "a/../../secret.jpg", b"x")
        add(tar, str(tmp_path / "secret.jpg"), b"own bytes")
        add(tar, "soft.jpg", type=tarfile.SYMTYPE, linkname="../secret.jpg")
        add(tar, "hard.jpg", type=tarfile.LNKTYPE, linkname="../secret.jpg")
        add(tar, "fifo.jpg", type=tarfile.FIFOTYPE)
        add(tar, "device.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(tar, "line\nbreak 'quote' \".jpg", b"1")
        add(tar, os.fsdecode(b"caf\xe9.jpg"), b"2")
        add(tar, "100%25.jpg", b"3")
        add(tar, "back\\slash.jpg", b"4")
    items, failures = walk(inside / "s.tar")
    assert {item.path: item.read() for item in items} == {
        f"s.tar{tmp_path}/secret.jpg": b"own bytes",
        "s.tar/line\nbreak 'quote' \".jpg": b"1",
        "s.tar/caf%E9.jpg": b"2",
        "s.tar/100%2525.jpg": b"3",
        "s.tar/back\\slash.jpg": b"4",
    }
    assert [(failure.path.removeprefix("s.tar/"), failure.stage, failure.reason) for failure in failures] == [
        ("../secret.jpg", "scan", "its name leads out of the shard"),
        ("a/../../secret.jpg", "scan", "its name leads out of the shard"),
        ("soft.jpg", "scan", "is a link in the shard, not a plain file"),
        ("hard.jpg", "scan", "is a link in the shard, not a plain file"),
        ("fifo.jpg", "scan", "is a device in the shard, not a plain file"),
        ("device.jpg", "scan", "is a device in the shard, not a plain file"),
    ]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "s.tar", "secret.jpg"]


def test_one_name_twice(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for data in (b"first", b"second", b"third"):
            add(tar, "a.jpg", data)
        add(tar, "b.jpg", b"b")
    items, failures = walk(tmp_path / "s.tar")
    assert [(item.path, item.read()) for item in items] == [("s.tar/a.jpg", b"first"), ("s.tar/b.jpg", b"b")]
    reason = "has two members of one name, such as s.tar/a.jpg: only the first is taken"
    assert failures == [Failure("s.tar", "scan", reason)]


def test_cut_short_at_every_place(tmp_path):
    """All whole members before the cut, then one Failure for the shard; the next shard is not touched by it."""
    members = samples(3, 600)
    shard_bytes = shard(tmp_path / "whole.tar", members).read_bytes()
    jpgs = [data for name, data in members.items() if name.endswith(".jpg")]
    after = shard(tmp_path / "z.tar", {"z.jpg": b"z"})
    last = max(at for at in range(len(shard_bytes)) if shard_bytes[at]) // 512 * 512 + 512
    for end in [*range(0, last, 97), *range(0, last, 512)]:
        cut = tmp_path / "cut.tar"
        cut.write_bytes(shard_bytes[:end])
        items, failures = walk(cut, after)
        read = [item.read() for item in items]
        assert read == [*jpgs[: len(read) - 1], b"z"]
        assert [(failure.path, failure.stage) for failure in failures] == [("cut.tar", "scan")], end
        assert "cut short" in failures[0].reason
        assert len(read) - 1 == sum(shard_bytes.index(data[:600]) + len(data) <= end for data in jpgs)
    (tmp_path / "cut.tar").write_bytes(shard_bytes[: last + 512])
    assert walk(tmp_path / "cut.tar")[1] == []


@pytest.mark.parametrize("offset", [0, 1536, 1024 + 512 * 3])
def test_damage_inside(tmp_path, offset):
    members = samples(5, 600)
    content = bytearray(shard(tmp_path / "s.tar", members).read_bytes())
    content[offset : offset + 512] = b"\xaa" * 512
    (tmp_path / "s.tar").write_bytes(content)
    items, failures = walk(tmp_path / "s.tar")
    assert [failure.path for failure in failures] == ["s.tar"]
    assert len(items) == [0, 1, 1][[0, 1536, 2560].index(offset)]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header with any size, negative or huge, and a right checksum."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size % (1 << 96)).to_bytes(12, "big")
    block[124] = 0xFF if size < 0 else 0x80 | block[124]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [-512, -1024, -(1 << 40), 1 << 40, 1 << 62, (1 << 94) - 1])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE])
@pytest.mark.timeout(20)
def test_sizes_that_lie_end_the_shard(tmp_path, size, kind):
    good = shard(tmp_path / "s.tar", {"a.jpg": b"a"}).read_bytes()[:1024]
    (tmp_path / "s.tar").write_bytes(good + header("evil.jpg", size, kind) + good + bytes(1024))
    items, failures = walk(tmp_path / "s.tar")
    assert [item.path for item in items][:1] == ["s.tar/a.jpg"]
    assert all(item.read() == b"a" for item in items)
    assert [failure.path for failure in failures] == ["s.tar"]


@pytest.mark.parametrize("mtime", ["nan", "inf", "-5", "1e300", "12345.5", "text"])
def test_times_that_lie(tmp_path, mtime):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "a.jpg", b"a", pax_headers={"mtime": mtime})
    items, failures = walk(tmp_path / "s.tar")
    assert [item.stat() for item in items] == [Stat(1, 12_345_500_000_000 if mtime == "12345.5" else 0)]
    assert failures == []


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tar"])
def test_a_compressed_shard_is_refused_with_the_fix(tmp_path, name):
    plain = shard(tmp_path / "plain.tar", samples(3))
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(UsageError, match=r"is compressed with gzip.*Fix: gunzip -k it first"):
        Shards([tmp_path / name], tmp_path)
    items, failures = walk(plain, tmp_path / name)
    assert len(items) == 3
    assert [(failure.path, failure.stage) for failure in failures] == [(name, "scan")]
    assert failures[0].reason.startswith("is compressed with gzip")


def test_shards_that_are_not_there(tmp_path):
    there = shard(tmp_path / "0.tar", samples(1))
    with pytest.raises(UsageError, match=r"1\.tar: no such shard \(2 of 3 are not there\)"):
        Shards([there, tmp_path / "1.tar", tmp_path / "2.tar"], tmp_path)


def test_a_shard_that_changes_while_it_is_read(tmp_path):
    file, other = shard(tmp_path / "a.tar", samples(3)), shard(tmp_path / "b.tar", samples(1))
    source = Shards([file, other], tmp_path)
    items = list(source)
    os.truncate(file, 1000)
    with pytest.raises(OSError, match="its shard ends before it does"):
        items[0].read()
    file.unlink()
    other.unlink()
    with pytest.raises(FileNotFoundError):
        items[0].read()
    assert list(source) == [
        Failure(f"{name}.tar", "scan", "cannot be read: No such file or directory") for name in "ab"
    ]


def test_a_member_over_the_limit_is_not_read(tmp_path):
    with open(tmp_path / "s.tar", "wb") as stream:  # noqa: PTH123 - sparse on disk
        stream.write(header("big.jpg", MAX_BYTES + 512))
        stream.truncate(MAX_BYTES + 4 * 512)
    items, failures = walk(tmp_path / "s.tar")
    assert failures == []
    with pytest.raises(OSError, match="is over the limit"):
        items[0].read()


def test_an_empty_tar_holds_nothing(tmp_path):
    assert walk(shard(tmp_path / "s.tar", {})) == ([], [])
