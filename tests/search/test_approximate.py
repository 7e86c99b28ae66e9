"""The approximate index finds almost what exact search finds, and follows the folder."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row
from clipline.errors import CliplineError
from clipline.search import approximate, exact
from clipline.search.index import Index

DIM, ROWS = 24, 1500


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def units(count, seed):
    best = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return best / np.linalg.norm(best, axis=1, keepdims=True)


def write(folder, vectors, first=0, dropped=()):
    folder.mkdir(exist_ok=True)
    identity = Identity(model_id="m", variant="fp32-0", dim=DIM, dtype="float16", root="..", model="../onnx")
    with Writer(folder, identity, 500) as writer:
        for row, vector in enumerate(vectors, first):
            writer.add(Row(f"{row:06d}.jpg", 1, None, "", 1, 1), vector)
        writer.finish(list(dropped))
    return Index(folder)


class Log(list):
    """Keeps the lines that it is called with."""

    __call__ = list.append


@pytest.fixture
def built(monkeypatch):
    """How many vectors each call added to a graph."""
    added, real = [], approximate._add_vectors

    def add_vectors(index, graph, keys, new_keys):
        added.append(len(new_keys))
        return real(index, graph, keys, new_keys)

    monkeypatch.setattr(approximate, "_add_vectors", add_vectors)
    return added


SAMPLE = units(40, seed=7)


def check(index, graph, min_recall=0.95):
    """Recall on queries that it was not tuned with; scores are exact and rows really are in the folder."""
    queries, shares = units(40, seed=8), []
    for query, best, exact_best in zip(
        queries, graph.search(queries, 10), exact.search(index.vectors, queries, 10), strict=True
    ):
        assert np.allclose(best.scores, index.vectors[best.rows].astype(np.float32) @ query, atol=1e-6)
        assert (np.diff(best.scores) <= 0).all() and len(set(best.rows.tolist())) == 10
        shares.append((best.scores >= exact_best.scores[-1] - 1e-6).mean())
    assert np.mean(shares) >= min_recall


def test_recall_is_measured_kept_and_true(tmp_path, built):
    index, log = write(tmp_path / "index", units(ROWS, 0)), Log()
    graph = approximate.open_or_build(index, lambda: SAMPLE, log)
    assert graph.built and built == [ROWS]
    assert graph.recall >= approximate.TARGET_RECALL and f"recall@10 {graph.recall:.3f}" in log[1]
    check(index, graph)
    again = approximate.open_or_build(index, lambda: pytest.fail("nothing is to be measured"), log)
    assert not again.built and built == [ROWS] and len(log) == 2
    assert (again.recall, again.queries) == (graph.recall, 40)
    assert "of the true ten best (40 sample queries)" in str(again)
    check(index, again)


def test_it_follows_what_is_added_and_dropped(tmp_path, built):
    index = write(tmp_path / "index", units(ROWS, 0))
    approximate.open_or_build(index, lambda: SAMPLE, Log())
    index = write(tmp_path / "index", units(100, 1), ROWS, dropped=[(0, row) for row in range(0, 200, 2)])
    graph = approximate.open_or_build(index, lambda: SAMPLE, Log())
    assert built == [ROWS, 100], "only what is new is added"
    assert len(index) == ROWS and graph.built
    check(index, graph)
    gone = units(ROWS, 0)[0]
    assert index.path(int(graph.search(gone[None], 1)[0].rows[0])) != "000000.jpg"
    for vector, row in ((units(100, 1)[99], f"{ROWS + 99:06d}.jpg"), (units(ROWS, 0)[1], "000001.jpg")):
        assert index.path(int(graph.search(vector[None], 1)[0].rows[0])) == row
    assert len(list((tmp_path / ".index.index").glob("neighbours-*"))) == 1


def test_it_is_made_anew_when_much_was_removed(tmp_path, built):
    index = write(tmp_path / "index", units(ROWS, 0))
    approximate.open_or_build(index, lambda: SAMPLE, Log())
    index = write(tmp_path / "index", [], dropped=[(1, row) for row in range(400)])
    check(index, approximate.open_or_build(index, lambda: SAMPLE, Log()))
    assert built == [ROWS, ROWS - 400]


def test_equal_images_are_all_found(tmp_path):
    vectors = units(300, 0)
    vectors[50:80] = vectors[7]
    index = write(tmp_path / "index", vectors)
    graph = approximate.open_or_build(index, lambda: SAMPLE, Log())
    best = graph.search(vectors[7][None], 31)[0]
    assert best.rows.tolist() == [7, *range(50, 80)]


def test_no_thread_loses_what_another_adds(tmp_path, monkeypatch):
    """One of 300 vectors that eight threads add is all but always lost (USearch issue 735)."""
    monkeypatch.setattr(approximate.cores, "available", lambda: 8)
    vectors = units(300, 0)
    for time in range(5):
        index = write(tmp_path / f"index{time}", vectors)
        graph = approximate.open_or_build(index, lambda: SAMPLE, Log())
        assert [best.rows[0] for best in graph.search(vectors, 1)] == list(range(300))


@pytest.mark.parametrize("harm", ["cut", "flipped", "metadata"])
def test_a_damaged_one_is_made_anew(tmp_path, built, harm):
    index, cache = write(tmp_path / "index", units(300, 0)), tmp_path / ".index.index"
    approximate.open_or_build(index, lambda: SAMPLE, Log())
    (path,) = cache.glob("neighbours-*.usearch")
    data = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(data[:1000])
    elif harm == "flipped":
        data[:200] = bytes(200)
        path.write_bytes(data)
    else:
        (cache / "neighbours.json").write_text("{")
    check(index, approximate.open_or_build(index, lambda: SAMPLE, Log()))
    assert built == [300, 300]


def test_a_low_recall_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "EXPANSIONS_SEARCH", (1,))
    monkeypatch.setattr(approximate, "EXTRA_CANDIDATES", 0)
    monkeypatch.setattr(approximate, "TARGET_RECALL", 1.01)
    log = Log()
    approximate.open_or_build(write(tmp_path / "index", units(ROWS, 0)), lambda: SAMPLE, log)
    assert "below the aim" in log[-1] and "--exact" in log[-1]


def test_no_folder_for_it(tmp_path):
    index = write(tmp_path / "index", units(300, 0))
    (tmp_path / ".index.index").write_text("in the way")
    (tmp_path / "caches").write_text("in the way")
    with pytest.raises(CliplineError, match=r"no place for the approximate index .*--exact"):
        approximate.open_or_build(index, lambda: SAMPLE, Log())


def test_a_full_disk_is_seen_before_the_work(tmp_path, built, monkeypatch):
    index = write(tmp_path / "index", units(300, 0))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(approximate.shutil, "disk_usage", lambda cache: usage)
    with pytest.raises(CliplineError, match=r"0\.0 GB needed, 0\.0 GB free.*--exact"):
        approximate.open_or_build(index, lambda: SAMPLE, Log())
    assert built == []


def test_a_disk_that_fills_up_meanwhile(tmp_path):
    """usearch's own error for it, in a process of its own: the limit on a file's size cannot be lifted again."""
    write(tmp_path / "index", units(ROWS, 0))
    program = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from clipline.errors import CliplineError; from clipline.search import approximate\n"
        "from clipline.search.index import Index\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: approximate.open_or_build(Index(Path(sys.argv[1])), lambda: np.eye(2, 24, dtype=np.float32), print)\n"
        "except CliplineError as error: print('error:', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "index"], capture_output=True, text=True, check=True
    )
    assert "error: " in done.stdout and "cannot be written" in done.stdout
    assert [path.name for path in (tmp_path / ".index.index").iterdir()] == [".gitignore"]
