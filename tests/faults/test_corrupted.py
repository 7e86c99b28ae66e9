"""Every file that one step leaves for another, damaged: never taken for good.

CLIPLINE_RANGES: in how many ranges of each file a bit is flipped (`make test-faults`: 200).
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from clipline.data.prepared import Prepared
from clipline.embed.parts import Parts
from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.embeddings.part import Row
from clipline.errors import CliplineError
from clipline.model.clip import build_model
from clipline.runtime.model import OnnxModel
from clipline.tracking.receipt import Receipt
from clipline.tracking.record import Record, kept_records
from clipline.train import checkpoint
from clipline.train.features import cached_features
from clipline.train.state import CheckpointManager, State
from clipline.utils import checksums
from tests.faults.conftest import dice
from tests.faults.damage import damaged

RANGES = int(os.environ.get("CLIPLINE_RANGES", "10"))
DATA = ("report.json", "images.parquet", "captions.parquet", "images.npy", "tokens.npy", "tokenizer.json")


def harms(path: Path, group: str, fault):
    """Damage `path` in every way, one after the other; put it right at the end."""
    whole = path.read_bytes()
    for what, data in damaged(whole, RANGES, dice(path.name)):
        path.write_bytes(data)
        with fault(f"corrupted: {group}") as one:
            try:
                yield one
            except AssertionError as error:
                raise AssertionError(f"{path.name}, {what}: {error}") from error
    path.write_bytes(whole)


def same_or_told(read, harmed) -> None:
    """However its file is damaged, `read` gives what it gave of the whole one, or says what is wrong."""
    whole = read()
    for one in harmed:
        try:
            found = read()
        except CliplineError as error:
            one.told(str(error))
        else:
            assert found == whole
            one.recovered()


def refused(one, call) -> None:
    """`call` says in one line what to do."""
    with pytest.raises(CliplineError) as caught:
        call()
    one.told(str(caught.value))


@pytest.mark.parametrize("name", DATA)
def test_prepared_data(prepared, tmp_path, fault, name):
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    whole = Prepared(folder).report
    for one in harms(folder / name, "data/prepared", fault):
        try:
            found = Prepared(folder).report
        except CliplineError as error:
            one.told(str(error))
        else:
            # Blanks between the words of JSON may change.
            assert name == "report.json" and found == whole
            one.recovered()


@pytest.fixture
def trained(make_recipe, tmp_path) -> Path:
    """A checkpoint."""
    recipe = make_recipe()
    checkpoint.save(tmp_path / "checkpoint", build_model(recipe, 100), recipe, 100, {"dataset": "x"})
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_checkpoint(trained, fault, name):
    whole = json.loads((trained / "config.json").read_text())
    for one in harms(trained / name, "models/checkpoint", fault):
        try:
            checkpoint.load(trained)
        except CliplineError as error:
            one.told(str(error))
        else:
            assert name == "config.json" and json.loads((trained / name).read_text()) == whole
            one.recovered()


def test_training_state(tmp_path, fault, capsys):
    checkpoints = CheckpointManager(tmp_path)
    for step in (1, 2):
        tensors = {"weight": torch.full((50,), float(step)), "half": torch.ones(3, dtype=torch.bfloat16)}
        checkpoints.save(step, State(tensors, {"step": step, "rows": [0.5]}), lambda: None)
    checkpoints.poll(wait=True)
    for one in harms(tmp_path / "state-000000000002.safetensors", "training state", fault):
        found = checkpoints.newest()
        assert found.metadata["step"] == 1 and found.tensors["weight"].eq(1).all()
        assert "damaged" in capsys.readouterr().err
        one.recovered()
    assert checkpoints.newest().metadata["step"] == 2


def test_features(prepared, make_recipe, tmp_path, fault, capsys):
    data, recipe = Prepared(prepared), make_recipe({"image.trainable": False})
    model = build_model(recipe, data.vocab_size)

    def features() -> torch.Tensor:
        return cached_features(model, data.split("val"), data, tmp_path, torch.device("cpu"))["image"]

    whole = features()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for one in harms(path, ".cache/features", fault):
        assert torch.equal(features(), whole)
        assert "damaged" in capsys.readouterr().err
        assert path.read_bytes() == content
        one.recovered()


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json", "preprocess.json", "manifest.json"])
def test_exported_model(make_bundle, tmp_path, fault, name):
    folder = make_bundle(tmp_path / "onnx")
    _list_files(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *[OnnxModel(folder).preprocess.size] * 2, 3), np.uint8)

    def answers() -> tuple[list, list]:
        model = OnnxModel(folder, provider="cpu", threads=1)
        return model.embed_pixels(pixels).tolist(), model.embed_texts(["a red picture", "blue"]).tolist()

    same_or_told(answers, harms(folder / name, "models/onnx", fault))


def _list_files(folder: Path) -> None:
    """Let manifest.json hold the hashes that the export stage writes, and its own."""
    import hashlib

    path = folder / "manifest.json"
    said = json.loads(path.read_text())
    names = ("tokenizer.json", "preprocess.json")
    said["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    path.write_text(json.dumps(checksums.with_checksum(said), indent=2))


def test_parts_of_embeddings(tmp_path, fault):
    rows, vectors = _rows(60), np.random.default_rng(0).normal(size=(60, 16)).astype(np.float16)
    parts = Parts(tmp_path, 16, "float16", 60)
    for row, vector in zip(rows, vectors, strict=True):
        parts.add(row, vector)

    def read() -> tuple[list, list]:
        found = Parts(tmp_path, 16, "float16", 60)
        places = [place for _, place in found.existing]
        return [row for row, _ in found.existing], [found.vector(place).tolist() for place in places]

    # What nobody reads may change: who wrote it, limits of columns.
    same_or_told(read, harms(tmp_path / "data" / "part-00000.parquet", "embeddings", fault))


def _rows(count: int) -> list[Row]:
    return [Row(f"photo {n}.jpg", 100 + n, 10**15 + n, f"{n:064x}", 40, 30) for n in range(count)]


@pytest.mark.parametrize("name", ["manifest.json", "data/part-00000.parquet"])
def test_embed_into_a_damaged_folder(make_bundle, tmp_path, fault, name):
    """The next run says what to do, or ends in the embeddings that a new folder would hold."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for index in range(4):
        Image.new("RGB", (20, 20), (60 * index, 20, 200)).save(tmp_path / "photos" / f"{index}.png")
    model, out = OnnxModel(make_bundle(tmp_path / "onnx"), provider="cpu", threads=1), tmp_path / "out"

    def run() -> list[dict]:
        embed(Folder(tmp_path / "photos"), model, out, Options())
        return [row for path in sorted(out.glob("data/part-*")) for row in pq.read_table(path).to_pylist()]

    same_or_told(run, harms(out / name, "embeddings", fault))


def test_what_is_kept_for_the_tracking_store(tmp_path, fault, capsys, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    record = Record(receipt=Receipt(run_id="a1", name="x", started=1, params={}, tags={}), points=[("loss", 1.5, 1, 2)])
    for one in harms(record.keep(), ".cache/tracking", fault):
        if kept := kept_records():
            assert list(kept.values()) == [record]  # a blank of the JSON was changed
        else:
            assert "damaged" in capsys.readouterr().err
        one.recovered()
