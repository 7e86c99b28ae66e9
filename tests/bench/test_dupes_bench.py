"""bench/dupes.py on a few small images and a small model."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / "bench" / "dupes.py"


def bench(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_a_short_run(bundle, tmp_path):
    for folder, colours in (("photos", [(250, 0, 0), (0, 0, 250)]), ("others", [(0, 250, 0), (250, 0, 0)])):
        (tmp_path / folder).mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (400, 320), colour).save(tmp_path / folder / f"{folder}-{number}.jpg")
    done = bench(tmp_path / "photos", "--model", bundle, "--others", tmp_path / "others", "--planted", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 images" in done.stdout
    cells = [cell.strip() for cell in next(row for row in done.stdout.splitlines() if "0.93" in row).split("│")]
    # The copies of a red photo are all red; another red one is wrong beside these ten.
    assert cells[2:11] == ["100%"] * 9
    assert cells[11:14] == ["55", "10", "81.82%"]


def test_no_photos(tmp_path, bundle):
    done = bench(tmp_path, "--model", bundle)
    assert done.returncode == 2
    assert "0 photos" in done.stderr
