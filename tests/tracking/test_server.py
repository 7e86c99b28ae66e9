"""A real tracking server: all stages over HTTP, models, and a server that dies in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper

from clipline import tracking

EXPERIMENT = "test"
RECEIPT = Path("models/run.json")
SIZE, DIM = 4, 3


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


def write_graph(path: Path, scale: float = 1.0) -> Path:
    """pixels uint8 [batch, S, S, 3] -> embedding float32 [batch, DIM]."""
    weight = scale * np.arange(SIZE * SIZE * 3 * DIM, dtype=np.float32).reshape(-1, DIM)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])]
    graph = helper.make_graph(nodes, "image", inputs, outputs, [numpy_helper.from_array(weight, "weight")])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


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
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"a": "1", "empty": ""}
    assert found.data.metrics == {"train_loss": 1.5, "test_t2i_r1": 61.25}
    assert found.data.tags["dim"] == "256"
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


def test_an_onnx_graph_is_a_model_that_mlflow_loads_and_runs(url: str, monkeypatch) -> None:
    import mlflow

    path = write_graph(Path("models/onnx/image.onnx"))
    pixels = np.ones((2, SIZE, SIZE, 3), np.uint8)
    with start() as run:
        run.log_onnx(path, name="image", example={"pixels": pixels[:1]})
    (model,) = models(MlflowClient(url), run.id)
    assert (model.name, model.status) == ("image", "READY")

    mlflow.set_tracking_uri(url)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    weight = np.arange(SIZE * SIZE * 3 * DIM, dtype=np.float32).reshape(-1, DIM)
    np.testing.assert_allclose(loaded.predict({"pixels": pixels})["embedding"], np.tile(weight.sum(0), (2, 1)))
    signature = loaded.metadata.signature
    assert [(i.name, i.type, i.shape) for i in signature.inputs] == [("pixels", np.dtype("uint8"), (-1, SIZE, SIZE, 3))]
    assert [(o.name, o.type, o.shape) for o in signature.outputs] == [("embedding", np.dtype("float32"), (-1, DIM))]
    np.testing.assert_array_equal(loaded.input_example["pixels"], pixels[:1])
    onnx.checker.check_model(mlflow.onnx.load_model(f"models:/{model.model_id}"))
    requirements = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{model.model_id}")).read_text()
    assert f"onnx=={onnx.__version__}" in requirements


def test_an_exported_model_takes_the_place_of_the_earlier_one(url: str) -> None:
    path = write_graph(Path("models/onnx/image.onnx"))
    with start() as run:
        run.log_onnx(path, name="image")
        run.log_onnx(path, name="text")
    with resume("export") as again:
        again.log_onnx(write_graph(path, scale=2.0), name="image")
    found = {model.name: model for model in models(MlflowClient(url), run.id)}
    assert sorted(found) == ["image", "text"]
    assert len(models(MlflowClient(url), run.id)) == 2


def test_system_metrics(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with start(system_metrics=True) as run:
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 2
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
        assert time.monotonic() - began < 5
        first, last, other = capsys.readouterr().err.splitlines()
        assert f"cannot write to {url}" in first
        assert "the work goes on" in first
        assert f"2 log calls never reached {url}" in last
        assert "the work goes on" in other  # said once for 198 calls

        server.start()
        time.sleep(1.1)
        run.log_metrics({"loss": 0.0}, step=200)
        assert "answers again; the 198 log calls that waited are sent" in capsys.readouterr().err
    client = MlflowClient(url)
    assert client.get_run(run.id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.id, "loss")] == list(range(1, 201))

    assert client.get_run(lost.id).info.status == "RUNNING"
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate", history=history) as again:
        assert again.id == lost.id
    assert client.get_run(lost.id).info.status == "FINISHED"
    points = client.get_metric_history(lost.id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 3.0), (2, 2.0)]
