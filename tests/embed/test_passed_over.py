"""What a source leaves out because of its name is counted, said, and taken when it is asked for."""

import tarfile

import pytest

from clipline.embed.passed_over import MAX_SUFFIXES, PassedOver
from clipline.embed.run import Options, embed
from clipline.embed.sources import open_source
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from tests import factories
from tests.factories import run


@pytest.fixture
def model(bundle) -> OnnxModel:
    return OnnxModel(bundle, provider="cpu", threads=1)


@pytest.fixture
def library(tmp_path):
    """What a NAS holds: photos of many suffixes, sidecars, and the thumbnails of its own."""
    folder = tmp_path / "photos"
    for suffix, kind in ((".jpg", "JPEG"), (".JFIF", "JPEG"), (".jpe", "JPEG"), (".jp2", "JPEG2000"), (".ppm", "PPM")):
        factories.save(folder / "2024" / f"a{suffix}", format=kind)
    factories.save(folder / "2024" / "scan", format="PNG")
    factories.save(folder / "2024" / "b.dat", format="PNG")
    for name in ("2024/a.xmp", "2024/b.xmp", "2024/Thumbs.db", ".hidden"):
        (folder / name).write_text("no image")
    for name in ("2024/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x.jpg", "#recycle/2023/gone.jpg"):
        factories.save(folder / name)
    return folder


IMAGES = ["2024/a.JFIF", "2024/a.jp2", "2024/a.jpe", "2024/a.jpg", "2024/a.ppm"]
ASIDE = (
    "passed over: 2 .xmp, 1 .db, 1 .dat, 1 without suffix (--include '*.xmp' takes such files); "
    "folders 2 @eaDir, 1 #recycle (--keep-machine-folders takes them)"
)


def test_a_folder(library, model, tmp_path):
    summary = embed(open_source(str(library)), model, tmp_path / "out", Options())
    assert [row["path"] for row in factories.rows(tmp_path / "out")] == IMAGES
    assert sorted(str(summary).splitlines()[-1]) == sorted(ASIDE)  # the order of equal counts is that of the disk
    assert str(summary).splitlines()[-1].startswith("passed over: 2 .xmp, 1 ")


def test_the_command(library, bundle, tmp_path):
    arguments = ("embed", library, "--model", bundle, "--provider", "cpu", "--out")
    done = run(*arguments, tmp_path / "all", "--keep-machine-folders", "--include", "*", "--exclude", "*.xmp")
    assert done.code == 3, "Thumbs.db is no image, and was asked for"
    paths = [row["path"] for row in factories.rows(tmp_path / "all")]
    assert {"2024/b.dat", "2024/scan", "2024/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/2023/gone.jpg"} < set(paths)
    assert len(paths) == 10
    assert "passed over" not in done.out
    done = run(*arguments, tmp_path / "some", "--include", "2024/**")
    assert (done.code, len(factories.rows(tmp_path / "some"))) == (0, 5)
    assert "passed over: 2 .xmp" in done.out


def test_nothing_but_what_is_passed_over(tmp_path, model):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.mov").touch()
    with pytest.raises(
        UsageError, match=r"no images in it; passed over: 1 \.mov \(--include '\*\.mov' takes such files\)$"
    ):
        embed(open_source(str(tmp_path / "photos")), model, tmp_path / "out", Options())


def test_a_library_that_is_asked_for(tmp_path):
    root = tmp_path / "Photos.photoslibrary"
    for name in ("originals/1/a.jpg", "resources/derivatives/a.jpg"):
        factories.save(root / name)
    source = open_source(str(root))
    assert [item.path for item in source] == ["originals/1/a.jpg"]
    assert str(source.passed_over) == "passed over: folders 1 resources (--keep-machine-folders takes them)"


def test_shards(library, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(library, "photos")
    source = open_source(str(tmp_path / "s.tar"))
    for _ in range(2):
        assert sorted(item.path for item in source) == [f"s.tar/photos/{name}" for name in IMAGES]
        assert sorted(str(source.passed_over)) == sorted(ASIDE)
    source = open_source(str(tmp_path / "s.tar"), include=["*.dat"], keep_machine_folders=True)
    assert [item.path for item in source] == ["s.tar/photos/2024/b.dat"]


def test_a_url(library):
    files = pytest.importorskip("fsspec").filesystem("memory")
    files.put(str(library), "/test-passed-over", recursive=True)
    try:
        source = open_source("memory://test-passed-over")
        for _ in range(2):
            assert [item.path for item in source] == IMAGES
            assert sorted(str(source.passed_over)) == sorted(ASIDE)
    finally:
        files.rm("/test-passed-over", recursive=True)


@pytest.mark.parametrize("name", ["list.txt", "table.csv"])
def test_lists_name_what_they_want(tmp_path, name):
    (tmp_path / name).write_text("path\n@eaDir/a.jpg")
    assert "@eaDir/a.jpg" in [item.path for item in open_source(str(tmp_path / name))]
    with pytest.raises(UsageError, match="every path in a list or table is taken"):
        open_source(str(tmp_path / name), keep_machine_folders=True)


def test_few_words_and_little_memory_for_any_names():
    left_out = PassedOver()
    assert not left_out
    for number in range(500):
        left_out.add_file(f"x.{number}")
    for name in ["a.x\x1b[2J"] * 3 + ["." + "y" * 900]:
        left_out.add_file(name)
    assert len(left_out.suffixes) == MAX_SUFFIXES + 1
    assert len(str(left_out)) < 300 and "\x1b" not in str(left_out)
    left_out.clear()
    assert not left_out
