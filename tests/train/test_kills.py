"""The train stage killed at random moments: it resumes, and ends in the same model and one MLflow run.

A few kills here; CLIPLINE_KILLS says how many (`make test-faults`), CLIPLINE_FAULTS_SEED when.
"""

import csv
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import yaml

from stages import train
from stages.common import run_stage
from tests.helpers import clean_environment

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("CLIPLINE_KILLS", "2"))
EPOCHS = 20 + 10 * KILLS
# Measurements that differ between runs.
TIMES = {
    "images_per_second",
    "tflops",
    "peak_memory_mb",
    *(f"seconds_{name}" for name in ("data", "forward_backward", "optimizer", "eval", "other")),
}


def run_stage_in(folder: Path) -> None:
    """`python -m stages.train` in `folder`, of which this process is a fork."""
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    environment = clean_environment(DVC_ROOT=str(folder))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    run_stage(train.main)


@pytest.fixture(scope="module")
def stage():
    """stage(folder) -> the train stage at work there: a fork of a process that has imported what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "mlflow", "mlflow.store.tracking.sqlalchemy_store"])

    def start(folder: Path) -> ForkServerProcess:
        process = context.Process(target=run_stage_in, args=(folder,))
        process.start()
        return process

    return start


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".cache/train/*/state-*"))


@pytest.fixture
def make_folder(prepared, make_recipe, tmp_path):
    """make_folder("a") -> a folder with all that the train stage reads."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(prepared, folder / "data" / "prepared")
        recipe = make_recipe(
            {
                "train.epochs": EPOCHS,
                "train.batch_size": 8,
                "train.captions": "random",
                "train.ema": 0.9,
                "train.augment": {"flip": 0.5, "word_dropout": 0.1},
                "train.schedule": {"kind": "cosine"},
                "head.dropout": 0.2,
            }
        )
        for kind, values in (("recipe", recipe.model_dump(mode="json")), ("data", _dataset())):
            (folder / "configs" / kind).mkdir(parents=True)
            (folder / "configs" / kind / "tiny.yaml").write_text(yaml.safe_dump(values))
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params |= {
            "data": "tiny",
            "recipe": "tiny",
            "train": {"seed": 0, "device": "cpu", "save_every": 3, "devices": 1},
        }
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        return folder

    return make


def _dataset() -> dict:
    values = yaml.safe_load((ROOT / "configs" / "data" / "scenes.yaml").read_text())
    return values


def history(folder: Path) -> tuple[int, dict[str, list[tuple[int, float]]]]:
    """How many runs the store has, and the curves of the only one, in the order of logging."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    names = [name for name in runs[0].data.metrics if not name.startswith("system/")]
    curves = {name: [(p.step, p.value) for p in client.get_metric_history(runs[0].info.run_id, name)] for name in names}
    assert runs[0].info.status == "FINISHED"
    return len(runs), curves


def test_killed_at_random_moments(make_folder, stage):
    uncut, cut = make_folder("whole"), make_folder("cut")
    whole = stage(uncut)
    whole.join()
    assert whole.exitcode == 0, (uncut / "log").read_text()
    dice, killed = random.Random(os.environ.get("CLIPLINE_FAULTS_SEED", "0")), 0
    while True:
        before, process = states(cut), stage(cut)
        # Most kills wait for progress, since a start alone takes seconds.
        patient = killed < KILLS and dice.random() < 0.9
        while patient and states(cut) == before and process.is_alive():
            time.sleep(0.05)
        if killed < KILLS:
            time.sleep(dice.uniform(0, 0.3))
        if killed >= KILLS or not process.is_alive():
            break
        os.kill(process.pid, dice.choice([signal.SIGKILL, signal.SIGTERM]))
        killed += 1
        process.join(60)
        assert process.exitcode
        shutil.rmtree(cut / "models", ignore_errors=True)  # as DVC does with outs before it runs a stage
        shutil.rmtree(cut / "reports", ignore_errors=True)
    process.join(300)
    assert process.exitcode == 0, (cut / "log").read_text()
    print(f"{killed} kills")  # noqa: T201

    assert killed == KILLS
    assert (cut / "log").read_text().count("going on after epoch") >= KILLS / 2
    model = "models/checkpoint/model.safetensors"
    assert (cut / model).read_bytes() == (uncut / model).read_bytes()
    assert states(cut) == []
    tables = [list(csv.DictReader((folder / "reports" / "train.csv").open())) for folder in (uncut, cut)]
    plain, resumed = ([{k: v for k, v in row.items() if k not in TIMES} for row in table] for table in tables)
    assert plain == resumed
    assert len(resumed) == EPOCHS
    (_, expected), (runs, actual) = history(uncut), history(cut)
    assert runs == 1
    for name in expected.keys() - TIMES:
        assert actual[name] == expected[name], name
    assert actual.keys() == expected.keys()
