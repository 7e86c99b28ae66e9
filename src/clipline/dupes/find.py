"""Find groups of near-duplicates in an embeddings folder, with the file to keep of each, or its outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipline.dupes import similarity
from clipline.embeddings.manifest import part_names
from clipline.embeddings.part import open_part
from clipline.errors import CliplineError, UsageError
from clipline.search.index import Index
from clipline.utils.progress import Bar

_COLUMNS = ["bytes", "sha256", "width", "height"]


@dataclass(frozen=True)
class File:
    """An image. similarity: to the one to keep, or the mean to the nearest ones. same: it has the same bytes."""

    path: str
    similarity: float
    bytes: int
    width: int
    height: int
    sha256: str
    same: bool = False


@dataclass(frozen=True)
class Group:
    """Images that are nearly the same. keep: the one with the most pixels, then the most bytes, then the first path.

    others: by falling similarity to it.
    """

    keep: File
    others: list[File]


def duplicates(index: Index, threshold: float) -> list[Group]:
    """The groups of images whose similarity is at least `threshold`, largest first."""
    with Bar("comparing", similarity.pairs_in(len(index)), "pairs") as bar:
        groups = similarity.groups(index.vectors, threshold, bar.advance)
    groups.sort(key=len, reverse=True)
    files = iter(_files(index, [row for rows in groups for row in rows.tolist()]))
    return [_group([next(files) for _ in rows], similarity.unit(index.vectors[rows])) for rows in groups]


def outliers(index: Index, count: int, neighbours: int) -> list[File]:
    """The `count` images with the lowest mean similarity to their `neighbours` most similar ones, lowest first.

    Raises UsageError where there are fewer than two images.
    """
    if len(index) < 2:
        raise UsageError(f"{index.folder}: {len(index)} image{'s' * (len(index) != 1)}: nothing to compare")
    with Bar("comparing", similarity.pairs_in(len(index)), "pairs") as bar:
        means = similarity.nearest(index.vectors, neighbours, bar.advance)
    rows = np.argsort(means, kind="stable")[:count].tolist()
    return [replace(file, similarity=float(means[row])) for file, row in zip(_files(index, rows), rows, strict=True)]


def _group(files: list[File], vectors: np.ndarray) -> Group:
    # Of two with equal pixels the one with fewer bytes is often a worse copy.
    keep = min(files, key=lambda file: (-file.width * file.height, -file.bytes, file.path))
    scores = np.clip(vectors @ vectors[files.index(keep)], -1, 1).tolist()
    others = [
        replace(file, similarity=score, same=file.sha256 == keep.sha256)
        for file, score in zip(files, scores, strict=True)
        if file is not keep
    ]
    return Group(keep, sorted(others, key=lambda file: (-file.similarity, file.path)))


def _files(index: Index, rows: Sequence[int]) -> list[File]:
    """The images of some rows, in their order; similarity 1. Raises CliplineError where a part is damaged."""
    order = np.argsort(rows, kind="stable")
    ascending = np.asarray(rows, np.int64)[order]
    metadata: list[tuple] = []
    start = 0
    for name in part_names(index.folder):
        with open_part(index.folder, name, index.dim, index.manifest.dtype) as file:
            table = file.read(_COLUMNS, use_threads=False)
        left, right = np.searchsorted(ascending, [start, start + len(table)])
        for row in (ascending[left:right] - start).tolist():  # not Table.take, which imports pandas
            metadata.append(tuple(column[row].as_py() for column in table.columns))
        start += len(table)
    if len(metadata) != len(rows):
        raise CliplineError(f"{index.folder}: changed while it was read. Fix: run again")
    by_row = dict(zip(ascending.tolist(), metadata, strict=True))
    return [
        File(path, 1.0, size, width, height, sha256)
        for path, (size, sha256, width, height) in zip(index.paths(rows), map(by_row.get, rows), strict=True)
    ]
