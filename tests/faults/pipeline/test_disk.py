"""Full, read-only and vanished places, in every stage: one clear line, nothing half, and a rerun goes on."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import FIXES, STAGES, Place, check_nothing_half, copy_tree
from tests.helpers import ROOT_USER, UNPRIVILEGED

SPARE = 16  # kB that the full disk has left: enough to begin, for no stage enough to end
needs_setpriv = pytest.mark.skipif(ROOT_USER and not shutil.which("setpriv"), reason="root without setpriv")


@pytest.fixture
def disk(make_disk) -> Path:
    """A file system of its own."""
    return make_disk("400m")


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def run_read_only(place: Place, stage: str, folder: Path) -> tuple[int, str]:
    """The stage, without root's rights, while nothing may be written in `folder`."""
    folder.chmod(0o555)
    try:
        return place.run(stage, *UNPRIVILEGED)
    finally:
        folder.chmod(0o755)


def clear_end(code: int, output: str) -> None:
    """It failed, and said so in one line that tells where and what to do."""
    assert code not in (0, -signal.SIGSEGV, -signal.SIGBUS), (code, output)
    assert "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if ": error: " in line]
    assert any(words in output[output.index(line) :] for words in FIXES), output


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(stage, finished, disk, tmp_path, fault):
    place = copy_tree(finished, disk / "place", tmp_path / "log")
    expected = place.result(stage)
    with fault("disk full") as one:
        place.clear(stage)
        used = shutil.disk_usage(disk).used // 1024
        resize(disk, f"{used + SPARE}k")
        code, said = place.run(stage)
        clear_end(code, said)
        check_nothing_half(place, stage, finished)
        resize(disk, "400m")
        code, again = place.run(stage)
        assert code == 0 and place.result(stage) == expected, again
        one.told(said)


@needs_setpriv
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_place(stage, finished, place, fault):
    """The folder above the stage's output may not be written."""
    expected = place.result(stage)
    place.clear(stage)
    locked = place.outs(stage)[0].parent
    locked.mkdir(exist_ok=True)
    with fault("read-only folder") as one:
        code, said = run_read_only(place, stage, locked)
        clear_end(code, said)
        check_nothing_half(place, stage, finished)
        code, again = place.run(stage)
        assert code == 0 and place.result(stage) == expected, again
        one.told(said)


@needs_setpriv
@pytest.mark.parametrize("stage", ["download", "train", "embed"])
def test_a_read_only_cache(stage, finished, place, fault):
    """`.cache`, where stages keep what a restart needs."""
    place.clear(stage)
    cache = place.folder / ".cache"
    cache.mkdir(exist_ok=True)
    with fault("read-only folder") as one:
        code, said = run_read_only(place, stage, cache)
        clear_end(code, said)
        check_nothing_half(place, stage, finished)
        one.told(said)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("gone", [".cache", "models", "reports", "data/prepared"])
def test_a_folder_that_vanishes_while_training(gone, place, fault):
    expected = place.result("train")
    place.clear("train")
    process = place.start("train")
    until(process, place, lambda: list(place.folder.glob(".cache/train/*/state-*")))
    with fault("vanished folder") as one:
        kept = shutil.copytree(place.folder / gone, place.folder / "kept")
        shutil.rmtree(place.folder / gone)
        code, said = process.wait(200), place.said()
        if code:
            clear_end(code, said)
            one.told(said)
        if gone.startswith("data"):
            shutil.copytree(kept, place.folder / gone)
        if code:
            place.clear("train")
            code, said = place.run("train")
        assert code == 0 and place.result("train") == expected, said
        one.how = "recovered" if one.how == "lost" else one.how


def until(process: subprocess.Popen, place: Place, there: Callable) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None and time.monotonic() < deadline, place.said()
        time.sleep(0.005)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_an_input_that_vanished(stage, finished, place, fault):
    """A person deleted what the stage reads."""
    place.clear(stage)
    gone = "data/raw" if stage == "preprocess" else "models/onnx" if stage == "embed" else "data/prepared"
    shutil.rmtree(place.folder / gone)
    with fault("vanished folder") as one:
        code, said = place.run(stage)
        assert code and "Traceback" not in said, said
        check_nothing_half(place, stage, finished)
        one.told(said + os.linesep)
