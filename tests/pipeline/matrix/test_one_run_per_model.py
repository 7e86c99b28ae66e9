"""One MLflow run per trained model, whatever DVC does and whatever becomes of the store: `make test-pipeline`.

Real DVC, a real SQLite store, real kills. The tests share one repository and stand in the order in which they run;
each looks only at what it changes.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import time

import mlflow
import pytest

from tests.helpers import free_port

RECIPE = "configs/recipe/scenes_tiny.yaml"
RATE = f"{RECIPE}:train.optimizer.lr.head"
EPOCHS = 2
SECOND = "configs/recipe/scenes_siglip.yaml"


@pytest.fixture(scope="module")
def trained(repository):
    """The repository after `dvc repro evaluate`, with nothing uncommitted that experiments would take along."""
    repository.edit(RECIPE, **{"train.epochs": EPOCHS})
    shutil.copy(repository.folder / RECIPE, repository.folder / SECOND)
    repository.edit(SECOND, **{"loss.kind": "siglip"})
    repository.run("dvc", "repro", "evaluate")
    repository.run("git", "add", "-A")
    repository.run("git", "commit", "-qm", "trained")
    return repository


def client(repo) -> mlflow.MlflowClient:
    # MLflow keeps each database open by its address, also one that was deleted: another file needs another address.
    store = getattr(repo, "store", "mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{repo.folder}/{store}")


def runs(repo) -> dict:
    """The active runs, by id."""
    (experiment,) = client(repo).search_experiments(filter_string="name = 'clipline'")
    return {run.info.run_id: run for run in client(repo).search_runs([experiment.experiment_id])}


def receipt(repo) -> str:
    return json.loads((repo.folder / "models/run.json").read_text())["run_id"]


def rate(run) -> float:
    return float(run.data.params["recipe.train.optimizer.lr.head"])


def check_is_whole(repo, run, epochs: int = EPOCHS) -> None:
    """Training and evaluation are in it, each point once."""
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.train.epochs"] == str(epochs)
    history = client(repo).get_metric_history(run.info.run_id, "epoch")
    assert [point.value for point in sorted(history, key=lambda point: point.step)] == list(range(1, epochs + 1))
    assert len(client(repo).get_metric_history(run.info.run_id, "test_t2i_r1")) == 1
    assert run.data.tags["stage.evaluate"] == "FINISHED"
    assert "gallery.png" in {file.path for file in client(repo).list_artifacts(run.info.run_id)}


def test_fresh(trained):
    (run,) = runs(trained).values()
    assert run.info.run_id == receipt(trained)
    check_is_whole(trained, run)


def test_evaluate_alone(trained):
    trained.edit("params.yaml", **{"evaluate.top": 3})
    trained.run("dvc", "repro", "evaluate")
    (run,) = runs(trained).values()
    check_is_whole(trained, run)
    trained.run("git", "checkout", "-q", "params.yaml")
    trained.run("dvc", "repro", "evaluate")


def test_an_experiment_in_a_temporary_folder(trained):
    before, own = runs(trained), receipt(trained)
    trained.run("dvc", "exp", "run", "--temp", "-n", "temporary", "-S", f"{RATE}=5e-4", "evaluate")
    (run,) = [run for name, run in runs(trained).items() if name not in before]
    check_is_whole(trained, run)
    assert rate(run) == 5e-4 and run.data.tags["dvc_exp"] == "temporary"
    assert receipt(trained) == own


def status(repo) -> str:
    return repo.run("dvc", "queue", "status").stdout


def test_a_sweep_through_a_queue_with_two_workers(trained):
    """As docs/experiments.md has it: two recipes with two seeds each."""
    before = runs(trained)
    sweep = ("-S", "recipe=scenes_tiny,scenes_siglip", "-S", "train.seed=range(1,3)")
    trained.run("dvc", "exp", "run", "--queue", "-n", "sweep", *sweep, "evaluate")
    # Its workers keep its output open: to read that would be to wait for them, without a look at what they do.
    start = ["dvc", "queue", "start", "--jobs", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(start, cwd=trained.folder, env=trained.env, check=True, **quiet)
    deadline = time.monotonic() + 1200
    evaluated = 0
    # The store is asked first: `dvc queue status` takes seconds of the cores that the workers need.
    while evaluated < 4 or any(state in status(trained) for state in ("Queued", "Running")):
        assert time.monotonic() < deadline, status(trained)
        time.sleep(2)
        new = [run for name, run in runs(trained).items() if name not in before]
        evaluated = sum(run.data.tags.get("stage.evaluate") == "FINISHED" for run in new)
    made = [run for name, run in runs(trained).items() if name not in before]
    wanted = [(recipe, seed) for recipe in ("scenes_siglip", "scenes_tiny") for seed in ("1", "2")]
    assert sorted((run.data.tags["recipe"], run.data.params["seed"]) for run in made) == wanted
    for run in made:
        check_is_whole(trained, run)
        assert run.data.params["recipe.loss.kind"] == ("siglip" if "siglip" in run.data.tags["recipe"] else "infonce")
    experiments = {run.data.tags["dvc_exp"] for run in made}
    assert experiments == {f"sweep-{number}" for number in range(1, 5)}

    # The two tables that the page names: both say which is which, and how good.
    shown = trained.run("dvc", "exp", "show", "--only-changed", "--csv").stdout.splitlines()
    rows = {row["Experiment"]: row for row in csv.DictReader(shown) if row["Experiment"] in experiments}
    assert sorted((row["recipe"], row["train.seed"]) for row in rows.values()) == wanted
    told = json.loads(trained.run("clipline", "runs", "-n", "4", "--json").stdout)
    assert {run["id"] for run in told} == {run.info.run_id for run in made}
    assert sorted((run["settings"]["recipe"], run["settings"]["seed"]) for run in told) == wanted
    for run in told:
        assert run["metrics"]["test_t2i_r1"] == float(rows[run["name"]]["test.t2i_r1"])


def test_a_restored_model_finds_its_run(trained):
    own = receipt(trained)
    trained.edit(RECIPE, **{"train.optimizer.lr.head": 8e-4})
    trained.run("dvc", "repro", "evaluate")
    other = receipt(trained)
    assert other != own
    before = runs(trained)
    trained.run("git", "checkout", "-q", RECIPE)
    restored = trained.run("dvc", "repro", "evaluate").stdout
    assert "Running stage 'train'" not in restored
    assert receipt(trained) == own and runs(trained).keys() == before.keys()
    trained.run("dvc", "repro", "--force", "--single-item", "evaluate")
    assert runs(trained).keys() == before.keys()
    check_is_whole(trained, runs(trained)[own])


def test_a_training_that_is_forced_is_another_model(trained):
    before = runs(trained)
    trained.run("dvc", "repro", "--force", "--single-item", "train")
    trained.run("dvc", "repro", "evaluate")
    (run,) = [run for name, run in runs(trained).items() if name not in before]
    assert run.info.run_id == receipt(trained)


def test_a_run_that_is_deleted_in_the_ui_is_replaced_once(trained):
    client(trained).delete_run(receipt(trained))
    before = runs(trained)
    for _ in range(2):
        trained.run("dvc", "repro", "--force", "--single-item", "evaluate")
    (run,) = [run for name, run in runs(trained).items() if name not in before]
    assert run.data.tags["receipt"] == receipt(trained)
    check_is_whole(trained, run)


def test_a_killed_training_goes_on_in_its_run(trained):
    epochs = 30
    trained.edit(RECIPE, **{"train.epochs": epochs})
    before = runs(trained)
    table = trained.folder / "reports/train.csv"
    process = subprocess.Popen(
        ["dvc", "repro", "evaluate"], cwd=trained.folder, env=trained.env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    while not (table.exists() and 4 < len(table.read_text().splitlines()) < epochs):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = trained.run("dvc", "repro", "evaluate")
    assert "going on after epoch" in again.stdout + again.stderr
    (run,) = [run for name, run in runs(trained).items() if name not in before]
    check_is_whole(trained, run, epochs)
    trained.run("git", "checkout", "-q", RECIPE)


def test_a_server_that_is_down_stops_nothing(trained):
    """Two trainings one after the other, whose files DVC replaces, and one in a temporary folder: none is lost."""
    before, rates = runs(trained), (9e-4, 1.1e-3, 7e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trained.env, "MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        for value in rates[:2]:
            trained.edit(RECIPE, **{"train.optimizer.lr.head": value})
            done = trained.run("dvc", "repro", "evaluate")
            assert "the work goes on" in done.stdout + done.stderr and "clipline sync" in done.stdout + done.stderr
        trained.run("git", "checkout", "-q", RECIPE)
        trained.run("dvc", "exp", "run", "--temp", "-n", "offline", "-S", f"{RATE}={rates[2]}", "evaluate")
    assert runs(trained).keys() == before.keys()
    trained.run("clipline", "sync")
    made = [run for name, run in runs(trained).items() if name not in before]
    assert sorted(rate(run) for run in made) == sorted(rates)
    for run in made:
        check_is_whole(trained, run)
    assert trained.run("clipline", "sync").stdout == "nothing to send\n"


def test_a_deleted_store_gets_the_run_again(trained):
    trained.run("dvc", "repro", "evaluate")
    (trained.folder / "mlflow.db").unlink()
    shutil.rmtree(trained.folder / "mlartifacts")
    trained.run("dvc", "repro", "--force", "--single-item", "evaluate")
    trained.store = "./mlflow.db"
    (run,) = runs(trained).values()
    assert run.data.tags["receipt"] == receipt(trained)
    check_is_whole(trained, run)
