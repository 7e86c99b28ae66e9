"""SIGKILL at random moments of `clipline embed`: in the end everything is as if nothing had happened.

CLIPLINE_KILLS sets how often (`make test-faults`: 100), CLIPLINE_FAULTS_SEED when.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.factories import save

KILLS = int(os.environ.get("CLIPLINE_KILLS", "6"))
SEED = os.environ.get("CLIPLINE_FAULTS_SEED", "0")
IMAGES, PART_ROWS, BATCH = 400, 20, 8
# A real run, but for renames that take long enough to be killed in, and a note of each image that the model sees.
SLOW = """
import os, time
from pathlib import Path
from clipline.runtime.model import OnnxModel
from tests import factories

replace, embed = Path.replace, OnnxModel.embed_pixels

def slow_replace(self, target):
    time.sleep(0.01)
    result = replace(self, target)
    time.sleep(0.01)
    return result

def noted(self, pixels):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{int(pixels.any(axis=(1, 2, 3)).sum())}\\n")
    time.sleep(0.005)
    return embed(self, pixels)

Path.replace, OnnxModel.embed_pixels = slow_replace, noted
from clipline.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix knows them")
@pytest.mark.timeout(600)
def test_kills_at_any_moment_lose_nothing(bundle, tmp_path, capsys):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for index in range(IMAGES):
        save(folder / f"{index:04d}.png", tuple(int(c) for c in rng.integers(0, 256, 3)), (20 + index % 9, 20))
    for index in range(0, IMAGES, 40):
        shutil.copy(folder / f"{index:04d}.png", folder / f"copy-{index:04d}.png")
    (folder / "broken.jpg").write_text("no image")
    notes = tmp_path / "notes"

    def command(out):
        options = ["--part-rows", str(PART_ROWS), "--batch-size", str(BATCH), "--provider", "cpu", "--max-errors", "1"]
        arguments = ["embed", str(folder), "--model", str(bundle), "--out", str(out), *options]
        return [sys.executable, "-c", SLOW, *arguments]

    environment = {**os.environ, "NOTES": str(notes)}
    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True, timeout=60)
    whole = parts(tmp_path / "whole")
    once, kills, finished, at_work = embedded(notes), 0, 0, 0
    out, dice = tmp_path / "out", random.Random(SEED)
    while kills < KILLS:
        before = written(out)
        process = subprocess.Popen(command(out), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # Most of them wait for a part, or a slow start would take all the kills.
        patient = dice.random() < 0.8
        while patient and process.poll() is None and written(out) == before:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, stderr = process.communicate()
        at_work += process.returncode != 0 and written(out) != before
        if process.returncode == 0:
            finished += 1
            same(out, whole)
            shutil.rmtree(out)
        else:
            assert process.returncode == -signal.SIGKILL, stderr.decode()
    subprocess.run(command(out), env=environment, check=True, capture_output=True, timeout=60)
    finished += 1
    same(out, whole)
    repeated = embedded(notes) - once * (finished + 1)
    assert at_work >= KILLS / 2
    # A part that was not full, and what stood in the queues behind it.
    assert repeated <= kills * (PART_ROWS + 3 * BATCH)
    with capsys.disabled():
        print(f"\n{kills} kills over {finished} runs: no row lost, doubled or different; {repeated} images seen twice")  # noqa: T201


def written(folder):
    return sorted(path.name for path in folder.glob("data/part-*"))


def parts(folder):
    """Every part with all of its rows, in order."""
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("data/part-*"))}


def same(out, whole):
    assert parts(out) == whole
    assert sorted(path.name for path in out.iterdir()) == ["data", "errors.parquet", "manifest.json"]
    assert [row["path"] for row in pq.read_table(out / "errors.parquet").to_pylist()] == ["broken.jpg"]


def embedded(notes):
    return sum(int(line) for line in notes.read_text().split())
