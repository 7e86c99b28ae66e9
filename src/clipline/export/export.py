"""Export a model to a folder with graphs, tokenizer, preprocessing and manifest, if its graphs agree with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipline.config.run import ExportParams
from clipline.data.prepared import Prepared
from clipline.export import variants
from clipline.export.fold import fold_scaling
from clipline.export.gates import TestSplit, check_fp32
from clipline.export.graph import export_graph
from clipline.export.manifest import manifest, model_id, preprocess_spec
from clipline.export.parity import Parity
from clipline.model.clip import CLIP, ImageEmbedder, TextEmbedder
from clipline.train.checkpoint import Checkpoint, weights_hash
from clipline.utils.checksums import write_json, write_with_checksum
from clipline.utils.files import atomic_folder

EXAMPLE_BATCH, EXAMPLE_LENGTH = 2, 5


def export_model(
    checkpoint_dir: Path,
    checkpoint: Checkpoint,
    data: Prepared,
    images: Path,
    out: Path,
    params: ExportParams,
) -> dict[str, Any]:
    """Export both graphs to `out`, compare them with torch on the test split, and return reports/export.json.

    The image graph is also exported in the other precisions of `params`; one that misses its gate is left out, and the
    report gives the reason. images: the folder of the raw image files. Raises CliplineError where fp32 parity or R@1
    misses its gate; `out` is then not created.
    """
    with atomic_folder(out) as folder:
        write_graphs(checkpoint.model, folder, checkpoint.recipe.inputs.image_size, params.opset)
        data.tokenizer.save(str(folder / "tokenizer.json"))
        spec = preprocess_spec(checkpoint)
        write_json(folder / "preprocess.json", spec)
        model = model_id(weights_hash(checkpoint_dir), folder)

        def write_manifest(parity: dict[str, dict[str, Parity]], metrics: dict[str, float]) -> None:
            values = manifest(model, checkpoint, folder, params.opset, parity, metrics)
            write_with_checksum(folder / "manifest.json", values)

        # The runtime opens complete bundles only: the first manifests have no figures yet.
        write_manifest({}, {})
        test = TestSplit(data.split("test"), images, spec.make(), params.batch_size)
        report, fp32, embedded = check_fp32(checkpoint, data, test, folder, params)
        parity = {side: {"fp32": figures} for side, figures in fp32.items()}
        report["image"] |= variants.build(folder, data, params)
        write_manifest({}, {})
        for precision, measured, figures in variants.measure(folder, test, embedded, params):
            report["image"][precision] |= measured
            parity["image"][precision] = figures
        write_manifest(parity, report["test"]["onnx"])
    return report


def write_graphs(model: CLIP, folder: Path, size: int, opset: int) -> None:
    """Write image.onnx and text.onnx in fp32. size: side of the images, in pixels."""
    model = model.cpu().eval()
    pixels = torch.randint(256, (EXAMPLE_BATCH, size, size, 3), dtype=torch.uint8)
    tower = model.image_tower
    model.image_tower = fold_scaling(tower, pixels)
    export_graph(ImageEmbedder(model), {"pixels": pixels}, ["batch"], folder / "image.onnx", opset)
    model.image_tower = tower
    ids = torch.ones(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    export_graph(TextEmbedder(model), inputs, ["batch", "length"], folder / "text.onnx", opset)
