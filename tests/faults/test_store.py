"""A tracking store in trouble: training goes on, and what was logged arrives later."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from clipline import tracking
from clipline.tracking.location import tracking_uri

SETTINGS = {"experiment": "x", "name": "x", "params": {"lr": 1}, "tags": {}, "system_metrics": False}
RECEIPT = Path("models/run.json")
slow = pytest.mark.skipif("CLIPLINE_KILLS" not in os.environ, reason="40 s of waiting: make test-faults")


class Broken(BaseHTTPRequestHandler):
    """Answers everything with `server.status` and `server.body`, after `server.delay` seconds."""

    def do_POST(self) -> None:
        time.sleep(self.server.delay)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def broken() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    server.status, server.body, server.delay = 500, b"", 0.0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def repo(tmp_path, monkeypatch, use_repository) -> Path:
    use_repository(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    return tmp_path


def train() -> tracking.Run:
    with tracking.start(RECEIPT, **SETTINGS) as run:
        for step in (1, 2):
            run.log_row({"step": step, "loss": 3.0 - step})
    return run


def check_arrived(run_id: str) -> None:
    client = MlflowClient(tracking_uri())
    points = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.0)]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params == {"lr": "1"}


ILLS = {
    "answers 500": (500, b"", 0.0),
    "full (507)": (507, b"Insufficient Storage", 0.0),
    "overloaded (429)": (429, b"{}", 0.0),
    "answers garbage": (200, b"\x00\xff<html>not what was asked for", 0.0),
    "answers nothing": (200, b"", 0.0),
    "slower than the timeout": (200, b"{}", 5.0),
}


@pytest.mark.parametrize("ill", ILLS)
def test_a_server_in_trouble(ill, broken, repo, monkeypatch, fault):
    broken.status, broken.body, broken.delay = ILLS[ill]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{broken.server_port}")
    with fault("MLflow server " + ill) as one:
        began = time.monotonic()
        train()
        assert time.monotonic() - began < 60
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        (arrived,) = tracking.sync()
        check_arrived(arrived)
        one.recovered()


HOLD = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(repo) -> Iterator:
    """hold() -> a process that keeps mlflow.db locked until its stdin is closed."""
    held = []

    def begin() -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(repo / "mlflow.db")]
        held.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert held[-1].stdout.readline() == "held\n"
        return held[-1]

    yield begin
    for process in held:
        process.kill()
        process.wait()
        process.stdout.close()


def free(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait(20)


@pytest.mark.parametrize("when", ["before", pytest.param("between", marks=slow)])
def test_a_locked_sqlite_file(when, repo, hold, fault, monkeypatch):
    """By another process, for as long as training takes."""
    connect = sqlite3.connect
    # clipline waits 20 s for the lock: too long for a test.
    monkeypatch.setattr("sqlite3.connect", lambda *a, timeout=5, **k: connect(*a, timeout=min(timeout, 1), **k))
    tracking.sync()
    MlflowClient(tracking_uri()).search_experiments()  # migrated
    with fault("SQLite locked") as one:
        if when == "before":
            process = hold()
            train()
        else:
            with tracking.start(RECEIPT, **SETTINGS) as run:
                run.log_row({"step": 1, "loss": 2.0})
                process = hold()
                run.log_row({"step": 2, "loss": 1.0})
        free(process)
        (arrived,) = tracking.sync()
        check_arrived(arrived)
        one.recovered()
