"""A finished run in small: real data and real pictures, made-up embeddings, and hostile captions."""

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
from clipline.report import figures, pick_examples, ranking, summary, word_confusion
from clipline.utils import checksums

HOSTILE = '<script>alert(1)</script> "><img src="http://example.com/x.png" onerror=alert(1)> & {{ summary }}'


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
    _write_checksums(root / "data/prepared")
    data = Prepared(root / "data/prepared")
    metrics = _evaluated(data.split("test"), data.split("train"), root)
    _trained(root, data)
    _exported(root, metrics)
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
def summarised(workspace: Path, gates: dict) -> summary.RunSummary:
    """All that the stages wrote."""
    return summary.gather(workspace, Prepared(workspace / "data/prepared"), gates)


def embeddings(split: Split) -> evaluation.Embedded:
    """Random images, and captions that are their images with much noise."""
    random = np.random.default_rng(0)
    images = random.normal(size=(len(split.image_names), 8))
    texts = images[split.caption_image] + 2.5 * random.normal(size=(len(split.captions), 8))
    return evaluation.Embedded(retrieval.normalise(images), retrieval.normalise(texts))


def _write_checksums(prepared: Path) -> None:
    report = checksums.read_verified(prepared / "report.json")
    report["files"] = {name: checksums.file_hash(prepared / name) for name in report["files"]}
    _write(prepared / "report.json", checksums.with_checksum(report))


def _evaluated(split: Split, train: Split, root: Path) -> dict[str, float]:
    reports, images = root / "reports", root / "data/raw/images"
    reports.mkdir()
    embedded = embeddings(split)
    metrics = evaluation.metrics(embedded, split)
    _write(reports / "metrics.json", {"test": metrics})
    ranks = retrieval.both_ranks(embedded.images, embedded.texts, split.caption_image)
    examples = pick_examples.pick_examples(embedded, split, ranks, queries=2, top=3)
    _write(reports / "examples.json", examples.as_dict())
    pick_examples.draw_sample(examples, images, reports / "gallery.png")
    pick_examples.draw_failures(examples, images, reports / "failures.png")
    recall = ranking.recall_by_rank(*ranks)
    recall.write(reports / "recall.csv")
    figures.recall(recall, reports / "recall.png")
    pairs = ranking.similarities(embedded.images, embedded.texts, split.caption_image)
    figures.similarity(pairs, reports / "similarity.png")
    confused = word_confusion.confusion(
        train.captions, train.caption_image, (train.caption_image + 1) % len(train.image_names)
    )
    confused.write(reports / "words.csv")
    figures.words(confused, reports / "words.png")
    (reports / "train.csv").write_text(
        "step,epoch,train_loss,val_loss,val_i2t_r1,val_t2i_r1,seconds_data,seconds_eval\n"
        "5,0.5,3.5,,,,1.5,\n10,1,3.0,3.2,5,4,1.5,0.5\n20,2,2.0,2.9,9,8,60,0.5\n"
    )
    plots.curves(reports / "train.csv", reports / "curves.png")
    return metrics


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


def _exported(root: Path, metrics: dict[str, float]) -> None:
    plain = {"min_cosine": 0.99999, "max_abs": 1e-6, "bytes": 2_500_000, "shipped": True}
    half = {**plain, "test": metrics, "delta_r1": {"i2t_r1": 0.0, "t2i_r1": -0.05}, "images_per_second": 1234.5}
    missed = {"shipped": False, "why": "R@1 <falls> by 3.0 points"}
    report = {
        "image": {"fp32": {**plain, "images_per_second": 789.1}, "fp16": half, "int8": missed},
        "text": {"fp32": plain},
        "test": {"torch": metrics, "onnx": metrics, "delta_r1": {"i2t_r1": 0.0, "t2i_r1": 0.0}},
    }
    _write(root / "reports/export.json", report)
    (root / "models/onnx").mkdir()
    _write(root / "models/onnx/manifest.json", {"model_id": "abc123", "dim": 1024, "opset": 20})


def _write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
