"""Search an embeddings folder by texts and images; what is found are image files that can be opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from clipline.embed.sources import shard_names, table
from clipline.embeddings.paths import to_name
from clipline.errors import UsageError
from clipline.runtime.model import OnnxModel
from clipline.search import encode
from clipline.search.index import Hit, Index

if TYPE_CHECKING:
    from clipline.search.approximate import ApproximateIndex

Provider = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Result:
    """An image found. path: as the embeddings name it. score: cosine.

    file: to open from the current folder, or a URL; SHARD.tar/MEMBER for a member of a tar shard, which nothing opens.
    """

    path: str
    file: Path | str
    score: float


@dataclass(frozen=True)
class Answer:
    """The results of one query, best first. query: its text, or its file. image: the file of a query by image.

    without: the texts that were subtracted from it.
    """

    query: str
    results: list[Result]
    image: Path | None = None
    without: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The query for a heading."""
        return f"{self.query}, less {', '.join(self.without)}" if self.without else self.query


@dataclass(frozen=True)
class Answers:
    """One Answer per query. notes: what the user should know, one line each."""

    answers: list[Answer]
    notes: list[str]


class Searcher:
    """An embeddings folder and the model that made it, opened once for many searches.

    root: where the images are now; None takes where they were, relative to the folder. approximate: True takes the
    approximate index, which is built first where necessary; False compares all rows; None decides by their number.
    Raises UsageError where `model` is another one or `root` is no folder.
    """

    def __init__(
        self, index: Index, model: OnnxModel, *, root: Path | None = None, approximate: bool | None = None
    ) -> None:
        check_model(index, model)
        self.index, self.model = index, model
        self._root = image_root(index, root)
        self._approximate = _takes_approximate(index, approximate)
        self.notes = list(index.notes)
        if isinstance(self._root, Path) and not self._root.is_dir():
            self.notes.append(f"the images are not in {self._root} any more: name their folder with --root")

    def find(
        self, queries: Sequence[str | Path], n: int, *, without: Sequence[str] = (), min_score: float | None = None
    ) -> Answers:
        """The `n` best images for each query: a str is a text, a Path is an image file.

        without: texts whose mean embedding is subtracted from that of each query (`encode.subtract_mean`). min_score:
        images with a lower score are left out. Raises UsageError for an empty text, CliplineError for an image that
        cannot be read.
        """
        vectors = encode.subtract_mean(self._embed(queries), encode.embed_texts(self.model, without, "text of --not"))
        texts = [query for query in (*queries, *without) if isinstance(query, str)]
        notes = self.model.cut_notes(texts)
        answers = []
        for query, hits in zip(queries, self.hits(vectors, n, notes), strict=True):
            results = self.results(hits, min_score)
            answers.append(Answer(str(query), results, query if isinstance(query, Path) else None, tuple(without)))
            if min_score is not None and hits and not results:
                notes.append(f"`{query}`: no image reaches {min_score:g}; the best has {hits[0].score:.4f}")
        return Answers(answers, [*self.notes, *notes])

    def hits(self, vectors: np.ndarray, n: int, notes: list[str]) -> list[list[Hit]]:
        """The `n` best rows for each of `vectors`, float32 [q, dim], L2-normalised. notes: may get another one."""
        if not self._approximate:
            return self.index.search(vectors, n)
        notes.append(f"{self._graph}; --exact finds all")
        return self.index.hits(self._graph.search(vectors, n))

    def results(self, hits: list[Hit], min_score: float | None = None) -> list[Result]:
        """Hits as files, those below `min_score` left out."""
        return [
            Result(hit.path, image_file(self._root, hit.path), hit.score)
            for hit in hits
            if min_score is None or hit.score >= min_score
        ]

    @cached_property
    def _graph(self) -> ApproximateIndex:
        from clipline.search import approximate, sample_queries
        from clipline.utils.progress import note

        return approximate.open_or_build(self.index, lambda: sample_queries.embed_sentences(self.model), note)

    def _embed(self, queries: Sequence[str | Path]) -> np.ndarray:
        """float32 [q, dim] in their order."""
        vectors = np.empty((len(queries), self.model.dim), np.float32)
        is_text = np.array([isinstance(query, str) for query in queries], bool)
        vectors[is_text] = encode.embed_texts(self.model, [query for query in queries if isinstance(query, str)])
        vectors[~is_text] = encode.embed_images(self.model, [query for query in queries if isinstance(query, Path)])
        return vectors


def open_searcher(
    folder: Path,
    *,
    model: Path | None = None,
    root: Path | None = None,
    provider: Provider = "cpu",
    approximate: bool | None = None,
) -> Searcher:
    """A Searcher of the embeddings in `folder`. model: a folder; None takes the model that the embeddings name.

    Raises UsageError where `folder` holds no embeddings, `model` is no model, or the embeddings are another model's,
    and CliplineError where they are damaged.
    """
    index = Index(folder)
    if not _takes_approximate(index, approximate):
        index.read_ahead()  # while the model is loaded
    return Searcher(index, open_model(index, model, provider), root=root, approximate=approximate)


def open_model(index: Index, folder: Path | None, provider: Provider, threads: int | None = None) -> OnnxModel:
    """The model that made the embeddings. folder: None takes the one that they name. threads: see `OnnxModel`.

    Raises UsageError where it is missing, or is another one.
    """
    chosen = folder or index.manifest.model_folder(index.folder.resolve()).resolve()
    if not chosen.is_dir():
        where = "--model" if folder else f"{index.folder}/manifest.json"
        raise UsageError(f"{chosen}: no such model folder (named by {where}). Fix: --model FOLDER")
    model = OnnxModel(chosen, provider=provider, threads=threads)
    check_model(index, model)
    return model


def check_model(index: Index, model: OnnxModel) -> None:
    """Raise UsageError where another model made the embeddings."""
    if model.model_id != index.manifest.model_id:
        raise UsageError(
            f"{index.folder}: made by model {index.manifest.model_id}, but {model.bundle.folder} is {model.model_id}: "
            "scores would mean nothing. Fix: name the first with --model, or embed again with the second"
        )


def image_root(index: Index, root: Path | None) -> Path | str:
    """The folder of the images, from the current folder, or the URL that holds them.

    root: where the images are now; None takes where they were, relative to the embeddings. Raises UsageError where
    `root` is no folder.
    """
    if not root and "://" in index.manifest.root:
        return _url(index.manifest.root)
    if root:
        if not root.is_dir():
            raise UsageError(f"--root {root}: no such folder")
        return root
    folder = index.manifest.root_folder(index.folder.resolve()).resolve()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def image_file(root: Path | str, path: str) -> Path | str:
    """The image that the embeddings call `path`, below `image_root`: a file to open, or a URL."""
    return root / to_name(path) if isinstance(root, Path) else f"{root.rstrip('/')}/{_url(path)}"


def why_gone(file: Path | str) -> str:
    """Why there is no picture of a Result whose `file` does not exist, and how to fix that."""
    kinds = (shard_names.SUFFIX, *table.SUFFIXES)
    if any(folder.suffix.lower() in kinds and not folder.is_dir() for folder in Path(file).parents):
        return "inside of a tar shard or a table, so there is no picture. Fix: unpack it, and embed the folder again"
    return (
        "no such file, so there is no picture. Fix: name the folder of the images with --root, or embed it again if "
        "images were removed"
    )


def _url(text: str) -> str:
    return to_name(text).replace(os.sep, "/")


def _takes_approximate(index: Index, requested: bool | None) -> bool:
    from clipline.search.approximate import MIN_ROWS

    return len(index) >= MIN_ROWS if requested is None else requested and len(index) > 0
