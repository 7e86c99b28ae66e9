"""What a run logs is published, also after failures, twice, and from the disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from requests import HTTPError, Response

from clipline import tracking
from clipline.tracking import run as run_module
from clipline.tracking.publish import publish
from clipline.tracking.receipt import DatasetInfo, Receipt
from clipline.tracking.record import Record, kept_records
from clipline.tracking.run import Run
from clipline.tracking.store import Store
from clipline.utils import checksums

DATASET = DatasetInfo(name="scenes", digest="f00d", source="data/raw", profile={"train": {"images": 60}})
RECEIPT = Receipt(run_id="r1", name="x", started=1000, params={"lr": "0.1"}, tags={}, dataset=DATASET)


class Client:
    """Delivers points into `steps` and files into `files`; while `error` is set, each call raises it."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.files: list[str] = []
        self.error: Exception | None = None
        self.tries = 0

    def _call(self) -> None:
        self.tries += 1
        if self.error:
            raise self.error

    def get_run(self, run_id: str) -> SimpleNamespace:
        self._call()
        return SimpleNamespace(data=SimpleNamespace(metrics={}))

    def log_batch(self, run_id: str, metrics: list, **_: object) -> None:
        self._call()
        self.steps += [metric.step for metric in metrics]

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self._call()
        self.files.append(path)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def run(client, repo) -> Run:
    return Run(Store("there", client), RECEIPT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: time[0])
    return time


def log(run: Run, step: int) -> None:
    run.log_row({"step": step, "loss": 1.0 / step})


def test_what_failed_is_sent_later_and_in_order(run, client, clock, capsys) -> None:
    log(run, 1)
    client.error = ConnectionError("refused")
    tries = client.tries
    log(run, 2)
    log(run, 3)
    assert client.tries == tries + 1  # the third waits for the pause to pass
    client.error, clock[0] = None, clock[0] + 1.1
    log(run, 4)
    assert client.steps == [1, 2, 3, 4]
    run.close()
    first, last = capsys.readouterr().err.splitlines()
    assert "cannot write to there (refused): the work goes on" in first
    assert "there answers again" in last
    assert not kept_records()


def test_a_slow_failure_is_seldom_tried_again(run, clock, monkeypatch) -> None:
    tries = []

    def hang(*_: object) -> str:
        clock[0] += 10
        tries.append(clock[0])
        return "hangs"

    monkeypatch.setattr(run_module, "publish", hang)
    for step in range(1, 1000):
        clock[0] += 1
        log(run, step)
    assert len(tries) * 10 <= 0.06 * 1000


def test_close_tries_once_more_and_keeps_the_rest_on_disk(run, client, clock, capsys, repo) -> None:
    log(run, 1)
    client.error = ConnectionError("refused")
    log(run, 2)
    tries = client.tries
    run.close()
    assert client.tries == tries + 1
    ((path, record),) = kept_records().items()
    assert path.parent == repo / ".cache" / "tracking" / "r1"
    assert record.points == [("loss", 0.5, 2, record.points[0][3])]
    assert f"did not reach there (refused): it is kept in {path}" in capsys.readouterr().err
    client.error = None
    assert Run(run.store, RECEIPT).publish_kept()
    assert client.steps == [1, 2] and not path.parent.exists()


def test_a_full_disk_stops_nothing_and_is_told(run, client, clock, capsys, monkeypatch) -> None:
    def refuse(record: Record) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Record, "keep", refuse)
    client.error = ConnectionError("refused")
    log(run, 1)
    run.close()
    assert "nor can it be kept on disk (No space left on device)" in capsys.readouterr().err


def test_what_is_kept_is_sent_in_order_and_a_failure_leaves_the_rest(run, client) -> None:
    for step in (1, 2, 3):
        Record(receipt=RECEIPT, points=[("loss", 1.0, step, step)]).keep()
    log_batch = client.log_batch

    def once(*arguments: object, **named: object) -> None:
        log_batch(*arguments, **named)
        client.error = ConnectionError("refused")

    client.log_batch = once
    assert not run.publish_kept()
    assert client.steps == [1] and len(kept_records("r1")) == 2
    client.log_batch, client.error = log_batch, None
    assert run.publish_kept()
    assert client.steps == [1, 2, 3] and not kept_records()


def _http(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(f"status {status}", response=response)


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), _http(400), _http(413)])
def test_a_refusal_holds_up_nothing_and_is_told(run, client, clock, capsys, error) -> None:
    client.error = error
    log(run, 1)
    client.error = None
    log(run, 2)
    assert client.steps == [2]
    assert capsys.readouterr().err.splitlines() == [f"tracking: there refuses metrics for good, left out: {error}"]


@pytest.mark.parametrize("error", [_http(500), _http(503), _http(429)])
def test_a_server_in_trouble_is_tried_again(run, client, clock, error) -> None:
    client.error = error
    log(run, 1)
    client.error = None
    run.close()
    assert client.steps == [1]


def test_other_errors_are_ours_and_come_through(run, client) -> None:
    client.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        log(run, 1)


@pytest.mark.parametrize("content", ["", "1", '["seal"]', "[" * 100_000, '{"kind": "log", "arguments": {}}'])
def test_a_damaged_record_is_told_and_the_others_are_sent(run, client, capsys, content: str) -> None:
    paths = [Record(receipt=RECEIPT, points=[("loss", 1.0, step, step)]).keep() for step in range(3)]
    paths[1].write_text(content)
    assert run.publish_kept()
    assert client.steps == [0, 2]
    assert f"{paths[1]}: damaged (" in capsys.readouterr().err
    assert [path.exists() for path in paths] == [False, True, False]  # it may be of use to a person


def test_a_file_that_is_gone_is_left_out(run, client, repo) -> None:
    Record(receipt=RECEIPT, artifacts=[(repo / "gone.png", None)], points=[("loss", 1.0, 1, 1)]).keep()
    ((_, record),) = kept_records().items()

    def refuse(run_id: str, path: str, folder: None) -> None:
        Path(path).read_bytes()

    client.log_artifact = refuse
    assert publish(run.store, "r1", record, {}) == ""
    assert client.steps == [1]


# ---------------------------------------------------------------- a real store


def points(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, str, int]]:
    return [(point.step, str(point.value), point.timestamp) for point in client.get_metric_history(run_id, name)]


@pytest.fixture
def real(repo) -> tuple[Store, str]:
    """A store, and the id of an empty run in it."""
    client = MlflowClient(f"sqlite:///{repo}/mlflow.db")
    return Store("real", client, "0"), client.create_run("0").info.run_id


def test_to_publish_twice_is_to_publish_once(real, repo) -> None:
    """As after an answer that was lost on its way: the store has everything, and is sent it again."""
    store, run_id = real
    picture = repo / "curves.png"
    picture.write_bytes(b"picture")
    record = Record(
        receipt=RECEIPT,
        settings=True,
        points=[("loss", 2.0, 1, 10), ("loss", math.nan, 2, 20), ("other", 1.0, 1, 10)],
        artifacts=[(picture, None)],
        tags={"gates": "passed"},
        end=("FINISHED", 30),
    )
    for _ in range(2):
        again = record.model_copy(deep=True)
        assert publish(store, run_id, again, {}) == ""
        assert again == Record(receipt=RECEIPT)
    run = store.client.get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.params) == ("FINISHED", 30, {"lr": "0.1"})
    assert run.data.tags["gates"] == "passed" and len(run.inputs.dataset_inputs) == 1
    assert points(store.client, run_id, "loss") == [(1, "2.0", 10), (2, "nan", 20)]
    assert [file.path for file in store.client.list_artifacts(run_id)] == ["curves.png"]


def test_a_value_that_comes_back_is_the_run_s_metric(real) -> None:
    """Three evaluations: of the first result, another one, and the first again."""
    store, run_id = real
    for when, value in enumerate((60.0, 61.0, 61.0, 60.0)):
        publish(store, run_id, Record(receipt=RECEIPT, points=[("test_t2i_r1", value, 0, when)]), {})
    assert [value for _, value, _ in points(store.client, run_id, "test_t2i_r1")] == ["60.0", "61.0", "60.0"]
    assert store.client.get_run(run_id).data.metrics["test_t2i_r1"] == 60.0


def test_what_is_kept_is_what_was_logged(repo) -> None:
    folder, picture = repo / "models" / "onnx", repo / "curves.png"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    picture.write_bytes(b"first")
    record = Record(
        receipt=RECEIPT,
        settings=True,
        points=[("loss", 0.1 + 0.2, 1, 10), ("loss", math.inf, 2, 20)],
        artifacts=[(picture, "plots"), (picture, None)],
        bundle=(folder, {"a": "b"}),
        tags={"ü": "…"},
        end=("KILLED", 30),
    )
    path = record.keep()
    picture.write_bytes(b"second")
    ((_, kept),) = kept_records().items()
    assert kept.model_dump(exclude={"artifacts", "bundle"}) == record.model_dump(exclude={"artifacts", "bundle"})
    assert [(file.read_bytes(), among) for file, among in kept.artifacts] == [(b"first", "plots"), (b"first", None)]
    assert (kept.bundle[0] / "manifest.json").read_text() == "{}" and kept.bundle[1] == {"a": "b"}
    assert all(path.parent in file.parents for file in (kept.artifacts[0][0], kept.bundle[0]))


def test_what_an_older_clipline_kept_is_sent(repo, make_bundle: Callable, capsys) -> None:
    """It wrote one file for each log call, and the receipt beside them."""
    folder = repo / ".cache" / "tracking" / "r1"
    picture = folder / "files" / "3" / "curves.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    bundle = make_bundle(folder / "files" / "4" / "onnx")
    RECEIPT.write(folder / "receipt")
    calls = [
        ("params", {"params": {"lr": "0.1"}}),
        ("dataset", DATASET.model_dump()),
        ("metrics", {"points": [["loss", 2.0, 1, 10], ["other", math.nan, 1, 10]]}),
        ("artifact", {"path": str(picture), "folder": None}),
        ("bundle", {"path": str(bundle), "tags": {"test_fingerprint": "7e57"}}),
        ("tags", {"tags": {"stage.evaluate": "RUNNING"}}),
        ("tags", {"tags": {"stage.evaluate": "FINISHED"}}),
        ("end", {"status": "FINISHED", "when": 5000}),
    ]
    for number, (kind, arguments) in enumerate(calls):
        values = checksums.with_checksum({"kind": kind, "arguments": arguments})
        (folder / f"{number:06d}.json").write_text(json.dumps(values))
    (run_id,) = tracking.sync()
    client = MlflowClient(f"sqlite:///{repo}/mlflow.db")
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.params) == ("FINISHED", 5000, {"lr": "0.1"})
    assert run.data.tags.items() >= {"receipt": "r1", "stage.evaluate": "FINISHED"}.items()
    assert points(client, run_id, "loss") == [(1, "2.0", 10)] and points(client, run_id, "other") == [(1, "nan", 10)]
    assert len(run.inputs.dataset_inputs) == 1
    assert [file.path for file in client.list_artifacts(run_id)] == ["curves.png"]
    (model,) = client.search_logged_models(["1"], f"source_run_id = '{run_id}'")
    assert model.tags["test_fingerprint"] == "7e57"
    assert not folder.exists() and "damaged" not in capsys.readouterr().err
