"""An embeddings folder as the page sees it: searched by many people at once, and followed when it changes."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from clipline.errors import CliplineError, UsageError
from clipline.progress import note
from clipline.runtime import OnnxModel
from clipline.search.index import Hit, Index
from clipline.search.query import image_file, image_place, open_model

# Nobody turns more pages than this, and each costs a longer sort.
DEEPEST = 990
# How often the folder is looked at for changes: of a thousand parts that takes ten milliseconds.
SECONDS = 1.0
# Texts whose vectors are kept: paging asks for the same one again. 4 kB each at 1,024 components.
KEPT_TEXTS = 512


class GoneError(CliplineError):
    """What was asked for is not, or no longer, there; the message is for the person at the page."""


@dataclass(frozen=True)
class Edition:
    """The folder in one state. name: random; a row number means an image only together with it.

    model: the one that made the embeddings. home: the folder of the images, resolved: nothing outside it is served.
    """

    name: str
    index: Index
    model: OnnxModel
    home: Path

    def file(self, row: int) -> Path:
        """The image of a row, resolved. Raises GoneError where there is none, or where it lies outside of `home`."""
        if not 0 <= row < len(self.index):
            raise GoneError("no such image")
        try:
            found = Path(image_file(self.home, self.index.path(row))).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # also names too long, and links in a circle
            raise GoneError("gone from disk") from None
        if not found.is_relative_to(self.home):
            raise GoneError("outside of the folder")
        if not found.is_file():
            raise GoneError("gone from disk")
        return found

    def vector(self, row: int) -> np.ndarray:
        """float32 [dim] of a row. Raises GoneError where there is none."""
        if not 0 <= row < len(self.index):
            raise GoneError("no such image")
        return np.array(self.index.vectors[row], np.float32)


class Library:
    """Safe for any number of threads: one edition at a time, opened anew when the folder has changed.

    root: where the images are; None takes where the embeddings say they are. Raises UsageError where folder, model
    or root cannot serve.
    """

    def __init__(
        self, folder: Path, model: Path | None, root: Path | None, provider: Literal["auto", "cpu", "cuda"]
    ) -> None:
        self.folder, self._root = folder, root
        self._model_folder, self._provider = model, provider
        self._lock = threading.Lock()
        index = Index(folder)
        self._edition = self._edit(index, open_model(index, model, provider))
        self._checked = time.monotonic()
        self._text_vector = lru_cache(KEPT_TEXTS)(_text_vector)

    @property
    def title(self) -> str:
        """The name of the folder of the images."""
        return self._edition.home.name or str(self._edition.home)

    @property
    def latest(self) -> Edition:
        """What was opened last, whether or not it still is what the folder holds."""
        return self._edition

    def warm(self) -> None:
        """Load both graphs, so that a damaged one is found before anyone waits, and the first answer is quick."""
        model = self._edition.model
        self.text_vector(self._edition, "a photo")
        model.embed_pixels(np.full((1, model.preprocess.size, model.preprocess.size, 3), 128, np.uint8))

    def now(self) -> Edition:
        """The folder as it is. Raises GoneError where it changed into what cannot be used."""
        with self._lock:
            if time.monotonic() - self._checked < SECONDS:
                return self._edition
            if not self._edition.index.fresh():
                self._reopen()
            self._checked = time.monotonic()
            return self._edition

    def _reopen(self) -> None:
        try:
            index, model = Index(self.folder), self._edition.model
            if index.manifest.model_id != model.model_id:
                model = open_model(index, self._model_folder, self._provider)
                self._text_vector.cache_clear()
            self._edition = self._edit(index, model)
        except CliplineError as error:
            note(f"the embeddings changed, and cannot be used: {error}")
            raise GoneError("The embeddings changed, and cannot be used now. Try again in a moment.") from None

    def edition(self, name: str) -> Edition:
        """The edition of that name. Raises GoneError where the folder has changed since, or the server."""
        edition = self._edition
        if not secrets.compare_digest(edition.name.encode(), name.encode(errors="replace")):
            raise GoneError("the folder has changed: search again")
        return edition

    def text_vector(self, edition: Edition, text: str) -> np.ndarray:
        """float32 [dim] of a text; the latest are kept."""
        return self._text_vector(edition.model, text)

    def _edit(self, index: Index, model: OnnxModel) -> Edition:
        place = image_place(index, self._root)
        if isinstance(place, str):
            raise UsageError(
                f"{self.folder}: its images are at {place}, and the page shows files of this machine "
                "alone. Mend: copy them and name the copy with --root"
            )
        return Edition(secrets.token_hex(6), index, model, place.resolve())


def best(edition: Edition, vector: np.ndarray, first: int, n: int, *, without: int | None = None) -> list[Hit]:
    """The hits `first` to `first + n` for a vector [dim], best first. without: a row that is not to be among them."""
    wanted = first + n + (without is not None)
    (hits,) = edition.index.search(vector[np.newaxis], min(wanted, len(edition.index)))
    return [hit for hit in hits if hit.row != without][first : first + n]


def _text_vector(model: OnnxModel, text: str) -> np.ndarray:
    return model.embed_texts([text])[0]
