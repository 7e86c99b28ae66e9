"""Where the tracking store is: an SQLite file in the repository root, unless MLFLOW_TRACKING_URI says otherwise."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from clipline.config.base import repository_root
from clipline.errors import UsageError
from clipline.tracking.messages import TrackingError, with_fix

SQLITE = "sqlite:///"
SERVERS = ("http:", "https:")


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else mlflow.db in the repository root. Relative SQLite paths start at that root, too.

    Raises UsageError where it is a host and a port without a scheme, which MLflow takes for a folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or f"{SQLITE}mlflow.db"
    if re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d+(/.*)?", uri):
        raise UsageError(f"MLFLOW_TRACKING_URI: {uri} has no scheme. Fix: http://{uri}")
    path = sqlite_path(uri)
    return f"{SQLITE}{path}" if path else uri


def existing_store() -> str:
    """The store's address.

    Raises UsageError where it is an SQLite file that does not exist or is not yet set up, and TrackingError where the
    file is no database.
    """
    uri = tracking_uri()
    path = sqlite_path(uri)
    try:
        if not path or _is_set_up(path):
            return uri
    except sqlite3.Error as error:
        raise TrackingError(f"cannot use the tracking store {uri}: {with_fix(error)}") from error
    raise UsageError(
        f"{path}: no MLflow store here. Fix: go to the repository, or dvc repro (the train stage makes one), or set "
        "MLFLOW_TRACKING_URI"
    )


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other."""
    if not uri.startswith(SQLITE):
        return None
    return (repository_root() / uri.removeprefix(SQLITE)).resolve()


def artifacts(uri: str) -> str | None:
    """The artifact folder of a new experiment: beside an SQLite file, or in the repository; None: a server decides."""
    if uri.startswith((*SERVERS, "databricks")):
        return None
    path = sqlite_path(uri)
    return ((path.parent if path else repository_root().resolve()) / "mlartifacts").as_uri()


def check_writable(path: Path) -> None:
    """Raise sqlite3.Error where the file cannot be written: MLflow would try for minutes to open it."""
    with closing(sqlite3.connect(path, timeout=20)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()


def _is_set_up(path: Path) -> bool:
    """Whether all migrations of the SQLite file are done: MLflow adds its first experiment after them.

    Without this check MLflow would create the file, or run migrations beside the stage that runs them now.
    """
    if not path.is_file():
        return False
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'experiments'").fetchall()
        return bool(tables and database.execute("SELECT 1 FROM experiments LIMIT 1").fetchall())
