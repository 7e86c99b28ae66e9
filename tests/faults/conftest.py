"""A finished pipeline to harm copies of, and the table of what was tried."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers import clean_environment
from tests.pipeline.conftest import Repository, make_repository

STAGES = ("download", "preprocess", "train", "evaluate", "export", "embed", "report")
# CLIPLINE_FAULTS_SEED repeats a failure; it is printed with the table.
SEED = os.environ.get("CLIPLINE_FAULTS_SEED", "0")
THREADS = "1"  # of every process
KILLS = int(os.environ.get("CLIPLINE_KILLS", "2"))  # of each stage
# Of a stage, what must come out the same however often it was cut off; its other files hold times and run ids.
SAME = {
    "download": ["data/raw"],
    "preprocess": ["data/prepared"],
    "train": ["models/checkpoint"],
    "evaluate": ["reports/metrics.json", "reports/recall.csv"],
    "export": ["models/onnx/image.onnx", "models/onnx/text.onnx", "models/onnx/tokenizer.json"],
    "embed": ["embeddings"],
    "report": ["reports/index.html", "reports/model_card.md"],
}
# Also where training began anew: the report names the run.
SAME_ANEW = [name for stage in STAGES if stage != "report" for name in SAME[stage]]
# What tells a person what to do.
FIXES = ("Fix", "No space left on device", "Permission denied", "what the export stage writes")


# ---------------------------------------------------------------- the table


@dataclass
class Outcome:
    """One fault. how: lost until the test shows better."""

    group: str
    how: str = "lost"

    def recovered(self) -> None:
        """A rerun fixes it by itself, or the damage was noticed and the work done again."""
        self.how = "recovered"

    def told(self, text: str) -> None:
        """The process ends with one line that says what to do, and no traceback."""
        assert "Traceback" not in text, text
        assert any(words in text for words in FIXES), text
        self.how = "told"

    def ended(self) -> None:
        """The process ends in a library's own words, and leaves nothing half."""
        self.how = "ended"


OUTCOMES: list[Outcome] = []


@pytest.fixture
def fault(request) -> Callable:
    """`with fault("kills") as one:` counts a fault; one.recovered(), .told(what was said) or .ended() must follow."""

    @contextmanager
    def begin(group: str) -> Iterator[Outcome]:
        one = Outcome(group)
        OUTCOMES.append(one)
        yield one
        assert one.how != "lost", "the test shows nothing"

    return begin


def pytest_terminal_summary(terminalreporter) -> None:
    """Faults tried, survived, lost: the figures that `make test-faults` is for."""
    if not OUTCOMES:
        return
    write = terminalreporter.write_line
    write(f"\n{'faults (seed ' + SEED + ')':44}{'tried':>7}{'recovered':>11}{'reported':>10}{'ended':>7}{'lost':>7}")
    groups = list(dict.fromkeys(one.group for one in OUTCOMES))
    for group in [*groups, "all"]:
        hows = [one.how for one in OUTCOMES if group in (one.group, "all")]
        counts = [len(hows), *(hows.count(how) for how in ("recovered", "told", "ended", "lost"))]
        write(f"{group:44}{counts[0]:7}{counts[1]:11}{counts[2]:10}{counts[3]:7}{counts[4]:7}")
    write("recovered: by itself or by a rerun; reported: one line says what is wrong and what to do")
    write("ended: in a library's own words, which is all that too little memory to load it leaves")


def dice(*name: object) -> random.Random:
    """Random numbers that the seed and the test's name repeat."""
    return random.Random(f"{SEED}/{'/'.join(map(str, name))}")


# ---------------------------------------------------------------- the pipeline


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Repository:
    """The project with 90 scenes and four epochs after `dvc repro`, with the seconds that each stage took.

    CLIPLINE_FAULTS_BASE: a folder to keep it in between calls, for whoever works on these tests.
    """
    kept = os.environ.get("CLIPLINE_FAULTS_BASE")
    base = Path(kept) if kept else tmp_path_factory.mktemp("finished")
    folder, times = base / "clipline", base / "seconds.json"
    repo = Repository(folder) if times.exists() else make_repository(folder)
    # What is trained on as many threads is the same, bit for bit.
    repo.env["OMP_NUM_THREADS"] = THREADS
    if not times.exists():
        repo.edit("configs/recipe/scenes_tiny.yaml", **{"train.epochs": 4})
        repo.edit("params.yaml", **{"train.save_every": 2})
        seconds = {}
        for stage in STAGES:
            began = time.monotonic()
            repo.run("dvc", "repro", stage)
            seconds[stage] = time.monotonic() - began
        times.write_text(json.dumps(seconds))
    repo.seconds = json.loads(times.read_text())
    return repo


class Place:
    """A copy of the finished pipeline's working tree, in which single stages run as DVC runs them.

    log: what they print; where there is room for it.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.env = clean_environment(DVC_ROOT=str(folder), OMP_NUM_THREADS=THREADS, HF_HUB_OFFLINE="1")

    def outs(self, stage: str) -> list[Path]:
        """What dvc.yaml says that the stage makes."""
        found = YAML(typ="safe").load(self.folder / "dvc.yaml")["stages"][stage]
        names = [*found.get("outs", []), *found.get("metrics", [])]
        return [self.folder / (name if isinstance(name, str) else next(iter(name))) for name in names]

    def clear(self, stage: str) -> None:
        """Remove a stage's outs, as DVC does before it runs it."""
        for path in self.outs(stage):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def start(self, stage: str, *before: str, **environment: str) -> subprocess.Popen:
        """`python -m stages.STAGE` behind the command `before`, in a process group of its own."""
        command = [*before, sys.executable, "-m", f"stages.{stage}"]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.env | environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, stage: str, *before: str, timeout: float = 200, **environment: str) -> tuple[int, str]:
        """Exit code, and all that was printed."""
        process = self.start(stage, *before, **environment)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return code, self.said()

    def said(self) -> str:
        """What the last process printed."""
        return self.log.read_text(errors="replace")

    def result(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file that must come out the same."""
        return hashes(self.folder, SAME[stage])


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of the files `names`, and of those in the folders among them."""
    files = [
        file for name in names for file in ([folder / name] if (folder / name).is_file() else _files(folder / name))
    ]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def place(finished, tmp_path) -> Place:
    """A copy of the finished working tree, without DVC's cache."""
    return copy_tree(finished, tmp_path / "place", tmp_path / "log")


def copy_tree(finished: Repository, folder: Path, log: Path) -> Place:
    """See `place`."""
    ignored = shutil.ignore_patterns(".dvc", ".git", ".cache", "__pycache__", ".ruff_cache")
    shutil.copytree(finished.folder, folder, ignore=ignored, dirs_exist_ok=True)
    return Place(folder, log)


def check_nothing_half(place: Place, stage: str, finished: Repository) -> None:
    """After a failure: each folder that the stage makes is absent or empty, each file absent or as when it succeeds.

    Files of other stages than evaluate and report hold times and run ids.
    """
    for path in place.outs(stage):
        if path.is_dir() and any(path.iterdir()):
            raise AssertionError(f"{path} is left behind: {[each.name for each in path.iterdir()]}")
        if path.is_file() and stage in ("evaluate", "report"):
            whole = finished.folder / path.relative_to(place.folder)
            assert path.read_bytes() == whole.read_bytes(), f"{path} is left behind, and is no whole one"
