"""Two at once in one repository: one works, the other says that it waits or has to."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import SAME, SAME_ANEW, hashes
from tests.pipeline.conftest import Repository


@pytest.fixture
def repo(finished, tmp_path) -> Repository:
    """A copy with DVC's cache, in which preprocess must run anew."""
    repo = Repository(tmp_path / "clipline")
    shutil.copytree(finished.folder, repo.folder, ignore=shutil.ignore_patterns(".cache", "__pycache__"))
    return repo


@pytest.mark.timeout(900)
def test_two_pipelines(repo, finished, fault):
    def start() -> subprocess.Popen:
        command = ["dvc", "repro", "--force", "preprocess"]
        return subprocess.Popen(
            command, cwd=repo.folder, env=repo.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with fault("two `dvc repro` at once") as one:
        both = [start(), start()]
        said = [process.communicate(timeout=400)[0] for process in both]
        codes = [process.returncode for process in both]
        assert 0 in codes, said
        for code, text in zip(codes, said, strict=True):
            assert code == 0 or "lock" in text or "another stage runs here" in text, text
            assert "Traceback" not in text, text
        repo.run("dvc", "repro", "preprocess")
        assert hashes(repo.folder, SAME["preprocess"]) == hashes(finished.folder, SAME["preprocess"])
        one.recovered()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["train", "preprocess"])
def test_a_stage_twice(stage, place, fault):
    """Without dvc, whose lock would keep them apart: as when a killed dvc leaves one behind."""
    expected = place.result(stage)
    place.clear(stage)
    with fault("a stage twice at once") as one:
        first = place.start(stage)
        while place.folder not in opened(first):
            assert first.poll() is None, place.said()
            time.sleep(0.005)
        time.sleep(0.05)  # from opened to locked
        first.send_signal(signal.SIGSTOP)  # or it may have ended before the other one asks
        try:
            second = subprocess.run(
                [sys.executable, "-m", f"stages.{stage}"],
                cwd=place.folder, env=place.env, capture_output=True, text=True, check=False, timeout=200,
            )  # fmt: skip
        finally:
            first.send_signal(signal.SIGCONT)
        assert second.returncode == 1 and "another stage runs here" in second.stderr, second.stderr
        assert first.wait(200) == 0, place.said()
        assert place.result(stage) == expected
        one.told(second.stderr)


def opened(process: subprocess.Popen) -> set[Path]:
    """The folders and files that a process has open."""
    return {each.resolve() for each in Path(f"/proc/{process.pid}/fd").iterdir()}


@pytest.mark.timeout(600)
def test_caches_that_were_harmed(repo, finished, fault):
    """A byte changed in each of three outputs, and lock files that a dead dvc left."""
    for name in ("models/checkpoint/model.safetensors", "data/prepared/images.npy", "data/raw/captions.csv"):
        flip(repo.folder / name)
    with fault("corrupted: outputs, then dvc repro") as one:
        repo.run("dvc", "repro")
        assert hashes(repo.folder, SAME_ANEW) == hashes(finished.folder, SAME_ANEW)
        one.recovered()
    dead = {str(repo.folder / "data/raw"): {"pid": 999_999_999, "cmd": "dvc repro"}}
    for content in (json.dumps({"write": dead, "read": {}}), ""):
        with fault("dvc's lock files left behind") as one:
            (repo.folder / ".dvc/tmp/lock").write_text("999999999")
            (repo.folder / ".dvc/tmp/rwlock").write_text(content)
            done = repo.run("dvc", "repro", "--force", "download", check=False)
            if done.returncode:
                assert ".dvc/tmp/rwlock" in done.stderr and "Traceback" not in done.stderr, done.stderr
                (repo.folder / ".dvc/tmp/rwlock").unlink()  # as docs/reliability.md says
                repo.run("dvc", "repro", "--force", "download")
                one.how = "told"
            else:
                one.recovered()


def flip(path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
