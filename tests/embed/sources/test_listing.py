"""Lists of paths: what each line means, and which lists are refused."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clipline.embed.item import Failure, FileItem
from clipline.embed.sources.listing import MAX_LINE, Listing
from clipline.errors import CliplineError, UsageError

posix = pytest.mark.skipif(os.name != "posix", reason="files as Unix knows them")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    for name in (b"a.png", b"sub/b.jpg", b"caf\xe9.png", b" c .png", b"line\nbreak.png"):
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)
    return folder


def listing(folder: Path, content: bytes, *arguments, **options) -> Listing:
    (folder / "list.txt").write_bytes(content)
    return Listing(folder / "list.txt", *arguments, **options)


def test_lines_in_their_order_relative_to_the_list(photos):
    source = listing(photos, b"sub/b.jpg\na.png\n\n  \n./sub//b.jpg\r\nsub/../a.png\ngone.png")
    items = list(source)
    assert [item.path for item in items] == ["sub/b.jpg", "a.png", "sub/../a.png", "gone.png"]
    assert [item.read() for item in items[:3]] == [b"sub/b.jpg", b"a.png", b"a.png"]
    with pytest.raises(FileNotFoundError):
        items[3].stat()
    assert source.root == str(photos)
    assert list(source) == items


@posix
def test_bytes_that_are_no_text_and_spaces_survive(photos):
    items = list(listing(photos, b"\xef\xbb\xbfcaf\xe9.png\n c .png\n"))
    assert [(item.path, item.read()) for item in items] == [("caf%E9.png", b"caf\xe9.png"), (" c .png", b" c .png")]


def test_nul_bytes_between_names(photos):
    items = list(listing(photos, b"line\nbreak.png\0a.png\0\0"))
    assert [(item.path, item.read()) for item in items] == [
        ("line\nbreak.png", b"line\nbreak.png"),
        ("a.png", b"a.png"),
    ]


def test_absolute_and_relative_are_one_file_below_the_root(photos, tmp_path):
    lines = f"{photos}/a.png\na.png\n{photos}/sub/b.jpg\n{tmp_path}/else.png\n".encode()
    source = listing(tmp_path, lines, photos)
    assert [item.path for item in source] == ["a.png", "sub/b.jpg", f"{tmp_path}/else.png"]
    assert [Path(item.file).exists() for item in source] == [True, True, False]


@posix
def test_a_root_that_is_a_link(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    source = listing(tmp_path, f"{photos}/a.png\n{tmp_path}/link/a.png\n".encode(), tmp_path / "link")
    assert [item.path for item in source] == ["a.png"]


def test_include_and_exclude(photos, tmp_path):
    content = f"a.png\nsub/b.jpg\n{tmp_path}/x/c.jpg".encode()
    assert [item.path for item in listing(photos, content, include=["*.jpg"])] == ["sub/b.jpg", f"{tmp_path}/x/c.jpg"]
    assert [item.path for item in listing(photos, content, exclude=["sub", f"{tmp_path}/x/*"])] == ["a.png"]


def test_urls_and_nul_characters_are_failures(photos):
    items = list(listing(photos, b"a.png\ns3://bucket/a.png\n"))
    assert isinstance(items[0], FileItem)
    assert items[1] == Failure(
        "s3://bucket/a.png", "scan", "is a URL, where a list holds paths. Give its folder's URL instead"
    )


def test_what_is_no_list(photos):
    with pytest.raises(UsageError, match="UTF-16"):
        listing(photos, "a.png\n".encode("utf-16"))
    with pytest.raises(CliplineError, match=f"line 2 has more than {MAX_LINE:,} bytes"):
        list(listing(photos, b"a.png\n" + b"x" * 10 * MAX_LINE))
    with pytest.raises(UsageError, match="no such file"):
        Listing(photos / "nowhere.txt")
    with pytest.raises(UsageError, match="is a folder"):
        Listing(photos)
    with pytest.raises(UsageError, match="no such folder"):
        listing(photos, b"a.png", photos / "nowhere")
    assert list(listing(photos, b"")) == []


def test_standard_input_is_walked_twice(photos):
    program = (
        "from pathlib import Path; from clipline.embed.sources.listing import Listing\n"
        "source = Listing(Path('-'))\n"
        "print(source.root, *[item.path for item in source], *[item.path for item in source])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b"a.png\nsub/b.jpg\n", capture_output=True, cwd=photos, check=True
    )
    assert done.stdout.decode() == ". a.png sub/b.jpg a.png sub/b.jpg\n"


@posix
def test_a_pipe(photos, tmp_path):
    """As the shell's <(find ...) gives."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"a.png\n" * 50_000 + b"sub/b.jpg",))
    writer.start()
    source = Listing(tmp_path / "pipe", photos)
    writer.join()
    assert [item.read() for item in source] == [item.read() for item in source] == [b"a.png", b"sub/b.jpg"]


def test_long_lists_across_blocks(photos):
    names = [f"{'folder-' * (index % 9)}/{index}.png" for index in range(20_000)]
    source = listing(photos, "\n".join(names + names).encode())
    assert [item.path for item in source] == [str(Path(name)) for name in names]
