"""Exact search over blocks and parts equals one sort over everything."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row
from clipline.errors import CliplineError, UsageError
from clipline.search import exact
from clipline.search.index import Index


def write(folder, vectors, dtype="float32", part_rows=1000):
    folder.mkdir()
    identity = Identity(
        model_id="model", variant="fp32-0", dim=vectors.shape[1], dtype=dtype, root="..", model="../onnx"
    )
    with Writer(folder, identity, part_rows) as writer:
        for row, vector in enumerate(vectors):
            writer.add(Row(f"{row:06d}.jpg", 1, None, "", 1, 1), vector)
        writer.finish([])
    return folder


def units(rows, dim, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("block", [1, 97, 8192])
@pytest.mark.parametrize("n", [1, 7, 2000])
def test_equals_a_full_sort(tmp_path, monkeypatch, dtype, block, n):
    monkeypatch.setattr(exact, "BLOCK", block)
    vectors, queries = units(500 if block == 1 else 1200, 24), units(3, 24, seed=1)
    results = Index(write(tmp_path / "index", vectors, dtype, part_rows=333)).search(queries, n)
    scores = queries @ vectors.astype(dtype).astype(np.float32).T
    for hits, row in zip(results, scores, strict=True):
        best = np.argsort(-row, kind="stable")[:n]
        # Block by block, a product may round its last bit differently.
        assert np.allclose([hit.score for hit in hits], row[best], atol=1e-6)
        assert [hit.path for hit in hits] == [f"{index:06d}.jpg" for index in best]


@pytest.mark.parametrize("block", [100, 5000])
def test_equal_scores_keep_the_order_of_paths(tmp_path, monkeypatch, block):
    monkeypatch.setattr(exact, "BLOCK", block)
    vectors = np.tile(np.eye(3, 8, dtype=np.float32), (700, 1))  # exact in any order of adding
    hits = Index(write(tmp_path / "index", vectors, part_rows=999)).search(vectors[:1], 800)[0]
    expected = [*range(0, 2100, 3), *(row for row in range(300) if row % 3)][:800]
    assert [hit.path for hit in hits] == [f"{row:06d}.jpg" for row in expected]


def test_nothing_embedded_finds_nothing(tmp_path):
    assert Index(write(tmp_path / "index", np.empty((0, 4), np.float32))).search(units(2, 4), 5) == [[], []]


def test_no_embeddings_folder(tmp_path, embedded):
    (tmp_path / "plain").mkdir()
    (embedded / "manifest.json").rename(tmp_path / "kept.json")
    for folder, message in [
        (tmp_path / "none", "no such folder"),
        (tmp_path / "plain", "no embeddings here"),
        (tmp_path / "onnx", "not the manifest of an embeddings folder"),
        (embedded, "manifest.json is missing"),
    ]:
        with pytest.raises(UsageError, match=message):
            Index(folder)


def test_a_newer_schema(embedded):
    path = embedded / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 3}))
    with pytest.raises(UsageError, match="newer clipline"):
        Index(embedded)


def test_damage_is_named(embedded):
    part = embedded / "data" / "part-00001.parquet"
    whole = part.read_bytes()
    query = units(1, 3)
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CliplineError, match=r"part-00001\.parquet: damaged"):
        Index(embedded).search(query, 3)
    pq.write_table(pa.table({"path": ["a"], "embedding": [[1.0, 2.0, 3.0]]}), part)
    with pytest.raises(CliplineError, match=r"part-00001\.parquet: damaged \(its columns are not those of 3 float16"):
        Index(embedded).search(query, 3)
    part.unlink()
    with pytest.raises(CliplineError, match=r"4 rows where manifest\.json says 6"):
        Index(embedded).search(query, 3)
