"""bench/tracking.py in small, with its real server: every figure that it promises."""

import json
import subprocess
import sys

import pytest

from tests.pipeline.conftest import ROOT


def test_a_short_run(tmp_path):
    options = ["--images", "60", "--epochs", "2", "--repeats", "1", "--threads", "1", "--out", tmp_path / "found.json"]
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "tracking.py", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    (details,) = found["details"]
    assert set(found["ratios"]) == {"file", "server"} < set(details) == {"none", "file", "server"}
    for name, (ratio,) in found["ratios"].items():
        own, plain = details[name], details["none"]
        assert own["steps"] == plain["steps"] == 2
        assert ratio == pytest.approx(own["training"] / plain["training"])
        # Two epochs, and what came of them in the end.
        assert own["log_calls"] == plain["log_calls"] == 3
        assert plain["log_seconds"] < own["log_seconds"] == pytest.approx(found["waited"][name][0] * own["training"])
        assert all(found["start_up"][name][part][0] > 0 for part in ("imports", "store", "end"))
    assert "start-up of at most 10 s" in done.stdout
