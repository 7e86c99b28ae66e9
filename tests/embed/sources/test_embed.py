"""Every source through the whole embedding: the same photos give the same vectors, and a second run does nothing."""

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipline.embed.run import Options, embed
from clipline.embed.sources import open_source
from clipline.runtime.model import OnnxModel


def to_list(photos: Path, folder: Path) -> str:
    names = [os.fsencode(path) for path in sorted(photos.rglob("*")) if path.suffix not in ("", ".txt")]
    (folder / "list.txt").write_bytes(b"\n".join(names))
    return str(folder / "list.txt")


def to_table(photos: Path, folder: Path) -> str:
    names = [os.fsencode(path.relative_to(photos)) for path in sorted(photos.rglob("*.*")) if path.suffix != ".txt"]
    pq.write_table(pa.table({"path": names}), photos / "table.parquet")
    return str(photos / "table.parquet")


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


@pytest.mark.parametrize("make", [to_list, to_table, to_shards, to_memory])
def test_as_from_the_folder(photos, bundle, tmp_path, tools, make):
    model = OnnxModel(bundle, provider="cpu", threads=1)
    options = Options(batch_size=4)
    embed(open_source(str(photos)), model, tmp_path / "expected", options)
    expected = {row["sha256"]: row["embedding"] for row in tools.rows(tmp_path / "expected")}
    assert len(expected) == 12
    what = make(photos, tmp_path)
    for new in (12, 0):
        summary = embed(open_source(what), model, tmp_path / "out", options)
        assert (summary.embedded + summary.copies, summary.unchanged, summary.errors) == (new, 12 - new, 0)
        rows = tools.rows(tmp_path / "out")
        assert {row["sha256"]: row["embedding"] for row in rows} == expected
        assert len(rows) == len({row["path"] for row in rows}) == 12
