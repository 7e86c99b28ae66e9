"""bench/train.py on a tiny model: every figure that it promises, and what it asks for.

Its trainers run in this process, which has torch already; test_embed_bench.py lets them start processes of their own.
"""

import json
import subprocess
import sys

import pytest

from tests.factories import ROOT, load_script


def test_a_short_run(tmp_path, monkeypatch, one_thread, capsys):
    script, out = load_script("bench/train.py"), tmp_path / "results.json"
    monkeypatch.setattr(script, "apart", lambda trainer, job: trainer(job))
    script.main(model="tiny", batch_size=4, steps=2, repeats=1, threads=1, peers="none", out=out)
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
    assert "outside forward, backward and optimiser" in capsys.readouterr().out


def test_a_missing_peer_is_named():
    command = [sys.executable, ROOT / "bench/train.py", "--model", "tiny", "--steps", "1", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == 0:
        pytest.skip("open_clip is installed here")
    assert done.returncode == 2
    assert "pip install --no-deps open_clip_torch" in " ".join(done.stderr.split())
