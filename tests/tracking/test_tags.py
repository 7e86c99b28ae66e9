"""Tags, in real git repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from clipline.tracking import base_tags

NAMES = {"recipe": "vit_scratch", "dataset": "scenes", "fingerprint": "0123abcd", "device": "cpu"}


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def commit(empty_repo: Path) -> str:
    """A repository with a commit, in the current folder."""
    git("init", "--quiet")
    for name in ("params.yaml", "dvc.lock", "notes.txt"):
        Path(name).write_text("one\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    return git("rev-parse", "HEAD")


def test_names_and_revision(commit: str) -> None:
    tags = base_tags(**NAMES)
    assert tags["git_revision"] == tags["mlflow.source.git.commit"] == commit
    assert tags["git_dirty"] == "false"
    assert (tags["recipe"], tags["dataset"], tags["device"]) == ("vit_scratch", "scenes", "cpu")
    assert tags["dataset_fingerprint"] == "0123abcd"
    assert tags["mlflow.user"]
    assert not any(name.startswith("dvc") for name in tags)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [("params.yaml", "true"), ("src/new.py", "true"), ("dvc.lock", "false"), ("notes.txt", "false")],
)
def test_dirty_means_code_or_settings(commit: str, name: str, dirty: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("two\n")
    tags = base_tags(**NAMES)
    assert (tags["git_revision"], tags["git_dirty"]) == (commit, dirty)


def test_outside_a_repository_it_says_so(empty_repo: Path) -> None:
    tags = base_tags(**NAMES)
    assert (tags["git_revision"], tags["git_dirty"]) == ("unknown", "unknown")
    assert "mlflow.source.git.commit" not in tags


def test_dvc_stage_and_experiment(empty_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("DVC_EXP_NAME", "eager-otter")
    tags = base_tags(**NAMES)
    assert (tags["dvc_stage"], tags["dvc_exp"]) == ("train", "eager-otter")
