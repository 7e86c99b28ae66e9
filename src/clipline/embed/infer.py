"""A batch of decoded images -> their embeddings; those that no search could use are Failures."""

from __future__ import annotations

import numpy as np

from clipline.embed.decode import Decoded
from clipline.embed.scan import Failure
from clipline.runtime import OnnxModel


def infer(model: OnnxModel, batch: list[Decoded]) -> tuple[list[Decoded], np.ndarray, list[Failure]]:
    """-> (the usable images, their embeddings float32 [n, dim], Failures for NaN and zero vectors)."""
    size = model.preprocess.size
    pixels = np.array([image.pixels for image in batch], np.uint8).reshape(-1, size, size, 3)
    embeddings = model.embed_pixels(pixels)
    finite = np.isfinite(embeddings).all(axis=1)
    usable = finite & embeddings.any(axis=1)
    failures = [
        Failure(image.path, "infer", "the model gave a zero vector" if is_finite else "the model gave NaN")
        for image, good, is_finite in zip(batch, usable, finite, strict=True)
        if not good
    ]
    return [image for image, good in zip(batch, usable, strict=True) if good], embeddings[usable], failures
