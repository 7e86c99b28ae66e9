"""The flat copy of a folder: made once, updated part by part, never stale, and never necessary."""

import os
import shutil

import numpy as np
import pytest

from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row
from clipline.errors import CliplineError
from clipline.search import stored
from clipline.search.index import Index

DIM = 4


@pytest.fixture(autouse=True)
def always_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def add(folder, names, dropped=()):
    """Rows of three to a part, each with a vector made of its name."""
    identity = Identity(model_id="m", variant="fp32-0", dim=DIM, dtype="float16", root="..", model="../onnx")
    folder.mkdir(exist_ok=True)
    with Writer(folder, identity, 3) as writer:
        writer.parts.existing = []
        for name in names:
            writer.add(Row(name, 1, None, "", 1, 1), vector(name))
        writer.finish(list(dropped))
    return folder


def vector(name):
    values = np.random.default_rng(abs(hash_of(name))).standard_normal(DIM)
    return (values / np.linalg.norm(values)).astype(np.float16)


def hash_of(name):
    return int.from_bytes(name.encode(), "big") % 2**32


def check(index, names):
    assert index.paths(range(len(index))) == names == [index.path(row) for row in range(len(index))]
    assert (index.vectors == np.stack([vector(name) for name in names])).all()


def mapped(index):
    base = index.vectors
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


@pytest.fixture
def reads(monkeypatch):
    """The parts that were read, in order."""
    seen, real = [], stored._read_part

    def read_part(folder, part, state):
        seen.append(part.name)
        return real(folder, part, state)

    monkeypatch.setattr(stored, "_read_part", read_part)
    return seen


def test_kept_beside_the_folder_and_mapped(tmp_path, reads):
    folder, names = add(tmp_path / "index", list("abcdefgh")), list("abcdefgh")
    before = sorted(path.name for path in folder.rglob("*"))
    check(Index(folder), names)
    assert len(reads) == 3
    again = Index(folder)
    check(again, names)
    assert mapped(again) and len(reads) == 3, "the second opening reads no part"
    assert sorted(path.name for path in folder.rglob("*")) == before, "nothing is written into the folder itself"
    assert (tmp_path / ".index.index" / ".gitignore").read_text() == "*\n"
    assert not again.notes


def test_follows_what_changes(tmp_path, reads):
    folder, names = add(tmp_path / "index", list("abcdefgh")), list("abcdefgh")
    old = Index(folder)
    add(folder, ["i", "j"])
    assert not old.fresh()
    check(old, names)  # what is open stays as it was
    reads.clear()
    names += ["i", "j"]
    check(Index(folder), names)
    assert reads == ["part-00002.parquet", "part-00003.parquet"], "only those that are new or changed are read"
    reads.clear()
    add(folder, [], dropped=[(0, 1)])
    names.remove("b")
    index = Index(folder)
    check(index, names)
    assert reads == ["part-00000.parquet"] and index.fresh()
    assert len(list((tmp_path / ".index.index").glob("vectors-*"))) == 1, "older copies go"
    check(old, list("abcdefgh"))


def test_a_part_of_equal_size_is_noticed_by_its_date(tmp_path):
    folder = add(tmp_path / "index", ["a", "b"])
    Index(folder)
    other = add(tmp_path / "other", ["c", "d"])
    part, other_part = (path / "data" / "part-00000.parquet" for path in (folder, other))
    shutil.copy(other_part, part)
    assert part.stat().st_size == other_part.stat().st_size
    check(Index(folder), ["c", "d"])


@pytest.mark.parametrize("harm", ["cut", "gone", "paths", "metadata", "newer"])
def test_a_damaged_copy_is_made_anew(tmp_path, harm):
    folder, cache = add(tmp_path / "index", list("abcd")), tmp_path / ".index.index"
    Index(folder)
    (vectors,), (paths,) = cache.glob("vectors-*"), cache.glob("paths-*")
    if harm == "cut":
        os.truncate(vectors, 8)
    elif harm == "gone":
        vectors.unlink()
    elif harm == "paths":
        os.truncate(paths, paths.stat().st_size // 2)
    elif harm == "metadata":
        (cache / "rows.json").write_text('{"version": 1')
    else:
        (cache / "rows.json").write_text('{"version": 99}')
    check(Index(folder), list("abcd"))


def test_damaged_parts_are_errors_and_leave_no_copy(tmp_path):
    folder = add(tmp_path / "index", list("abcdef"))
    part = folder / "data" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(CliplineError, match=r"part-00001\.parquet: damaged"):
        Index(folder)
    part.unlink()
    with pytest.raises(CliplineError, match=r"3 rows where manifest\.json says 6"):
        Index(folder)
    assert [path.name for path in (tmp_path / ".index.index").iterdir()] == [".gitignore"]


def test_nothing_embedded(tmp_path):
    for _ in range(2):
        assert Index(add(tmp_path / "index", [])).search(np.ones((1, DIM), np.float32), 3) == [[]]


def test_where_nothing_can_be_written_beside_it(tmp_path, monkeypatch):
    folder = add(tmp_path / "index", list("abcd"))
    (tmp_path / ".index.index").write_text("in the way")
    index = Index(folder)
    check(index, list("abcd"))
    assert mapped(index) and not index.notes
    assert list((tmp_path / "caches").rglob("vectors-*.bin"))
    shutil.rmtree(tmp_path / "caches")
    (tmp_path / "caches").write_text("in the way too")
    index = Index(folder)
    check(index, list("abcd"))
    assert "no copy for quick searches could be kept" in index.notes[0]


def test_a_folder_that_is_written_meanwhile(tmp_path, monkeypatch):
    """A part that is replaced between looking and reading is read again, not called damaged."""
    folder = add(tmp_path / "index", list("abcd"))
    real, calls = stored.load, []

    def load(folder, state):
        if not calls:
            calls.append(1)
            add(folder, ["e", "f"])
        return real(folder, state)

    monkeypatch.setattr(stored, "load", load)
    check(Index(folder), list("abcdef"))
