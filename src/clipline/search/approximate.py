"""An approximate index for very large folders: a graph of neighbours (HNSW, Malkov and Yashunin 2018) by usearch.

It holds each distinct vector once, in half precision, under a key that is a hash of the vector, so that it follows the
folder whatever was added, changed or dropped: what is no longer in the folder is removed, what is new is added. Its
candidates are scored again in float32: scores are exact, and only the choice of candidates is approximate. How often
that choice is right is measured against exact search when the graph is built, with sample queries, and kept with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipline.errors import CliplineError
from clipline.search import exact
from clipline.search.cache import cache_folders, make_cache_folder, read_metadata, write_metadata
from clipline.search.exact import Best
from clipline.utils import cores
from clipline.utils.files import atomic
from clipline.utils.remedies import why

if TYPE_CHECKING:
    from usearch.index import Index as Graph

    from clipline.search.index import Index

MIN_ROWS = 2_000_000  # from which `clipline search` takes it by default: exact search then takes about a second
TARGET_RECALL = 0.97  # recall@10 that it is tuned to reach
SAMPLE_RECALL = 0.98  # that the sample must reach, as other queries do a little worse or better
# usearch's `connectivity`, and `expansion_add`, the candidates when a vector is added: more find more, but take time
CONNECTIVITY, EXPANSION_ADD = 32, 128
EXPANSIONS_SEARCH = (64, 128, 256, 512, 1024)  # candidates of a search: the first that is good enough is kept
BYTES_OF_LINKS = 10 * CONNECTIVITY + 64  # a vector on disk: 5 bytes a link, twice as many on the lowest level; keys
EXTRA_CANDIDATES = 16  # beyond those asked for, as half precision orders near ones differently
REBUILD_FRACTION = 0.2  # of vectors removed, from which the graph is built anew: their holes cost recall
BATCH = 8192
# Vectors up to which one thread adds them. usearch's threads can lose one, or all that met a vector not yet linked
# (USearch issue 735): a few in ten thousand of a large graph, up to a fifth of a small one.
ONE_THREAD_UP_TO = BATCH
METADATA = "neighbours.json"


class ApproximateIndex:
    """The graph of an index. recall: share of the true ten best among its ten, mean over `queries` sample queries.

    built: whether this call built or changed it.
    """

    def __init__(self, index: Index, graph: Graph, sorted_keys: np.ndarray, metadata: dict, built: bool) -> None:
        self._index, self._graph, self._sorted_keys = index, graph, sorted_keys
        self.recall: float = metadata["recall"]
        self.queries: int = metadata["queries"]
        self.built = built
        graph.expansion_search = metadata["width"]

    def __str__(self) -> str:
        return (
            f"approximate index of {len(self._index):,} images: it finds {100 * self.recall:.1f}% of the true ten best "
            f"({self.queries} sample queries)"
        )

    def search(self, queries: np.ndarray, n: int) -> list[Best]:
        """The `n` rows that it takes for the best of each query, with exact scores.

        queries: float32 [q, dim], L2-normalised.
        """
        return [_search(self._index.vectors, self._graph, self._sorted_keys, query, n) for query in queries]


def open_or_build(index: Index, sample: Callable[[], np.ndarray], log: Callable[[str], None]) -> ApproximateIndex:
    """The approximate index of what `index` holds, at least one row: as it is kept, brought up to date, or new.

    sample: makes queries to measure it with, float32 [q, dim], L2-normalised; called if it is built or changed. log:
    takes lines on what is done. Raises CliplineError where it can be written nowhere.
    """
    for cache in cache_folders(index.folder):
        if opened := _open(index, cache, built=False):
            return opened
    cache = _pick_cache_folder(index)
    log(f"bringing the approximate index in {cache} up to date; --exact searches without it")
    try:
        _build(index, cache, sample(), log)
    except OSError as error:
        raise CliplineError(
            f"{cache}: the approximate index cannot be written: {why(error)}, or search with --exact"
        ) from error
    opened = _open(index, cache, built=True)
    if opened is None:
        raise CliplineError(f"{cache}: another process changed what was written there. Fix: search again")
    return opened


def _pick_cache_folder(index: Index) -> Path:
    """The first one that can be written and has enough free space. Raises CliplineError."""
    needed = len(index) * (2 * index.dim + BYTES_OF_LINKS)
    refused = ""
    for cache in cache_folders(index.folder):
        try:
            make_cache_folder(cache)
            free = shutil.disk_usage(cache).free
            if free > needed:
                return cache
            refused = refused or f"{cache}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        except OSError as error:
            refused = refused or f"{cache}: {error.strerror or error}"
    raise CliplineError(
        f"no place for the approximate index ({refused}). Fix: free space there, or search with --exact"
    )


def _open(index: Index, cache: Path, *, built: bool) -> ApproximateIndex | None:
    metadata = _read_metadata(cache)
    if metadata is None or metadata["fingerprint"] != index.state.fingerprint:
        return None
    graph = _load(index.dim, cache, metadata, view=True)
    keys_file = _files(cache, index.state.fingerprint)[1]
    return graph and ApproximateIndex(index, graph, np.load(keys_file, "r"), metadata, built)


def _read_metadata(cache: Path) -> dict[str, Any] | None:
    """neighbours.json, if its files are there and have the sizes that it names."""
    try:
        metadata = read_metadata(cache / METADATA) or {}
        sizes = [path.stat().st_size for path in _files(cache, metadata["fingerprint"])]
        return metadata if sizes == metadata["bytes"] else None
    except (OSError, KeyError):
        return None


def _files(cache: Path, fingerprint: str) -> tuple[Path, Path]:
    return cache / f"neighbours-{fingerprint}.usearch", cache / f"keys-{fingerprint}.npy"


def _new_graph(dim: int) -> Graph:
    from usearch.index import Index as Graph

    return Graph(ndim=dim, metric="ip", dtype="f16", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD)


def _load(dim: int, cache: Path, metadata: dict, *, view: bool) -> Graph | None:
    """The graph that is kept, mapped (view) or in memory; None where it is damaged."""
    graph, path = _new_graph(dim), str(_files(cache, metadata["fingerprint"])[0])
    try:
        (graph.view if view else graph.load)(path)
    except (RuntimeError, ValueError):
        return None
    return graph


def _build(index: Index, cache: Path, sample: np.ndarray, log: Callable[[str], None]) -> None:
    """Write the graph of `index`, made from the one in `cache` where that is possible. Raises OSError."""
    keys = _hash_rows(index.vectors)
    order = np.argsort(keys, kind="stable")
    sorted_keys = np.stack([keys[order], order.astype(np.uint64)])
    truth = exact.search(index.vectors, sample, 10)
    graph, removed = _updated_graph(index, cache, keys)
    width, recall = _tune(index, graph, sorted_keys, sample, truth)
    if removed and recall < TARGET_RECALL:
        graph, removed = _add_vectors(index, _new_graph(index.dim), keys, np.unique(keys)), 0
        width, recall = _tune(index, graph, sorted_keys, sample, truth)
    fingerprint = index.state.fingerprint
    files = _files(cache, fingerprint)
    with atomic(files[0]) as file:
        try:
            graph.save(file.name)
        except RuntimeError as error:  # usearch's error for a full disk
            raise OSError(str(error)) from error
    with atomic(files[1]) as file:
        np.save(file, sorted_keys)
    metadata = {"fingerprint": fingerprint, "model_id": index.manifest.model_id, "dim": index.dim}
    metadata |= {"bytes": [path.stat().st_size for path in files], "removed": removed, "width": width}
    write_metadata(cache / METADATA, metadata | {"recall": recall, "queries": len(sample)}, files)
    log(f"recall@10 {recall:.3f} against exact search, {len(sample)} sample queries, {width} candidates each")
    if recall < TARGET_RECALL:
        log(f"that is below the aim of {TARGET_RECALL}: --exact finds all")


def _updated_graph(index: Index, cache: Path, keys: np.ndarray) -> tuple[Graph, int]:
    """The graph in `cache`, brought up to date in memory, or a new one; and how many vectors were ever removed."""
    distinct, metadata = np.unique(keys), _read_metadata(cache)
    if metadata and (metadata["model_id"], metadata["dim"]) == (index.manifest.model_id, index.dim):
        known = np.unique(np.load(_files(cache, metadata["fingerprint"])[1])[0])
        gone = np.setdiff1d(known, distinct, assume_unique=True)
        removed = metadata["removed"] + len(gone)
        if removed <= REBUILD_FRACTION * len(known) and (graph := _load(index.dim, cache, metadata, view=False)):
            if len(gone):
                graph.remove(gone)
            return _add_vectors(index, graph, keys, np.setdiff1d(distinct, known, assume_unique=True)), removed
    return _add_vectors(index, _new_graph(index.dim), keys, distinct), 0


def _add_vectors(index: Index, graph: Graph, keys: np.ndarray, new_keys: np.ndarray) -> Graph:
    """`graph` with one vector added for each of `new_keys`. keys: uint64 [rows], of all rows of the index."""
    from clipline.utils.progress import Bar

    distinct, first = np.unique(keys, return_index=True)
    # In the order of the rows, so that the disk is read from front to back.
    rows = np.sort(first[np.isin(distinct, new_keys, assume_unique=True)])
    with Bar("building the approximate index", len(rows), "images") as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            threads = 1 if len(graph) < ONE_THREAD_UP_TO else cores.available()
            graph.add(keys[batch], index.vectors[batch], threads=threads)
            bar.advance(len(batch))
    return graph


def _tune(
    index: Index, graph: Graph, sorted_keys: np.ndarray, sample: np.ndarray, truth: list[Best]
) -> tuple[int, float]:
    """The smallest number of candidates that finds enough of `truth`, and the recall with it."""
    width, recall = EXPANSIONS_SEARCH[0], 1.0
    for width in EXPANSIONS_SEARCH:
        graph.expansion_search = width
        shares = []
        for query, best in zip(sample, truth, strict=True):
            approximate = _search(index.vectors, graph, sorted_keys, query, 10)
            # By score, as any of several equal images is right.
            shares.append(np.count_nonzero(approximate.scores >= best.scores[-1] - 1e-6) / len(best.scores))
        recall = float(np.mean(shares))
        if recall >= SAMPLE_RECALL:
            break
    return width, recall


def _search(vectors: np.ndarray, graph: Graph, sorted_keys: np.ndarray, query: np.ndarray, n: int) -> Best:
    """sorted_keys: uint64 [2, rows], keys in ascending order above the rows that they belong to."""
    found_keys = graph.search(query, min(n + EXTRA_CANDIDATES, len(graph)), threads=1).keys
    keys, order = sorted_keys
    spans = zip(np.searchsorted(keys, found_keys), np.searchsorted(keys, found_keys, "right"), strict=True)
    candidates = np.concatenate([order[start:end] for start, end in spans]).astype(np.int64)
    return exact.rank(vectors, query, np.sort(candidates), n)


def _hash_rows(vectors: np.ndarray) -> np.ndarray:
    """A hash of each row's bytes, uint64 [rows]; two different rows have the same one about once in 10^18 pairs."""
    dim = vectors.shape[1] * vectors.dtype.itemsize // 2
    factors = np.random.default_rng(0).integers(0, 2**64, dim, np.uint64) | np.uint64(1)
    keys = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), BATCH):
        halves = np.ascontiguousarray(vectors[start : start + BATCH]).view(np.uint16).astype(np.uint64)
        keys[start : start + BATCH] = halves @ factors
    keys ^= keys >> np.uint64(29)
    return keys
