"""`python -m stages.preprocess` as DVC calls it: one clear error, the right exit code, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipline.data.prepared import Prepared
from clipline.errors import CliplineError
from clipline.utils.files import locked
from stages import preprocess
from stages.common import BUSY
from tests.helpers import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own with 12 raw images; its stages and code are this one's."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "stages").symlink_to(ROOT / "stages")
    edit(folder / "configs/data/scenes.yaml", "val: 400, test: 400", "val: 2, test: 2")
    source.fill(12)
    shutil.copytree(source.write(), folder / "data/raw")
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stage(repository: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stages.preprocess"]
    clean = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return subprocess.run(
        command, cwd=repository, env=clean | environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_success_says_what_was_kept(repository: Path) -> None:
    done = stage(repository)
    assert done.returncode == 0, done.stderr
    assert "train: 8 images, 16 captions\nval: 2 images, 4 captions\ntest: 2 images, 4 captions" in done.stdout
    assert "tokenizer: wordpiece trained on 16 training captions" in done.stdout
    assert len(Prepared(repository / "data/prepared").split("train").image_names) == 8


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "wanted"),
    [
        ("params.yaml", "max_broken: 0.01", "max_brokn: 0.01", 2, "did you mean `max_broken`?"),
        ("configs/recipe/scenes_tiny.yaml", "resize: shortest", "resize: crop", 2, "found 'crop'"),
        ("configs/data/scenes.yaml", "kind: hash, val: 2, test: 2", "kind: flickr8k", 1, "official lists"),
        ("data/raw/captions.csv", "image,caption", "image,text", 1, "captions.csv: line 1: no column `caption`"),
        ("data/raw/captions.csv", "0003.png", "none.png", 1, "none.png: no such file"),
    ],
)  # fmt: skip
def test_errors_are_clear_and_have_exit_codes(
    repository: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, code: int, wanted: str
) -> None:
    edit(repository / file, old, new)
    monkeypatch.chdir(repository)
    with pytest.raises(CliplineError) as error:
        preprocess.main()
    assert error.value.exit_code == code
    assert wanted in str(error.value)
    assert sorted(path.name for path in (repository / "data").iterdir()) == ["raw"]


def test_an_error_is_one_line_and_the_exit_code(repository: Path) -> None:
    edit(repository / "params.yaml", "recipe: scenes_tiny", "recipe: nothing")
    done = stage(repository)
    assert done.returncode == 2
    assert done.stderr.strip().startswith(
        "preprocess: error: params.yaml: recipe: no such recipe: `nothing`; allowed: "
    )
    assert "Traceback" not in done.stderr


def test_no_raw_data_names_the_stage_to_run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(repository / "data/raw")
    monkeypatch.chdir(repository)
    with pytest.raises(CliplineError, match=r"^data/raw/captions\.csv: no such file\. Fix: run the download stage"):
        preprocess.main()


def test_one_stage_at_a_time(repository: Path) -> None:
    with locked(repository, "busy"):
        done = stage(repository)
    assert done.returncode == 1
    assert done.stderr.strip() == f"preprocess: error: {repository}: {BUSY}"
    assert not (repository / "data/prepared").exists()
    assert stage(repository).returncode == 0


def test_no_network_fails_in_seconds_with_the_fix(repository: Path, tmp_path: Path) -> None:
    edit(repository / "params.yaml", "recipe: scenes_tiny", "recipe: resnet50_distilbert")
    endpoint = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    done = stage(repository, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hub"))
    assert time.monotonic() - start < 30
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "distilbert" in line]
    assert "is not in its cache. Fix: a local model folder as text.weights" in line
    assert "Traceback" not in done.stderr
    assert not (repository / "data/prepared").exists()
