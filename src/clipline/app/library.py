"""An embeddings folder that serves many users at once, and is opened again when it changes."""

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
from clipline.runtime.model import OnnxModel
from clipline.search.index import Hit, Index
from clipline.search.searcher import image_file, image_root, open_model
from clipline.utils.progress import note

MAX_RANK = 990  # of an image that pages show: each further page takes a longer sort
SECONDS = 1.0  # between two checks for changes: of a thousand parts one takes ten milliseconds
EDITIONS = 4  # kept: while a folder grows, pages that are open in browsers still find their images
CACHED_TEXTS = 512  # whose vectors are kept, as paging asks for the same one again: 4 kB each at 1,024 components


class GoneError(CliplineError):
    """The requested image does not exist, or no longer; the message is shown on the page."""


@dataclass(frozen=True)
class Edition:
    """The folder in one state. name: random; a row number identifies an image only together with it.

    model: that made the embeddings. home: the folder of the images, resolved; nothing outside it is served.
    """

    name: str
    index: Index
    model: OnnxModel
    home: Path

    def file(self, row: int) -> Path:
        """The image file of a row, resolved. Raises GoneError where there is none, or where it lies outside `home`."""
        if not 0 <= row < len(self.index):
            raise GoneError("no such image")
        try:
            file = Path(image_file(self.home, self.index.path(row))).resolve(strict=True)
        except NotADirectoryError:
            raise GoneError("inside of a file, such as a tar shard") from None
        except (OSError, ValueError, RuntimeError):  # also too long names, and links in a circle
            raise GoneError("not on disk any more") from None
        if not file.is_relative_to(self.home):
            raise GoneError("outside of the folder")
        if not file.is_file():
            raise GoneError("not on disk any more")
        return file

    def vector(self, row: int) -> np.ndarray:
        """float32 [dim] of a row. Raises GoneError where there is none."""
        if not 0 <= row < len(self.index):
            raise GoneError("no such image")
        return np.array(self.index.vectors[row], np.float32)


class Library:
    """The folder, opened again when it has changed. Safe for any number of threads.

    root: where the images are; None takes where they were when they were embedded. Raises UsageError where one of
    folder, model and root cannot be used.
    """

    def __init__(
        self, folder: Path, model: Path | None, root: Path | None, provider: Literal["auto", "cpu", "cuda"]
    ) -> None:
        self.folder, self._root = folder, root
        self._model_folder, self._provider = model, provider
        self._lock = threading.Lock()
        index = Index(folder)
        self._editions: dict[str, Edition] = {}  # the latest is the last
        self._add(index, open_model(index, model, provider))
        self._checked, self._problem = time.monotonic(), ""
        self._text_vector = lru_cache(CACHED_TEXTS)(_text_vector)

    @property
    def title(self) -> str:
        """The name of the images' folder."""
        return self.latest.home.name or str(self.latest.home)

    @property
    def latest(self) -> Edition:
        """The edition opened last; the folder may have changed since."""
        return next(reversed(self._editions.values()))

    def warm(self) -> None:
        """Load both graphs, so that a damaged one is an error at the start, and the first answer is quick."""
        model = self.latest.model
        self.text_vector(self.latest, "a photo")
        model.embed_pixels(np.full((1, model.preprocess.size, model.preprocess.size, 3), 128, np.uint8))

    def now(self) -> Edition:
        """The folder as it is now. Raises GoneError where it has changed and cannot be used."""
        with self._lock:
            if time.monotonic() - self._checked >= SECONDS:
                self._checked = time.monotonic()
                self._refresh()
            if self._problem:
                raise GoneError("The embeddings changed, and cannot be used now. Try again in a moment.")
            return self.latest

    def _refresh(self) -> None:
        """Open the folder again where it has changed; `_problem` is why that is impossible, else empty."""
        before, self._problem = self._problem, ""
        if self.latest.index.fresh():
            return
        try:
            index, model = Index(self.folder), self.latest.model
            if index.manifest.model_id != model.model_id:
                model = open_model(index, self._model_folder, self._provider)
                self._text_vector.cache_clear()
            self._add(index, model)
        except CliplineError as error:
            self._problem = str(error)
            if self._problem != before:
                note(f"the embeddings changed, and cannot be used: {error}")

    def edition(self, name: str) -> Edition:
        """The edition of that name. Raises GoneError where EDITIONS newer ones exist, or the server was restarted."""
        edition = self._editions.get(name)
        if edition is None:
            raise GoneError("the folder has changed: search again")
        return edition

    def text_vector(self, edition: Edition, text: str) -> np.ndarray:
        """float32 [dim] of a text; the latest ones are cached."""
        return self._text_vector(edition.model, text)

    def _add(self, index: Index, model: OnnxModel) -> None:
        root = image_root(index, self._root)
        if isinstance(root, str):
            raise UsageError(
                f"{self.folder}: its images are at {root}, and the page shows files of this machine "
                "alone. Fix: copy them and name the copy with --root"
            )
        name = secrets.token_hex(6)
        # A new dict, so that threads that read the old one need no lock.
        kept = list(self._editions.items())[1 - EDITIONS :]
        self._editions = dict([*kept, (name, Edition(name, index, model, root.resolve()))])


def best(edition: Edition, vector: np.ndarray, first: int, n: int, *, without: str | None = None) -> list[Hit]:
    """The hits `first` to `first + n` for a vector [dim], best first. without: the path of an image to leave out."""
    count = first + n + (without is not None)
    (hits,) = edition.index.search(vector[np.newaxis], min(count, len(edition.index)))
    return [hit for hit in hits if hit.path != without][first : first + n]


def _text_vector(model: OnnxModel, text: str) -> np.ndarray:
    return model.embed_texts([text])[0]
