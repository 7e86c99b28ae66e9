"""A real tracking server: all stages over HTTP, models, and a server that dies in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from clipline import tracking
from clipline.tracking.environment import use_tracking_uri

EXPERIMENT = "test"
RECEIPT = Path("models/run.json")


@pytest.fixture
def url(server, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address; it is what the stages use."""
    if server.process is None:
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    return server.url


def start(**options):
    settings = {"name": "x", "params": {"a": 1, "empty": ""}, "tags": {"recipe": "x"}, **options}
    return tracking.start(RECEIPT, experiment=EXPERIMENT, **{"system_metrics": False, **settings})


def resume(stage: str = "evaluate"):
    return tracking.resume(RECEIPT, experiment=EXPERIMENT, stage=stage)


def models(client: MlflowClient, run_id: str) -> list:
    experiments = [client.get_run(run_id).info.experiment_id]
    return client.search_logged_models(experiments, f"source_run_id = '{run_id}'")


def test_all_stages_end_in_one_run(url: str) -> None:
    with start() as run:
        run.log_metrics({"train_loss": 1.5}, step=1)
    for _ in range(2):
        with resume() as again:
            again.log_metrics({"test_t2i_r1": 61.25}, step=0)
            again.set_tags({"dim": 256})
            Path("gallery.png").write_bytes(b"picture")
            again.log_artifact(Path("gallery.png"), folder="galleries")
    assert again.id == run.id
    client = MlflowClient(url)
    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"a": "1", "empty": ""}
    assert stored.data.metrics == {"train_loss": 1.5, "test_t2i_r1": 61.25}
    assert stored.data.tags["dim"] == "256"
    assert len(client.get_metric_history(run.id, "test_t2i_r1")) == 1
    assert [file.path for file in client.list_artifacts(run.id, "galleries")] == ["galleries/gallery.png"]


def test_a_run_deleted_in_the_ui_is_replaced(url: str) -> None:
    with start() as run:
        pass
    client = MlflowClient(url)
    client.delete_run(run.id)
    with resume() as first:
        pass
    with resume() as second:
        pass
    assert first.id == second.id != run.id
    assert client.get_run(first.id).data.params == {"a": "1", "empty": ""}


def test_the_exported_bundle_is_a_model_that_mlflow_loads(url: str, make_bundle) -> None:
    import mlflow
    import pandas as pd

    bundle = make_bundle(Path("models/onnx"))
    with start() as run:
        run.log_bundle(bundle, tags={"test_fingerprint": "7e57"})
    (model,) = models(MlflowClient(url), run.id)
    assert (model.name, model.status) == ("clip", "READY")
    assert model.tags.items() >= {"model_id": "colours", "precisions": "fp32", "test_fingerprint": "7e57"}.items()

    with use_tracking_uri(url):
        loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert loaded.predict(pd.DataFrame({"text": ["green", "a red picture"]})).argmax(axis=1).tolist() == [1, 0]
    assert loaded.metadata.signature.inputs.input_names() == ["image", "text"]


def test_an_exported_model_takes_the_place_of_the_earlier_one(url: str, make_bundle) -> None:
    with start() as run:
        run.log_bundle(make_bundle(Path("first/onnx"), "first"), tags={})
    with resume("export") as again:
        again.log_bundle(make_bundle(Path("second/onnx"), "second"), tags={})
    (model,) = models(MlflowClient(url), run.id)
    assert model.tags["model_id"] == "second"


def test_system_metrics(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with start(system_metrics=True) as run:
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    names = MlflowClient(url).get_run(run.id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(names)
    assert not [name for name in names if "disk" in name or "network" in name]


def test_a_server_that_dies_in_the_middle(url: str, server, capsys: pytest.CaptureFixture) -> None:
    """Two trainings go on: one ends before the server is back, and the next stage completes its run."""
    history = Path("train.csv")
    history.write_text("step,loss\n1,3.0\n2,2.0\n")
    with start() as run:
        run.log_metrics({"loss": 3.0}, step=1)
        with start() as lost:
            lost.log_row({"step": 1, "loss": 3.0})
            server.kill()
            began = time.monotonic()
            lost.log_row({"step": 2, "loss": 2.0})
        for step in range(2, 200):
            run.log_metrics({"loss": 1.0 / step}, step=step)
        assert time.monotonic() - began < 30
        first, last, other = capsys.readouterr().err.splitlines()
        assert f"cannot write to {url}" in first
        assert "the work goes on" in first
        assert f"what was logged did not reach {url}" in last
        assert "the work goes on" in other  # once for 198 calls

        server.start()
        time.sleep(1.1)
        run.log_metrics({"loss": 0.0}, step=200)
        assert f"{url} answers again" in capsys.readouterr().err
    client = MlflowClient(url)
    assert client.get_run(run.id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.id, "loss")] == list(range(1, 201))

    assert client.get_run(lost.id).info.status == "RUNNING"
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate", history=history) as again:
        assert again.id == lost.id
    assert client.get_run(lost.id).info.status == "FINISHED"
    points = client.get_metric_history(lost.id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 3.0), (2, 2.0)]
