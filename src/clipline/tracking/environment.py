"""MLflow in this process: the import with our settings, request timeouts, and the process-wide tracking address."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clipline.errors import missing_extra
from clipline.utils.user import ensure_name_and_home

REQUEST_SECONDS = "5"
# Defaults, which the user's own environment overrides. A server that is down must cost seconds (MLflow's own defaults:
# 120 s and 7 retries), a stage's output must stay readable (what matters raises), and no usage reports are sent.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": REQUEST_SECONDS,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def import_mlflow() -> None:
    """Import MLflow, with our settings where the user has none. Raises UsageError where it is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ensure_name_and_home()
    try:
        import filelock  # noqa: F401 - all that the store imports is tried here, once
        import mlflow  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "mlflow", "pipeline") from None
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # else a line for each retry


@contextmanager
def long_timeouts(seconds: int = 120) -> Iterator[None]:
    """Longer request timeouts, for uploads: a server may pass a large file on to its storage before it answers."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    if before == REQUEST_SECONDS:
        os.environ[name] = str(seconds)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


@contextmanager
def use_tracking_uri(uri: str) -> Iterator[None]:
    """Make `uri` the process-wide tracking address for a while.

    MLflow resolves `models:/` addresses there, also for a client that has another address.
    """
    import mlflow

    # `set_tracking_uri` changes the variable as well, and `is_tracking_uri_set` does not tell the two apart.
    variable = os.environ.pop("MLFLOW_TRACKING_URI", None)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable
