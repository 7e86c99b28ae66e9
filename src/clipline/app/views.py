"""What the page shows for what a person asks: plain values, no HTML. Nothing is kept between two calls."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from clipline.app.library import DEEPEST, Edition, GoneError, Library, best
from clipline.app.uploads import Uploads
from clipline.classify import zeroshot
from clipline.errors import UsageError
from clipline.search.index import Hit

PAGE = 9  # images on a page
LONGEST = 1000  # characters of a query, a label or a caption
MOST_TEXTS = 100  # labels or captions at once
ROW = re.compile(r"row:([0-9a-f]{1,32}):([0-9]{1,12})")
UPLOAD = re.compile(r"upload:([\w-]{1,64})")


@dataclass(frozen=True)
class Tile:
    """One image found. rank: from 1. score: cosine, or None where nothing was asked.

    gone: why its file cannot be served, empty where it can.
    """

    row: int
    path: str
    rank: int
    score: float | None
    gone: str


@dataclass(frozen=True)
class View:
    """A page of a gallery. about: what was asked, to ask for the next page: `words:...`, a picture, or empty.

    title: for people. edition: what the rows belong to. total: images that can be paged through; of: in the folder.
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
        """How many pages there are, at least one."""
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
        """The folder's images in its own order."""
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
        total = min(len(edition.index), DEEPEST)
        first = _first(page, total)
        hits = best(edition, self._library.text_vector(edition, text), first, min(PAGE, total - first))
        return _view(
            f"words:{text}", f"“{text}”", edition, _triples(hits), first, total, edition.model.cut_notes([text])
        )

    def near(self, picture: str, page: int = 0) -> View:
        """The images most like a picture: `row:EDITION:ROW` or `upload:TOKEN`."""
        edition = self._library.now()
        vector, path = self._vector(edition, picture)
        total = min(len(edition.index) - (path is not None), DEEPEST)
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
        """Zero-shot: how likely each of the labels, between commas or on lines, is for a picture."""
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
        """(float32 [dim], its path if it is of the folder). Raises GoneError where it is none of `edition`'s model."""
        if row := ROW.fullmatch(picture):
            earlier, number = self._library.edition(row[1]), int(row[2])
            if earlier.model.model_id != edition.model.model_id:
                raise GoneError("The model has changed: search again.")
            return earlier.vector(number), earlier.index.path(number)
        if upload := UPLOAD.fullmatch(picture):
            found = self._uploads.get(upload[1])
            if found.model_id != edition.model.model_id:
                raise GoneError("The model has changed: drop the image again.")
            return found.vector, None
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
    """The first row of a page; the last page for one that is beyond it."""
    return max(0, min(page, (total - 1) // PAGE)) * PAGE


def _clean(text: str, what: str) -> str:
    text = " ".join(text.split())
    if len(text) > LONGEST:
        raise UsageError(f"{what} has more than {LONGEST:,} characters.")
    return text


def _several(parts: list[str], what: str) -> list[str]:
    texts = list(dict.fromkeys(filter(None, (_clean(part, "One of them") for part in parts))))
    if not texts:
        raise UsageError(f"Type some {what}.")
    if len(texts) > MOST_TEXTS:
        raise UsageError(f"These are {len(texts)}; at most {MOST_TEXTS} at once.")
    return texts


def _ranking(edition: Edition, texts: list[str], prompts: list[str], shares: np.ndarray) -> Ranking:
    """prompts: what the model reads for `texts`. shares: float32 [1, texts], their probabilities."""
    notes = edition.model.cut_notes(prompts)
    if edition.model.bundle.manifest.logit_scale is None:
        notes.append("The order is right; how sure it is, is a guess: this model does not say its logit scale.")
    (ranked,) = zeroshot.top_labels(texts, shares, len(texts))
    return Ranking(ranked, notes)
