"""Stores, stages in processes of their own, and a real tracking server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from clipline.tracking.location import tracking_uri
from tests.helpers import clean_environment, free_port

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def migrated(made_once: Callable, use_repository: Callable) -> Path:
    """An empty, migrated database: to copy it is quicker than to run the migrations again."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            use_repository(folder, patch)
            # No experiment in it: that would bring the path of its own artifacts along.
            MlflowClient(tracking_uri()).search_experiments()

    return made_once("migrated", make) / "mlflow.db"


@pytest.fixture
def empty_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_repository: Callable) -> Path:
    """An empty folder that is the repository root, without a store."""
    root = tmp_path / "my repo"
    root.mkdir()
    use_repository(root, monkeypatch)
    return root


@pytest.fixture
def repo(empty_repo: Path, migrated: Path) -> Path:
    """The same, with an empty store."""
    shutil.copy(migrated, empty_repo / "mlflow.db")
    return empty_repo


class Stage:
    """Python code in a process of its own, as DVC runs a stage."""

    def __init__(self, root: Path, code: str, **environment: str) -> None:
        head = "from pathlib import Path\nfrom clipline import tracking\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            cwd=root,
            env=clean_environment(DVC_ROOT=str(root), OMP_NUM_THREADS="1") | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, timeout: float = 60) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def until(self, line: str) -> None:
        """Wait until the process prints `line`."""
        for printed in self.process.stdout:
            if printed.strip() == line:
                return
        pytest.fail(f"ended without printing {line!r}: {self.process.stderr.read()}")


@pytest.fixture
def stage(empty_repo: Path) -> Iterator[Callable[..., Stage]]:
    """Start code as a stage in the repository root."""
    begun: list[Stage] = []

    def begin(code: str, root: Path = empty_repo, **environment: str) -> Stage:
        begun.append(Stage(root, code, **environment))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


class Server:
    """A real `mlflow server`, which can be killed and started again on the same port and data."""

    def __init__(self, folder: Path, database: Path) -> None:
        shutil.copy(database, folder / "mlflow.db")
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = f"{BIN / 'mlflow'} server --host 127.0.0.1 --port {self.port} --workers 1".split()
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "files")]
        environment = clean_environment(DVC_ROOT=str(self.folder), OMP_NUM_THREADS="1")
        quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**environment, **quick}, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 90
        while not self._answers():
            if time.monotonic() > until or self.process.poll() is not None:
                pytest.fail(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """SIGKILL for the server and its workers, as when its machine dies."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    """One server for a module."""
    running = Server(tmp_path_factory.mktemp("server"), migrated)
    running.start()
    yield running
    running.kill()
