"""A finished run in small: real data and real pictures, made-up embeddings, and captions of a hostile stranger."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipline import evaluation, retrieval
from clipline.data.prepared import Prepared, Split
from clipline.pictures import plots
from clipline.report import choose, facts, ranking, word_confusion
from clipline.utils import checksums

HOSTILE = '<script>alert(1)</script> "><img src="http://example.com/x.png" onerror=alert(1)> & {{ facts }}'


@pytest.fixture(scope="session")
def split(workspace: Path) -> Split:
    """The test split: 10 images, 20 captions."""
    return Prepared(workspace / "data/prepared").split("test")


@pytest.fixture(scope="session")
def embedded(split: Split) -> evaluation.Embedded:
    """The test split as a poor model embeds it."""
    return embeddings(split)


@pytest.fixture(scope="session")
def workspace(raw: Path, prepared: Path, tmp_path_factory) -> Path:
    """The root of a repository in which every stage but `report` has run."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(raw, root / "data/raw")
    shutil.copytree(prepared, root / "data/prepared")
    table = pq.read_table(root / "data/prepared/captions.parquet")
    at = table.column_names.index("caption")
    hostile = pa.array([f"{caption} {HOSTILE}" for caption in table["caption"].to_pylist()])
    pq.write_table(table.set_column(at, "caption", hostile), root / "data/prepared/captions.parquet")
    _seal_again(root / "data/prepared")
    data = Prepared(root / "data/prepared")
    figures = _evaluated(data.split("test"), data.split("train"), root)
    _trained(root, data)
    _exported(root, figures)
    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n    - path: models/checkpoint\n"
        "      hash: md5\n      md5: 0123456789abcdef.dir\n"
    )
    return root


@pytest.fixture(scope="session")
def gates() -> dict:
    """`export` of params.yaml, as far as the report reads it."""
    return {
        "min_cosine": 0.9999,
        "max_abs": 1e-4,
        "max_r1_drop": 0.1,
        "fp16": {"min_cosine": 0.999, "max_r1_drop": 0.1},
        "int8": {"min_cosine": 0.9, "max_r1_drop": 1.0},
    }


@pytest.fixture(scope="session")
def found(workspace: Path, gates: dict) -> facts.Facts:
    """All that the stages wrote."""
    return facts.gather(workspace, Prepared(workspace / "data/prepared"), gates)


def embeddings(split: Split) -> evaluation.Embedded:
    """Random images, and captions that are their images with much noise."""
    random = np.random.default_rng(0)
    images = random.normal(size=(len(split.image_names), 8))
    texts = images[split.caption_image] + 2.5 * random.normal(size=(len(split.captions), 8))
    return evaluation.Embedded(retrieval.normalise(images), retrieval.normalise(texts))


def _seal_again(prepared: Path) -> None:
    said = checksums.read_verified(prepared / "report.json")
    said["files"] = {name: checksums.file_hash(prepared / name) for name in said["files"]}
    _write(prepared / "report.json", checksums.with_checksum(said))


def _evaluated(split: Split, train: Split, root: Path) -> dict[str, float]:
    reports, images = root / "reports", root / "data/raw/images"
    reports.mkdir()
    embedded = embeddings(split)
    figures = evaluation.metrics(embedded, split)
    _write(reports / "metrics.json", {"test": figures})
    ranks = retrieval.both_ranks(embedded.images, embedded.texts, split.caption_image)
    found = choose.choose(embedded, split, ranks, queries=2, top=3)
    _write(reports / "examples.json", found.as_dict())
    choose.draw_sample(found, images, reports / "gallery.png")
    choose.draw_failures(found, images, reports / "failures.png")
    recall = ranking.recall_by_rank(*ranks)
    recall.write(reports / "recall.csv")
    figures.recall(recall, reports / "recall.png")
    pairs = ranking.similarities(embedded.images, embedded.texts, split.caption_image)
    figures.similarity(pairs, reports / "similarity.png")
    mixed = word_confusion.confusion(
        train.captions, train.caption_image, (train.caption_image + 1) % len(train.image_names)
    )
    mixed.write(reports / "words.csv")
    figures.words(mixed, reports / "words.png")
    (reports / "train.csv").write_text(
        "step,epoch,train_loss,val_loss,val_i2t_r1,val_t2i_r1,seconds_data,seconds_eval\n"
        "5,0.5,3.5,,,,1.5,\n10,1,3.0,3.2,5,4,1.5,0.5\n20,2,2.0,2.9,9,8,60,0.5\n"
    )
    plots.curves(reports / "train.csv", reports / "curves.png")
    return figures


def _trained(root: Path, data: Prepared) -> None:
    (root / "models/checkpoint").mkdir(parents=True)
    (root / "models/checkpoint/model.safetensors").write_bytes(b"weights")
    recipe = {
        "inputs": {"max_length": 12, "image_size": 32, "resize": "shortest"},
        "image": {"tower": "timm", "name": "mobilenetv1_100", "weights": "/home/me/secret.bin", "trainable": False},
        "text": {
            "architecture": "bert",
            "name": "sentence-transformers/all-MiniLM-L6-v2",
            "weights": "hub",
            "trainable": True,
        },
        "loss": {"kind": "infonce"},
    }
    info = {
        "dataset": "scenes",
        "dataset_fingerprint": data.fingerprint,
        "recipe": "tiny",
        "seed": 7,
        "best": {"epoch": 2},
    }
    _write(root / "models/checkpoint/config.json", {"recipe": recipe, "info": info})
    tags = {"git_revision": "0" * 40, "git_dirty": "true", "device": "cpu"}
    _write(root / "models/run.json", {"started": 0, "params": {}, "tags": tags})


def _exported(root: Path, figures: dict[str, float]) -> None:
    plain = {"min_cosine": 0.99999, "max_abs": 1e-6, "bytes": 2_500_000, "shipped": True}
    half = {**plain, "test": figures, "delta_r1": {"i2t_r1": 0.0, "t2i_r1": -0.05}, "images_per_second": 1234.5}
    missed = {"shipped": False, "why": "R@1 <falls> by 3.0 points"}
    report = {
        "image": {"fp32": {**plain, "images_per_second": 789.1}, "fp16": half, "int8": missed},
        "text": {"fp32": plain},
        "test": {"torch": figures, "onnx": figures, "delta_r1": {"i2t_r1": 0.0, "t2i_r1": 0.0}},
    }
    _write(root / "reports/export.json", report)
    (root / "models/onnx").mkdir()
    _write(root / "models/onnx/manifest.json", {"model_id": "abc123", "dim": 1024, "opset": 20})


def _write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
