"""Queries as vectors: texts, images, and the subtraction of what a search is to avoid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipline.errors import CliplineError, KindError, UsageError
from clipline.image import ImageError, Picture, as_pictures
from clipline.runtime.model import OnnxModel, usable
from clipline.utils import cores
from clipline.utils.texts import as_texts

MIN_LENGTH = 1e-3  # of a difference of vectors: the direction of a shorter one is rounding


def embed_texts(model: OnnxModel, texts: str | Sequence[str], what: str = "query") -> np.ndarray:
    """float32 [n, dim], L2-normalised. what: each text is, for messages. Raises UsageError as `as_texts`."""
    return model.embed_texts(as_texts(texts, what))


def embed_images(model: OnnxModel, images: Picture | Sequence[Picture], threads: int | None = None) -> np.ndarray:
    """Images of any kind -> float32 [n, dim], L2-normalised.

    threads: that decode; None means every core that this process may use. Never more than a batch of pixels is in
    memory. Raises CliplineError, which names the image, for one that cannot be read or embedded, and KindError for what
    is no Picture.
    """
    images = as_pictures(images)
    vectors = [np.empty((0, model.dim), np.float32)]
    step = model.usual_batch if len(images) > 1 else 1
    with ThreadPoolExecutor(threads or cores.available()) as pool:
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            names = [_name(image, row) for row, image in enumerate(batch, start)]
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


def _name(image: Picture, row: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {row}"


def _pixels(model: OnnxModel, image: Picture, name: str) -> np.ndarray:
    try:
        return model.preprocess.read(image)[0]
    except KindError as error:
        raise KindError(f"{name}: {error}") from None
    except ImageError as error:
        raise CliplineError(f"{name}: {error}") from error
