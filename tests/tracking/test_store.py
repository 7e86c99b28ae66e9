"""Opening a store: the default place, first starts in parallel, and stores that cannot be used."""

from __future__ import annotations

import http.server
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from clipline import tracking
from clipline.errors import CliplineError, UsageError
from clipline.tracking.environment import use_tracking_uri
from clipline.tracking.store import opened, reading
from tests.helpers import unprivileged

START = """
    settings = {"name": "x", "params": {"a": 1}, "tags": {}}
    with tracking.start(Path("models/run.json"), experiment="test", **settings) as run:
        run.log_metrics({"loss": 1.5}, step=1)
"""
RESUME = """
    with tracking.resume(Path("models/run.json"), experiment="test", stage="evaluate") as run:
        run.log_metrics({"r1": 50.0}, step=0)
        print(run.id)
"""
EXPERIMENT = "test"


def start() -> str:
    with tracking.start(Path("run.json"), experiment=EXPERIMENT, name="x", params={}, tags={}) as run:
        pass
    return run.id


def test_parallel_stages_on_a_new_store_and_again_when_it_is_deleted(empty_repo: Path, stage: Callable) -> None:
    receipts = [f"models{i}/run.json" for i in range(2)]
    begun = [stage(START.replace("models/run.json", receipt)) for receipt in receipts]
    # Silent, too: MLflow's own chatter would hide the stage's output.
    assert [one.wait(120) for one in begun] == [(0, "", "")] * 2
    store = MlflowClient(f"sqlite:///{empty_repo}/mlflow.db")
    experiment = store.get_experiment_by_name(EXPERIMENT)
    runs = store.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert experiment.artifact_location == (empty_repo / "mlartifacts").as_uri()

    (empty_repo / "mlflow.db").unlink()
    begun = [stage(RESUME.replace("models/run.json", receipts[0])) for _ in range(2)]
    ended = [one.wait(120) for one in begun]
    assert [code for code, _, _ in ended] == [0, 0]
    assert ended[0][1] == ended[1][1]  # both in the same new run
    assert sum("takes its place" in err for _, _, err in ended) == 1
    with sqlite3.connect(empty_repo / "mlflow.db") as database:
        assert database.execute("SELECT run_uuid, status FROM runs").fetchall() == [(ended[0][1].strip(), "FINISHED")]
        assert database.execute("SELECT key, value FROM params").fetchall() == [("a", "1")]
        assert database.execute("SELECT key, value, step FROM metrics").fetchall() == [("r1", 50.0, 0)]


def test_the_store_is_in_the_repository_not_in_the_working_folder(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "temporary run"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    start()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["run.json"]


def _damage(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (repo / "mlflow.db").write_bytes(b"no database at all" * 100)
    return "file is not a database. Fix: restore a copy of it, or move it away"


def _take_folder(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (repo / "mlflow.db").unlink()
    (repo / "mlflow.db").mkdir()
    return "unable to open database file. Fix: see that it is a file"


def _newer_schema(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with sqlite3.connect(repo / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
    return "its schema (fffffffffff0) is of a newer MLflow than this one. Fix: install the MLflow that wrote it"


def _older_schema(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with sqlite3.connect(repo / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    return "is of an older MLflow than this one. Fix: copy it, then bring it up to date with `mlflow db upgrade`"


def _plain_folder(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(repo / "mlruns"))
    return "Fix: write an address with a scheme in MLFLOW_TRACKING_URI"


def _no_driver(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mssql+none://host/database")
    return "Fix: "


@pytest.mark.parametrize("spoil", [_damage, _take_folder, _newer_schema, _older_schema, _plain_folder, _no_driver])
def test_a_store_that_cannot_be_used(repo: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable) -> None:
    message = spoil(repo, monkeypatch)
    began = time.monotonic()
    with pytest.raises(tracking.TrackingError, match="cannot use the tracking store") as error:
        start()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 15
    assert not Path("run.json").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:5000", "tracker:5000/mlflow", "my-host.example:80", "[::1]:5000"])
def test_a_host_and_port_without_a_scheme(repo: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UsageError, match=re.escape(f"{address} has no scheme. Fix: http://{address}")):
        start()
    with pytest.raises(UsageError, match="has no scheme"), reading():
        pass


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"You are not authenticated. See the documentation", "Fix: set MLFLOW_TRACKING_USERNAME and"),
        (401, b'{"message": "Unauthorized"}', "Fix: set MLFLOW_TRACKING_USERNAME and"),
        (403, b"Permission denied", "Fix: have its owner give you the right"),
        (404, b"<html>", "Fix: correct the path in MLFLOW_TRACKING_URI"),
        (200, b"<html>", "Fix: correct MLFLOW_TRACKING_URI: what answers is no MLflow server"),
    ],
)
def test_what_a_server_answers_decides_what_helps(
    repo: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, words: str
) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        for how in (opened, reading):
            with pytest.raises(CliplineError) as error, how("x"):
                pass
            assert words in str(error.value) and "\n" not in str(error.value)
        server.shutdown()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_a_folder_without_write_permission(empty_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("DVC_ROOT", folder)
        with unprivileged(), pytest.raises(tracking.TrackingError, match="Permission denied"):
            start()


def test_a_deleted_experiment_is_an_error(repo: Path) -> None:
    start()
    store = MlflowClient(f"sqlite:///{repo}/mlflow.db")
    store.delete_experiment(store.get_experiment_by_name(EXPERIMENT).experiment_id)
    with pytest.raises(tracking.TrackingError, match="mlflow experiments restore --experiment-id 1"):
        start()


def test_settings_of_the_user_win(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    start()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


@pytest.mark.parametrize("variable", [None, "http://127.0.0.1:8"])
@pytest.mark.parametrize("address", [None, "http://127.0.0.1:9"])
def test_an_address_lent_to_mlflow_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, address: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(address)
    try:
        if variable:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
        before = os.environ.get("MLFLOW_TRACKING_URI"), mlflow.get_tracking_uri()
        with use_tracking_uri("http://127.0.0.1:7"):
            assert mlflow.get_tracking_uri() == "http://127.0.0.1:7"
        assert (os.environ.get("MLFLOW_TRACKING_URI"), mlflow.get_tracking_uri()) == before
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert mlflow.is_tracking_uri_set() == bool(address)
    finally:
        mlflow.set_tracking_uri(None)
