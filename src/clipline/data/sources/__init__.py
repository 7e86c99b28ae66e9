"""The kinds of dataset that can be downloaded: one module per `kind`, and `fetch`, which runs the right one.

A new kind is a module here with `collect(settings, cache) -> Collected`, a line in `_COLLECT`, and a settings class in
`config/dataset.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipline.config.dataset import Dataset
from clipline.data.sources import archive, hub, kaggle, scenes, table
from clipline.data.sources.raw import Collected, check_target, make_writable, publish, write_tables
from clipline.errors import CliplineError
from clipline.utils.progress import note
from clipline.utils.remedies import why

_COLLECT: dict[str, Callable[[Any, Path], Collected]] = {
    "scenes": scenes.collect,
    "kaggle": kaggle.collect,
    "archive": archive.collect,
    "csv": table.collect,
    "hf": hub.collect,
}


def fetch(dataset: Dataset, out: Path, cache: Path) -> dict[str, Any]:
    """Make the raw folder `out` (images/, captions.csv, source.json), completely or not at all; return source.json.

    out: an empty folder, or a path where nothing is yet. cache: a scratch folder that survives a kill, so that the next
    call goes on where this one stopped; it is removed on success. Raises CliplineError or UsageError.
    """
    check_target(out)
    make_writable(cache.parent)
    with _alone(cache):
        make_writable(cache)
        try:
            collected = _COLLECT[dataset.kind](dataset, cache)
            source = write_tables(collected, dataset.kind, dataset.path)
            publish(collected.folder, out)
        except OSError as error:
            raise CliplineError(
                f"{error.filename or out}: {why(error)}; then run again: what was downloaded is kept"
            ) from error
        shutil.rmtree(cache)
    return source


def _alone(cache: Path) -> AbstractContextManager:
    """Let one process at a time use `cache`, since experiments that run side by side download the same dataset."""
    lock = FileLock(f"{cache}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        note(f"{cache}: in use by another download; waiting")
        return lock.acquire()
