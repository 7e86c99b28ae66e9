"""Embed the dataset's test images, or the folder that params.yaml names, with models/onnx -> embeddings."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq

from clipline.config.base import repository_root, resolve
from clipline.config.run import EmbedParams, load_run
from clipline.embed.run import Summary, embed_folder
from clipline.runtime import OnnxModel
from stages.common import run_stage, say

RAW_IMAGES, PREPARED, ONNX = (
    Path("data/raw/images"),
    Path("data/prepared/images.parquet"),
    Path("models/onnx"),
)
OUT = Path("embeddings")


def main() -> None:
    """Embed, publish what there is, then fail where more images failed than params.yaml allows."""
    params = load_run().params.embed
    summary = embed(params)
    say(str(summary))
    summary.enforce(params.max_errors)


def embed(params: EmbedParams) -> Summary:
    """`stable` leaves out the files' dates: each checkout has its own, and DVC would see other embeddings."""
    if params.folder is None:
        folder, root = RAW_IMAGES, None
        table = pq.read_table(PREPARED, columns=["image", "split"]).to_pydict()
        names = [name for name, split in zip(table["image"], table["split"], strict=True) if split == "test"]
    else:
        folder, names = resolve(params.folder), None
        # A run in a temporary copy must name the folder as seen from where DVC puts its result.
        root = os.path.relpath(folder, repository_root().resolve() / OUT)
    return embed_folder(
        folder,
        OnnxModel(ONNX),
        OUT,
        names=names,
        batch_size=params.batch_size,
        dtype=params.dtype,
        overwrite=True,
        stable=True,
        root=root,
    )


if __name__ == "__main__":
    run_stage(main)
