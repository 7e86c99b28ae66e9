"""`--model models:/clipline@champion`: from a real store or server to a folder that embeds and searches."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from clipline.errors import CliplineError, UsageError
from clipline.registry import fetch as fetching
from clipline.registry.fetch import fetch, verify
from clipline.registry.promote import promote
from clipline.runtime.model import OnnxModel
from clipline.tracking.location import tracking_uri
from tests.registry.conftest import EXPERIMENT, RECEIPT

CLIPLINE = Path(sys.executable).parent / "clipline"


def crown() -> None:
    promote(None, receipt=RECEIPT, experiment=EXPERIMENT, name="clipline", margin=0.5)


@pytest.fixture
def registered(trained, repo) -> str:
    """The id of a run whose model is version 1 and champion, in a repository of DVC's."""
    (repo / "dvc.yaml").touch()
    run = trained(50.0, 40.0)
    crown()
    return run


def test_all_names_lead_to_one_folder_fetched_once(registered, repo, bundle, monkeypatch):
    folder = fetch("models:/clipline@champion")
    assert folder.parent == repo / ".cache" / "models"
    assert {path.name: path.read_bytes() for path in folder.glob("*.onnx")} == {
        path.name: path.read_bytes() for path in bundle.glob("*.onnx")
    }
    np.testing.assert_array_equal(OnnxModel(folder).embed_texts(["red"]), OnnxModel(bundle).embed_texts(["red"]))

    monkeypatch.setattr(fetching, "_download", lambda *arguments: pytest.fail("fetched again"))
    assert fetch("models:/clipline/1") == fetch(f"runs:/{registered}/clip") == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_outside_a_repository_it_stays_with_the_users_caches(registered, repo, tmp_path, monkeypatch):
    (repo / "dvc.yaml").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert fetch("models:/clipline/1").parent == tmp_path / "caches" / "clipline" / "models"


UNKNOWN = [
    (
        "models:/other@champion",
        r"no registered model other in sqlite:///.*mlflow\.db; it has clipline\. Fix: name one",
    ),
    ("models:/clipline@best", r"clipline has no alias best; it has champion \(version 1\)"),
    ("models:/clipline/7", r"clipline has no version 7; it has 1"),
    ("runs:/abc/clip", r"no run abc; the newest in the store: RUN"),
    ("runs:/RUN/image", r"the run RUN has no model image; it has clip"),
    ("models:/clipline", r"an MLflow model is named as models:/NAME@ALIAS, "),
    ("models:/clip'line@x", r"an MLflow model is named as models:/NAME@ALIAS, "),
]


def test_an_unknown_name_is_one_line_that_says_what_there_is(registered):
    for name, why in UNKNOWN:
        with pytest.raises(UsageError, match=why.replace("RUN", registered)) as refused:
            fetch(name.replace("RUN", registered))
        assert "\n" not in str(refused.value)


def test_what_was_changed_in_the_store_is_refused(registered, repo):
    (stored,) = repo.glob("mlartifacts/**/text.onnx")
    stored.write_bytes(stored.read_bytes()[:-1] + b"\0")
    message = (
        r"models:/clipline/1: damaged in the store, or changed there: text\.onnx: not the file that manifest\.json"
    )
    with pytest.raises(CliplineError, match=message) as refused:
        fetch("models:/clipline/1")
    assert str(refused.value).count("Fix: ") == 1
    assert list((repo / ".cache" / "models").iterdir()) == []


def test_a_graph_of_the_other_side_is_refused_when_it_is_opened(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"text": manifest["image"]}))
    verify(folder)
    with pytest.raises(UsageError, match=r"image\.onnx: no text graph of a model"):
        OnnxModel(folder, provider="cpu").embed_texts(["red"])


def test_a_cache_that_cannot_be_written_is_not_the_stores_fault(registered, repo):
    (repo / ".cache").write_text("a file")
    with pytest.raises(CliplineError, match=r"models:/clipline/1: cannot be kept in .*\.cache/models: ") as refused:
        fetch("models:/clipline/1")
    assert "the MLflow store" not in str(refused.value)


def test_models_that_are_none_of_clipline(registered, repo):
    client = MlflowClient(tracking_uri())
    client.create_model_version("clipline", "file:///elsewhere")
    with pytest.raises(UsageError, match="clipline, version 2: not a model that clipline's export stage logged"):
        fetch("models:/clipline/2")
    client.delete_logged_model(client.get_model_version("clipline", "1").source.removeprefix("models:/"))
    with pytest.raises(UsageError, match="clipline, version 1: its model was deleted from the store"):
        fetch("models:/clipline/1")


def test_no_store_is_made_only_to_look_into_it(empty_repo):
    with pytest.raises(UsageError, match=r"mlflow.db: no MLflow store here\. Fix: go to the repository"):
        fetch("models:/clipline@champion")
    assert list(empty_repo.iterdir()) == []


def test_a_server_that_is_down(empty_repo, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(CliplineError, match=r"cannot read from the MLflow store http://127\.0\.0\.1:9: "):
        fetch("models:/clipline@champion")


def test_without_mlflow_the_extra_is_named(repo):
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'mlflow': raise ModuleNotFoundError(name, name='mlflow')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from clipline.cli import main\n"
        "main()\n"
    )
    for arguments in (["embed", "x", "--model", "models:/clipline@champion", "--out", "y"], ["promote", "abc"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "error: mlflow is not installed. Fix: pip install 'clipline[pipeline]'\n"


def test_promote_embed_and_search_with_a_server(server, repo, trained, monkeypatch):
    """The commonest path, as people type it: a run on a server, its model in use elsewhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    trained(60.0, 50.0)
    (repo / "dvc.yaml").touch()
    (repo / "photos").mkdir()
    for name, colour in {"red": (250, 9, 9), "green": (9, 250, 9), "blue": (9, 9, 250)}.items():
        Image.new("RGB", (30, 20), colour).save(repo / "photos" / f"{name}.png")

    def clipline(*arguments: str) -> str:
        done = subprocess.run([CLIPLINE, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert clipline("promote").startswith("clipline: the champion now: version 1, from run ")
    printed = clipline("embed", "photos", "--model", "models:/clipline@champion", "--out", "index")
    assert printed.startswith("index: 3 embeddings in 1 part, 0 errors (3 new); ")
    assert clipline("search", "index", "green", "-n", "1").split("\t")[2] == str(Path("photos") / "green.png")
