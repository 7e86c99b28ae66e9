"""SIGKILL and SIGTERM at random moments of each stage and of `dvc` itself: in the end as if nothing had happened.

CLIPLINE_KILLS: so many of each stage and of dvc. CLIPLINE_FAULTS_SEED repeats the same moments.
"""

import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.faults.conftest import KILLS, SAME, SAME_ANEW, STAGES, THREADS, Place, dice, hashes
from tests.pipeline.conftest import Repository

AT_WORK = ("Running stage", "didn't change")  # what dvc prints then


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed(stage, finished, place, fault):
    expected, rolls = place.result(stage), dice("kill", stage)
    for _ in range(KILLS):
        place.clear(stage)
        moment, number = rolls.uniform(0, finished.seconds[stage]), rolls.choice([signal.SIGKILL, signal.SIGTERM])
        process = place.start(stage)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            assert process.wait(60) != 0 or place.result(stage) == expected, place.said()
        with fault(f"kill: {stage}") as one:
            check_nothing_wrong(place, stage, expected)
            place.clear(stage)
            code, said = place.run(stage)
            assert code == 0, said
            assert place.result(stage) == expected, f"another result after signal {number} at {moment:.1f} s"
            assert all(path.exists() for path in place.outs(stage))
            one.recovered()
    check_no_scratch(place.folder)


def check_nothing_wrong(place: Place, stage: str, expected: dict[str, str]) -> None:
    """What a killed stage left of its results is whole: a folder is absent, empty or as expected, a file the same."""
    for name in SAME[stage]:
        if found := hashes(place.folder, [name] if (place.folder / name).exists() else []):
            path = f"{name}/"
            assert found == {key: value for key, value in expected.items() if key == name or key.startswith(path)}


def check_no_scratch(folder) -> None:
    """What a stage kept for a restart is gone once it has ended well; features stay."""
    left = [path for path in folder.glob(".cache/*/*") if path.is_dir()]
    assert left == []


@pytest.mark.timeout(1800)
def test_dvc_killed(finished, tmp_path, fault):
    """Alone, so that its stage goes on as an orphan, or with its stage, as when a machine runs out of memory."""
    repo = Repository(tmp_path / "clipline")
    ignored = shutil.ignore_patterns(".cache", "cache", "__pycache__", "runs")
    shutil.copytree(finished.folder, repo.folder, ignore=ignored)
    repo.env |= {"OMP_NUM_THREADS": THREADS}
    for name in ("data", "models", "reports", "embeddings", "dvc.lock"):
        path = repo.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    rolls, whole = dice("kill dvc"), sum(finished.seconds.values())
    for _ in range(KILLS):
        moment, number = rolls.uniform(2, whole / 2), rolls.choice([signal.SIGKILL, signal.SIGTERM])
        group = rolls.random() < 0.5
        with fault("kill: dvc" + (" and its stage" if group else "")) as one:
            process = begin(repo)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                (os.killpg if group else os.kill)(process.pid, number)
                process.wait(60)
            again = begin(repo)
            try:
                again.wait(10)
            except subprocess.TimeoutExpired:
                until = time.monotonic() + 120
                while not any(words in (repo.folder / "log").read_text() for words in AT_WORK):
                    assert time.monotonic() < until, "held up by what the dead one left"
                    time.sleep(0.1)
                os.killpg(again.pid, signal.SIGTERM)
                again.wait(60)
                one.recovered()
            else:
                said = (repo.folder / "log").read_text()
                if again.returncode == 0:
                    one.recovered()
                else:
                    assert "another stage runs here" in said, said
                    one.told(said)
                os_wait(process.pid)
    with fault("kill: dvc, rerun to the end") as one:
        until = time.monotonic() + 900
        while (done := repo.run("dvc", "repro", check=False)).returncode:
            assert "another stage runs here" in done.stderr and time.monotonic() < until, done.stderr
            time.sleep(2)
        assert hashes(repo.folder, SAME_ANEW) == hashes(finished.folder, SAME_ANEW)
        one.recovered()


def begin(repo: Repository) -> subprocess.Popen:
    with (repo.folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["dvc", "repro"], cwd=repo.folder, env=repo.env | {"PYTHONUNBUFFERED": "1"}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def os_wait(group: int) -> None:
    """Until the orphans of a killed dvc have ended."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    raise AssertionError("an orphan does not end")
