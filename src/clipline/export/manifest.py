"""preprocess.json and manifest.json of an exported model."""

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

# What an embedding depends on beside the graphs.
FOLLOWERS = ("preprocess.json", "tokenizer.json")


def preprocess_spec(checkpoint: Checkpoint) -> PreprocessSpec:
    """The preprocessing of the checkpoint's image tower."""
    tower, inputs = checkpoint.model.image_tower, checkpoint.recipe.inputs
    mean, std = ([round(value, 6) for value in buffer.tolist()] for buffer in (tower.mean, tower.std))
    return PreprocessSpec(size=inputs.image_size, resize=inputs.resize, mean=mean, std=std)


def model_id(weights: str, folder: Path) -> str:
    """Hash of the weights' hash, the preprocessing and the tokenizer in `folder`."""
    digest = hashlib.sha256(weights.encode())
    for name in FOLLOWERS:
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
    """The manifest of every graph that lies in `folder`; one without parity, as yet, gets zeros.

    parity: side -> precision -> figures, of fp32 against torch, of the others against fp32.
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
        files={name: file_hash(folder / name) for name in FOLLOWERS},
        logit_scale=logit_scale(checkpoint),
    )


def logit_scale(checkpoint: Checkpoint) -> float | None:
    """The scale whose product with the exported embeddings' cosine is the trained logit, but for a shared bias.

    Where the head has copies the cosine is the mean of theirs, and each was trained with this scale: the product is
    then the mean of their logits. None where the loss took embeddings of any length: no single number stands for those.
    """
    recipe = checkpoint.recipe
    # Copies are of length 1 by themselves (model/heads.py).
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
