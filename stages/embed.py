"""Embed the dataset's test images, or the folder that params.yaml names, with models/onnx -> embeddings.

DVC deletes a stage's outputs before it runs. So the work is done in .cache, where the next run continues one that was
killed, and published when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from clipline.config.base import repository_root, resolve
from clipline.config.run import EmbedParams, load_run
from clipline.embed.run import Options
from clipline.embed.run import embed as embed_source
from clipline.embed.sources.files import Files
from clipline.embed.sources.folder import Folder
from clipline.embed.summary import Summary
from clipline.runtime.model import OnnxModel
from clipline.utils.files import atomic_folder
from stages.common import run_stage, say

RAW_IMAGES, PREPARED, ONNX = (
    Path("data/raw/images"),
    Path("data/prepared/images.parquet"),
    Path("models/onnx"),
)
OUT = Path("embeddings")


def main() -> None:
    """Embed and publish, then fail if more images failed than params.yaml allows."""
    params = load_run().params.embed
    summary = embed(params)
    say(str(summary))
    summary.enforce(params.max_errors)


def embed(params: EmbedParams) -> Summary:
    """Embed and publish. `stable` leaves out the dates of files, which differ between checkouts, for DVC's hashes."""
    model, root = OnnxModel(ONNX, bulk=True), None
    if params.folder is None:
        table = pq.read_table(PREPARED, columns=["image", "split"]).to_pydict()
        names = [name for name, split in zip(table["image"], table["split"], strict=True) if split == "test"]
        source = Files(RAW_IMAGES, names)
    else:
        source = Folder(resolve(params.folder))
        # A run in a temporary copy must name the folder relative to where DVC puts its result.
        root = os.path.relpath(source.root, repository_root().resolve() / OUT)
    options = Options(
        batch_size=params.batch_size, dtype=params.dtype, prune=True, stable=True, published=OUT, root=root
    )
    identity = json.dumps([params.model_dump(), model.variant, model.model_id, str(Path.cwd())])
    scratch = repository_root() / ".cache" / "embed" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    summary = embed_source(source, model, scratch, options)
    with atomic_folder(OUT) as folder:
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
    shutil.rmtree(scratch)
    return summary


if __name__ == "__main__":
    run_stage(main)
