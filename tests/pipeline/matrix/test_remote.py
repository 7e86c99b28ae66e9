"""A colleague's run, pulled and not trained again; and what `dvc` shows of two runs: `make test-pipeline`.

Real DVC, a folder and a real S3 server (moto) as remotes. The tests share one repository and stand in the order in
which they run.
"""

import csv
import json
import os
import re
from pathlib import Path

import mlflow
import pytest

from tests.pipeline.conftest import yaml

RECIPE = "configs/recipe/scenes_tiny.yaml"
RATE = "train.optimizer.lr.head"
FIGURES = ("reports/metrics.json", "reports/export.json", "reports/index.html", "reports/model_card.md")
BUCKET = "team"


def stages_run(result) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", result.stdout)


def commit(repo, message: str) -> None:
    repo.run("git", "add", "-A")
    repo.run("git", "commit", "-qm", message)


@pytest.fixture(scope="module")
def folder_remote(published, tmp_path_factory):
    """A shared folder, to which all is pushed; the default remote."""
    published.run("dvc", "remote", "add", "--default", "shared", str(tmp_path_factory.mktemp("shared")))
    return _pushed(published, "shared")


@pytest.fixture(scope="module")
def s3_remote(published, tmp_path_factory, request):
    """A bucket on an S3 server of our own, to which all is pushed; its keys are in the environment, as DVC has it."""
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed (extra `pipeline`)")
    moto = pytest.importorskip("moto.server", reason="moto is not installed (extra `dev`)")
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    nothing = tmp_path_factory.mktemp("aws") / "nothing"
    nothing.touch()  # DVC refuses /dev/null
    keys |= {"AWS_CONFIG_FILE": str(nothing), "AWS_SHARED_CREDENTIALS_FILE": str(nothing)}
    keys |= {"AWS_EC2_METADATA_DISABLED": "true"}
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    request.addfinalizer(server.stop)
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    # boto3 reads its settings from this process's environment alone.
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in keys.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket=BUCKET)
        published.env.update(keys)
        published.run("dvc", "remote", "add", "bucket", f"s3://{BUCKET}/clipline")
        published.run("dvc", "remote", "modify", "bucket", "endpointurl", address)
        yield _pushed(published, "bucket")
        assert client.list_objects_v2(Bucket=BUCKET, Prefix="clipline/files/md5/")["KeyCount"] > 0


def _pushed(repo, name: str) -> str:
    commit(repo, f"remote {name}")
    repo.run("dvc", "push", "--run-cache", "--remote", name)
    return name


def runs(repo) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{repo.folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'clipline'")
    return client.search_runs([experiment.experiment_id])


def history(repo, run, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(f"sqlite:///{repo.folder}/mlflow.db")
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))


def run_cache(repo) -> set[Path]:
    """What DVC remembers of stages that ran: a file for each result of each command, inputs and settings."""
    folder = repo.folder / ".dvc/cache/runs"
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("remote", ["folder_remote", "s3_remote"])
def test_a_pulled_run_is_complete_and_nothing_trains(published, clone, remote, request):
    remote = request.getfixturevalue(remote)
    other = clone()
    other.run("dvc", "pull", "--run-cache", "--remote", remote)
    assert run_cache(other) == run_cache(published) != set()
    result = other.run("dvc", "repro")
    assert stages_run(result) == [] and "up to date" in result.stdout
    for name in FIGURES:
        assert (other.folder / name).read_bytes() == (published.folder / name).read_bytes(), name
    assert other.run("git", "status", "--porcelain").stdout == ""
    assert not (other.folder / "mlflow.db").exists()

    # The colleague's store has no such run: the next stage that logs makes it again from the receipt.
    other.run("dvc", "repro", "--force", "--single-item", "evaluate")
    (own,), (run,) = runs(published), runs(other)
    assert run.data.tags["receipt"] == own.info.run_id != run.info.run_id
    assert run.data.params == own.data.params and run.info.status == "FINISHED"
    assert history(other, run, "train_loss") == history(published, own, "train_loss") != []
    assert history(other, run, "test_t2i_r1") == history(published, own, "test_t2i_r1") != []
    (shown,) = json.loads(other.run("clipline", "runs", "--json").stdout)
    assert shown["id"] == run.info.run_id and shown["settings"][f"recipe.{RATE}"] == own.data.params[f"recipe.{RATE}"]


def test_a_training_that_a_colleague_tried_comes_from_the_remote(published, clone, folder_remote):
    """Its settings are in no commit: DVC's run cache knows them."""
    other = clone()
    published.edit(RECIPE, **{RATE: 5e-4})
    assert stages_run(published.run("dvc", "repro", "train")) == ["train"]
    receipt = (published.folder / "models/run.json").read_bytes()
    published.run("dvc", "push", "--run-cache", "train")
    published.run("git", "checkout", "-q", "--", ".")
    published.run("dvc", "checkout", "--force")

    other.run("dvc", "pull", "--run-cache")
    other.edit(RECIPE, **{RATE: 5e-4})
    result = other.run("dvc", "repro", "--pull", "train")
    assert stages_run(result) == [] and "Stage 'train' is cached" in result.stdout
    assert (other.folder / "models/run.json").read_bytes() == receipt


def test_the_model_is_taken_by_its_name(published, folder_remote, tmp_path):
    """`artifacts` of dvc.yaml: a version of the model, for somebody who has no clone."""
    published.run("gto", "register", "clip", "--version", "v1.0.0")
    other = type(published)(tmp_path)
    other.run("dvc", "artifacts", "get", str(published.folder), "clip", "--rev", "v1.0.0", "--out", "model")
    graphs = sorted(path.name for path in (tmp_path / "model").glob("*.onnx"))
    assert {"image.onnx", "text.onnx"} <= set(graphs)
    for name in (*graphs, "manifest.json", "tokenizer.json", "preprocess.json"):
        assert (tmp_path / "model" / name).read_bytes() == (published.folder / "models/onnx" / name).read_bytes()
    (artifact,) = yaml.load(published.folder / "dvc.yaml")["artifacts"].values()
    assert (artifact["path"], artifact["type"]) == ("models/onnx", "model")


def test_dvc_shows_what_a_changed_learning_rate_did(published):
    published.run("dvc", "exp", "run", "-n", "slow", "-S", f"{RECIPE}:{RATE}=1e-4", "evaluate")

    params = published.run("dvc", "params", "diff").stdout
    assert re.search(rf"{RECIPE}\s+{RATE}\s+0\.001\s+0\.0001", params) and "epochs" not in params

    change = json.loads(published.run("dvc", "metrics", "diff", "--json").stdout)["reports/metrics.json"]
    assert change and all(figure["old"] != figure["new"] for figure in change.values())
    shown = published.run("dvc", "metrics", "diff").stdout
    assert all(name in shown for name in change) and "Change" in shown

    rows = list(csv.DictReader(published.run("dvc", "exp", "show", "--only-changed", "--csv").stdout.splitlines()))
    assert {RATE, *change} <= set(rows[0]) and not {"train.epochs", "test.images"} & set(rows[0])
    (slow,) = [row for row in rows if row["Experiment"] == "slow"]
    assert float(slow[RATE]) == 1e-4
    for name, figure in change.items():
        assert float(slow[name]) == figure["new"]

    told = published.run("dvc", "plots", "diff", "HEAD", "slow").stdout
    text = Path(re.search(r"file://(\S+\.html)", told)[1]).read_text()
    for name in ("train_loss", "val_t2i_r1", "image_to_text", "asked"):
        assert name in text, name
    assert '"slow"' in text and '"HEAD"' in text
