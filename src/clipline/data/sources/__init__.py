"""Where datasets come from: `fetch` makes the raw folder, whatever the kind of source."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipline.config.dataset import Dataset
from clipline.data.sources import archive, hub, kaggle, scenes, table
from clipline.data.sources.raw import Collected, check_target, make_writable, publish, write_tables
from clipline.errors import CliplineError

_COLLECT: dict[str, Callable[[Any, Path], Collected]] = {
    "scenes": scenes.collect,
    "kaggle": kaggle.collect,
    "archive": archive.collect,
    "csv": table.collect,
    "hf": hub.collect,
}


def fetch(dataset: Dataset, out: Path, cache: Path) -> dict[str, Any]:
    """Make the raw folder `out` (images/, captions.csv, source.json) whole or not at all; return source.json.

    `out` may be an empty folder or absent. `cache` is scratch that survives a kill, so that the next call
    goes on where this one stopped; it is removed on success. Raises CliplineError or UsageError.
    """
    check_target(out)
    make_writable(cache.parent)
    with _alone(cache):
        make_writable(cache)
        try:
            found = _COLLECT[dataset.kind](dataset, cache)
            source = write_tables(found, dataset.kind, dataset.path)
            publish(found.folder, out)
        except OSError as error:
            raise CliplineError(
                f"{error.filename or out}: {error.strerror or error}. Fix: free some room, or fix that place and "
                "its permissions; then run again: what was fetched is kept"
            ) from error
        shutil.rmtree(cache)
    return source


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Let one process at a time use `cache`: experiments that run side by side download the same dataset."""
    lock = FileLock(f"{cache}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{cache}: in use by another download; waiting", file=sys.stderr)  # noqa: T201
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
