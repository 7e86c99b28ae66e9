"""The rows of an embeddings folder as one array of vectors and one column of paths.

The parquet parts are the truth. A small folder is read into memory. Of a large one a flat copy is kept beside it, in
`.NAME.index`, which every process maps into memory: the first search makes it, and later ones take over what parts
have stayed and read only those that are new or changed. It may be deleted at any time. It never lies in the
embeddings folder itself, which belongs to what wrote it (DVC compares its contents).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clipline.embeddings import manifest
from clipline.embeddings.manifest import Manifest
from clipline.embeddings.part import open_part, read_vectors
from clipline.errors import CliplineError
from clipline.utils.files import atomic, user_cache

KEEP = 64 << 20  # bytes of parts from which a flat copy is kept: below, reading them takes a quarter of a second
BATCH = 8192  # rows read from a part at once
FACTS = "rows.json"
VERSION = 1


class Part(NamedTuple):
    """What tells a part from another of its name: bytes, and nanoseconds since 1970."""

    name: str
    bytes: int
    mtime_ns: int


class State(NamedTuple):
    """An embeddings folder at one moment: two that are equal hold the same rows."""

    manifest: Manifest
    parts: list[Part]

    @property
    def fingerprint(self) -> str:
        """A name for these rows."""
        said = self.manifest
        facts = [VERSION, said.model_id, said.variant, said.dim, said.dtype, self.parts]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class Rows(NamedTuple):
    """vectors: [rows, dim] as stored. paths: in the same order. counts: rows of each part. file: the copy, if any."""

    vectors: np.ndarray
    paths: pa.ChunkedArray
    counts: list[int]
    file: Path | None = None


def state(folder: Path) -> State:
    """The folder as it is now. Raises UsageError where it holds no embeddings."""
    read, parts = manifest.read(folder), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if fnmatch(entry.name, manifest.PARTS):
                with suppress(FileNotFoundError):  # dropped this very moment
                    facts = entry.stat()
                    parts.append(Part(entry.name, facts.st_size, facts.st_mtime_ns))
    return State(read, sorted(parts))


def places(folder: Path) -> list[Path]:
    """Where the copy of a folder may be: beside it, or with the user's caches where nothing can be written there."""
    folder = folder.resolve()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return [folder.with_name(f".{folder.name}.index"), user_cache() / "index" / name]


def own(place: Path) -> None:
    """Make a folder for copies, which git does not see. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    if not (place / ".gitignore").exists():
        (place / ".gitignore").write_text("*\n")


def load(folder: Path, now: State) -> tuple[Rows, str | None]:
    """The rows, and what the person who asks should know of them. Raises CliplineError where a part is damaged."""
    if sum(part.bytes for part in now.parts) < KEEP:
        return _in_memory(folder, now), None
    refused = ""
    for place in places(folder):
        try:
            if (place / FACTS).exists() and (found := _kept(place, now)):
                return found, None
            own(place)
            _keep(folder, now, place)
            if found := _kept(place, now):
                return found, None
            raise OSError("another process replaced it meanwhile")  # of other rows: it saw the folder change
        except OSError as error:
            refused = refused or f"{place}: {error.strerror or error}"
    return _in_memory(folder, now), f"no copy for quick searches could be kept ({refused}): each one reads all parts"


def _kept(place: Path, now: State) -> Rows | None:
    """The copy in `place`, mapped, if it is of these very rows. Raises OSError."""
    facts = _facts(place)
    if facts is None or facts["fingerprint"] != now.fingerprint:
        return None
    return _map(place, facts)


def _map(place: Path, facts: dict) -> Rows | None:
    """The copy that `facts` describe; None where it is cut short or gone."""
    rows, dim, dtype = sum(facts["counts"]), facts["dim"], np.dtype(facts["dtype"])
    vectors, paths = _files(place, facts["fingerprint"])
    try:
        if vectors.stat().st_size != rows * dim * dtype.itemsize:
            return None
        column = pa.ipc.open_file(pa.memory_map(str(paths))).read_all().column("path")
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    if len(column) != rows:
        return None
    array = np.memmap(vectors, dtype, "r", shape=(rows, dim)) if rows else np.empty((0, dim), dtype)
    return Rows(array.view(np.ndarray), column, facts["counts"], vectors)


def _facts(place: Path) -> dict | None:
    """rows.json; None where there is none that this version understands."""
    try:
        facts = json.loads((place / FACTS).read_bytes())
        return facts if facts["version"] == VERSION else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _files(place: Path, fingerprint: str) -> tuple[Path, Path]:
    return place / f"vectors-{fingerprint}.bin", place / f"paths-{fingerprint}.arrow"


def _keep(folder: Path, now: State, place: Path) -> None:
    """Write the copy: from the earlier one where parts stayed. Whole or not at all. Raises OSError, CliplineError."""
    from clipline.utils.progress import Bar

    before = _Earlier(place, now)
    vectors, paths = _files(place, now.fingerprint)
    counts = []
    with ExitStack() as stack:
        out, names = stack.enter_context(atomic(vectors)), stack.enter_context(atomic(paths))
        table = stack.enter_context(pa.ipc.new_file(names, pa.schema([("path", pa.string())])))
        bar = stack.enter_context(Bar("reading embeddings for quick searches, once", len(now.parts), "parts"))
        for part in now.parts:
            counts.append(0)
            for some_paths, block in before.blocks(part) or _blocks(folder / part.name, now):
                out.write(np.ascontiguousarray(block).data)
                table.write_batch(pa.record_batch([some_paths], names=["path"]))
                counts[-1] += len(block)
            bar.advance()
        _check(folder, now, counts)
    said = now.manifest
    facts = {"version": VERSION, "fingerprint": now.fingerprint, "model_id": said.model_id, "variant": said.variant}
    facts |= {"dim": said.dim, "dtype": said.dtype, "parts": now.parts, "counts": counts}
    with atomic(place / FACTS) as file:
        file.write(json.dumps(facts).encode())
    for pattern in ("vectors-*.bin", "paths-*.arrow"):  # a process that has them open keeps them
        for old in place.glob(pattern):
            if old not in (vectors, paths):
                old.unlink(missing_ok=True)


class _Earlier:
    """An older copy, to take from what has not changed."""

    def __init__(self, place: Path, now: State) -> None:
        self._at: dict[Part, tuple[int, int]] = {}
        facts, said = _facts(place), now.manifest
        if facts is None or any(facts[name] != getattr(said, name) for name in ("model_id", "variant", "dim", "dtype")):
            return
        self._rows = _map(place, facts)
        if self._rows:
            ends = np.cumsum(facts["counts"]).tolist()
            starts = [0, *ends[:-1]]
            self._at = {Part(*part): at for part, *at in zip(facts["parts"], starts, ends, strict=True)}

    def blocks(self, part: Part) -> Iterator[tuple[pa.StringArray, np.ndarray]] | None:
        """As `_blocks`; None for a part that is new or changed."""
        if part not in self._at:
            return None
        start, end = self._at[part]
        return (
            (
                self._rows.paths.slice(at, min(BATCH, end - at)).combine_chunks(),
                self._rows.vectors[at : min(at + BATCH, end)],
            )
            for at in range(start, end, BATCH)
        )


def _in_memory(folder: Path, now: State) -> Rows:
    paths, vectors, counts = [], [], []
    for part in now.parts:
        counts.append(0)
        for some_paths, block in _blocks(folder / part.name, now):
            paths.append(some_paths)
            vectors.append(block)
            counts[-1] += len(block)
    _check(folder, now, counts)
    empty = np.empty((0, now.manifest.dim), now.manifest.dtype)
    return Rows(np.concatenate([empty, *vectors]), pa.chunked_array(paths, pa.string()), counts)


def _blocks(part: Path, now: State) -> Iterator[tuple[pa.StringArray, np.ndarray]]:
    """(paths [b], vectors [b, dim]) of a part in the order in which they were written. Raises CliplineError."""
    with open_part(part, now.manifest.dim, now.manifest.dtype) as file:
        for batch in file.iter_batches(BATCH, columns=["path", "embedding"], use_threads=False):
            yield batch.column("path"), read_vectors(batch.column("embedding"))


def _check(folder: Path, now: State, counts: list[int]) -> None:
    said = now.manifest
    if said.complete and sum(counts) != said.counts.rows:
        raise CliplineError(
            f"{folder}: {sum(counts):,} rows where manifest.json says {said.counts.rows:,}: parts "
            "are missing or foreign. Fix: copy the folder again, or embed again with --overwrite"
        )
