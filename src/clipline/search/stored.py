"""The rows of an embeddings folder as one array of vectors and one column of paths.

The parquet parts are the truth. A small folder is read into memory. Of a large one a flat copy is kept (see `cache`),
which every process maps into memory: the first search makes it, and later ones copy the parts that have not changed
from the earlier copy and read only those that are new or changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipline.embeddings import manifest
from clipline.embeddings.manifest import Manifest
from clipline.embeddings.part import open_part, read_vectors
from clipline.errors import CliplineError
from clipline.search.cache import VERSION, cache_folders, make_cache_folder, read_metadata, write_metadata
from clipline.utils.files import atomic

MIN_BYTES = 64 << 20  # of parts, from which a flat copy is kept: reading fewer takes a quarter of a second
BATCH = 8192  # rows read from a part at once
METADATA = "rows.json"

Block = tuple[pa.Array, np.ndarray]
"""Some rows: paths (strings) [b] and vectors [b, dim]."""


class PartState(NamedTuple):
    """What tells a part from an earlier one of its name. bytes: its size. mtime_ns: nanoseconds since 1970."""

    name: str
    bytes: int
    mtime_ns: int


class FolderState(NamedTuple):
    """An embeddings folder at one moment: two that are equal hold the same rows."""

    manifest: Manifest
    parts: list[PartState]

    @property
    def model_and_type(self) -> dict[str, Any]:
        """What all rows share, and a copy must share with them."""
        return {name: getattr(self.manifest, name) for name in ("model_id", "variant", "dim", "dtype")}

    @property
    def fingerprint(self) -> str:
        """A name for these rows: 16 hexadecimal digits."""
        content = [VERSION, *self.model_and_type.values(), self.parts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class StoredEmbeddings(NamedTuple):
    """All rows of a folder in the order of the parts.

    vectors: [rows, dim] of the stored dtype. paths: [rows], strings. file: the flat copy's, None where there is none.
    """

    vectors: np.ndarray
    paths: pa.ChunkedArray
    file: Path | None = None


def read_state(folder: Path) -> FolderState:
    """The folder as it is now. Raises UsageError where it holds no embeddings."""
    read, parts = manifest.read(folder), []
    for name in manifest.part_names(folder):
        with suppress(FileNotFoundError):  # deleted or moved since the folder was listed, which `Index.fresh` notices
            stat = manifest.part_path(folder, name).stat()
            parts.append(PartState(name, stat.st_size, stat.st_mtime_ns))
    return FolderState(read, parts)


def load(folder: Path, state: FolderState) -> tuple[StoredEmbeddings, str | None]:
    """The rows, and a note for the user where no flat copy can be kept. Raises CliplineError for a damaged part."""
    if sum(part.bytes for part in state.parts) < MIN_BYTES:
        return _read_all(folder, state), None
    refused = ""
    for cache in cache_folders(folder):
        try:
            if stored := _open_copy(cache, state):
                return stored, None
            make_cache_folder(cache)
            _write_copy(folder, state, cache)
            if stored := _open_copy(cache, state):
                return stored, None
            raise OSError("another process replaced it meanwhile")  # with other rows: it saw the folder change
        except OSError as error:
            refused = refused or f"{cache}: {error.strerror or error}"
    return _read_all(folder, state), f"no copy for quick searches could be kept ({refused}): each one reads all parts"


def _open_copy(cache: Path, state: FolderState) -> StoredEmbeddings | None:
    """The flat copy in `cache`, mapped, if it is of these very rows. Raises OSError."""
    metadata = read_metadata(cache / METADATA)
    return _map(cache, metadata) if metadata and metadata["fingerprint"] == state.fingerprint else None


def _map(cache: Path, metadata: dict[str, Any]) -> StoredEmbeddings | None:
    """The copy that `metadata` describes; None where it is cut short or gone."""
    rows, dim, dtype = sum(metadata["counts"]), metadata["dim"], np.dtype(metadata["dtype"])
    vectors, paths = _files(cache, metadata["fingerprint"])
    try:
        if vectors.stat().st_size != rows * dim * dtype.itemsize:
            return None
        column = pa.ipc.open_file(pa.memory_map(str(paths))).read_all().column("path")
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    if len(column) != rows:
        return None
    array = np.memmap(vectors, dtype, "r", shape=(rows, dim)) if rows else np.empty((0, dim), dtype)
    return StoredEmbeddings(array.view(np.ndarray), column, vectors)


def _files(cache: Path, fingerprint: str) -> tuple[Path, Path]:
    return cache / f"vectors-{fingerprint}.bin", cache / f"paths-{fingerprint}.arrow"


def _write_copy(folder: Path, state: FolderState, cache: Path) -> None:
    """Write the copy, from the earlier one where parts have not changed. Raises OSError and CliplineError."""
    from clipline.utils.progress import Bar

    earlier = _earlier_parts(cache, state)
    files = _files(cache, state.fingerprint)
    counts = []
    with ExitStack() as stack:
        vectors_file, paths_file = (stack.enter_context(atomic(file)) for file in files)
        table = stack.enter_context(pa.ipc.new_file(paths_file, pa.schema([("path", pa.string())])))
        bar = stack.enter_context(Bar("reading embeddings for quick searches, once", len(state.parts), "parts"))
        for part in state.parts:
            counts.append(0)
            for paths, vectors in [earlier[part]] if part in earlier else _read_part(folder, part, state):
                vectors_file.write(np.ascontiguousarray(vectors).data)
                table.write_batch(pa.record_batch([paths], names=["path"]))
                counts[-1] += len(vectors)
            bar.advance()
        _check_count(folder, state, sum(counts))
    metadata = {"fingerprint": state.fingerprint, **state.model_and_type, "parts": state.parts, "counts": counts}
    write_metadata(cache / METADATA, metadata, files)


def _earlier_parts(cache: Path, state: FolderState) -> dict[PartState, Block]:
    """The parts that an earlier copy holds, if it is of the same model and type."""
    metadata, shared = read_metadata(cache / METADATA), state.model_and_type
    if metadata is None or any(metadata[name] != value for name, value in shared.items()):
        return {}
    stored = _map(cache, metadata)
    if stored is None:
        return {}
    ends = np.cumsum(metadata["counts"]).tolist()
    return {
        PartState(*part): (stored.paths.slice(start, end - start).combine_chunks(), stored.vectors[start:end])
        for part, start, end in zip(metadata["parts"], [0, *ends[:-1]], ends, strict=True)
    }


def _read_all(folder: Path, state: FolderState) -> StoredEmbeddings:
    blocks = [block for part in state.parts for block in _read_part(folder, part, state)]
    vectors = np.concatenate([np.empty((0, state.manifest.dim), state.manifest.dtype), *(block[1] for block in blocks)])
    _check_count(folder, state, len(vectors))
    return StoredEmbeddings(vectors, pa.chunked_array([block[0] for block in blocks], pa.string()))


def _read_part(folder: Path, part: PartState, state: FolderState) -> Iterator[Block]:
    """The rows of a part in the order in which they were written. Raises CliplineError."""
    with open_part(folder, part.name, state.manifest.dim, state.manifest.dtype) as file:
        for batch in file.iter_batches(BATCH, columns=["path", "embedding"], use_threads=False):
            yield batch.column("path"), read_vectors(batch.column("embedding"))


def _check_count(folder: Path, state: FolderState, rows: int) -> None:
    expected = state.manifest.counts.rows
    if state.manifest.complete and rows != expected:
        raise CliplineError(
            f"{folder}: {rows:,} rows where manifest.json says {expected:,}: parts "
            "are missing or foreign. Fix: copy the folder again, or embed again with --overwrite"
        )
