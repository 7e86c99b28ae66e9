"""Which files of a folder are found, in which order, and what happens to those that cannot be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipline.embed.item import Failure, FileItem
from clipline.embed.sources.folder import Folder
from clipline.errors import UsageError
from tests.helpers import UNPRIVILEGED

posix = pytest.mark.skipif(os.name != "posix", reason="files as Unix knows them")


def touch(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def paths(folder: Path, **options) -> list[str]:
    return [item.path for item in Folder(folder, **options) if isinstance(item, FileItem)]


def test_by_extension_in_any_case(tmp_path):
    kinds = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif"]
    names = [f"{kind}.{kind}" for kind in kinds] + [f"{kind}_.{kind.upper()}" for kind in kinds]
    touch(tmp_path, *names, "a.txt", "jpg", "b.jpg.part", "c.jpgx", "d.mp4")
    assert paths(tmp_path) == sorted(names)


def test_text_order_over_all_folders(tmp_path):
    names = ["b.png", "a/z.png", "a-b/x.png", "a.png", "a/b/c.png", "a/b.png", "Z.png", "\u00e4.png", "a0.png"]
    touch(tmp_path, *names)
    assert paths(tmp_path) == sorted(names)
    assert list(Folder(tmp_path)) == list(Folder(tmp_path))


@posix
def test_hostile_names_open(tmp_path):
    names = [
        b"caf\xe9/\xff.png",
        b"a\nb.png",
        b"'\"`$(x);&.png",
        b" .png",
        b"100%25.png",
        b"%E9.png",
        b"\\.png",
        b"-rf.png",
    ]
    touch(tmp_path, *names)
    for index, name in enumerate(names):
        (tmp_path / os.fsdecode(name)).write_bytes(bytes([index]))
    items = {item.path: item for item in Folder(tmp_path)}
    assert sorted(item.read()[0] for item in items.values()) == list(range(len(names)))
    assert items["caf%E9/%FF.png"].read() == b"\0"
    assert items["a\nb.png"].read() == b"\1"
    assert [path.encode() for path in items] == sorted(path.encode() for path in items)


def test_dot_names_are_skipped(tmp_path):
    touch(tmp_path, ".hidden.png", "._a.png", ".thumbnails/b.png", "a.png")
    assert paths(tmp_path) == ["a.png"]


@posix
def test_links(tmp_path):
    """Links to files and folders are followed; one that leads upwards ends there; a broken one is listed."""
    touch(tmp_path, "real/a.png", "elsewhere/b.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "file.png").symlink_to(tmp_path / "real" / "a.png")
    (tmp_path / "photos" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "photos" / "itself.png").symlink_to("itself.png")
    (tmp_path / "photos" / "itself").symlink_to("itself")
    assert paths(tmp_path / "photos") == ["file.png", "folder/b.png", "gone.png", "itself.png"]


@posix
@pytest.mark.parametrize("root", ["photos", "photos/sub/..", "elsewhere/way"])
def test_links_that_lead_above_the_root_are_not_followed(tmp_path, monkeypatch, root):
    """Also where the root, or the folder that holds such a link, is itself reached by a link."""
    touch(tmp_path, "photos/a.png", "photos/sub/b.png", "private/secret.png", "far/album/c.png", "far/private.png")
    (tmp_path / "photos" / "up").symlink_to("..")
    (tmp_path / "photos" / "sub" / "top").symlink_to("/")
    (tmp_path / "photos" / "sub" / "above").symlink_to(tmp_path.parent)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "far" / "album")
    (tmp_path / "far" / "album" / "up").symlink_to("..")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "way").symlink_to(tmp_path / "photos")
    assert paths(tmp_path / root) == ["a.png", "linked/c.png", "sub/b.png"]
    monkeypatch.chdir(tmp_path / root)
    assert paths(Path()) == ["a.png", "linked/c.png", "sub/b.png"]


@posix
def test_what_is_no_file_fails_when_it_is_read(tmp_path):
    """A pipe without a writer would block its reader for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "round.png").symlink_to("round.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    reasons = {}
    for item in Folder(tmp_path):
        for ask in (item.stat, item.read):
            with pytest.raises(OSError) as caught:
                ask()
            reasons[item.path] = caught.value.strerror or str(caught.value)
    assert reasons == {
        "gone.png": "No such file or directory",
        "pipe.png": "not a regular file",
        "round.png": "Too many levels of symbolic links",
        "zero.png": "not a regular file",
    }


def test_the_output_inside_is_left_out(tmp_path):
    touch(tmp_path, "a.png", "out/gallery.png", "output/b.png")
    assert paths(tmp_path, skip=tmp_path / "out") == ["a.png", "output/b.png"]
    assert paths(tmp_path, skip=tmp_path) == []


@posix
@pytest.mark.skipif(bool(UNPRIVILEGED) and not shutil.which("setpriv"), reason="root without setpriv")
def test_folders_that_may_not_be_listed_are_failures_unless_they_are_excluded(tmp_path):
    touch(tmp_path, "a.png", "locked/b.png", "z.png")
    (tmp_path / "locked").chmod(0)
    program = (
        "import sys, pathlib; from clipline.embed.sources.folder import Folder\n"
        "for item in Folder(pathlib.Path(sys.argv[1]), exclude=sys.argv[2:]):\n"
        "    print(item.path, getattr(item, 'stage', ''), getattr(item, 'reason', ''))"
    )

    def walk(*options: str) -> list[str]:
        command = [*UNPRIVILEGED, sys.executable, "-c", program, str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    try:
        assert walk() == ["a.png  ", "locked/ scan cannot list the folder: Permission denied", "z.png  "]
        assert walk("locked") == ["a.png  ", "z.png  "]
    finally:
        (tmp_path / "locked").chmod(0o755)


def test_a_folder_that_vanishes_while_it_is_walked(tmp_path):
    touch(tmp_path, "a.png", "b/c.png", "z.png")
    walk = iter(Folder(tmp_path))
    assert next(walk).path == "a.png"
    shutil.rmtree(tmp_path / "b")
    assert next(walk) == Failure("b/", "scan", "cannot list the folder: No such file or directory")
    assert next(walk).path == "z.png"
    shutil.rmtree(tmp_path)
    assert list(Folder(tmp_path.parent, include=["none"])) == []


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    touch(tmp_path, "album.jpg/a.png")
    assert paths(tmp_path) == ["album.jpg/a.png"]


def test_include_and_exclude(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "2024/a.png", "2024/b.jpg", "2024/drafts/c.jpg", "drafts/d.jpg")
    assert paths(tmp_path, include=["*.jpg"], exclude=["drafts"]) == ["2024/b.jpg", "b.jpg"]
    assert paths(tmp_path, include=["2024/**/*.jpg"]) == ["2024/b.jpg", "2024/drafts/c.jpg"]


def test_deeper_than_python_calls(tmp_path):
    (tmp_path / ("d/" * 500)).mkdir(parents=True)
    (tmp_path / ("d/" * 500) / "deep.png").touch()
    (tmp_path / "top.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        deep = paths(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert deep == ["d/" * 500 + "deep.png", "top.png"]


def test_no_folder(tmp_path):
    touch(tmp_path, "a.png")
    with pytest.raises(UsageError, match="no such folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        Folder(tmp_path / "a.png")
