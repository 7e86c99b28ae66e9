"""Stages that are killed, and the run that they leave behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from clipline import tracking
from clipline.utils.signals import Signals, Terminated

RECEIPT = Path("models/run.json")
TRAIN = """
    import time
    settings = {"name": "x", "params": {"a": 1}, "tags": {}}
    with tracking.start(Path("models/run.json"), experiment="test", **settings) as run:
        run.log_metrics({"loss": 2.0}, step=1)
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaned up", flush=True)
"""


def start():
    return tracking.start(RECEIPT, experiment="test", name="x", params={}, tags={}, system_metrics=False)


def die(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    time.sleep(1)  # the signal's exception arrives here


def only_run(repo: Path) -> Run:
    store = MlflowClient(f"sqlite:///{repo}/mlflow.db")
    (run,) = store.search_runs([store.get_experiment_by_name("test").experiment_id])
    return run


@pytest.fixture
def asked() -> list[int]:
    """Signals that a handler of the stage's own has seen."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_a_killed_process_cleans_up_and_marks_its_run(repo: Path, stage: Callable) -> None:
    running = stage(TRAIN)
    running.until("ready")
    running.process.terminate()
    assert running.wait() == (143, "cleaned up\n", "")
    run = only_run(repo)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 2.0}
    assert run.data.tags["error"] == "SIGTERM"
    assert run.info.end_time


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated), (signal.SIGINT, KeyboardInterrupt)],
)
def test_each_signal_marks_the_run(repo: Path, number: int, error: type) -> None:
    before = signal.getsignal(number)
    with pytest.raises(error), start():
        die(number)
    assert only_run(repo).info.status == "KILLED"
    assert signal.getsignal(number) == before


def test_a_killed_evaluation_leaves_the_training_finished(repo: Path) -> None:
    with start():
        pass
    ended = only_run(repo).info.end_time
    with pytest.raises(Terminated), tracking.resume(RECEIPT, experiment="test", stage="evaluate"):
        die()
    run = only_run(repo)
    assert (run.info.status, run.info.end_time) == ("FINISHED", ended)
    assert run.data.tags["stage.evaluate"] == "KILLED: SIGTERM"


def test_a_signal_while_the_run_is_closed_waits(repo: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    finish = MlflowClient.set_terminated

    def slowly(*arguments) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert asked == []
        finish(*arguments)

    monkeypatch.setattr(MlflowClient, "set_terminated", slowly)
    with start():
        pass
    assert asked == [signal.SIGTERM]
    assert only_run(repo).info.status == "FINISHED"


def test_a_handler_of_the_stage_is_called_instead_and_put_back(repo: Path, asked: list[int]) -> None:
    with start() as run:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert asked == [signal.SIGTERM]
        run.log_metrics({"loss": 1.0}, step=1)  # it may end its work in order
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    assert asked == [signal.SIGTERM] * 2
    run = only_run(repo)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 1.0}


def test_a_forked_worker_dies_by_itself(repo: Path) -> None:
    with start() as run:
        begun, begin = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(begin, b"x")  # Python drops signals that arrive while it forks
            time.sleep(10)
            os._exit(1)
        os.read(begun, 1)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        run.log_metrics({"loss": 1.0}, step=1)
    assert only_run(repo).info.status == "FINISHED"


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
        assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
