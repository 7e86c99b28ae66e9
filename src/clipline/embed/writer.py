"""The output folder as one thing: parts, errors.parquet and manifest.json, each whole at every moment."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from clipline.embed.item import Failure
from clipline.embed.parts import Parts
from clipline.embeddings.manifest import ERRORS, MANIFEST, PARTS, TEMPORARY, Counts, Identity, Manifest, read
from clipline.embeddings.part import ERROR_SCHEMA, Row, disk, write_table
from clipline.errors import UsageError
from clipline.utils.files import atomic


class Writer:
    """Opens `folder`, new or with embeddings of the same identity; a context manager.

    `finish` completes the folder; where an error ends the block before, the rows added so far are saved. Raises
    UsageError where `folder` holds embeddings that must not be mixed with these, and CliplineError where the disk
    refuses or a part is damaged.
    """

    def __init__(self, folder: Path, identity: Identity, part_rows: int) -> None:
        self._folder, self._identity = folder, identity
        self._manifest = read(folder) if (folder / MANIFEST).exists() else None
        if self._manifest:
            _may_mix(folder, self._manifest.identity, identity)
        elif any(folder.glob(PARTS)):
            raise UsageError(
                f"{folder}: its manifest.json is missing, so nobody knows what made its parts. "
                "Fix: choose another --out, or embed all anew with --overwrite"
            )
        with disk(folder):
            for pattern in TEMPORARY:  # of a process that was killed: nobody else holds the lock
                for path in folder.glob(pattern):
                    path.unlink()
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

    def add(self, row: Row, vector: np.ndarray) -> tuple[int, int]:
        """One row; its place. vector: [dim]."""
        self._begin()
        return self.parts.add(row, vector)

    def fail(self, failure: Failure) -> None:
        """One input that has no row."""
        self._failures.append(failure)

    def finish(self, dropped: list[tuple[int, int]]) -> Manifest:
        """Drop rows, write what is left, then the manifest."""
        if dropped:
            self._begin()
        self.parts.drop(dropped)
        columns = {name: [getattr(each, name) for each in self._failures] for name in ERROR_SCHEMA.names}
        write_table(self._folder / ERRORS, pa.table(columns, schema=ERROR_SCHEMA))
        rows = len(self.parts)
        counts = Counts(images=rows + self.errors, rows=rows, errors=self.errors, parts=self.parts.files)
        return self._write_manifest(counts, complete=True)

    def _begin(self) -> None:
        """Before the first change: say that the folder is not complete, and whose it is."""
        if self._manifest is None or self._manifest.complete:
            old = self._manifest
            self._write_manifest(old.counts if old else Counts(images=0, rows=0, errors=0, parts=0), complete=False)

    def _write_manifest(self, counts: Counts, *, complete: bool) -> Manifest:
        self._manifest = Manifest(**self._identity.model_dump(), counts=counts, complete=complete)
        path = self._folder / MANIFEST
        with disk(path), atomic(path) as file:
            file.write(json.dumps(self._manifest.model_dump(), indent=2, ensure_ascii=False).encode() + b"\n")
        return self._manifest


def _may_mix(folder: Path, there: Identity, new: Identity) -> None:
    """Raise UsageError where embeddings of the two must not stand in one folder."""
    fix = "Fix: choose another --out, or embed all anew with --overwrite"
    if there.model_id != new.model_id:
        raise UsageError(f"{folder}: made by model {there.model_id}, and this is {new.model_id}. {fix}")
    if there.variant != new.variant:
        raise UsageError(
            f"{folder}: made by variant {there.variant} of this model, and this is {new.variant}: their vectors differ "
            f"a little. {fix}, or choose its --precision"
        )
    if (there.dtype, there.dim) != (new.dtype, new.dim):
        raise UsageError(
            f"{folder}: holds {there.dtype}, and {new.dtype} is asked for. {fix}, or --dtype {there.dtype}"
        )
    if there.root != new.root:
        raise UsageError(
            f"{folder}: holds images of {there.root} (seen from there), and these are of {new.root}. {fix}; if the "
            f"images only moved, set `root` in its manifest.json"
        )
