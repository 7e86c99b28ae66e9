"""The answers to what users ask the page, as plain values without HTML. Nothing is kept between two calls."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from clipline.app.library import MAX_RANK, Edition, GoneError, Library, best
from clipline.app.uploads import Uploads
from clipline.classify import zeroshot
from clipline.errors import UsageError
from clipline.search.index import Hit

PAGE = 9  # images on a page
MAX_TEXT = 1000  # characters of a query, a label or a caption
MAX_TEXTS = 100  # labels or captions at once
ROW = re.compile(r"row:([0-9a-f]{1,32}):([0-9]{1,12})")
UPLOAD = re.compile(r"upload:([\w-]{1,64})")


@dataclass(frozen=True)
class Tile:
    """An image. rank: from 1. score: cosine, None without a query. gone: why its file cannot be served, or empty."""

    row: int
    path: str
    rank: int
    score: float | None
    gone: str


@dataclass(frozen=True)
class View:
    """A page of a gallery. about: the query, to ask for the next page: `words:...`, a picture, or empty.

    title: the heading. edition: of the rows. total: images on all pages. of: images in the folder.
    """

    about: str
    title: str
    edition: str
    tiles: list[Tile]
    page: int
    total: int
    of: int
    notes: list[str] = field(default_factory=list)

    @property
    def pages(self) -> int:
        """The number of pages, at least one."""
        return max(1, -(-self.total // PAGE))


@dataclass(frozen=True)
class Ranking:
    """Texts with their probabilities, most likely first."""

    texts: list[tuple[str, float]]
    notes: list[str]


class Views:
    """Answers from a library and its uploads. Everything raises CliplineError with a message for the page."""

    def __init__(self, library: Library, uploads: Uploads) -> None:
        self._library, self._uploads = library, uploads

    def folder(self, page: int = 0, notes: list[str] | None = None) -> View:
        """The images of the folder, in its order."""
        edition = self._library.now()
        total = len(edition.index)
        first = _first(page, total)
        rows = range(first, min(first + PAGE, total))
        paths = edition.index.paths(rows) if rows else []
        hits = [(row, path, None) for row, path in zip(rows, paths, strict=True)]
        return _view("", "All images", edition, hits, first, total, notes)

    def words(self, text: str, page: int = 0) -> View:
        """The images that fit a description."""
        text = _clean(text, "The query")
        if not text:
            return self.folder(page, ["Type what to look for, then press Enter."])
        edition = self._library.now()
        total = min(len(edition.index), MAX_RANK)
        first = _first(page, total)
        hits = best(edition, self._library.text_vector(edition, text), first, min(PAGE, total - first))
        return _view(
            f"words:{text}", f"“{text}”", edition, _triples(hits), first, total, edition.model.cut_notes([text])
        )

    def near(self, picture: str, page: int = 0) -> View:
        """The images most like a picture: `row:EDITION:ROW` or `upload:TOKEN`."""
        edition = self._library.now()
        vector, path = self._vector(edition, picture)
        total = min(len(edition.index) - (path is not None), MAX_RANK)
        first = _first(page, total)
        hits = best(edition, vector, first, min(PAGE, total - first), without=path)
        title = f"Like {path}" if path is not None else "Like your image"
        return _view(picture, title, edition, _triples(hits), first, total)

    def turn(self, about: str, page: int) -> View:
        """Another page of the gallery that `about` names."""
        if about.startswith("words:"):
            return self.words(about.removeprefix("words:"), page)
        return self.near(about, page) if about else self.folder(page)

    def labels(self, picture: str, text: str) -> Ranking:
        """How likely each of the labels, separated by commas or lines, is for a picture (zero-shot)."""
        edition = self._library.now()
        vector, _ = self._vector(edition, picture)
        labels = _several(re.split(r"[,\n]", text), "labels, such as: dog, cat, beach")
        classes = zeroshot.class_vectors(edition.model, labels)
        shares = zeroshot.probabilities(vector[np.newaxis], classes, zeroshot.logit_scale(edition.model))
        prompts = zeroshot.prompts(labels, zeroshot.TEMPLATES[zeroshot.DEFAULT_TEMPLATES])
        return _ranking(edition, labels, prompts, shares)

    def captions(self, picture: str, text: str) -> Ranking:
        """How likely each caption, one per line, is for a picture."""
        edition = self._library.now()
        vector, _ = self._vector(edition, picture)
        captions = _several(text.split("\n"), "captions, one on each line")
        shares = zeroshot.caption_probabilities(edition.model, vector[np.newaxis], captions)
        return _ranking(edition, captions, captions, shares)

    def _vector(self, edition: Edition, picture: str) -> tuple[np.ndarray, str | None]:
        """(float32 [dim], its path if it is of the folder). Raises GoneError where another model embedded it."""
        if row := ROW.fullmatch(picture):
            earlier, number = self._library.edition(row[1]), int(row[2])
            if earlier.model.model_id != edition.model.model_id:
                raise GoneError("The model has changed: search again.")
            return earlier.vector(number), earlier.index.path(number)
        if upload := UPLOAD.fullmatch(picture):
            uploaded = self._uploads.get(upload[1])
            if uploaded.model_id != edition.model.model_id:
                raise GoneError("The model has changed: drop the image again.")
            return uploaded.vector, None
        raise UsageError("Choose an image first: drop one here, or press “Use” below an image that was found.")


def _view(
    about: str, title: str, edition: Edition, hits: list[tuple[int, str, float | None]], first: int, total: int,
    notes: list[str] | None = None,
) -> View:  # fmt: skip
    notes = list(notes or [])
    if not edition.index.manifest.complete:
        notes.append("The folder is being embedded, or that was interrupted: not all images are here yet.")
    tiles = [
        Tile(row, path, rank, score, _gone(edition, row)) for rank, (row, path, score) in enumerate(hits, first + 1)
    ]
    return View(about, title, edition.name, tiles, first // PAGE, total, len(edition.index), notes)


def _triples(hits: list[Hit]) -> list[tuple[int, str, float | None]]:
    return [(hit.row, hit.path, hit.score) for hit in hits]


def _gone(edition: Edition, row: int) -> str:
    try:
        edition.file(row)
    except GoneError as error:
        return str(error)
    return ""


def _first(page: int, total: int) -> int:
    """The first row of a page, or of the last page where there are fewer."""
    return max(0, min(page, (total - 1) // PAGE)) * PAGE


def _clean(text: str, what: str) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_TEXT:
        raise UsageError(f"{what} has more than {MAX_TEXT:,} characters.")
    return text


def _several(parts: list[str], what: str) -> list[str]:
    texts = list(dict.fromkeys(filter(None, (_clean(part, "One of them") for part in parts))))
    if not texts:
        raise UsageError(f"Type some {what}.")
    if len(texts) > MAX_TEXTS:
        raise UsageError(f"These are {len(texts)}; at most {MAX_TEXTS} at once.")
    return texts


def _ranking(edition: Edition, texts: list[str], prompts: list[str], shares: np.ndarray) -> Ranking:
    """prompts: what the model reads for `texts`. shares: float32 [1, texts], their probabilities."""
    notes = edition.model.cut_notes(prompts)
    if edition.model.bundle.manifest.logit_scale is None:
        notes.append("The order is right; how sure it is, is a guess: this model does not say its logit scale.")
    (ranked,) = zeroshot.top_labels(texts, shares, len(texts))
    return Ranking(ranked, notes)
