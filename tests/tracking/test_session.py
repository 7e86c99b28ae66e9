"""A training that continues after a kill, what each stage logs, and what is kept until a store answers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from requests import ConnectionError as NoConnection

from clipline import tracking
from clipline.errors import CliplineError
from clipline.tracking.receipt import Receipt
from clipline.utils.checksums import file_hash
from tests.helpers import free_port

EXPERIMENT = "test"
RECEIPT = Path("models/run.json")
DATASET = tracking.DatasetInfo(name="scenes", digest="f00d", source="data/raw", profile={"train": {"images": 60}})
MONITOR = "SystemMetricsMonitor"  # MLflow's name of its thread


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def runs(root: Path) -> list[Run]:
    store = client(root)
    experiment = store.get_experiment_by_name(EXPERIMENT).experiment_id
    return store.search_runs([experiment], run_view_type=ViewType.ALL)


def points(root: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(root).get_metric_history(run_id, name)]


def start(**options):
    settings = {"name": "tiny", "params": {"lr": 0.1}, "tags": {"recipe": "tiny"}, "system_metrics": False}
    return tracking.start(RECEIPT, experiment=EXPERIMENT, **settings | options)


def resume(stage: str = "evaluate", **options):
    return tracking.resume(RECEIPT, experiment=EXPERIMENT, stage=stage, **options)


def killed(**options) -> dict:
    """A training that is killed after its first epoch; the receipt that its training state keeps."""
    with pytest.raises(KeyboardInterrupt), start(**options) as run:
        run.log_row({"step": 1, "loss": 2.0})
        raise KeyboardInterrupt
    return run.receipt.model_dump()


@pytest.fixture
def down(repo: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that is not there."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    return url


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """System metrics ten times a second, not every 10 s."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")


def test_the_run_is_the_one_of_its_receipt(repo: Path) -> None:
    with start(dataset=DATASET) as run:
        (stored,) = runs(repo)
        assert (stored.info.run_id, stored.info.status) == (run.id, "RUNNING")
        kept = Receipt.read(RECEIPT)
        assert kept == run.receipt
        assert kept == Receipt(
            run_id=run.id,
            experiment=EXPERIMENT,
            name="tiny",
            started=stored.info.start_time,
            params={"lr": "0.1"},
            tags={"recipe": "tiny"},
            dataset=DATASET,
        )
        assert abs(kept.started / 1000 - time.time()) < 60
    (stored,) = runs(repo)
    assert (stored.info.run_name, stored.data.params, stored.data.tags["recipe"]) == ("tiny", {"lr": "0.1"}, "tiny")
    assert stored.info.start_time <= stored.info.end_time <= time.time() * 1000
    assert "error" not in stored.data.tags and "receipt" not in stored.data.tags


def test_a_training_that_goes_on_takes_its_run_up_again(repo: Path, capsys: pytest.CaptureFixture) -> None:
    kept = killed()
    assert runs(repo)[0].info.status == "KILLED"
    with start(again=kept) as run:
        assert runs(repo)[0].info.status == "RUNNING"
        for step in (1, 2):
            run.log_row({"step": step, "loss": 3.0 - step})
    (stored,) = runs(repo)
    assert (stored.info.run_id, stored.info.status) == (kept["run_id"], "FINISHED")
    assert (stored.info.start_time, stored.info.end_time > kept["started"]) == (kept["started"], True)
    assert points(repo, run.id, "loss") == [(1, 2.0), (2, 1.0)]
    assert Receipt.read(RECEIPT).model_dump() == kept
    assert capsys.readouterr().err == ""


def test_a_training_that_goes_on_without_its_run_gets_another(repo: Path, capsys: pytest.CaptureFixture) -> None:
    kept = killed()
    client(repo).delete_run(kept["run_id"])
    with start(again=kept) as run:
        run.log_row({"step": 1, "loss": 2.0})
    assert run.id != kept["run_id"]
    assert f"the run {kept['run_id']} is not in sqlite:///{repo}/mlflow.db: {run.id} takes its place" in (
        capsys.readouterr().err
    )
    stored = client(repo).get_run(run.id)
    assert (stored.info.run_name, stored.info.status, stored.info.start_time) == ("tiny", "FINISHED", kept["started"])
    assert stored.data.tags.items() >= {"recipe": "tiny", "receipt": kept["run_id"]}.items()
    assert stored.data.params == {"lr": "0.1"}
    with resume() as later:
        pass
    assert later.id == run.id


def test_a_training_that_is_killed_again_goes_on_in_the_run_that_took_the_place(repo: Path) -> None:
    kept = killed()
    client(repo).delete_run(kept["run_id"])
    assert killed(again=kept) == kept
    (replacement,) = (run.info.run_id for run in runs(repo) if run.info.lifecycle_stage == "active")
    with start(again=kept) as run:
        for step in (1, 2):
            run.log_row({"step": step, "loss": 3.0 - step})
    assert run.id == replacement
    assert client(repo).get_run(replacement).info.status == "FINISHED"
    assert points(repo, replacement, "loss") == [(1, 2.0), (2, 1.0)]


def test_what_waited_is_sent_when_the_training_goes_on(down: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = killed()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with start(again=kept) as run:
        assert points(repo, run.id, "loss") == [(1, 2.0)]
        run.log_row({"step": 1, "loss": 2.0})
    assert points(repo, run.id, "loss") == [(1, 2.0)]
    assert tracking.sync() == []


def test_a_server_that_is_down_is_said_once_for_a_stage(down: str, repo: Path, capsys: pytest.CaptureFixture) -> None:
    with start(system_metrics=True) as run:
        assert MONITOR not in [thread.name for thread in threading.enumerate()]
        run.log_row({"step": 1, "loss": 2.0})
    assert Receipt.read(RECEIPT) == run.receipt
    assert len(run.id) == 32
    lines = capsys.readouterr().err.splitlines()
    assert [down in line for line in lines] == [True, True, True]
    assert lines[0].startswith(f"tracking: cannot use the tracking store {down}: ") and ". Fix: " in lines[0]
    assert "it did not answer when this stage began): the work goes on" in lines[1]
    assert "what was logged did not reach" in lines[2]


def test_a_run_sent_later_ends_when_its_training_did(down: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start() as run:
        time.sleep(0.02)
    ended = time.time() * 1000
    time.sleep(0.02)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.sync()
    (stored,) = runs(repo)
    assert stored.info.start_time == run.receipt.started < stored.info.end_time <= ended


@pytest.mark.parametrize(
    ("error", "tag"), [(None, "FINISHED"), (CliplineError("no images", "at all"), "FAILED: no images")]
)
def test_how_a_stage_ends_is_kept_while_the_server_is_down(
    down: str, repo: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, tag: str
) -> None:
    with start():
        pass
    try:
        with resume():
            if error:
                raise error
    except CliplineError as caught:
        assert caught is error
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (run_id,) = tracking.sync()
    assert client(repo).get_run(run_id).data.tags["stage.evaluate"] == tag


def test_a_stage_says_that_it_runs_and_of_which_lock(repo: Path) -> None:
    with start():
        pass
    Path("dvc.lock").write_text("stages: {}\n")
    with resume("export"):
        (stored,) = runs(repo)
        assert stored.data.tags["stage.export"] == "RUNNING"
        assert stored.data.tags["dvc_lock"] == file_hash(Path("dvc.lock"))
        assert stored.info.status == "FINISHED"
    assert runs(repo)[0].data.tags["stage.export"] == "FINISHED"


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """Signals that a handler of the stage's own has seen."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_a_stage_that_ctrl_c_ends_was_killed(repo: Path) -> None:
    with start():
        pass
    with pytest.raises(KeyboardInterrupt), resume():
        raise KeyboardInterrupt
    assert runs(repo)[0].data.tags["stage.evaluate"] == "KILLED: KeyboardInterrupt"


def test_a_stage_that_ends_in_order_after_a_signal_was_killed(repo: Path, asked: list[int]) -> None:
    with start():
        pass
    with resume():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    assert asked == [signal.SIGTERM]
    assert runs(repo)[0].data.tags["stage.evaluate"] == "KILLED"


@pytest.mark.parametrize("opened", [start, resume])
@pytest.mark.parametrize("error", [None, CliplineError("no images")])
def test_a_signal_while_a_stage_ends_waits_until_its_tag_is_sent(
    repo: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch, opened: Callable, error: Exception | None
) -> None:
    with start():
        pass
    begun, sent = [], []

    def slow(send: Callable) -> Callable:
        def slowly(*arguments, **named) -> None:
            if begun:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.02)
                assert asked == []
            send(*arguments, **named)
            sent.extend(begun)

        return slowly

    for name in ("log_batch", "set_terminated"):
        monkeypatch.setattr(MlflowClient, name, slow(getattr(MlflowClient, name)))
    try:
        with opened():
            begun.append(True)
            if error:
                raise error
    except CliplineError as caught:
        assert caught is error
    assert sent and asked == [signal.SIGTERM]


def test_a_stage_s_illegal_name_stops_it_before_its_work(repo: Path) -> None:
    with start():
        pass
    with pytest.raises(tracking.TrackingError, match=r"tag name 'stage\.a@b' is illegal"), resume("a@b"):
        pytest.fail("the stage began")


def test_a_run_in_another_s_place_ends_when_it_began(repo: Path, capsys: pytest.CaptureFixture) -> None:
    """Its real end is lost: a duration of zero rather than a wrong one. The curves' order stays."""
    with start() as first:
        pass
    started = first.receipt.started
    client(repo).delete_run(first.id)
    history = Path("train.csv")
    history.write_text("step,loss\n1,2.0\n2,1.0\n")
    with resume(history=history) as run:
        pass
    stored = client(repo).get_run(run.id)
    assert (stored.info.start_time, stored.info.end_time, stored.info.status) == (started, started, "FINISHED")
    assert [point.timestamp for point in client(repo).get_metric_history(run.id, "loss")] == [started, started + 1]
    printed = capsys.readouterr().err
    assert "takes its place" in printed and "left unfinished" not in printed


def test_a_run_that_was_left_running_is_completed_from_the_receipt(repo: Path, capsys: pytest.CaptureFixture) -> None:
    with start() as run:
        pass
    client(repo).update_run(run.id, status="RUNNING")
    with resume(history=Path("no such file.csv")):
        (stored,) = runs(repo)
        assert (stored.info.status, stored.info.end_time) == ("FINISHED", run.receipt.started)
    assert capsys.readouterr().err == (
        f"tracking: the run {run.id} was left unfinished in sqlite:///{repo}/mlflow.db: its params and curves are "
        "logged again\n"
    )


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_has_ended_keeps_its_end(repo: Path, capsys: pytest.CaptureFixture, status: str) -> None:
    with start() as run:
        pass
    client(repo).set_terminated(run.id, status, 1_900_000_000_000)
    with resume():
        pass
    (stored,) = runs(repo)
    assert (stored.info.status, stored.info.end_time) == (status, 1_900_000_000_000)
    assert capsys.readouterr().err == ""


def test_sync_says_what_still_waits(down: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers, and then breaks off."""
    with start() as run:
        pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    def refuse(*_, **__) -> None:
        raise NoConnection("broke off")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", refuse)
        with pytest.raises(tracking.TrackingError) as caught:
            tracking.sync()
    kept = repo / ".cache" / "tracking"
    assert str(caught.value) == f"1 runs are not all sent: {kept}. Fix: clipline sync, later"
    assert [path.parent.name for path in kept.glob("*/*.json")] == [run.id]  # and nothing was added to it
    (sent,) = tracking.sync()
    assert client(repo).get_run(sent).data.tags["receipt"] == run.receipt.run_id
    assert len(runs(repo)) == 1


def test_sync_tells_every_run_that_it_sent(down: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        with start(name=name):
            pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sorted(client(repo).get_run(sent).info.run_name for sent in tracking.sync()) == ["one", "two"]


def watched(root: Path, run_id: str, count: int) -> list[int]:
    """The steps of the run's system metrics, once there are as many as `count`."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        steps = [step for step, _ in points(root, run_id, "system/cpu_utilization_percentage")]
        if len(steps) >= count:
            return steps
        time.sleep(0.05)
    pytest.fail("no system metrics")


def test_system_metrics_are_those_of_the_processor_and_go_on_with_the_run(repo: Path, often: None) -> None:
    with pytest.raises(KeyboardInterrupt), start(system_metrics=True) as run:
        watched(repo, run.id, 2)
        raise KeyboardInterrupt
    assert MONITOR not in [thread.name for thread in threading.enumerate()]
    first = points(repo, run.id, "system/cpu_utilization_percentage")
    with start(system_metrics=True, again=run.receipt.model_dump()) as run:
        steps = watched(repo, run.id, len(first) + 2)
    assert MONITOR not in [thread.name for thread in threading.enumerate()]
    assert sorted(steps) == list(range(len(steps)))  # none twice, as the curve would then go back
    names = runs(repo)[0].data.metrics
    assert "system/system_memory_usage_megabytes" in names
    assert not [name for name in names if "disk" in name or "network" in name]


def test_system_metrics_come_into_the_store_from_any_folder(
    repo: Path, often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `dvc exp run --temp`, which works in a folder of its own."""
    elsewhere = tmp_path / "temporary run"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with start(system_metrics=True) as run:
        watched(repo, run.id, 1)
    assert [path.name for path in elsewhere.iterdir()] == ["models"]


def test_without_system_metrics_no_thread_watches(repo: Path, often: None) -> None:
    with start():
        assert MONITOR not in [thread.name for thread in threading.enumerate()]


def test_system_metrics_are_on_unless_told_otherwise(repo: Path) -> None:
    with tracking.start(RECEIPT, experiment=EXPERIMENT, name="tiny", params={}, tags={}):
        assert MONITOR in [thread.name for thread in threading.enumerate()]
