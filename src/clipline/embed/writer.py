"""Writes an embeddings folder: parts, errors.parquet and manifest.json, each of them complete at every moment."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from clipline.embed.item import Failure
from clipline.embed.parts import Parts, RowId
from clipline.embeddings.manifest import (
    DATA,
    ERRORS,
    MANIFEST,
    PARTS,
    SCHEMA_VERSION,
    TEMPORARY,
    Counts,
    Identity,
    Manifest,
    part_names,
    read,
)
from clipline.embeddings.part import ERROR_SCHEMA, Row, disk, write_table
from clipline.errors import UsageError
from clipline.utils.files import atomic, sync_folder


class Writer:
    """Opens `folder`, which is new or holds embeddings of the same identity. Use as a context manager.

    `finish` completes the folder; if an error ends the block before, the rows added so far are saved. Raises
    UsageError where `folder` holds embeddings that must not be mixed with these, and CliplineError where the disk
    refuses or a part is damaged.
    """

    def __init__(self, folder: Path, identity: Identity, part_rows: int) -> None:
        self._folder, self._identity = folder, identity
        self._manifest = read(folder) if (folder / MANIFEST).exists() else None
        if self._manifest:
            _check_same(folder, self._manifest.identity, identity)
        elif part_names(folder):
            raise UsageError(
                f"{folder}: its manifest.json is missing: the model of its parts is unknown. "
                "Fix: choose another --out, or embed all images again with --overwrite"
            )
        with disk(folder):
            for pattern in TEMPORARY:  # left by a process that was killed: only this one holds the lock
                for path in folder.glob(pattern):
                    path.unlink()
        self._move_parts()
        self.parts = Parts(folder, identity.dim, identity.dtype, part_rows)
        self._failures: list[Failure] = []  # some 300 bytes each

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind and self.parts.unsaved:
            self._begin()
            self.parts.flush()

    @property
    def errors(self) -> int:
        """How many inputs have no row."""
        return len(self._failures)

    def add(self, row: Row, vector: np.ndarray) -> RowId:
        """Add a row and return its id. vector: [dim]."""
        self._begin()
        return self.parts.add(row, vector)

    def fail(self, failure: Failure) -> None:
        """Record an input that gets no row."""
        self._failures.append(failure)

    def finish(self, dropped: list[RowId]) -> Manifest:
        """Drop rows, then write the last part, errors.parquet and the manifest, which it returns."""
        if dropped:
            self._begin()
        self.parts.drop(dropped)
        columns = {name: [getattr(failure, name) for failure in self._failures] for name in ERROR_SCHEMA.names}
        write_table(self._folder / ERRORS, pa.table(columns, schema=ERROR_SCHEMA), self._folder)
        rows = len(self.parts)
        counts = Counts(images=rows + self.errors, rows=rows, errors=self.errors, parts=self.parts.files)
        return self._write_manifest(counts, complete=True)

    def _move_parts(self) -> None:
        """Move the parts of a folder of schema 1 to where they are now, while others may be reading them."""
        if not (old := list(self._folder.glob(PARTS))):
            return
        self._begin()
        data = self._folder / DATA
        with disk(data):
            data.mkdir(exist_ok=True)
            for path in old:
                if (data / path.name).exists():  # someone copied an older folder over a newer one
                    path.unlink()
                else:
                    path.replace(data / path.name)
            sync_folder(data)
            sync_folder(self._folder)

    def _begin(self) -> None:
        """Before the first change, write a manifest that says that the folder is not complete."""
        old = self._manifest
        if old is None or old.complete or old.schema_version < SCHEMA_VERSION:
            self._write_manifest(old.counts if old else Counts(images=0, rows=0, errors=0, parts=0), complete=False)

    def _write_manifest(self, counts: Counts, *, complete: bool) -> Manifest:
        self._manifest = Manifest(**self._identity.model_dump(), counts=counts, complete=complete)
        path = self._folder / MANIFEST
        with disk(path), atomic(path) as file:
            file.write(json.dumps(self._manifest.model_dump(), indent=2, ensure_ascii=False).encode() + b"\n")
        return self._manifest


def _check_same(folder: Path, old: Identity, new: Identity) -> None:
    """Raise UsageError where embeddings of the two must not be in one folder."""
    fix = "Fix: choose another --out, or embed all images again with --overwrite"
    if old.model_id != new.model_id:
        raise UsageError(f"{folder}: made by model {old.model_id}, and this is {new.model_id}. {fix}")
    if old.variant != new.variant:
        raise UsageError(
            f"{folder}: made by variant {old.variant} of this model, and this is {new.variant}: their vectors differ "
            f"a little. {fix}, or choose its --precision"
        )
    if (old.dtype, old.dim) != (new.dtype, new.dim):
        raise UsageError(f"{folder}: holds {old.dtype}, and {new.dtype} is asked for. {fix}, or --dtype {old.dtype}")
    if old.root != new.root:
        raise UsageError(
            f"{folder}: holds images of {old.root} (relative to it), and these are of {new.root}. {fix}; if the "
            f"images only moved, set `root` in its manifest.json"
        )
