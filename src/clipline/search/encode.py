"""What people ask with, as vectors: words, images, and words less other words."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from clipline.errors import CliplineError, UsageError
from clipline.image import DAMAGE, ImageError, to_rgb, upright
from clipline.runtime.model import OnnxModel, usable
from clipline.utils import cores

LEAST = 1e-3  # length that must be left: below it the direction is rounding


def of_texts(model: OnnxModel, texts: Sequence[str]) -> np.ndarray:
    """float32 [n, dim]. Raises UsageError for an empty text."""
    if not all(text.strip() for text in texts):
        raise UsageError("the query is empty. Fix: say in words what to look for")
    return model.embed_texts(list(texts))


def of_images(model: OnnxModel, images: Sequence[Path | str | Image.Image], threads: int | None = None) -> np.ndarray:
    """float32 [n, dim] of image files or of Pillow's images, whose orientation is put right.

    threads: that decode; None means every core that this process may use. Never more than a batch of pixels is in
    memory. Raises CliplineError, which names the image, for one that cannot be read or embedded.
    """
    found = [np.empty((0, model.dim), np.float32)]
    step = model.usual_batch if len(images) > 1 else 1
    with ThreadPoolExecutor(threads or cores.available()) as pool:
        for start in range(0, len(images), step):
            some = images[start : start + step]
            names = [
                str(each) if isinstance(each, Path | str) else f"image {start + at}" for at, each in enumerate(some)
            ]
            pixels = list(pool.map(lambda each, name: _pixels(model, each, name), some, names))
            found.append(model.embed_pixels(np.stack(pixels)))
            for name, vector in zip(names, found[-1], strict=True):
                if not usable(vector):
                    raise CliplineError(f"{name}: the model gives it no finite embedding, or zeros alone")
    return np.concatenate(found)


def less(wanted: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
    """`wanted` [q, dim] less the mean of `unwanted` [u, dim], normalised again: (w - mean(u)) / |w - mean(u)|.

    Raises UsageError where nothing is left.
    """
    if not len(unwanted):
        return wanted
    left = wanted - unwanted.mean(axis=0)
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    if (lengths < LEAST).any():
        raise UsageError("nothing is left of the query without --not. Fix: take away something else")
    return left / lengths


def _pixels(model: OnnxModel, image: Path | str | Image.Image, name: str) -> np.ndarray:
    try:
        if isinstance(image, Path | str):
            if not Path(image).exists():
                raise CliplineError(f"{name}: no such file")
            return model.preprocess.read(image)[0]
        return model.preprocess(to_rgb(upright(image)))
    except ImageError as error:
        raise CliplineError(f"{name}: {error}") from error
    except DAMAGE as error:  # Pillow decodes an image of its own when its pixels are first asked for
        raise CliplineError(f"{name}: cannot decode: {error}") from error
