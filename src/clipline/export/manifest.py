"""The contents of preprocess.json and manifest.json of an exported model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clipline.export.parity import Parity
from clipline.runtime.bundle import Graph, Manifest, PreprocessSpec
from clipline.train.checkpoint import Checkpoint
from clipline.utils.checksums import file_hash

FILES = {
    "image": {"fp32": "image.onnx", "fp16": "image.fp16.onnx", "int8": "image.int8.onnx"},
    "text": {"fp32": "text.onnx"},
}
# The files beside the graphs that embeddings depend on.
INPUT_FILES = ("preprocess.json", "tokenizer.json")


def preprocess_spec(checkpoint: Checkpoint) -> PreprocessSpec:
    """The preprocessing of the checkpoint's image tower."""
    tower, inputs = checkpoint.model.image_tower, checkpoint.recipe.inputs
    mean, std = ([round(value, 6) for value in buffer.tolist()] for buffer in (tower.mean, tower.std))
    return PreprocessSpec(size=inputs.image_size, resize=inputs.resize, mean=mean, std=std)


def model_id(weights: str, folder: Path) -> str:
    """Hash of the weights' hash `weights`, and of the preprocessing and the tokenizer in `folder`."""
    digest = hashlib.sha256(weights.encode())
    for name in INPUT_FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def manifest(
    model: str,
    checkpoint: Checkpoint,
    folder: Path,
    opset: int,
    parity: dict[str, dict[str, Parity]],
    metrics: dict[str, float],
) -> Manifest:
    """The manifest with every graph in `folder`; a graph without parity gets zeros.

    model: the model id. parity: side -> precision -> figures; fp32 is compared with torch, the others with fp32.
    """

    def graphs(side: str) -> dict[str, Graph]:
        return {
            precision: _graph(folder / file, precision, parity.get(side, {}).get(precision, Parity(0.0, 0.0)))
            for precision, file in FILES[side].items()
            if (folder / file).is_file()
        }

    return Manifest(
        model_id=model,
        dim=checkpoint.recipe.head.dim,
        recipe=checkpoint.info["recipe"],
        dataset=checkpoint.info["dataset"],
        dataset_fingerprint=checkpoint.info["dataset_fingerprint"],
        opset=opset,
        image=graphs("image"),
        text=graphs("text"),
        metrics=metrics,
        files={name: file_hash(folder / name) for name in INPUT_FILES},
        logit_scale=logit_scale(checkpoint),
    )


def logit_scale(checkpoint: Checkpoint) -> float | None:
    """The scale s for which s * cosine of exported embeddings is the trained logit, without the sigmoid loss's bias.

    With several heads the cosine is the mean of theirs, and each was trained with this scale: the product is the mean
    of their logits. None where the loss had embeddings of any length, for which no single scale exists.
    """
    recipe = checkpoint.recipe
    # With several heads each part has length 1 anyway (model/heads.py).
    if not recipe.train.normalize and recipe.head.num_heads == 1:
        return None
    return checkpoint.model.temperature().item()


def _graph(path: Path, precision: str, parity: Parity) -> Graph:
    sha256 = file_hash(path)
    return Graph(
        file=path.name,
        precision=precision,
        variant=f"{precision}-{sha256[:12]}",
        sha256=sha256,
        bytes=path.stat().st_size,
        min_cosine=parity.min_cosine,
        max_abs=parity.max_abs,
    )
