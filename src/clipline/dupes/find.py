"""An embeddings folder -> groups of near-duplicates with the file to keep, or its outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipline.dupes import similarity
from clipline.embeddings.manifest import PARTS
from clipline.embeddings.part import open_part
from clipline.errors import CliplineError, UsageError
from clipline.search.index import Index
from clipline.utils.progress import Bar

_COLUMNS = ["bytes", "sha256", "width", "height"]


@dataclass(frozen=True)
class File:
    """An image. similarity: to the one to keep, or for an outlier, of those nearest. same: its very bytes again."""

    path: str
    similarity: float
    bytes: int
    width: int
    height: int
    sha256: str
    same: bool = False


@dataclass(frozen=True)
class Group:
    """Images that are nearly the same. keep: the one with the most pixels, of those the most bytes, else the first by
    path. others: the likest first."""

    keep: File
    others: list[File]


def duplicates(index: Index, threshold: float) -> list[Group]:
    """The groups of images that are at least `threshold` alike, those of most images first."""
    with Bar("comparing", similarity.pairs_in(len(index)), "pairs") as bar:
        found = similarity.groups(index.vectors, threshold, bar.advance)
    found.sort(key=len, reverse=True)
    files = iter(_files(index, [row for rows in found for row in rows.tolist()]))
    return [_group([next(files) for _ in rows], similarity.unit(index.vectors[rows])) for rows in found]


def outliers(index: Index, count: int, neighbours: int) -> list[File]:
    """The `count` images that are least like the `neighbours` most like them, the strangest first.

    Raises UsageError where there are fewer than two images.
    """
    if len(index) < 2:
        raise UsageError(f"{index.folder}: {len(index)} image{'s' * (len(index) != 1)}: nothing to compare")
    with Bar("comparing", similarity.pairs_in(len(index)), "pairs") as bar:
        means = similarity.nearest(index.vectors, neighbours, bar.advance)
    rows = np.argsort(means, kind="stable")[:count].tolist()
    return [_like(file, float(means[row])) for file, row in zip(_files(index, rows), rows, strict=True)]


def _group(files: list[File], vectors: np.ndarray) -> Group:
    kept = min(range(len(files)), key=lambda row: _rank(files[row]))
    keep = files[kept]
    scores = np.clip(vectors @ vectors[kept], -1, 1).tolist()
    others = [
        _like(file, score, same=file.sha256 == keep.sha256)
        for row, (file, score) in enumerate(zip(files, scores, strict=True))
        if row != kept
    ]
    return Group(keep, sorted(others, key=lambda file: (-file.similarity, file.path)))


def _rank(file: File) -> tuple[int, int, str]:
    """Smallest for the file to keep. Of equal pixels fewer bytes are often a worse copy."""
    return -file.width * file.height, -file.bytes, file.path


def _like(file: File, similarity: float, *, same: bool = False) -> File:
    return File(file.path, similarity, file.bytes, file.width, file.height, file.sha256, same)


def _files(index: Index, rows: Sequence[int]) -> list[File]:
    """What the embeddings say of some rows, in their order. Raises CliplineError where a part is damaged."""
    wanted = np.asarray(rows, np.int64)
    order = np.argsort(wanted, kind="stable")
    found: list[tuple] = []
    start = 0
    for part in sorted(index.folder.glob(PARTS)):
        with open_part(part, index.dim, index.manifest.dtype) as file:
            table = file.read(_COLUMNS, use_threads=False)
        left, right = np.searchsorted(wanted[order], [start, start + len(table)])
        columns = [table.column(name) for name in _COLUMNS]
        found += [
            tuple(column[row].as_py() for column in columns) for row in (wanted[order[left:right]] - start).tolist()
        ]
        start += len(table)
    if len(found) != len(wanted):
        raise CliplineError(f"{index.folder}: changed while it was read. Fix: run again")
    facts: list[tuple] = [()] * len(wanted)
    for place, values in zip(order.tolist(), found, strict=True):
        facts[place] = values
    return [
        File(path, 1.0, size, width, height, sha256)
        for path, (size, sha256, width, height) in zip(index.paths(rows), facts, strict=True)
    ]
