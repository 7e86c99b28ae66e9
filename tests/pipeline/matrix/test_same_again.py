"""Trained again, the very same model: `make test-pipeline`. In another folder, at another commit, in another run."""

import hashlib
import json
import sys
from pathlib import Path

from ruamel.yaml import YAML

OUTS = ("data/raw", "data/prepared", "models/checkpoint", "models/onnx")
CHECKPOINT = "models/checkpoint"


def stored(repo) -> dict[str, str]:
    """What dvc.lock calls each out: path -> hash."""
    stages = YAML(typ="safe").load(repo.folder / "dvc.lock")["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def revision(repo) -> str:
    return json.loads((repo.folder / "models/run.json").read_text())["tags"]["git_revision"]


def test_a_colleague_who_trains_again_gets_the_same_hashes(published, clone):
    for command in (("git", "checkout", "-q", "--", "."), ("dvc", "checkout", "--force")):
        published.run(*command)  # a test before this one may have tried something there
    before, weights = stored(published), hashes(published.folder / "models")
    assert {"checkpoint/model.safetensors", "onnx/image.onnx", "onnx/text.onnx"} <= weights.keys()
    other = clone()
    # Nothing is pulled. Forced, as dvc.lock says that all is done.
    done = other.run("dvc", "repro", "--force", "export").stdout
    assert all(f"Running stage '{stage}'" in done for stage in ("download", "preprocess", "train", "export"))
    after, again = stored(other), hashes(other.folder / "models")
    assert {name: after[name] for name in OUTS} == {name: before[name] for name in OUTS}
    assert {name for name in weights if weights[name] != again[name]} == {"run.json"}
    assert revision(other) != revision(published)

    # `train.devices: 1` is one process of its own; a cluster's launcher may start it as one of one.
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")
    other.run(*launcher, "-m", "stages.train")
    assert hashes(other.folder / CHECKPOINT) == hashes(published.folder / CHECKPOINT)

    # Two processes sum in another order than one, but in the same order each time.
    other.edit("params.yaml", **{"train.devices": 2})
    found = []
    for _ in range(2):
        other.run(sys.executable, "-m", "stages.train")
        found.append(hashes(other.folder / CHECKPOINT))
    assert found[0] == found[1] != {}
