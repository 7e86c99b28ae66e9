"""The tracking store: where it is, how it is opened, which run a receipt means.

By default an SQLite file in the repository root; MLFLOW_TRACKING_URI wins.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipline.config.base import repository_root
from clipline.errors import CliplineError, UsageError, missing_extra
from clipline.tracking.messages import StoreSilentError, TrackingError, cause, is_final
from clipline.tracking.receipt import Receipt

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

SQLITE = "sqlite:///"
SERVERS = ("http:", "https:")
REQUEST_SECONDS = "5"
LOCK_SECONDS = 120
LOCKED = "database is locked"  # SQLite's words
# Unless the user says otherwise. A server that is down must cost seconds (MLflow's own defaults: 120 s and 7
# retries), a stage's output must stay readable (what matters raises), and MLflow's makers get no reports.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": REQUEST_SECONDS,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Store:
    """A store with the experiment in it. client: None where the server did not answer."""

    uri: str
    client: MlflowClient | None
    experiment_id: str = ""

    def create(self, name: str, tags: dict[str, str], started: int) -> str:
        """Create a run, status RUNNING. Returns its id."""
        return _given(self.client.create_run(self.experiment_id, started, tags, name).info.run_id)

    def find(self, receipt: Receipt) -> MlflowRun | None:
        """The run of a receipt: the one it names, else the one that took its place, else None."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(receipt.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            if run.info.lifecycle_stage == "active":
                return run
        query = f"tags.receipt = '{receipt.run_id}'"
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return found[0] if found else None


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else an SQLite file in the repository root, where relative paths start too."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or f"{SQLITE}mlflow.db"
    path = _sqlite_path(uri)
    return f"{SQLITE}{path}" if path else uri


@contextmanager
def opened(experiment: str) -> Iterator[Store]:
    """The store, for as long as a run is found or created in it; one process at a time, for two reasons.

    A new SQLite store is set up by migrations that fail when two processes run them, and two stages that miss
    the same run must not both replace it. Raises TrackingError, in seconds, where the store cannot be used, and of
    these StoreSilentError where it is a server that does not answer, or a file that another process keeps locked.
    """
    uri = tracking_uri()
    ready_mlflow()
    import filelock
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = _sqlite_path(uri)
    lock = Path(f"{path}.lock") if path else repository_root() / ".cache" / "tracking.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=LOCK_SECONDS):
            if path:
                _check_writable(path)
            client = MlflowClient(uri)
            yield Store(uri, client, _experiment(client, experiment, _artifacts(uri)))
    except (MlflowException, SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        # What a person must mend stops a stage before it works; a server, or a file that another process keeps
        # locked, may be free before it ends.
        silent = isinstance(error, filelock.Timeout) or LOCKED in cause(error)
        silent = silent or (uri.startswith(SERVERS) and not is_final(error))
        kind = StoreSilentError if silent else TrackingError
        raise kind(f"cannot use the tracking store {uri}: {cause(error)}\n{_mend(uri)}") from error


def existing_store() -> str:
    """The store's address.

    Raises UsageError where it is an SQLite file that is not there, or not yet set up; TrackingError where it is another
    file.
    """
    uri = tracking_uri()
    path = _sqlite_path(uri)
    try:
        there = not path or _is_set_up(path)
    except sqlite3.Error as error:
        raise TrackingError(f"cannot use the tracking store {uri}: {cause(error)}\n{_mend(uri)}") from error
    if not there:
        raise UsageError(
            f"{path}: no MLflow store here. Mend: go to the repository, or dvc repro (the train stage makes one), or "
            "set MLFLOW_TRACKING_URI"
        )
    return uri


@contextmanager
def reading() -> Iterator[MlflowClient]:
    """A client of the store, to read alone: it creates nothing, and waits for no lock.

    Raises UsageError where mlflow or the store is missing, and CliplineError where it does not answer.
    """
    uri = existing_store()
    ready_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise CliplineError(f"cannot read from the MLflow store {uri}: {cause(error)}") from error


@contextmanager
def pointed_at(uri: str) -> Iterator[None]:
    """While it lasts, what MLflow does by the process's own address goes to `uri`.

    A client looks `models:/` up there, whatever its own address is.
    """
    import mlflow

    # MLflow's call changes the variable as well, and its own question would not tell the two apart.
    variable = os.environ.pop("MLFLOW_TRACKING_URI", None)
    told = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(told)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable


def ready_mlflow() -> None:
    """Import MLflow, with our settings where the user has none. Raises UsageError where it is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import filelock  # noqa: F401 - all that the store needs is tried here, once
        import mlflow  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "mlflow", "pipeline") from None
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # else a line for each retry


@contextmanager
def patience(seconds: int = 120) -> Iterator[None]:
    """Longer request timeouts: a server may pass a large file on to its own storage before it answers."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    if before == REQUEST_SECONDS:
        os.environ[name] = str(seconds)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith(SQLITE):
        return None
    return (repository_root() / uri.removeprefix(SQLITE)).resolve()


def _is_set_up(path: Path) -> bool:
    """Whether all migrations of the SQLite file are done: MLflow adds its first experiment after them.

    MLflow would create the file, or run migrations beside the stage that runs them now.
    """
    if not path.is_file():
        return False
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=20)
    try:
        return database.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return False
        raise
    finally:
        database.close()


def _check_writable(path: Path) -> None:
    """MLflow would try for minutes to open a database that cannot be opened."""
    database = sqlite3.connect(path, timeout=20)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()
    finally:
        database.close()


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return _given(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was faster
                raise
            found = client.get_experiment_by_name(name)
    if _given(found.lifecycle_stage) != "active":
        raise TrackingError(
            f"the experiment {name} was deleted from the tracking store. Mend: mlflow experiments restore "
            f"--experiment-id {found.experiment_id}, or name another one (params.yaml: tracking.experiment)"
        )
    return found.experiment_id


def _given(value: str) -> str:
    """What a server said, unless that is nothing: a proxy may answer in the place of one that is down.

    Raises ConnectionError.
    """
    if not value:
        raise ConnectionError("it answers, but not as an MLflow server does")
    return value


def _artifacts(uri: str) -> str | None:
    """Where a new experiment keeps files: beside an SQLite file, else in the repository; a server decides."""
    if uri.startswith((*SERVERS, "databricks")):
        return None
    path = _sqlite_path(uri)
    return ((path.parent if path else repository_root().resolve()) / "mlartifacts").as_uri()


def _mend(uri: str) -> str:
    if uri.startswith(SERVERS):
        return "Mend: start that server, or unset MLFLOW_TRACKING_URI to track in mlflow.db"
    if uri.startswith(SQLITE):
        return f"Mend: make {uri.removeprefix(SQLITE)} writable, or move it away to begin a new store"
    return "Mend: correct MLFLOW_TRACKING_URI, or unset it to track in mlflow.db"
