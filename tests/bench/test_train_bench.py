"""bench/train.py on a tiny model: every figure that it promises, and what it asks for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "train.py"


def bench(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_short_run(tmp_path):
    out = tmp_path / "results.json"
    options = ["--model", "tiny", "--batch-size", 4, "--steps", 2, "--repeats", 1, "--threads", 1, "--peers", "none"]
    done = bench(*options, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert set(found["rates"]) == {"clipline frozen", "clipline trainable"}
    assert found["ratios"] == {}
    for name, runs in found["outside"].items():
        for number, share in enumerate(runs):
            phases = found["details"][number][f"clipline {name}"]["phases"]
            inside = phases["seconds_forward_backward"] + phases["seconds_optimizer"]
            assert share == pytest.approx(1 - inside / sum(phases.values()))
            assert 0 < share < 1
    # The frozen image tower is not computed at all.
    assert min(found["rates"]["clipline frozen"]) > 0
    # Nor counted: the text tower's work is the same, by the time that it took.
    assert found["arithmetic"]["frozen"]["tflops"] > 0
    assert found["machine"]["versions"]["torch"]
    assert "outside forward, backward and optimiser" in done.stdout


def test_a_missing_peer_is_named():
    done = bench("--model", "tiny", "--steps", 1, "--repeats", 1)
    if done.returncode == 0:
        pytest.skip("open_clip is installed here")
    assert done.returncode == 2
    assert "pip install --no-deps open_clip_torch" in " ".join(done.stderr.split())
