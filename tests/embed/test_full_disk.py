"""A disk that is really full (a small tmpfs): a clear error, whole files, and a restart with room goes on."""

import subprocess
import sys

from tests import factories


def test_a_full_disk_costs_nothing_that_was_written(bundle, tmp_path, make_disk):
    small_disk = make_disk("128k")
    for index in range(400):
        factories.save(tmp_path / "photos" / f"{index:03d}.png", (index % 250, index // 250, 9), (20, 20))
    command = [sys.executable, "-c", "from clipline.cli import main; main()", "embed", tmp_path / "photos"]
    options = ["--model", bundle, "--out", small_disk / "out", "--part-rows", "10", "--provider", "cpu"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "cannot be written: No space left on device. Fix: free some space there; then run again: " in done.stderr
    assert "Traceback" not in done.stderr
    kept = len(factories.rows(small_disk / "out"))
    assert 0 < kept < 400
    assert list((small_disk / "out").glob(".*")) == []
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{400 - kept:,} new, {kept:,} unchanged" in done.stdout
    assert [row["path"] for row in factories.rows(small_disk / "out")] == [f"{index:03d}.png" for index in range(400)]
