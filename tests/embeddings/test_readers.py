"""The calls that docs/embeddings.md names read exactly the embeddings, also beside errors and what a kill has left."""

import re
from pathlib import Path

import numpy as np
import pytest

from clipline.embed.item import Failure
from clipline.embed.writer import Writer
from clipline.embeddings.manifest import Identity
from clipline.embeddings.part import Row

PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
IMPORTS, CALLS = (part.splitlines() for part in CODE.strip().split("\n\n"))
PATHS = [f"{n}.jpg" for n in range(7)]


@pytest.fixture(params=["float16", "float32"])
def vectors(request, tmp_path, monkeypatch) -> np.ndarray:
    """Writes `embeddings` into the current folder. [7, 5]"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(request.param)
    identity = Identity(model_id="m", variant="fp32-0", dim=5, dtype=request.param, root="../photos", model="../onnx")
    out = tmp_path / "embeddings"
    out.mkdir()
    with Writer(out, identity, 3) as writer:
        for path, vector in zip(PATHS, vectors, strict=True):
            writer.add(Row(path, 10, 10**15, "ab" * 32, 4, 3), vector)
        for number in range(3):
            writer.fail(Failure(f"broken-{number}.jpg", "decode", "empty file"))
        writer.finish([])
    for left in (".part-00003.parquet.7.tmp", ".manifest.json.7.tmp"):
        (out / left).write_bytes(b"half")
    return vectors


def read(call: str) -> tuple[list[str], list]:
    """path and embedding of what a call returns, whichever reader's it is."""
    names: dict = {}
    exec("\n".join(IMPORTS), names)
    table = eval(call, names)
    table = table.to_arrow_table() if hasattr(table, "to_arrow_table") else table
    return list(map(str, table["path"])), [getattr(row, "as_py", lambda row=row: row)() for row in table["embedding"]]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.split("(")[0])
def test_exactly_the_embeddings(vectors, call):
    paths, embeddings = read(call)
    assert paths == PATHS
    assert np.array_equal(np.array([list(row) for row in embeddings], vectors.dtype), vectors)


def test_five_readers():
    assert [call.split(".")[0].split("(")[0] for call in CALLS] == ["pd", "pl", "duckdb", "load_dataset", "ds"]
