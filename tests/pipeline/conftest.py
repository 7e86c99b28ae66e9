"""A copy of the repository in which the pipeline runs for real, with small settings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers import clean_environment

ROOT = Path(__file__).parents[2]
yaml = YAML()


class Repository:
    """A git and DVC repository of its own, with the project's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = clean_environment(PATH=path, OMP_NUM_THREADS="2", HF_HUB_OFFLINE="1")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        result = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=1500, check=False
        )
        if check:
            assert result.returncode == 0, f"{command}:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        return result

    def edit(self, file: str, **changes) -> None:
        """edit("params.yaml", **{"evaluate.top": 3})."""
        path = self.folder / file
        values = yaml.load(path)
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = values
            for part in parents:
                place = place[part]
            place[last] = value
        yaml.dump(values, path)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    """The project with 90 scenes and one epoch, committed, nothing run yet."""
    return make_repository(tmp_path_factory.mktemp("clone") / "clipline")


def make_repository(folder: Path) -> Repository:
    """See `repository`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "dvc.lock", "reports/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    repo = Repository(folder)
    repo.edit(
        "configs/data/scenes.yaml",
        **{
            "source.images": 90,
            "expect.images": 90,
            "expect.captions": 450,
            "split.val": 15,
            "split.test": 15,
        },
    )
    small = {"train.epochs": 1, "train.batch_size": 20, "text.args.num_hidden_layers": 1}
    repo.edit("configs/recipe/scenes_tiny.yaml", **small)
    repo.edit("params.yaml", **{"evaluate.queries": 2})
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.email", "test@example.org"],
        ["git", "config", "user.name", "test"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "start"],
    ):
        repo.run(*command)
    return repo
