"""The embed stage, as DVC calls it, in a copy of what it reads."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tests import factories

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path, make_bundle) -> Path:
    """A folder with params.yaml, configs, a dataset of 9 images of which 4 are test images, and a model."""
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "params.yaml", folder)
    make_bundle(folder / "models" / "onnx")
    names = [f"{index}.png" for index in range(9)]
    for index, name in enumerate(names):
        factories.save(folder / "data" / "raw" / "images" / name, (20 * index, 100, 7))
    splits = ["train", "test", "val"] * 3
    splits[8] = "test"
    (folder / "data" / "prepared").mkdir()
    table = {"row": list(range(9)), "image": names, "split": splits, "width": [40] * 9, "height": [30] * 9}
    pq.write_table(pa.table(table), folder / "data" / "prepared" / "images.parquet")
    return folder


def run(folder: Path, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages.embed"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def set_embed(repository: Path, **values) -> None:
    yaml = YAML()
    params = yaml.load((repository / "params.yaml").read_text())
    params["embed"] |= values
    with (repository / "params.yaml").open("w") as file:
        yaml.dump(params, file)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_test_images_and_the_same_bytes_again(repository):
    done = run(repository)
    assert done.returncode == 0, done.stderr
    assert "4 embeddings in 1 part, 0 errors" in done.stdout
    out = repository / "embeddings"
    assert [row["path"] for row in factories.rows(out)] == ["1.png", "4.png", "7.png", "8.png"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["root"], manifest["model"]) == ("../data/raw/images", "../models/onnx")
    before = digests(out)
    for image in (repository / "data" / "raw" / "images").iterdir():
        os.utime(image, (9, 9))
    assert run(repository).returncode == 0
    assert digests(out) == before


def test_too_many_errors_fail_the_stage_but_publish_the_others(repository):
    (repository / "data" / "raw" / "images" / "4.png").write_text("no image")
    done = run(repository)
    assert done.returncode == 3
    assert "4.png: decode: not an image" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(factories.rows(repository / "embeddings")) == 3
    set_embed(repository, max_errors=1)
    assert run(repository).returncode == 0


def test_a_folder_of_one_s_own(repository, tmp_path):
    """Relative to the repository, also when the run is in a temporary copy, whose result DVC puts back."""
    factories.save(tmp_path / "photos" / "a" / "mine.png")
    set_embed(repository, folder="../photos", dtype="float32")
    copy = tmp_path / "somewhere" / "deep" / "copy"
    shutil.copytree(repository, copy)
    done = run(copy, DVC_ROOT=str(repository))
    assert done.returncode == 0, done.stderr
    assert [row["path"] for row in factories.rows(copy / "embeddings")] == ["a/mine.png"]
    manifest = json.loads((copy / "embeddings" / "manifest.json").read_text())
    assert manifest["dtype"] == "float32"
    assert manifest["model"] == "../models/onnx"
    root = repository / "embeddings" / manifest["root"]
    assert Path(os.path.normpath(root)) == tmp_path / "photos"


def test_a_missing_folder_is_bad_configuration(repository):
    set_embed(repository, folder="none")
    done = run(repository)
    assert done.returncode == 2
    assert "none: no such folder" in done.stderr
