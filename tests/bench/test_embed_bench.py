"""bench/embed.py on a few small images and a small model: every figure that it promises, and what it refuses."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "bench" / "embed.py"


def bench(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        Image.new("RGB", (40, 30), (200, 20 * index, 10)).save(folder / f"{index}.jpg")
    return folder


def test_a_short_run(bundle, photos, tmp_path):
    out, cache = tmp_path / "results.json", tmp_path / "cache"
    options = ["--images", 24, "--repeats", 2, "--seconds", 0.1, "--threads", 2, "--peers", "none", "--rss"]
    done = bench(photos, "--model", bundle, "--cache", cache, "--out", out, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert set(found) == {"machine", "settings", "skipped", "rates", "ratios", "details", "rss"}
    assert set(found["rates"]) == {"fp32", "limit fp32", "ceiling fp32", "decode"}
    for each in found["rates"].values():
        assert len(each["runs"]) == 2
        assert min(each["runs"]) > 0
    assert set(found["ratios"]) == {"fp32 / limit", "fp32 / ceiling"}
    runs = {name: each["runs"] for name, each in (found["rates"] | found["ratios"]).items()}
    for number in range(2):
        ours, limit, decode = (runs[name][number] for name in ("fp32", "limit fp32", "decode"))
        assert runs["fp32 / limit"][number] == pytest.approx(ours / limit)
        assert runs["ceiling fp32"][number] == pytest.approx(1 / (1 / limit + 1 / decode))
    assert set(found["skipped"]) == {"int8", "fp16"}, "the model has neither"
    assert set(found["rss"]["peak_mb"]) == {"24", "240"}
    assert 0.5 < found["rss"]["ratio"] < 2
    assert found["machine"]["versions"]["numpy"]
    assert "not measured: int8" in done.stdout

    (folder,) = cache.glob("photos-24-*")
    files = list(folder.rglob("*.jpg"))
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == len(files) == 24
    pixels = {Image.open(file).tobytes() for file in files}
    assert len(pixels) == 12, "the same pictures twice"


def test_refusals(bundle, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, options, expected in [
        (tmp_path / "empty", [], "no JPEG files"),
        (photos, ["--precisions", "int8"], "has fp32, and int8 is asked for"),
        (photos, ["--peers", "somebody"], "allowed: open_clip, serial, none"),
    ]:
        done = bench(folder, "--model", bundle, "--cache", tmp_path / "cache", "--images", 12, *options)
        assert done.returncode == 2, done.stderr
        assert expected in " ".join(done.stderr.split())
