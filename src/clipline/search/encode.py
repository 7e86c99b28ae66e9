"""Queries as vectors: texts, images, and the subtraction of what a search is to avoid."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from clipline.errors import CliplineError, UsageError
from clipline.image import ImageError
from clipline.runtime.model import OnnxModel, usable
from clipline.utils import cores
from clipline.utils.rgb import DAMAGE, decode

MIN_LENGTH = 1e-3  # of a difference of vectors: the direction of a shorter one is rounding


def embed_texts(model: OnnxModel, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, dim], L2-normalised. Raises UsageError for an empty text."""
    if not all(text.strip() for text in texts):
        raise UsageError("the query is empty. Fix: say in words what to look for")
    return model.embed_texts(list(texts))


def embed_images(
    model: OnnxModel, images: Sequence[Path | str | Image.Image], threads: int | None = None
) -> np.ndarray:
    """Image files or opened Pillow images, turned upright -> float32 [n, dim], L2-normalised.

    threads: that decode; None means every core that this process may use. Never more than a batch of pixels is in
    memory. Raises CliplineError, which names the image, for one that cannot be read or embedded.
    """
    vectors = [np.empty((0, model.dim), np.float32)]
    step = model.usual_batch if len(images) > 1 else 1
    with ThreadPoolExecutor(threads or cores.available()) as pool:
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            names = [str(x) if isinstance(x, Path | str) else f"image {start + row}" for row, x in enumerate(batch)]
            pixels = list(pool.map(lambda image, name: _pixels(model, image, name), batch, names))
            vectors.append(model.embed_pixels(np.stack(pixels)))
            for name, vector in zip(names, vectors[-1], strict=True):
                if not usable(vector):
                    raise CliplineError(f"{name}: the model gives it no finite embedding, or zeros alone")
    return np.concatenate(vectors)


def subtract_mean(queries: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
    """`queries` [q, dim] minus the mean of `unwanted` [u, dim], normalised: (q - mean(u)) / |q - mean(u)|.

    Raises UsageError where nothing is left.
    """
    if not len(unwanted):
        return queries
    differences = queries - unwanted.mean(axis=0)
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    if (lengths < MIN_LENGTH).any():
        raise UsageError("nothing is left of the query without --not. Fix: take away something else")
    return differences / lengths


def _pixels(model: OnnxModel, image: Path | str | Image.Image, name: str) -> np.ndarray:
    try:
        if isinstance(image, Path | str):
            if not Path(image).exists():
                raise CliplineError(f"{name}: no such file")
            return model.preprocess.read(image)[0]
        return model.preprocess(decode(image))
    except ImageError as error:
        raise CliplineError(f"{name}: {error}") from error
    except DAMAGE as error:  # Pillow decodes an opened image when its pixels are first read
        raise CliplineError(f"{name}: cannot decode: {error}") from error
