"""Retrieval metrics of one split, from the raw image files: the same functions for torch and for onnxruntime."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from clipline import retrieval
from clipline.data.prepared import Split
from clipline.image import Preprocess
from clipline.utils import cores
from clipline.utils.progress import Bar
from clipline.utils.threads import map_ordered


class Embedder(Protocol):
    """`model.embedder.TorchModel` or `runtime.model.OnnxModel`."""

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [b, S, S, 3] -> float32 [b, D], L2-normalised."""

    def embed_texts(self, texts: list[str], batch_size: int = 256) -> np.ndarray:
        """n texts -> float32 [n, D], L2-normalised."""


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a split: images float32 [n, D], texts float32 [c, D]."""

    images: np.ndarray
    texts: np.ndarray


def pixel_batches(folder: Path, names: list[str], preprocess: Preprocess, batch_size: int) -> Iterator[np.ndarray]:
    """Yield uint8 [b, S, S, 3] of the files `names` in `folder`, in order; all cores decode one batch ahead."""

    def pixels(name: str) -> np.ndarray:
        return preprocess.read(folder / name)[0]

    with closing(map_ordered(pixels, names, threads=cores.available(), ahead=2 * batch_size)) as results:
        while batch := list(itertools.islice(results, batch_size)):
            yield np.stack(batch)


def embed_split(
    model: Embedder, split: Split, folder: Path, preprocess: Preprocess, batch_size: int, title: str
) -> Embedded:
    """Embed every image file and every caption of `split`. Raises ImageError where a file cannot be read.

    folder: of the image files. title: of the progress bar.
    """
    images = []
    with Bar(title, len(split.image_names) + len(split.captions), "images and captions") as bar:
        for pixels in pixel_batches(folder, split.image_names, preprocess, batch_size):
            images.append(model.embed_pixels(pixels))
            bar.advance(len(pixels))

        def embed(rows: np.ndarray) -> np.ndarray:
            bar.advance(len(rows))
            return model.embed_texts([split.captions[row] for row in rows], batch_size)

        texts = split.map_captions(embed, batch_size)
    return Embedded(np.concatenate(images), texts)


def metrics(embedded: Embedded, split: Split) -> dict[str, float]:
    """R@k and median ranks of an embedded split, as `retrieval.evaluate` names them."""
    return retrieval.evaluate(embedded.images, embedded.texts, split.caption_image)
