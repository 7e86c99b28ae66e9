"""The whole pipeline as real processes: stages, a kill, promotion, embedding, search.

In these processes nothing may unpickle, and secrets are planted in their environment and in the tracking server's
address: none may turn up in any file or output. A run takes minutes: `make test-pipeline`.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import make_repository
from tests.tracking.conftest import Server, migrated  # noqa: F401

GUARD = Path(__file__).with_name("guard.py")
MARK = "pl4nted"
SECRETS = {
    "KAGGLE_USERNAME": "someone",
    "KAGGLE_KEY": f"{MARK}-kaggle-key",
    "KAGGLE_API_TOKEN": f"{MARK}-kaggle-token",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}-mlflow-password",
    "MLFLOW_TRACKING_USERNAME": "someone",
    "AWS_ACCESS_KEY_ID": "AKIASOMEONE",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/aws/secret",
    "AWS_SESSION_TOKEN": f"{MARK}-aws-session",
    "HF_TOKEN": f"hf_{MARK}",
}
IN_ADDRESS = f"{MARK}-in-address"
STAGES = ("download", "preprocess", "train", "evaluate", "export", "embed", "report")
CHAMPION = "models:/clipline@champion"


class Whole:
    """A repository whose processes are guarded. output: all output so far, by command."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.repository = make_repository(folder / "clipline")
        self.repository.edit("configs/recipe/scenes_tiny.yaml", **{"train.epochs": 12})
        self.folder, self.guard = self.repository.folder, folder / "guard"
        self.guard.mkdir()
        shutil.copy(GUARD, folder / "sitecustomize.py")
        address = server.url.replace("://", f"://someone:{IN_ADDRESS}@")
        self.env = (
            self.repository.env
            | SECRETS
            | {
                "PYTHONPATH": f"{folder}:{self.folder / 'src'}",
                "CLIPLINE_GUARD": str(self.guard),
                "MLFLOW_TRACKING_URI": address,
                "OMP_NUM_THREADS": "1",
            }
        )
        self.output: dict[str, str] = {}
        self.kept = [self.folder, server.folder]

    def start(self, *command: str) -> subprocess.Popen:
        words = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        return subprocess.Popen(
            words, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *command: str, code: int = 0) -> str:
        process = self.start(*command)
        out, _ = process.communicate(timeout=600)
        # What is asked for may hold the address itself.
        key = f"{len(self.output):02d} {' '.join(command)}".replace(IN_ADDRESS, "...")
        self.output[key] = out
        assert process.returncode == code, f"{key}: {process.returncode}\n{out[-3000:]}\n{self.attempts()}"
        return out

    def attempts(self) -> str:
        path = self.guard / "attempts"
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, migrated):  # noqa: F811
    """The repository after all commands have run."""
    folder = tmp_path_factory.mktemp("whole")
    server = Server(tmp_path_factory.mktemp("server"), migrated)
    server.start()
    one = Whole(folder, server)
    try:
        for stage in STAGES[:2]:
            one.run("python", "-m", f"stages.{stage}")
        kill_training(one)
        for stage in STAGES[2:]:
            one.run("python", "-m", f"stages.{stage}")
        photos, out = "data/raw/images", "out/embeddings"
        one.run("clipline", "promote")
        one.run(
            "clipline", "embed", photos, "--model", CHAMPION, "--out", out, "--provider", "cpu", "--precision", "auto"
        )
        one.run("clipline", "search", out, "a red circle", "--gallery", "out/gallery.html")
        one.run("clipline", "doctor", "--model", "models/onnx")
        one.run("clipline", "runs")
        server.kill()
        # Down: what is logged waits, and every message names the server.
        one.run("python", "-m", "stages.evaluate")
        one.run("clipline", "sync", code=1)
        one.run("clipline", "runs", code=1)
        one.run("clipline", "promote", code=1)
        one.run("clipline", "embed", photos, "--model", CHAMPION, "--out", "out/other", code=1)
        nowhere = f"http://someone:{IN_ADDRESS}@127.0.0.1:9/photos?X-Amz-Signature={IN_ADDRESS}"
        one.run("clipline", "embed", nowhere, "--model", "models/onnx", "--out", "out/other", code=2)
        one.env["AWS_ENDPOINT_URL"] = nowhere
        one.run("clipline", "embed", "s3://shop/photos", "--model", "models/onnx", "--out", "out/other", code=1)
        yield one
    finally:
        server.kill()


def kill_training(one: Whole) -> None:
    """SIGTERM once a state lies on disk: the run after it goes on from there."""
    process, table = one.start("python", "-m", "stages.train"), one.folder / "reports/train.csv"
    until = time.monotonic() + 300
    while not (table.exists() and len(table.read_text().splitlines()) > 2):
        assert time.monotonic() < until and process.poll() is None, process.communicate()[0][-2000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    one.output["killed"], _ = process.communicate(timeout=120)
    assert process.returncode != 0 and not (one.folder / "models/checkpoint").exists()


def test_every_process_was_guarded(whole):
    started = " ".join(path.read_text() for path in whole.guard.glob("started-*"))
    commands = ("promote", "embed", "search", "doctor", "runs", "sync")
    for name in (*(f"stages.{stage}" for stage in STAGES), *(f"clipline {command}" for command in commands)):
        assert name in started
    assert "going on" in whole.output[next(key for key in whole.output if "stages.train" in key)]


def test_nothing_was_unpickled(whole):
    assert whole.attempts() == ""


@pytest.mark.parametrize(
    "code",
    [
        "import pickle; pickle.loads(pickle.dumps({}))",
        "from pickle import Unpickler; import io; Unpickler(io.BytesIO(b'N.')).load()",
        "import numpy, pickle, io; numpy.load(io.BytesIO(pickle.dumps(1)), allow_pickle=True)",
        "import torch, io; torch.load(io.BytesIO(b''))",
    ],
)
def test_the_guard_guards(whole, tmp_path, code):
    environment = {**whole.env, "CLIPLINE_GUARD": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (tmp_path / "attempts").exists()


def test_no_pickle_lies_in_what_was_made(whole):
    made = [path for path in whole.folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    bad = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill"}
    assert len(made) > 100
    assert not [path for path in made if path.suffix in bad or path.read_bytes()[:2] in {b"\x80\x04", b"\x80\x05"}]


def test_no_secret_in_what_was_said(whole):
    leaks = {key: line for key, output in whole.output.items() for line in output.splitlines() if MARK in line}
    assert leaks == {}


def test_no_secret_in_any_file(whole):
    """The repository with its caches and what waits for the server; MLflow's database, artifacts and log."""
    files = [path for root in whole.kept for path in root.rglob("*") if path.is_file()]
    assert {"mlflow.db", "manifest.json", "run.json", "index.html", "train.csv"} <= {path.name for path in files}
    assert [str(path) for path in files if MARK.encode() in path.read_bytes()] == []
