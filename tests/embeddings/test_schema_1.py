"""A folder of schema 1, whose parts lie beside the manifest: all commands read it, `clipline embed` moves them."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipline.app.library import Library
from clipline.classify.images import is_embeddings
from clipline.dupes import find
from clipline.embed import destination
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.embeddings.manifest import read
from clipline.errors import CliplineError, UsageError
from clipline.runtime.model import OnnxModel
from clipline.search import stored
from clipline.search.index import Index

COUNT = 7


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(COUNT):
        Image.new("RGB", (20, 20), (30 * number, 20, 200)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def model(make_bundle, tmp_path) -> OnnxModel:
    return OnnxModel(make_bundle(tmp_path / "onnx"), provider="cpu", threads=1)


@pytest.fixture
def old(photos, model, tmp_path) -> Path:
    """Four parts of two rows, the last of one."""
    (photos / "broken.png").write_text("no image")
    embed(Folder(photos), model, tmp_path / "out", Options(part_rows=2))
    return to_schema_1(tmp_path / "out")


def to_schema_1(folder: Path) -> Path:
    for part in (folder / "data").iterdir():
        part.rename(folder / part.name)
    (folder / "data").rmdir()
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(index: Index) -> list[tuple]:
    return list(zip(index.paths(range(len(index))), index.vectors.tolist(), strict=True))


OLD = ["errors.parquet", "manifest.json", *(f"part-0000{n}.parquet" for n in range(4))]
NEW = [*(f"data/part-0000{n}.parquet" for n in range(4)), "errors.parquet", "manifest.json"]


def test_everything_reads_them(old, photos):
    index = Index(old)
    assert [path for path, _ in rows(index)] == [f"{n}.png" for n in range(COUNT)]
    assert index.fresh() and not index.notes
    assert [file.width for file in find.outliers(index, COUNT, 2)] == [20] * COUNT
    assert len(Library(old, None, None, "cpu").now().index) == COUNT
    assert is_embeddings(old)
    assert names(old) == OLD, "nothing that reads changes them"


def test_the_next_run_moves_them_and_embeds_nothing_again(old, photos, model):
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in old.glob("part-*")}
    (photos / "broken.png").unlink()
    summary = embed(Folder(photos), model, old, Options(part_rows=2))
    assert (summary.unchanged, summary.embedded, summary.parts) == (COUNT, 0, 4)
    assert names(old) == NEW
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (old / "data").iterdir()} == before
    assert (read(old).schema_version, read(old).complete) == (2, True)


def test_the_copy_for_quick_searches_still_fits(old, photos, model, monkeypatch):
    monkeypatch.setattr(stored, "MIN_BYTES", 0)
    before = rows(Index(old))
    embed(Folder(photos), model, old, Options(part_rows=2))
    monkeypatch.setattr(stored, "_read_part", lambda *_: pytest.fail("a part was read again"))
    assert rows(Index(old)) == before


@pytest.mark.parametrize("moved", range(5))
def test_a_kill_at_any_rename_loses_nothing(old, photos, model, monkeypatch, moved):
    """moved: parts before the kill. What is open stays so, what opens sees all, and the next run goes on."""
    whole, renames, replace = Index(old), [], Path.replace

    def killed(path, target):
        if Path(target).parent.name == "data":
            if len(renames) == moved:
                raise KeyboardInterrupt
            renames.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    if moved < 4:
        with pytest.raises(KeyboardInterrupt):
            embed(Folder(photos), model, old, Options(part_rows=2))
    else:
        embed(Folder(photos), model, old, Options(part_rows=2))
    monkeypatch.undo()
    assert len(list((old / "data").iterdir())) == moved
    assert rows(Index(old)) == rows(whole)
    assert len(find.outliers(whole, COUNT, 2)) == COUNT, "an index that was open before finds the parts"
    assert embed(Folder(photos), model, old, Options(part_rows=2)).unchanged == COUNT
    assert names(old) == NEW
    assert rows(Index(old)) == rows(whole)


def test_a_part_that_is_moved_while_it_is_opened(old, photos, model, monkeypatch):
    """The whole move happens between the look at where a part is and opening it."""
    opened, moving = pq.ParquetFile, []

    def slow(path, **options):
        if not moving:
            moving.append(path)
            embed(Folder(photos), model, old, Options(part_rows=2))
        return opened(path, **options)

    before = rows(Index(old))
    monkeypatch.setattr(pq, "ParquetFile", slow)
    assert rows(Index(old)) == before
    assert names(old) == NEW


def test_an_interrupted_run_of_before_goes_on(old, photos, model):
    path = old / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False}))
    (old / "part-00003.parquet").unlink()
    assert embed(Folder(photos), model, old, Options(part_rows=2)).embedded == 1
    assert names(old) == NEW and read(old).complete


def test_a_backup_copied_over_a_newer_folder(old, photos, model, tmp_path):
    """Parts of one name in both places: the newer ones count."""
    shutil.copytree(old, tmp_path / "backup")
    Image.new("RGB", (20, 20), (1, 2, 3)).save(photos / "0.png")
    embed(Folder(photos), model, old, Options(part_rows=2))
    newer = rows(Index(old))
    for part in (tmp_path / "backup").glob("part-*"):
        shutil.copy(part, old)
    assert rows(Index(old)) == newer
    assert embed(Folder(photos), model, old, Options(part_rows=2)).unchanged == COUNT
    assert names(old) == NEW and rows(Index(old)) == newer


def test_what_else_is_in_data_is_refused(photos, model, tmp_path):
    out = tmp_path / "out"
    embed(Folder(photos), model, out, Options())
    (out / "data" / "notes.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"out: holds `data/notes\.csv`, which is no part of embeddings"):
        destination.check(out)


def test_a_part_that_is_gone_is_named_where_it_should_be(photos, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    embed(Folder(photos), model, out, Options())
    state = stored.read_state(out)
    (out / "data" / "part-00000.parquet").unlink()
    with pytest.raises(CliplineError, match=r"out/data/part-00000\.parquet: damaged"):
        stored.load(out, state)
