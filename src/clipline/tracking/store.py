"""The tracking store, opened to write or to read, and which run in it a receipt means."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipline.config.base import repository_root
from clipline.errors import CliplineError
from clipline.tracking.environment import import_mlflow
from clipline.tracking.messages import StoreUnavailableError, TrackingError, cause, is_final
from clipline.tracking.place import SERVERS, artifacts, check_writable, existing_store, fix, sqlite_path, tracking_uri
from clipline.tracking.receipt import Receipt

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

LOCK_SECONDS = 120
LOCKED = "database is locked"  # SQLite's words


@dataclass(frozen=True)
class Store:
    """A store with the experiment in it. client: None where the server did not answer.

    experiment_id: empty where it was only `viewed`, and has no such experiment.
    """

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
        if not self.experiment_id:
            return None
        query = f"tags.receipt = '{receipt.run_id}'"
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return found[0] if found else None


@contextmanager
def opened(experiment: str) -> Iterator[Store]:
    """The store, for as long as a run is found or created in it; one process at a time, for two reasons.

    A new SQLite store is set up by migrations that fail when two processes run them, and two stages that miss
    the same run must not both replace it. Raises TrackingError, in seconds, where the store cannot be used, and of
    these StoreUnavailableError where it is a server that does not answer, or a file that another process keeps locked.
    """
    uri = tracking_uri()
    import_mlflow()
    import filelock
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = sqlite_path(uri)
    lock = Path(f"{path}.lock") if path else repository_root() / ".cache" / "tracking.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=LOCK_SECONDS):
            if path:
                check_writable(path)
            client = MlflowClient(uri)
            yield Store(uri, client, _experiment(client, experiment, artifacts(uri)))
    except (MlflowException, SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        # What a person must fix stops a stage before it works; a server, or a file that another process keeps
        # locked, may be free before it ends.
        silent = isinstance(error, filelock.Timeout) or LOCKED in cause(error)
        silent = silent or (uri.startswith(SERVERS) and not is_final(error))
        kind = StoreUnavailableError if silent else TrackingError
        raise kind(f"cannot use the tracking store {uri}: {cause(error)}\n{fix(uri)}") from error


@contextmanager
def reading() -> Iterator[MlflowClient]:
    """A client of the store, to read alone: it creates nothing, and waits for no lock.

    Raises UsageError where mlflow or the store is missing, and CliplineError where it does not answer.
    """
    uri = existing_store()
    import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise CliplineError(f"cannot read from the MLflow store {uri}: {cause(error)}") from error


@contextmanager
def viewed(experiment: str) -> Iterator[Store]:
    """A Store as `reading` has it."""
    with reading() as client:
        known = client.get_experiment_by_name(experiment)
        yield Store(tracking_uri(), client, known.experiment_id if known else "")


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


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
            f"the experiment {name} was deleted from the tracking store. Fix: mlflow experiments restore "
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
