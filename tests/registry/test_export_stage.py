"""What the export stage leaves in the run for `clipline promote`: the model and whether it passed its gates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from clipline import tracking
from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.export import export
from clipline.model.clip import CLIP
from clipline.registry.promote import Refusal, promote
from clipline.tracking.location import tracking_uri
from stages import export as stage
from tests.registry.conftest import EXPERIMENT, RECEIPT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(repo, raw, prepared, tiny_checkpoint) -> Path:
    """The repository as the train stage leaves it, of a tiny model; fp32 alone is exported."""
    shutil.copytree(ROOT / "configs", repo / "configs")
    shutil.copytree(raw, repo / "data/raw")
    shutil.copytree(prepared, repo / "data/prepared")
    shutil.copy(ROOT / "params.yaml", repo)
    edit(repo, precisions=[])
    shutil.copytree(tiny_checkpoint, repo / "models/checkpoint")
    with tracking.start(RECEIPT, experiment=EXPERIMENT, name="tiny", params={}, tags={}, system_metrics=False):
        pass
    return repo


def edit(folder: Path, **changes) -> None:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["export"].update(changes)
    yaml.dump(params, folder / "params.yaml")


def tags() -> dict[str, str]:
    (run,) = MlflowClient(tracking_uri()).search_runs(["1"])
    return run.data.tags


def test_gates(project, tiny_graphs, monkeypatch):
    def copy(model: CLIP, folder: Path, size: int, opset: int) -> None:
        for graph in tiny_graphs.iterdir():
            shutil.copy(graph, folder)

    monkeypatch.setattr(export, "write_graphs", copy)  # which takes long
    stage.main()
    assert tags()["gates"] == "passed"
    assert "the champion now: version 1" in promoted()

    edit(project, max_abs=1e-12)
    with pytest.raises(CliplineError, match=r"image\.onnx"):
        stage.main()
    assert tags()["gates"].startswith("failed: image.onnx: ")
    assert tags()["stage.export"].startswith("FAILED: image.onnx: ")
    with pytest.raises(Refusal, match=r"did not pass its gates: failed: image\.onnx: "):
        promoted(name="other")


def test_the_fingerprint_is_that_of_the_test_split_alone(project):
    data, images = Prepared(project / "data/prepared"), project / "data/raw/images"
    split = data.split("test")
    before = stage.fingerprint(split, images)
    train = images / data.split("train").image_names[0]
    train.write_bytes(train.read_bytes() + b"\0")
    assert stage.fingerprint(split, images) == before
    test = images / split.image_names[0]
    test.write_bytes(test.read_bytes() + b"\0")
    changed = stage.fingerprint(split, images)
    split.captions[0] += "!"
    assert len({before, changed, stage.fingerprint(split, images)}) == 3


def promoted(name: str = "clipline") -> str:
    return promote(None, receipt=RECEIPT, experiment=EXPERIMENT, name=name, margin=0.5)
