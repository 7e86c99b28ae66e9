"""Compare the exported fp32 graphs with torch on the test split: embeddings and R@k. A missed gate fails the export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipline import evaluation
from clipline.config.run import ExportParams
from clipline.data.prepared import Prepared, Split
from clipline.embed.batch_size import rate
from clipline.errors import CliplineError
from clipline.evaluation import Embedded
from clipline.export.parity import Parity, check, compare, compare_batches
from clipline.image import Preprocess
from clipline.model.embedder import TorchModel
from clipline.runtime.model import OnnxModel
from clipline.train.checkpoint import Checkpoint

RATE_SECONDS = 1.0


@dataclass(frozen=True)
class TestSplit:
    """The test split, read from the raw image files, as the exported model will read images."""

    split: Split
    images: Path
    preprocess: Preprocess
    batch_size: int

    @cached_property
    def pixels(self) -> np.ndarray:
        """The first batch: uint8 [b, S, S, 3]."""
        return next(self.batches())

    def batches(self) -> Iterator[np.ndarray]:
        """Yield uint8 [b, S, S, 3] of all images, in order."""
        return evaluation.pixel_batches(self.images, self.split.image_names, self.preprocess, self.batch_size)

    def embed(self, model: evaluation.Embedder, title: str) -> Embedded:
        """Embed all images and captions. title: of the progress bar."""
        return evaluation.embed_split(model, self.split, self.images, self.preprocess, self.batch_size, title)

    def recalls(self, embedded: Embedded) -> dict[str, float]:
        """R@k and median ranks, by name."""
        return evaluation.metrics(embedded, self.split)


def check_fp32(
    checkpoint: Checkpoint, data: Prepared, test: TestSplit, folder: Path, params: ExportParams
) -> tuple[dict[str, Any], dict[str, Parity], Embedded]:
    """Compare the fp32 graphs in `folder` with torch. Raises CliplineError where a gate is missed.

    Returns their part of reports/export.json, their parity by side, and their embeddings of the test split.
    """
    torch_model = TorchModel(checkpoint.model, data.tokenizer, torch.device("cpu"))
    onnx_model = OnnxModel(folder, provider="cpu")
    expected, actual = test.embed(torch_model, "torch"), test.embed(onnx_model, "onnxruntime")
    pixels = test.pixels
    parity = {
        "image": compare(expected.images, actual.images).worst(
            compare_batches(torch_model.embed_pixels, onnx_model.embed_pixels, pixels)
        ),
        "text": compare(expected.texts, actual.texts).worst(
            compare_batches(torch_model.embed_texts, onnx_model.embed_texts, test.split.captions)
        ),
    }
    for name, figure in parity.items():
        check(f"{name}.onnx", figure, params)
    figures = {"torch": test.recalls(expected), "onnx": test.recalls(actual)}
    delta = check_recall(figures, test.split, params)
    report: dict[str, Any] = {
        name: {"fp32": graph_figures(folder / f"{name}.onnx", figure) | {"opset": params.opset, "shipped": True}}
        for name, figure in parity.items()
    }
    report["image"]["fp32"]["images_per_second"] = round(rate(onnx_model, pixels, RATE_SECONDS), 1)
    report["test"] = {**figures, "delta_r1": delta}
    return report, parity, actual


def check_recall(figures: dict[str, dict[str, float]], split: Split, params: ExportParams) -> dict[str, float]:
    """R@1 of onnxruntime minus that of torch, in points. Raises CliplineError where it falls by more than the gate."""
    delta = recall_change(figures["torch"], figures["onnx"])
    if failure := recall_gate_failure(delta, split, params.max_r1_drop):
        raise CliplineError(f"{failure} through onnxruntime: the graphs are not shipped")
    return delta


def recall_change(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """R@1 in both directions, `after` minus `before`, in points."""
    return {key: round(after[key] - before[key], 4) for key in ("i2t_r1", "t2i_r1")}


def recall_gate_failure(delta: dict[str, float], split: Split, gate: float) -> str | None:
    """In words, the R@1 that falls by more than `gate` points; None where none does.

    A change of one query is always allowed: ties may be broken either way.
    """
    for direction, queries in (("i2t", len(split.image_names)), ("t2i", len(split.captions))):
        drop = -delta[f"{direction}_r1"]
        if drop > max(gate, 100 / queries) + 1e-6:
            return f"R@1 {direction} falls by {drop} points (gate {gate})"
    return None


def graph_figures(path: Path, parity: Parity) -> dict[str, Any]:
    """The figures that the report has of every graph."""
    return {"min_cosine": parity.min_cosine, "max_abs": parity.max_abs, "bytes": path.stat().st_size}
