"""The receipt rule on an SQLite store: one run for all stages, whatever happened to the store."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from clipline import tracking
from clipline.errors import CliplineError, UsageError
from clipline.tracking.receipt import Receipt

EXPERIMENT = "test"
RECEIPT = Path("models/run.json")
HISTORY = Path("reports/train.csv")
PARAMS = {f"train.p{i}": i for i in range(130)}  # more than one batch
TAGS = {"recipe": "vit_scratch"}
DATASET = tracking.DatasetInfo(
    name="flickr8k", digest="ab" * 32, source="data/flickr8k.zip", profile={"train": {"images": 3, "captions": 15}}
)
ROWS = [
    {"step": 10, "epoch": 1, "train_loss": 2.5, "val_loss": None},
    {"step": 20, "epoch": 2, "train_loss": 0.1 + 0.2, "val_loss": 1.5},
]


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def all_runs(root: Path) -> list:
    store = client(root)
    experiment = store.get_experiment_by_name(EXPERIMENT).experiment_id
    return store.search_runs([experiment], run_view_type=ViewType.ALL)


def history(root: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client(root).get_metric_history(run_id, name))


def train(**options) -> str:
    settings = {"name": "vit_scratch", "params": PARAMS, "tags": TAGS, "dataset": DATASET, "system_metrics": False}
    settings |= options
    with tracking.start(RECEIPT, experiment=EXPERIMENT, **settings) as run:
        for row in ROWS:
            run.log_row(row)
    HISTORY.parent.mkdir(exist_ok=True)
    lines = ["step,epoch,train_loss,val_loss"]
    lines += [",".join("" if v is None else repr(v) for v in row.values()) for row in ROWS]
    HISTORY.write_text("\n".join(lines) + "\n")
    return run.id


def evaluate(value: float = 61.25) -> str:
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate", history=HISTORY) as run:
        run.log_metrics({"test_t2i_r1": value, "test_loss": math.nan}, step=0)
    return run.id


def check_is_whole(root: Path, run_id: str) -> None:
    """The run holds what training knew, once."""
    run = client(root).get_run(run_id)
    assert run.data.params == {key: str(value) for key, value in PARAMS.items()}
    assert run.data.tags["recipe"] == "vit_scratch"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "vit_scratch"
    (learned,) = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (learned.name, learned.digest) == ("flickr8k", DATASET.digest[:36])
    assert json.loads(learned.profile) == DATASET.profile
    assert history(root, run_id, "train_loss") == [(10, 2.5), (20, 0.1 + 0.2)]
    assert history(root, run_id, "val_loss") == [(20, 1.5)]
    assert history(root, run_id, "test_t2i_r1") == [(0, 61.25)]


def test_train_creates_the_run_and_its_receipt(repo: Path) -> None:
    run_id = train()
    kept = json.loads(RECEIPT.read_text())
    assert kept["run_id"] == run_id
    assert kept["params"]["train.p3"] == "3"
    assert str(repo) not in RECEIPT.read_text()
    assert [path.name for path in RECEIPT.parent.iterdir()] == ["run.json"]


def test_later_stages_resume_it(repo: Path) -> None:
    run_id = train()
    ended = client(repo).get_run(run_id).info.end_time
    before = RECEIPT.read_bytes()
    Path("reports/curves.png").write_bytes(b"picture")
    with tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="export") as run:
        run.set_tags({"dim": 256})
        run.log_artifact(Path("reports/curves.png"), folder="plots")
        run.log_artifact(Path("reports"))
    assert evaluate() == run.id == run_id
    check_is_whole(repo, run_id)
    stored = client(repo).get_run(run_id)
    assert stored.info.end_time == ended
    assert stored.data.tags["dim"] == "256"
    assert (stored.data.tags["stage.export"], stored.data.tags["stage.evaluate"]) == ("FINISHED", "FINISHED")
    assert (repo / "mlartifacts" / run_id / "artifacts" / "plots" / "curves.png").read_bytes() == b"picture"
    assert (repo / "mlartifacts" / run_id / "artifacts" / "reports" / "train.csv").is_file()
    assert RECEIPT.read_bytes() == before
    assert len(all_runs(repo)) == 1


def test_evaluate_twice_leaves_one_point(repo: Path) -> None:
    run_id = train()
    assert evaluate() == evaluate() == run_id
    check_is_whole(repo, run_id)
    assert len(history(repo, run_id, "test_loss")) == 1  # NaN, which no comparison finds again


def test_another_value_at_the_same_step_becomes_the_run_s_metric(repo: Path) -> None:
    run_id = train()
    evaluate(61.25)
    evaluate(60.5)
    assert client(repo).get_run(run_id).data.metrics["test_t2i_r1"] == 60.5


def test_a_run_deleted_in_the_ui_is_replaced_once(repo: Path) -> None:
    old = train()
    client(repo).delete_run(old)
    new = evaluate()
    assert new != old
    assert evaluate() == new
    check_is_whole(repo, new)
    assert client(repo).get_run(new).data.tags["receipt"] == old
    assert client(repo).get_run(old).info.lifecycle_stage == "deleted"
    assert len(all_runs(repo)) == 2


def test_a_replacement_that_is_deleted_too_is_replaced(repo: Path) -> None:
    client(repo).delete_run(train())
    client(repo).delete_run(evaluate())
    check_is_whole(repo, evaluate())
    assert len(all_runs(repo)) == 3


def test_another_store_gets_a_run_and_the_first_one_is_found_again(
    repo: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = train()
    other = repo / "other"
    other.mkdir()
    shutil.copy(migrated, other / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other/mlflow.db")  # relative to the repository root
    new = evaluate()
    assert new != old
    check_is_whole(other, new)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert evaluate() == old
    check_is_whole(repo, old)


def test_a_run_cut_off_from_its_store_is_completed(repo: Path, capsys: pytest.CaptureFixture) -> None:
    train()
    store = client(repo)
    cut_off = store.create_run(all_runs(repo)[0].info.experiment_id, tags=TAGS, run_name="vit_scratch")
    store.log_metric(cut_off.info.run_id, "train_loss", 2.5, step=10)  # all that came through
    Receipt.read(RECEIPT).model_copy(update={"run_id": cut_off.info.run_id}).write(RECEIPT)
    assert evaluate() == cut_off.info.run_id
    check_is_whole(repo, cut_off.info.run_id)
    assert "left unfinished" in capsys.readouterr().err


def test_a_failing_stage_takes_nothing_from_the_run(repo: Path) -> None:
    run_id = train()
    evaluate()
    with (
        pytest.raises(CliplineError, match="no test images"),
        tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate"),
    ):
        raise CliplineError("no test images")
    check_is_whole(repo, run_id)
    assert client(repo).get_run(run_id).data.tags["stage.evaluate"] == "FAILED: no test images"
    evaluate()
    assert client(repo).get_run(run_id).data.tags["stage.evaluate"] == "FINISHED"


@pytest.mark.parametrize(("error", "status"), [(CliplineError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_failing_training_marks_the_run(repo: Path, error: type, status: str) -> None:
    settings = {"name": "x", "params": {}, "tags": {}}
    with pytest.raises(error), tracking.start(RECEIPT, experiment=EXPERIMENT, **settings) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise error("the loss is not finite at step 2")
    stored = client(repo).get_run(run.id)
    assert stored.info.status == status
    assert stored.info.end_time
    assert stored.data.tags["error"] == "the loss is not finite at step 2"
    assert history(repo, run.id, "loss") == [(1, 1.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.json: no such file. The train stage writes it"),
        ("{", "damaged"),
        ("{}", "damaged"),
        ('{"run_id": "x\' OR 1", "name": "", "started": 1, "params": {}, "tags": {}}', "damaged"),
    ],
)
def test_a_bad_receipt_is_an_error(repo: Path, content: str | None, message: str) -> None:
    if content is not None:
        RECEIPT.parent.mkdir()
        RECEIPT.write_text(content)
    with pytest.raises(UsageError, match=message):
        evaluate()


def test_illegal_input_stops_before_a_run_exists(repo: Path) -> None:
    with pytest.raises(tracking.TrackingError, match="param name"):
        train(params={"recall@1": 1})
    with pytest.raises(tracking.TrackingError, match="tag name"):
        train(tags={"a@b": 1})
    assert client(repo).get_experiment_by_name(EXPERIMENT) is None
    assert not RECEIPT.exists()


def test_too_long_values_are_kept_in_part(repo: Path, capsys: pytest.CaptureFixture) -> None:
    train(params={"note": "x" * 9000}, tags={"note": "y" * 9000})
    data = all_runs(repo)[0].data
    assert len(data.params["note"]) == 6000
    assert len(data.tags["note"]) == 5000
    assert capsys.readouterr().err.count("MLflow's limit") == 2


def test_a_missing_file_is_an_error_at_once(repo: Path) -> None:
    train()
    with (
        pytest.raises(tracking.TrackingError, match=r"gone\.png: no such file"),
        tracking.resume(RECEIPT, experiment=EXPERIMENT, stage="evaluate") as run,
    ):
        run.log_artifact(Path("gone.png"))


@pytest.mark.parametrize("row", [{"loss": 1.0}, {"step": "x", "loss": 1.0}])
def test_history_needs_steps(repo: Path, row: dict) -> None:
    with (
        pytest.raises(tracking.TrackingError, match="whole number `step`"),
        tracking.start(RECEIPT, experiment=EXPERIMENT, name="x", params={}, tags={}) as run,
    ):
        run.log_row(row)
