"""Which files are found, in which order, and what happens to those that cannot be."""

import os
from pathlib import Path

import pytest

from clipline.embed.scan import Failure, Found, scan


def touch(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def paths(folder: Path, **options) -> list[str]:
    return [item.path for item in scan(folder, **options) if isinstance(item, Found)]


def test_by_extension_in_any_case(tmp_path):
    kinds = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif"]
    touch(tmp_path, *(f"{kind}.{kind}" for kind in kinds), *(f"{kind}_.{kind.upper()}" for kind in kinds))
    touch(tmp_path, "a.txt", "jpg", "b.jpg.part", "c.jpgx", "d.mp4")
    assert sorted(paths(tmp_path)) == sorted([f"{k}.{k}" for k in kinds] + [f"{k}_.{k.upper()}" for k in kinds])


def test_text_order_over_all_folders(tmp_path):
    names = ["b.png", "a/z.png", "a-b/x.png", "a.png", "a/b/c.png", "a/b.png", "Z.png", "\u00e4.png"]
    touch(tmp_path, *names)
    assert paths(tmp_path) == sorted(names)


def test_found_files_open(tmp_path):
    touch(tmp_path, "a/b/c.png", b"caf\xe9/\xff.png")
    found = list(scan(tmp_path))
    assert [item.path for item in found] == ["a/b/c.png", "caf%E9/%FF.png"]
    assert all(item.file.is_file() for item in found)


def test_dot_names_are_passed_over(tmp_path):
    touch(tmp_path, ".hidden.png", "._a.png", ".thumbnails/b.png", "a.png")
    assert paths(tmp_path) == ["a.png"]


def test_links(tmp_path):
    """Links to files and folders are followed; one that leads up again ends there; a dangling one is found."""
    touch(tmp_path, "real/a.png", "elsewhere/b.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "file.png").symlink_to(tmp_path / "real" / "a.png")
    (tmp_path / "photos" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert paths(tmp_path / "photos") == ["file.png", "folder/b.png", "gone.png"]


def test_the_output_inside_is_left_out(tmp_path):
    touch(tmp_path, "a.png", "out/gallery.png", "output/b.png")
    assert paths(tmp_path, skip=tmp_path / "out") == ["a.png", "output/b.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as Unix knows them")
def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png", "z.png")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):  # root may list anything, so the refusal is played
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(scan(tmp_path))
    assert [item.path for item in found] == ["a.png", "locked/", "z.png"]
    assert found[1] == Failure("locked/", "scan", "cannot list the folder: Permission denied")


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    touch(tmp_path, "album.jpg/a.png")
    assert paths(tmp_path) == ["album.jpg/a.png"]
