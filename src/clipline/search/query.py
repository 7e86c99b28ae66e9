"""Queries in words -> the images of an embeddings folder, as files that can be opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipline.embed.paths import to_name
from clipline.errors import UsageError
from clipline.runtime import OnnxModel
from clipline.search.index import Index


@dataclass(frozen=True)
class Result:
    """path: as the embeddings name the image. file: to open from the current folder, or a URL. score: cosine."""

    path: str
    file: Path | str
    score: float


@dataclass(frozen=True)
class Answer:
    """What one query found, best first."""

    query: str
    results: list[Result]


@dataclass(frozen=True)
class Answers:
    """One Answer per query. notes: what the person who asked should know, one line each."""

    answers: list[Answer]
    notes: list[str]


def search(
    folder: Path,
    queries: list[str],
    n: int,
    *,
    model: Path | None = None,
    root: Path | None = None,
    provider: Literal["auto", "cpu", "cuda"] = "cpu",
) -> Answers:
    """Search the embeddings in `folder` for each of `queries`; the `n` best of each.

    model: the model's folder; None takes the one that the embeddings name. root: where the images are now;
    None takes where they were, seen from `folder`. Raises UsageError where `folder`, `model` or a query
    cannot serve or the embeddings are another model's, and CliplineError where they are damaged.
    """
    index = Index(folder)
    if not all(query.strip() for query in queries):
        raise UsageError("the query is empty. Mend: say in words what to look for")
    opened = open_model(index, model, provider)
    place = _place(index, root)
    notes = [f"`{text}` is longer than the model reads: its end is ignored" for text in opened.cut(queries)]
    if not index.manifest.complete:
        notes.append(f"{folder} is being written, or its run was interrupted: not all images are in it")
    if isinstance(place, Path) and not place.is_dir():
        notes.append(f"the images are not in {place} any more: name their folder with --root")
    answers = [
        Answer(query, [Result(hit.path, _file(place, hit.path), hit.score) for hit in hits])
        for query, hits in zip(queries, index.search(opened.embed_texts(queries), n), strict=True)
    ]
    return Answers(answers, notes)


def open_model(index: Index, folder: Path | None, provider: Literal["auto", "cpu", "cuda"]) -> OnnxModel:
    """The model that made the embeddings. Raises UsageError where it is not there, or is another one."""
    chosen = folder or index.manifest.model_folder(index.folder.resolve()).resolve()
    if not chosen.is_dir():
        where = "--model" if folder else f"{index.folder}/manifest.json"
        raise UsageError(f"{chosen}: no such model folder (named by {where}). Mend: --model FOLDER")
    model = OnnxModel(chosen, provider=provider)
    if model.model_id != index.manifest.model_id:
        raise UsageError(
            f"{index.folder}: made by model {index.manifest.model_id}, but {chosen} is {model.model_id}: "
            "scores would mean nothing. Mend: name the first with --model, or embed again with the second"
        )
    return model


def _file(place: Path | str, path: str) -> Path | str:
    return place / to_name(path) if isinstance(place, Path) else f"{place.rstrip('/')}/{path}"


def _place(index: Index, root: Path | None) -> Path | str:
    """The folder of the images, or the URL that holds them."""
    if not root and "://" in index.manifest.root:
        return index.manifest.root
    if root:
        if not root.is_dir():
            raise UsageError(f"--root {root}: no such folder")
        return root
    found = index.manifest.root_folder(index.folder.resolve()).resolve()
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
