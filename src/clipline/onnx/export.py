"""The exported model: graphs, tokenizer, preprocessing, manifest; shipped only if it agrees with torch."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import torch

from clipline import evaluation
from clipline.atomic import atomic_folder
from clipline.bundle import Graph, Manifest, PreprocessSpec, write_json
from clipline.config.run import ExportParams
from clipline.data.prepared import Prepared, Split
from clipline.errors import CliplineError
from clipline.image import Preprocess
from clipline.model.clip import CLIP, ImageEmbedder, TextEmbedder
from clipline.model.embedder import TorchModel
from clipline.onnx.graph import export_graph
from clipline.onnx.parity import Parity, check, compare, compare_batches
from clipline.runtime import OnnxModel
from clipline.train.checkpoint import Checkpoint, weights_hash

EXAMPLE_BATCH, EXAMPLE_LENGTH = 2, 5


def export_model(
    checkpoint_dir: Path,
    checkpoint: Checkpoint,
    data: Prepared,
    images: Path,
    out: Path,
    params: ExportParams,
) -> dict[str, Any]:
    """Export both graphs to `out`, check them against torch on the test split, and return reports/export.json.

    images: folder of the raw image files. Raises CliplineError where parity or R@1 misses its gate; `out` then
    does not appear.
    """
    with atomic_folder(out) as folder:
        _write_graphs(checkpoint.model, folder, checkpoint.recipe.inputs.image_size, params.opset)
        data.tokenizer.save(str(folder / "tokenizer.json"))
        spec = _preprocess_spec(checkpoint)
        write_json(folder / "preprocess.json", spec)
        model_id = _model_id(weights_hash(checkpoint_dir), folder)
        # The runtime opens only a whole bundle: a first manifest without figures, the final one after the checks.
        write_json(folder / "manifest.json", _manifest(model_id, checkpoint, folder, params.opset, {}, {}))
        report, parity, metrics = _check(checkpoint, data, images, folder, spec.make(), params)
        write_json(folder / "manifest.json", _manifest(model_id, checkpoint, folder, params.opset, parity, metrics))
    return report


def _write_graphs(model: CLIP, folder: Path, size: int, opset: int) -> None:
    model = model.cpu().eval()
    pixels = torch.zeros(EXAMPLE_BATCH, size, size, 3, dtype=torch.uint8)
    export_graph(ImageEmbedder(model), {"pixels": pixels}, ["batch"], folder / "image.onnx", opset)
    ids = torch.ones(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    export_graph(TextEmbedder(model), inputs, ["batch", "length"], folder / "text.onnx", opset)


def _check(
    checkpoint: Checkpoint,
    data: Prepared,
    images: Path,
    folder: Path,
    preprocess: Preprocess,
    params: ExportParams,
) -> tuple[dict[str, Any], dict[str, Parity], dict[str, float]]:
    """Both sides on the test split: parity, R@k, rate. Raises CliplineError where a gate is missed."""
    split, batch = data.split("test"), params.batch_size
    torch_model = TorchModel(checkpoint.model, data.tokenizer, torch.device("cpu"))
    onnx_model = OnnxModel(folder, provider="cpu")
    expected = evaluation.embed_split(torch_model, split, images, preprocess, batch, "torch")
    found = evaluation.embed_split(onnx_model, split, images, preprocess, batch, "onnxruntime")
    pixels = next(evaluation.pixel_batches(images, split.image_names, preprocess, batch))
    parity = {
        "image": compare(expected.images, found.images).worst(
            compare_batches(torch_model.embed_pixels, onnx_model.embed_pixels, pixels)
        ),
        "text": compare(expected.texts, found.texts).worst(
            compare_batches(torch_model.embed_texts, onnx_model.embed_texts, split.captions)
        ),
    }
    for name, figure in parity.items():
        check(f"{name}.onnx", figure, params)
    figures = {"torch": evaluation.metrics(expected, split), "onnx": evaluation.metrics(found, split)}
    delta = _check_recall(figures, split, params)
    report: dict[str, Any] = {
        name: {
            "fp32": {
                "min_cosine": figure.min_cosine,
                "max_abs": figure.max_abs,
                "bytes": (folder / f"{name}.onnx").stat().st_size,
                "opset": params.opset,
            }
        }
        for name, figure in parity.items()
    }
    report["image"]["fp32"]["images_per_second"] = round(_rate(onnx_model, pixels), 1)
    report["test"] = {**figures, "delta_r1": delta}
    return report, parity, figures["onnx"]


def _check_recall(figures: dict[str, dict[str, float]], split: Split, params: ExportParams) -> dict[str, float]:
    """R@1 of onnxruntime less torch's, in points; one query is always allowed (a tie may fall either way)."""
    delta = {}
    for direction, queries in (("i2t", len(split.image_names)), ("t2i", len(split.captions))):
        key = f"{direction}_r1"
        delta[key] = round(figures["onnx"][key] - figures["torch"][key], 4)
        if -delta[key] > max(params.max_r1_drop, 100 / queries) + 1e-6:
            raise CliplineError(
                f"R@1 {direction} falls by {-delta[key]} points through onnxruntime (gate {params.max_r1_drop}): "
                "the graphs are not shipped"
            )
    return delta


def _rate(model: OnnxModel, pixels: Any) -> float:
    """Images per second of the graph alone, on ready pixels, for about a second."""
    done, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 1.0:
        model.embed_pixels(pixels)
        done += len(pixels)
    return done / seconds


def _preprocess_spec(checkpoint: Checkpoint) -> PreprocessSpec:
    tower, inputs = checkpoint.model.image_tower, checkpoint.recipe.inputs
    mean, std = ([round(value, 6) for value in buffer.tolist()] for buffer in (tower.mean, tower.std))
    return PreprocessSpec(size=inputs.image_size, resize=inputs.resize, mean=mean, std=std)


def _model_id(weights: str, folder: Path) -> str:
    digest = hashlib.sha256(weights.encode())
    for name in ("preprocess.json", "tokenizer.json"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _manifest(
    model_id: str,
    checkpoint: Checkpoint,
    folder: Path,
    opset: int,
    parity: dict[str, Parity],
    metrics: dict[str, float],
) -> Manifest:
    def graph(name: str) -> dict[str, Graph]:
        path = folder / f"{name}.onnx"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        found = parity.get(name, Parity(0.0, 0.0))
        return {
            "fp32": Graph(
                file=path.name,
                precision="fp32",
                variant=f"fp32-{sha256[:12]}",
                sha256=sha256,
                bytes=path.stat().st_size,
                min_cosine=found.min_cosine,
                max_abs=found.max_abs,
            )
        }

    return Manifest(
        model_id=model_id,
        dim=checkpoint.recipe.head.dim,
        recipe=checkpoint.info["recipe"],
        dataset=checkpoint.info["dataset"],
        dataset_fingerprint=checkpoint.info["dataset_fingerprint"],
        opset=opset,
        image=graph("image"),
        text=graph("text"),
        metrics=metrics,
    )
