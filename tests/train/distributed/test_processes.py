"""`train.devices: 2`: the stage starts torchrun, and two processes train the model that one does."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from clipline.utils.files import locked
from tests.helpers import clean_environment

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stage(prepared, make_recipe, tmp_path):
    """stage(devices, changes) -> the folder that the train stage ran in."""

    def run(devices: int, changes: dict) -> Path:
        folder = tmp_path / str(devices)
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "prepared").symlink_to(prepared)
        recipe = make_recipe({"train.epochs": 3, "train.batch_size": 15, "train.captions": "random"} | changes)
        dataset = yaml.safe_load((ROOT / "configs" / "data" / "scenes.yaml").read_text())
        for kind, values in (("recipe", recipe.model_dump(mode="json")), ("data", dataset)):
            (folder / "configs" / kind).mkdir(parents=True)
            (folder / "configs" / kind / "tiny.yaml").write_text(yaml.safe_dump(values))
        params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"data": "tiny", "recipe": "tiny"}
        params["train"] |= {"device": "cpu", "devices": devices}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        environment = clean_environment(PYTHONPATH=f"{ROOT}:{ROOT}/src", DVC_ROOT=str(folder), OMP_NUM_THREADS="1")
        command = [sys.executable, "-m", "stages.train"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return run


def test_two_processes_train_the_model_of_one(stage, no_dropout):
    # Batches of 15 do not divide evenly. Augmentation must not depend on the number of processes either.
    changes = no_dropout | {
        "loss": {"kind": "multi_positive"},
        "train.captions_per_image": 2,
        "train.augment": {"flip": 0.5, "word_dropout": 0.2},
    }
    (table, weights), (actual_table, actual) = (results(stage(devices, changes)) for devices in (1, 2))
    for expected, row in zip(table, actual_table, strict=True):
        for name in ("train_loss", "val_loss", "temperature"):
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-3), name
    assert actual.keys() == weights.keys()
    for name, value in weights.items():
        assert (value - actual[name]).abs().max() < 1e-3, name


def results(folder: Path) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]]:
    """The rows of reports/train.csv, and the checkpoint's weights."""
    rows = list(csv.DictReader((folder / "reports" / "train.csv").open()))
    return rows, load_file(folder / "models" / "checkpoint" / "model.safetensors")


def test_several_processes_are_one_stage(stage, no_dropout, tmp_path):
    folder = tmp_path / "2"
    folder.mkdir()
    with locked(folder, "busy"), pytest.raises(AssertionError, match="another stage runs here"):
        stage(2, no_dropout)
