"""A tracking server that is down when stages begin: they go on, and the first one that reaches it again sends all."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from clipline import tracking
from clipline.tracking.environment import ENVIRONMENT
from tests.helpers import free_port

EXPERIMENT = "test"
RECEIPT = Path("models/run.json")
PICTURE = Path("reports/curves.png")


def train() -> str:
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(b"first")
    with tracking.start(
        RECEIPT, experiment=EXPERIMENT, name="x", params={"lr": 1e-3}, tags={"recipe": "x"}, system_metrics=False
    ) as run:
        for step in (1, 2):
            run.log_row({"step": step, "loss": 3.0 - step})
        run.log_artifact(PICTURE)
    return run.id


def evaluate() -> str:
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate") as run:
        run.log_metrics({"test_t2i_r1": 20.0}, step=0)
    return run.id


def check_is_whole(client: MlflowClient, run_id: str, folder: Path) -> None:
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "x")
    assert run.data.params == {"lr": "0.001"} and run.data.tags["recipe"] == "x"
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    # As it was when it was logged, though its file has changed since.
    assert Path(client.download_artifacts(run_id, PICTURE.name, str(folder))).read_bytes() == b"first"


@pytest.fixture
def down(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that is not there."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    return url


def test_the_next_stage_sends_what_waits(down, repo, server, monkeypatch, capsys, tmp_path) -> None:
    began = time.monotonic()
    offline = train()
    assert time.monotonic() - began < 15
    printed = capsys.readouterr().err
    assert "start that server, or unset MLFLOW_TRACKING_URI" in printed and "the work goes on" in printed
    assert f"kept in {repo / '.cache' / 'tracking' / offline}" in printed
    evaluate()  # still down
    PICTURE.write_bytes(b"second")

    if server.process is None:
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    online, again = evaluate(), evaluate()
    assert online == again
    client = MlflowClient(server.url)
    check_is_whole(client, online, tmp_path)
    run = client.get_run(online)
    assert run.data.tags["receipt"] == offline and run.data.tags["stage.evaluate"] == "FINISHED"
    # Three evaluations with the same result are one point.
    assert len(client.get_metric_history(online, "test_t2i_r1")) == 1
    assert not (repo / ".cache" / "tracking" / offline).exists()


def test_sync_sends_what_waits_without_a_stage(down, repo, migrated, monkeypatch, tmp_path) -> None:
    train()
    with pytest.raises(tracking.TrackingError, match="start that server"):
        tracking.sync()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # from now on the file in the repository
    (run,) = tracking.sync()
    check_is_whole(MlflowClient(f"sqlite:///{repo}/mlflow.db"), run, tmp_path)
    assert tracking.sync() == []


def test_a_training_that_is_killed_and_goes_on_without_a_server(down, repo, monkeypatch) -> None:
    settings = {"experiment": EXPERIMENT, "name": "x", "params": {}, "tags": {}, "system_metrics": False}
    with pytest.raises(KeyboardInterrupt), tracking.start(RECEIPT, **settings) as run:
        run.log_row({"step": 1, "loss": 2.0})
        kept = run.receipt.model_dump()
        raise KeyboardInterrupt
    with tracking.start(RECEIPT, **settings, again=kept) as run:
        for step in (1, 2):  # the first again: a training that goes on tells all its rows
            run.log_row({"step": step, "loss": 3.0 - step})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (run_id,) = tracking.sync()
    client = MlflowClient(f"sqlite:///{repo}/mlflow.db")
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    assert client.get_run(run_id).info.status == "FINISHED"


def pipeline(number: int) -> str:
    """Train and evaluate, as `dvc repro` does: what the last one left is gone. Returns the id in models/run.json."""
    for folder in ("models", "reports"):
        shutil.rmtree(folder, ignore_errors=True)
    PICTURE.parent.mkdir(parents=True)
    dataset = tracking.DatasetInfo(name="scenes", digest="f00d", source="x", profile={"train": {"images": 60}})
    with tracking.start(
        RECEIPT,
        experiment=EXPERIMENT,
        name=f"run {number}",
        params={"number": number},
        tags={"recipe": "x"},
        dataset=dataset,
        system_metrics=False,
    ) as run:
        for step in (1, 2):
            run.log_row({"step": step, "loss": number + 1 / step}, when=1000 * number + step)
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate") as run:
        run.log_metrics({"test_t2i_r1": float(number)}, step=0)
        PICTURE.write_text(f"picture {number}")
        run.log_artifact(PICTURE)
    return run.receipt.run_id


def test_three_trainings_while_the_store_is_down_are_all_complete_in_the_end(
    repo, server, monkeypatch, tmp_path
) -> None:
    """Two after one another, whose files DVC replaces, and one in a temporary folder, which vanishes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    if server.process is None:
        server.start()
    pipeline(0)  # the experiment exists
    server.kill()
    first, second = pipeline(1), pipeline(2)
    elsewhere = tmp_path / "temporary run"  # DVC_ROOT stays the repository
    elsewhere.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(elsewhere)
        third = pipeline(3)
    shutil.rmtree(elsewhere)

    server.start()
    again = evaluate()  # of the second, whose receipt lies there
    assert sorted(path.name for path in (repo / ".cache" / "tracking").iterdir()) == sorted((first, third))
    tracking.sync()
    assert tracking.sync() == [] and list((repo / ".cache" / "tracking").iterdir()) == []
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = {run.data.tags.get("receipt"): run for run in client.search_runs([experiment], "params.number != '0'")}
    assert set(runs) == {first, second, third} and runs[second].info.run_id == again
    for number, receipt in enumerate((first, second, third), start=1):
        run = runs[receipt]
        assert (run.info.run_name, run.info.status) == (f"run {number}", "FINISHED")
        assert run.info.start_time <= run.info.end_time < time.time() * 1000
        assert run.data.params == {"number": str(number)}
        assert run.data.tags.items() >= {"recipe": "x", "stage.evaluate": "FINISHED"}.items()
        (learned,) = run.inputs.dataset_inputs
        assert (learned.dataset.name, learned.dataset.digest) == ("scenes", "f00d")
        curve = [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, "loss")]
        assert curve == [(step, number + 1 / step, 1000 * number + step) for step in (1, 2)]
        results = [point.value for point in client.get_metric_history(run.info.run_id, "test_t2i_r1")]
        assert results == [number, 20.0] if receipt == second else [number]
        picture = client.download_artifacts(run.info.run_id, PICTURE.name, str(tmp_path))
        assert Path(picture).read_text() == f"picture {number}"


def test_a_server_that_hangs_costs_seconds(repo: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    tries = 1 + int(ENVIRONMENT["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert int(ENVIRONMENT["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * tries <= 10
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        began = time.monotonic()
        train()
    assert time.monotonic() - began < 1 * tries + 10
    assert "timed out" in capsys.readouterr().err
    shutil.rmtree(repo / ".cache")
