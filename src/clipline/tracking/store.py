"""The tracking store, opened to write or to read, and the runs in it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clipline.config.base import repository_root
from clipline.errors import CliplineError
from clipline.tracking import location
from clipline.tracking.environment import import_mlflow
from clipline.tracking.messages import StoreUnavailableError, TrackingError, cause, is_final, with_fix
from clipline.tracking.receipt import Receipt

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

LOCK_SECONDS = 120
LOCKED = "database is locked"  # SQLite's words
T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """A store and one experiment in it.

    client: None where the server did not answer. experiment_id: empty where the store is only read and has no such
    experiment.
    """

    uri: str
    client: MlflowClient | None
    experiment_id: str = ""

    def create(self, receipt: Receipt, tags: Mapping[str, str]) -> str:
        """Create a run with the receipt's name and start, and status RUNNING. Returns its id."""
        run = self.client.create_run(self.experiment_id, receipt.started, dict(tags), receipt.name)
        return _nonempty(run.info.run_id)

    def find(self, run_id: str) -> MlflowRun | None:
        """The run with that id, else the one that replaced it (tag `receipt`), else None."""
        run = or_none(self.client.get_run, run_id)
        if run and run.info.lifecycle_stage == "active":
            return run
        runs = self.search(f"tags.receipt = '{run_id}'", max_results=1)
        return runs[0] if runs else None

    def search(self, query: str = "", **options: Any) -> list[MlflowRun]:
        """The experiment's runs; query and options are those of MLflow's `search_runs`."""
        return list(self.client.search_runs([self.experiment_id], query, **options)) if self.experiment_id else []


@contextmanager
def opened(experiment: str) -> Iterator[Store]:
    """The store with the experiment in it, held by this process alone while a run is found or created.

    Two processes that set up a new SQLite store at once would fail in its migrations, and two stages that miss the same
    run must not both replace it. Raises TrackingError, in seconds, where the store cannot be used; this is a
    StoreUnavailableError where a server does not answer, or where another process keeps the file locked.
    """
    uri = location.tracking_uri()
    import_mlflow()
    import filelock
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = location.sqlite_path(uri)
    lock = Path(f"{path}.lock") if path else repository_root() / ".cache" / "tracking.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=LOCK_SECONDS):
            if path:
                location.check_writable(path)
            client = MlflowClient(uri)
            yield Store(uri, client, _experiment(client, experiment, location.artifacts(uri)))
    except (MlflowException, SQLAlchemyError, OSError, ImportError, sqlite3.Error) as error:
        # What a person must fix stops a stage before its work. A server may answer, and a locked file may be free,
        # before the stage ends.
        unavailable = isinstance(error, filelock.Timeout) or LOCKED in cause(error)
        unavailable = unavailable or (uri.startswith(location.SERVERS) and not is_final(error))
        kind = StoreUnavailableError if unavailable else TrackingError
        raise kind(f"cannot use the tracking store {uri}: {with_fix(error)}") from error


@contextmanager
def reading(experiment: str = "") -> Iterator[Store]:
    """The store, to read from. Nothing is created, and no lock is waited for.

    Raises UsageError where mlflow or the store is missing, and CliplineError where it does not answer.
    """
    uri = location.existing_store()
    import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(uri)
        known = client.get_experiment_by_name(experiment) if experiment else None
        yield Store(uri, client, known.experiment_id if known else "")
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        raise CliplineError(f"cannot read from the MLflow store {uri}: {with_fix(error)}") from error


def or_none(call: Callable[..., T], *arguments: object) -> T | None:
    """The result of a call of MLflow's client, or None where what it asks for does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return call(*arguments)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return _nonempty(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was faster
                raise
            experiment = client.get_experiment_by_name(name)
    if _nonempty(experiment.lifecycle_stage) != "active":
        raise TrackingError(
            f"the experiment {name} was deleted from the tracking store. Fix: mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}, or name another one (params.yaml: tracking.experiment)"
        )
    return experiment.experiment_id


def _nonempty(value: str) -> str:
    """`value` from a server's answer. Raises ConnectionError where it is empty.

    A proxy may answer in the place of a server that is down, and MLflow's client takes any JSON.
    """
    if not value:
        raise ConnectionError("it answers, but not as an MLflow server does")
    return value
