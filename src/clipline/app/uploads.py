"""Images that users upload: they are decoded at once, and only a vector and a thumbnail of each are kept.

Nothing of an upload is written to disk, and its name is a random token, which other users cannot guess.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from clipline.app.library import GoneError
from clipline.app.pictures import SIDE
from clipline.errors import UsageError
from clipline.image import ImageError, open_rgb
from clipline.pictures.thumbnails import jpeg
from clipline.runtime.model import OnnxModel, usable

MAX_BYTES = 20 * 2**20
# Stricter than clipline.image, which says how many bytes a decoded pixel takes: uploads may come from strangers.
MAX_PIXELS = 64_000_000
MAX_UPLOADS = 1000  # kept, 50 kB each at most


@dataclass(frozen=True)
class Upload:
    """What is kept. vector: float32 [dim], L2-normalised, by the model of that id. thumbnail: a JPEG file."""

    vector: np.ndarray
    model_id: str
    thumbnail: bytes


class Uploads:
    """The latest uploads, by token. Safe for any number of threads."""

    def __init__(self, max_uploads: int = MAX_UPLOADS) -> None:
        self._max_uploads = max_uploads
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()  # one at a time: see MAX_PIXELS

    def add(self, data: bytes, model: OnnxModel) -> str:
        """Embed an image file and keep its vector and thumbnail; returns a token. Raises UsageError with the reason."""
        try:
            with self._decoding:
                image = open_rgb(data, MAX_PIXELS)
                pixels = model.preprocess(image)
                thumbnail = jpeg(image, SIDE)
                del image
        except ImageError as error:
            raise UsageError(f"This file cannot be used: {error}.") from None
        (vector,) = model.embed_pixels(pixels[np.newaxis])
        if not usable(vector):
            raise UsageError("The model finds nothing in this image.")
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[token] = Upload(vector, model.model_id, thumbnail)
            if len(self._kept) > self._max_uploads:
                self._kept.popitem(last=False)
        return token

    def get(self, token: str) -> Upload:
        """The upload of that token. Raises GoneError where it was dropped."""
        with self._lock:
            if token not in self._kept:
                raise GoneError("This image was forgotten: drop it again.")
            self._kept.move_to_end(token)
            return self._kept[token]
