"""Runs side by side, from a real store."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import filelock
import pytest
from mlflow import MlflowClient
from rich.console import Console

from clipline import tracking
from clipline.cli.runs import table
from clipline.errors import CliplineError, UsageError
from clipline.tracking import TrackingError
from clipline.tracking.compare import LoggedRun, as_json, compare, comparison_url, find_runs
from clipline.tracking.location import tracking_uri

EXPERIMENT = "test"
CLIPLINE = Path(sys.executable).parent / "clipline"


def trained(name: str, rate: float, recall: float, **tags: str) -> str:
    params = {"train.lr": rate, "train.epochs": 3, "loss.kind": "infonce [mean]"}
    with tracking.start(
        Path("models/run.json"),
        experiment=EXPERIMENT,
        name=name,
        params=params,
        tags={"recipe": name, "mlflow.user": name, **tags},
        system_metrics=False,
    ) as run:
        run.log_metrics({"test_i2t_r1": recall, "test_t2i_r1": 20.0, "train_loss": 1.0}, step=0)
    return run.id


def test_only_what_differs_is_shown(repo: Path) -> None:
    first, second = trained("a", 1e-3, 30.25), trained("a", 3e-4, 28.0)
    runs = find_runs(EXPERIMENT)
    assert [run.id for run in runs] == [second, first]  # the latest first
    rows = {row.name: row for row in compare(runs)}
    # Not the epochs, which are the same; of the metrics the results, not each loss.
    assert set(rows) == {"train.lr", "test_i2t_r1", "test_t2i_r1"}
    assert rows["train.lr"].values == ["0.0003", "0.001"]
    assert (rows["test_i2t_r1"].values, rows["test_i2t_r1"].best) == ([28.0, 30.25], [1])
    assert rows["test_t2i_r1"].best == ()  # all alike


def test_the_page_in_mlflow_is_named(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = trained("a", 1e-3, 30.0), trained("b", 3e-4, 28.0)
    runs = find_runs(EXPERIMENT)
    tail = f'/#/compare-runs?runs=["{second}","{first}"]&experiments=["1"]'
    assert comparison_url(runs) == f"http://127.0.0.1:5000{tail}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracker/")
    assert comparison_url(runs) == f"https://tracker{tail}"


def test_one_run_is_shown_whole(repo: Path) -> None:
    run = trained("a", 1e-3, 30.0)
    names = {row.name for row in compare(find_runs(EXPERIMENT, [run[:8]]))}
    assert {"train.lr", "train.epochs", "recipe", "test_i2t_r1"} <= names
    assert "mlflow.user" not in names


def test_a_setting_that_a_run_lacks_differs(repo: Path) -> None:
    trained("a", 1e-3, 30.0)
    trained("b", 1e-3, 30.0, device="cuda")
    rows = {row.name: row.values for row in compare(find_runs(EXPERIMENT))}
    assert rows["device"] == ["cuda", None] and rows["recipe"] == ["b", "a"]
    assert [run["settings"]["device"] for run in as_json(find_runs(EXPERIMENT))] == ["cuda", None]


def test_the_table_shows_figures_and_text_as_they_are(repo: Path) -> None:
    run = trained("a", 1e-3, 30.25, dataset_fingerprint="0123456789ab" + "c" * 52)
    out = io.StringIO()
    Console(file=out, width=120).print(table(find_runs(EXPERIMENT)))
    assert all(text in out.getvalue() for text in (run[:8], "30.25", "infonce [mean]", "train.lr", "0123456789ab"))
    assert "0123456789abc" not in out.getvalue()


@pytest.mark.parametrize(("ids", "message"), [(["zz"], "no run begins with zz"), ([""], "2 runs begin with")])
def test_an_id_must_name_one_run(repo: Path, ids: list[str], message: str) -> None:
    trained("a", 1e-3, 30.0)
    trained("b", 1e-3, 30.0)
    with pytest.raises(UsageError, match=message):
        find_runs(EXPERIMENT, ids)


@pytest.mark.parametrize("ids", [[], ["3f2a"]])
def test_no_run_yet_says_what_to_do(repo: Path, ids: list[str]) -> None:
    MlflowClient(tracking_uri()).create_experiment("another")
    with pytest.raises(UsageError, match="no run begins with 3f2a" if ids else "no run in the experiment test yet"):
        find_runs(EXPERIMENT, ids)
    assert MlflowClient(tracking_uri()).get_experiment_by_name(EXPERIMENT) is None  # to look makes none


def test_no_store_is_made_only_to_look_into_it(empty_repo: Path) -> None:
    """As a command: one line, exit code 2, and the folder stays empty."""
    done = subprocess.run([CLIPLINE, "runs"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {empty_repo}/mlflow.db: no MLflow store here. Fix: go to the repository")
    (empty_repo / "mlflow.db").touch()  # as it lies there while another process sets it up
    with pytest.raises(UsageError, match="no MLflow store here"):
        find_runs(EXPERIMENT)
    assert [(path.name, path.stat().st_size) for path in empty_repo.iterdir()] == [("mlflow.db", 0)]


def test_a_file_that_is_no_store(empty_repo: Path) -> None:
    (empty_repo / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(TrackingError, match="file is not a database"):
        find_runs(EXPERIMENT)


def test_reading_does_not_wait_for_a_stage(repo: Path) -> None:
    """The stages' lock keeps writers apart; readers do not wait for it."""
    run = trained("a", 1e-3, 30.0)
    with filelock.FileLock(repo / "mlflow.db.lock"):
        assert [logged.id for logged in find_runs(EXPERIMENT)] == [run]


def test_a_server_that_is_down_is_one_line(empty_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(CliplineError, match=r"cannot read from the MLflow store http://127\.0\.0\.1:9: "):
        find_runs(EXPERIMENT)


def test_the_best_of_each_recall_and_of_nothing_else() -> None:
    figures = {"test_t2i_r1": 1.0, "test_t2i_r5": 2.0, "onnx_t2i_r10": 3.0, "test_t2i_median_rank": 4.0}
    runs = [
        LoggedRun(str(more), "1", "a", datetime.now(UTC), "FINISHED", {}, {k: v + more for k, v in figures.items()})
        for more in (0, 1)
    ]
    assert {row.name: row.best for row in compare(runs)} == {
        "test_t2i_r1": [1], "test_t2i_r5": [1], "onnx_t2i_r10": [1], "test_t2i_median_rank": [],
    }  # fmt: skip


def test_names_are_no_markup() -> None:
    runs = [
        LoggedRun("0" * 32, "1", name, datetime.now(UTC), "FINISHED", {"data[/]": name}, {})
        for name in ("run [final]", "a [/] b")
    ]
    out = io.StringIO()
    Console(file=out, width=120).print(table(runs))
    assert all(out.getvalue().count(name) == 2 for name in ("run [final]", "a [/] b"))
    assert "data[/]" in out.getvalue()
