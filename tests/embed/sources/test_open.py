"""Which kind of source `open_source` opens, and its errors where it cannot tell."""

import os
from pathlib import Path

import pytest

from clipline.embed.sources import Folder, Listing, Shards, Table, open_source
from clipline.errors import UsageError


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with one of everything, and the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "photos/a.jpg",
        "tars/0.tar",
        "tars/1.tar",
        "mixed/0.tar",
        "mixed/a.jpg",
        "deep/0.tar",
        "deep/sub/a.jpg",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(bytes(1024))
    for name, content in (("list.txt", "photos/a.jpg"), ("t.csv", "path\nphotos/a.jpg"), ("t.TSV", "x\nphotos/a.jpg")):
        Path(name).write_text(content)
    Path("x.gz.tar").write_bytes(b"\x1f\x8b" + bytes(100))
    Path("movie.mp4").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("what", "kind", "root", "paths"),
    [
        ("photos", Folder, "photos", ["a.jpg"]),
        ("photos/", Folder, "photos", ["a.jpg"]),
        (".", Folder, ".", ["deep/sub/a.jpg", "mixed/a.jpg", "photos/a.jpg"]),
        ("mixed", Folder, "mixed", ["a.jpg"]),
        ("deep", Folder, "deep", ["sub/a.jpg"]),
        ("tars", Shards, "tars", []),
        ("tars/0.tar", Shards, "tars", []),
        ("tars/*.tar", Shards, "tars", []),
        ("tars/{0..1}.tar", Shards, "tars", []),
        ("list.txt", Listing, ".", ["photos/a.jpg"]),
        ("t.csv", Table, ".", ["photos/a.jpg"]),
        ("t.TSV", Table, ".", ["photos/a.jpg"]),
    ],
)
def test_by_what_it_is(files, what, kind, root, paths):
    source = open_source(what)
    assert (type(source), source.root) == (kind, root)
    assert [item.path for item in source] == paths


def test_urls(files):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra `remote`)")
    fsspec.filesystem("memory").pipe_file("/test-open/a.jpg", b"a")
    try:
        assert [item.read() for item in open_source("memory://test-open")] == [b"a"]
    finally:
        fsspec.filesystem("memory").rm("/test-open", recursive=True)
    assert [item.path for item in open_source(f"file://{files}/photos")] == ["a.jpg"]


def test_options_reach_the_source(files):
    assert list(open_source("photos", exclude=["*.jpg"])) == []
    assert list(open_source(".", include=["photos"], skip=files / "photos")) == []
    assert [item.path for item in open_source("list.txt", root=files, include=["photos"])] == ["photos/a.jpg"]
    assert [item.path for item in open_source("t.TSV", column="x")] == ["photos/a.jpg"]
    with pytest.raises(UsageError, match="no column `y`; it has: `x`"):
        open_source("t.TSV", column="y")


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("nowhere", {}, r"nowhere: no such file or folder\.$"),
        ("photos/*.jpg", {}, r"no such file or folder\. Fix: give its folder, and the pattern as --include"),
        ("photos/a.jpg", {}, r"is one image\. Fix: give its folder, and --include 'a\.jpg'"),
        ("movie.mp4", {}, r"cannot tell what this is\. Fix: give a folder, a list of paths"),
        ("list.lst", {}, r"list\.lst: no such file"),
        ("t.parquet", {}, r"t\.parquet: no such file"),
        ("tars/2.tar", {}, r"2\.tar: no such shard \(1 of 1 are not there\)"),
        ("tars/{0..3}.tar", {}, r"2\.tar: no such shard \(2 of 4 are not there\)"),
        ("tars/x*.tar", {}, "no such files"),
        ("x.tar.gz", {}, r"a compressed tar .*Fix: unpack it"),
        ("x.gz.tar", {}, r"is compressed with gzip.*Fix: gunzip"),
        ("s3://bucket/shard.tar", {}, r"are read from this machine\. Fix: copy it here"),
        ("s3://bucket/t.parquet", {}, r"are read from this machine\. Fix: copy it here"),
        ("photos", {"column": "path"}, "--column is for tables"),
        ("list.txt", {"column": "path"}, "--column is for tables"),
        ("photos", {"root": Path()}, "--root is for lists and tables"),
        ("list.txt", {"root": Path("nowhere")}, "nowhere: no such folder"),
        ("photos", {"include": ["../x"]}, "--include '../x': matches nothing"),
    ],
)
def test_errors_say_what_to_do(files, what, options, message):
    with pytest.raises(UsageError, match=message):
        open_source(what, **options)


@pytest.mark.skipif(os.name != "posix", reason="pipes as Unix knows them")
def test_a_pipe_is_a_list(files):
    reader, writer = os.pipe()
    os.write(writer, b"photos/a.jpg\n")
    os.close(writer)
    try:
        source = open_source(f"/dev/fd/{reader}", root=files)
        assert [item.path for item in source] == ["photos/a.jpg"]
    finally:
        os.close(reader)


def test_names_that_look_like_patterns_are_names_first(files):
    odd = files / "a{1..2}[x].tar"
    odd.write_bytes(bytes(1024))
    assert list(open_source(odd.name)) == []
