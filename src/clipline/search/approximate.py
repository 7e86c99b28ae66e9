"""An approximate index for very large folders: a graph of neighbours (HNSW, Malkov and Yashunin 2018) by usearch.

It holds each distinct vector once, in half precision, under a key made of the vector itself, so that it follows the
folder whatever was added, changed or dropped: what is not in the folder any more is removed, what is new is added.
Its candidates are scored anew in float32: scores are exact, only their choice is not. How often the choice is right
is measured against exact search when the graph is made, with sample queries, and kept beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipline.errors import CliplineError
from clipline.search import exact, rows
from clipline.search.exact import Best
from clipline.utils import cores
from clipline.utils.files import atomic

if TYPE_CHECKING:
    from usearch.index import Index as Graph

    from clipline.search.index import Index

FROM = 2_000_000  # rows from which `clipline search` takes it unless told: exact search then takes about a second
TARGET = 0.97  # recall@10 that it is tuned to reach
AIM = 0.98  # on the sample, as other queries do a little worse or better
LINKS, WIDTH = 32, 128  # neighbours of each vector, and candidates when one is added: more find more, and cost time
WIDTHS = (64, 128, 256, 512, 1024)  # candidates of a search: the first that is good enough is kept
BYTES_FOR_LINKS = 10 * LINKS + 64  # of each vector, on disk: 5 bytes a link, twice as many on the ground floor; keys
SPARE = 16  # candidates beyond those asked for, as half precision orders near ones differently
REBUILD_FRACTION = 0.2  # share of removed vectors from which it is made anew: their holes cost recall
BATCH = 8192
# Vectors up to which one thread adds them. usearch's threads can lose one, or all that met a vector not yet linked
# (USearch issue 735): a few in ten thousand of a large graph, up to a fifth of a small one.
ALONE = BATCH
FACTS, VERSION = "neighbours.json", 1


class Approximate:
    """The graph of an index. recall: share of the true ten best among its ten, mean over `queries` sample queries.

    built: whether this call made or changed it.
    """

    def __init__(self, index: Index, graph: Graph, keys: np.ndarray, facts: dict, built: bool) -> None:
        self._index, self._graph, self._keys = index, graph, keys
        self.recall: float = facts["recall"]
        self.queries: int = facts["queries"]
        self.built = built
        graph.expansion_search = facts["width"]

    def __str__(self) -> str:
        return (
            f"approximate index of {len(self._index):,} images: it finds {100 * self.recall:.1f}% of the true ten best "
            f"({self.queries} sample queries)"
        )

    def search(self, queries: np.ndarray, n: int) -> list[Best]:
        """float32 [q, dim], L2-normalised -> what it takes for the `n` best of each, with exact scores."""
        return [_search(self._index.vectors, self._graph, self._keys, query, n) for query in queries]


def open_or_build(index: Index, sample: Callable[[], np.ndarray], say: Callable[[str], None]) -> Approximate:
    """The approximate index of what `index` holds, at least one row: as it is kept, brought up to date, or new.

    sample: makes queries to measure it with, float32 [q, dim], L2-normalised; called if it is made or changed. say:
    told what it came to. Raises CliplineError where it can be written nowhere.
    """
    fingerprint = index.state.fingerprint
    for place in rows.places(index.folder):
        if found := _open(index, place, fingerprint, built=False):
            return found
    place = _room(index)
    say(f"bringing the approximate index in {place} up to date; --exact searches without it")
    try:
        _make(index, place, sample(), say)
    except OSError as error:
        raise CliplineError(
            f"{place}: the approximate index cannot be written: {error.strerror or error}. "
            "Fix: free space there, or search with --exact"
        ) from error
    found = _open(index, place, fingerprint, built=True)
    if found is None:
        raise CliplineError(f"{place}: another process changed what was written there. Fix: search again")
    return found


def _room(index: Index) -> Path:
    """The first place that can be written and has room for the graph. Raises CliplineError."""
    needed = len(index) * (2 * index.dim + BYTES_FOR_LINKS)
    refused = ""
    for place in rows.places(index.folder):
        try:
            rows.own(place)
            free = shutil.disk_usage(place).free
            if free > needed:
                return place
            refused = refused or f"{place}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        except OSError as error:
            refused = refused or f"{place}: {error.strerror or error}"
    raise CliplineError(
        f"no place for the approximate index ({refused}). Fix: free space there, or search with --exact"
    )


def _open(index: Index, place: Path, fingerprint: str, *, built: bool) -> Approximate | None:
    facts = _facts(place)
    if facts is None or facts["fingerprint"] != fingerprint:
        return None
    graph = _load(index.dim, place, facts, view=True)
    return graph and Approximate(index, graph, np.load(_files(place, fingerprint)[1], "r"), facts, built)


def _facts(place: Path) -> dict | None:
    """neighbours.json, if this version understands it and its files are whole."""
    try:
        facts = json.loads((place / FACTS).read_bytes())
        sizes = [path.stat().st_size for path in _files(place, facts["fingerprint"])]
        return facts if facts["version"] == VERSION and sizes == facts["bytes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(place: Path, fingerprint: str) -> tuple[Path, Path]:
    return place / f"neighbours-{fingerprint}.usearch", place / f"keys-{fingerprint}.npy"


def _new(dim: int) -> Graph:
    from usearch.index import Index as Graph

    return Graph(ndim=dim, metric="ip", dtype="f16", connectivity=LINKS, expansion_add=WIDTH)


def _load(dim: int, place: Path, facts: dict, *, view: bool) -> Graph | None:
    """The graph that is kept, mapped or in memory; None where it is damaged."""
    graph, path = _new(dim), str(_files(place, facts["fingerprint"])[0])
    try:
        (graph.view if view else graph.load)(path)
    except (RuntimeError, ValueError):
        return None
    return graph


def _make(index: Index, place: Path, sample: np.ndarray, say: Callable[[str], None]) -> None:
    """Write the graph of `index`: from the one that is there if it can be. Raises OSError."""
    keys = _keys(index.vectors)
    order = np.argsort(keys, kind="stable")
    sorted_keys = np.stack([keys[order], order.astype(np.uint64)])
    truth = exact.search(index.vectors, sample, 10)
    graph, removed = _changed(index, place, keys)
    width, recall = _tune(index, graph, sorted_keys, sample, truth)
    if removed and recall < TARGET:
        graph, removed = _grown(index, _new(index.dim), keys, np.unique(keys)), 0
        width, recall = _tune(index, graph, sorted_keys, sample, truth)
    fingerprint = index.state.fingerprint
    files = _files(place, fingerprint)
    with atomic(files[0]) as file:
        try:
            graph.save(file.name)
        except RuntimeError as error:  # what usearch makes of a full disk
            raise OSError(str(error)) from error
    with atomic(files[1]) as file:
        np.save(file, sorted_keys)
    facts = {"version": VERSION, "fingerprint": fingerprint, "model_id": index.manifest.model_id, "dim": index.dim}
    facts |= {"bytes": [path.stat().st_size for path in files], "removed": removed, "width": width}
    facts |= {"recall": recall, "queries": len(sample)}
    with atomic(place / FACTS) as file:
        file.write(json.dumps(facts).encode())
    for pattern in ("neighbours-*.usearch", "keys-*.npy"):
        for old in place.glob(pattern):
            if old not in files:
                old.unlink(missing_ok=True)
    say(f"recall@10 {recall:.3f} against exact search, {len(sample)} sample queries, {width} candidates each")
    if recall < TARGET:
        say(f"that is below the aim of {TARGET}: --exact finds all")


def _changed(index: Index, place: Path, keys: np.ndarray) -> tuple[Graph, int]:
    """The graph that is kept, brought up to date in memory, or a new one; and how many were ever removed from it."""
    wanted, facts = np.unique(keys), _facts(place)
    if facts and (facts["model_id"], facts["dim"]) == (index.manifest.model_id, index.dim):
        known = np.unique(np.load(_files(place, facts["fingerprint"])[1])[0])
        gone = np.setdiff1d(known, wanted, assume_unique=True)
        removed = facts["removed"] + len(gone)
        if removed <= REBUILD_FRACTION * len(known) and (graph := _load(index.dim, place, facts, view=False)):
            if len(gone):
                graph.remove(gone)
            return _grown(index, graph, keys, np.setdiff1d(wanted, known, assume_unique=True)), removed
    return _grown(index, _new(index.dim), keys, wanted), 0


def _grown(index: Index, graph: Graph, keys: np.ndarray, wanted: np.ndarray) -> Graph:
    """`graph` with the vectors whose keys are `wanted`, each once."""
    from clipline.utils.progress import Bar

    # In the order of the rows, which the disk likes.
    distinct, first = np.unique(keys, return_index=True)
    at = np.sort(first[np.isin(distinct, wanted, assume_unique=True)])
    with Bar("building the approximate index", len(at), "images") as bar:
        for start in range(0, len(at), BATCH):
            some = at[start : start + BATCH]
            threads = 1 if len(graph) < ALONE else cores.available()
            graph.add(keys[some], index.vectors[some], threads=threads)
            bar.advance(len(some))
    return graph


def _tune(
    index: Index, graph: Graph, sorted_keys: np.ndarray, sample: np.ndarray, truth: list[Best]
) -> tuple[int, float]:
    """The least number of candidates that finds enough of `truth`, and how much it finds."""
    width, recall = WIDTHS[0], 1.0
    for width in WIDTHS:
        graph.expansion_search = width
        shares = []
        for query, best in zip(sample, truth, strict=True):
            found = _search(index.vectors, graph, sorted_keys, query, 10)
            # By score, as any of several equal images is right.
            shares.append(np.count_nonzero(found.scores >= best.scores[-1] - 1e-6) / len(best.scores))
        recall = float(np.mean(shares))
        if recall >= AIM:
            break
    return width, recall


def _search(vectors: np.ndarray, graph: Graph, sorted_keys: np.ndarray, query: np.ndarray, n: int) -> Best:
    found = graph.search(query, min(n + SPARE, len(graph)), threads=1).keys
    keys, order = sorted_keys
    spans = zip(np.searchsorted(keys, found), np.searchsorted(keys, found, "right"), strict=True)
    candidates = np.concatenate([order[start:end] for start, end in spans]).astype(np.int64)
    return exact.rank(vectors, query, np.sort(candidates), n)


def _keys(vectors: np.ndarray) -> np.ndarray:
    """A hash of each row's bytes, uint64 [rows]: of two different rows the same one time in 10^18 or so."""
    dim = vectors.shape[1] * vectors.dtype.itemsize // 2
    factors = np.random.default_rng(0).integers(0, 2**64, dim, np.uint64) | np.uint64(1)
    keys = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), BATCH):
        halves = np.ascontiguousarray(vectors[start : start + BATCH]).view(np.uint16).astype(np.uint64)
        keys[start : start + BATCH] = halves @ factors
    keys ^= keys >> np.uint64(29)
    return keys
