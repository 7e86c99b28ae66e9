"""Every source through the whole embedding: the same photos give the same vectors, and a second run does nothing."""

import base64
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipline.embed.run import Options, embed
from clipline.embed.sources import open_source
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from tests import factories
from tests.factories import run


def to_list(photos: Path, folder: Path) -> str:
    names = [os.fsencode(path) for path in sorted(photos.rglob("*")) if path.suffix not in ("", ".txt")]
    (folder / "list.txt").write_bytes(b"\n".join(names))
    return str(folder / "list.txt")


def to_table(photos: Path, folder: Path) -> str:
    names = [os.fsencode(path.relative_to(photos)) for path in sorted(photos.rglob("*.*")) if path.suffix != ".txt"]
    pq.write_table(pa.table({"path": names}), photos / "table.parquet")
    return str(photos / "table.parquet")


def to_hub(photos: Path, folder: Path) -> str:
    files = [path for path in sorted(photos.rglob("*.*")) if path.suffix != ".txt"]
    pq.write_table(
        pa.table({"image": [{"bytes": f.read_bytes(), "path": f.name} for f in files]}), folder / "t.parquet"
    )
    return str(folder / "t.parquet")


def to_base64(photos: Path, folder: Path) -> str:
    files = [path for path in sorted(photos.rglob("*.*")) if path.suffix != ".txt"]
    cells = [base64.b64encode(file.read_bytes()).decode() for file in files]
    (folder / "t.csv").write_text("\n".join(["image", *cells]))
    return str(folder / "t.csv")


def to_shards(photos: Path, folder: Path) -> str:
    files = [path for path in sorted(photos.rglob("*.*")) if path.is_file()]
    (folder / "shards").mkdir()
    for number in range(3):
        with tarfile.open(folder / "shards" / f"{number:03}.tar", "w") as tar:
            for path in files[number::3]:
                tar.add(path, path.relative_to(photos))
    return f"{folder}/shards/{{000..002}}.tar"


def to_memory(photos: Path, folder: Path) -> str:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra `remote`)")
    files = fsspec.filesystem("memory")
    url = f"memory://test-embed-{folder.name}"
    for path in photos.rglob("*.*"):
        files.pipe_file(f"{url}/{path.relative_to(photos)}", path.read_bytes())
    return url


@pytest.mark.parametrize("make", [to_list, to_table, to_hub, to_base64, to_shards, to_memory])
def test_as_from_the_folder(photos, bundle, tmp_path, make):
    model = OnnxModel(bundle, provider="cpu", threads=1)
    options = Options(batch_size=4)
    embed(open_source(str(photos)), model, tmp_path / "expected", options)
    expected = {row["sha256"]: row["embedding"] for row in factories.rows(tmp_path / "expected")}
    assert len(expected) == 12
    what = make(photos, tmp_path)
    for new in (12, 0):
        summary = embed(open_source(what), model, tmp_path / "out", options)
        assert (summary.embedded + summary.copies, summary.unchanged, summary.errors) == (new, 12 - new, 0)
        rows = factories.rows(tmp_path / "out")
        assert {row["sha256"]: row["embedding"] for row in rows} == expected
        assert len(rows) == len({row["path"] for row in rows}) == 12


def test_a_table_of_images_by_the_command(photos, bundle, tmp_path):
    """Each cell is a row or one clear error, of which no message quotes much."""
    good = next(photos.rglob("*.JPG"))
    cells = [good.read_bytes(), b"", good.read_bytes()[:200], b"\0garbage" * 30_000, None, b"nul\0" + b"x" * 90]
    pq.write_table(pa.table({"image": cells, "label": range(len(cells))}), tmp_path / "t.parquet")
    arguments = ("embed", tmp_path / "t.parquet", "--model", bundle, "--out", tmp_path / "out", "--provider", "cpu")
    for message in ("1 new", "1 unchanged"):
        done = run(*arguments, "--max-errors", "3")
        assert (done.code, done.error) == (0, "") and message in done.out
    assert [row["path"] for row in factories.rows(tmp_path / "out")] == ["t.parquet/0"]
    assert [row["path"] for row in factories.errors(tmp_path / "out")] == [f"t.parquet/{row}" for row in (2, 3, 5)]
    done = run(*arguments)
    assert done.code == 3 and len(done.error) < 1000
    gallery = run("search", tmp_path / "out", "x", "--gallery", tmp_path / "g.png", "--model", bundle)
    assert "t.parquet/0: inside of a tar shard or a table" in gallery.error


def test_paths_that_are_none_are_quoted_in_brief(photos, bundle, tmp_path):
    cells = ["x" * 216_000, "a" * 3000, "nul\0.jpg", "tab\tline\n.jpg", str(next(photos.rglob("*.JPG")))]
    pq.write_table(pa.table({"path": cells}), tmp_path / "t.parquet")
    done = run("embed", tmp_path / "t.parquet", "--model", bundle, "--out", tmp_path / "out", "--provider", "cpu")
    assert done.code == 3
    assert done.error.startswith("4 of 5 images failed") and len(done.error) < 1200


def test_ray_does_not_read_tables_of_images(photos, bundle, tmp_path):
    model = OnnxModel(bundle, provider="cpu", threads=1)
    with pytest.raises(UsageError, match="a table that holds images is read on this machine"):
        embed(open_source(to_hub(photos, tmp_path)), model, tmp_path / "out", Options(engine=lambda *_: None))
    assert not (tmp_path / "out").exists()
