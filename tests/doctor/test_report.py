"""`clipline doctor`: text, JSON, exit codes, and rates measured on images."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from clipline.doctor import throughput
from clipline.doctor.report import examine
from clipline.embed.sources import open_source
from clipline.errors import CliplineError, UsageError
from clipline.runtime import session
from clipline.runtime.model import OnnxModel
from tests import factories

CLIPLINE = [sys.executable, "-c", "from clipline.cli import main; main()", "doctor"]


def doctor(*arguments: object) -> subprocess.CompletedProcess:
    line = [*CLIPLINE, *(str(argument) for argument in arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def photos(tmp_path):
    """40 good images of 40 x 30 pixels, and a text file named .jpg."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(40):
        Image.new("RGB", (40, 30), (200, 5 * index, 10)).save(folder / f"{index:02d}.jpg")
    (folder / "bad.jpg").write_text("text")
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(throughput, "MODEL_SECONDS", 0.05)


def test_a_sound_machine(bundle):
    done = doctor("--model", bundle, "--provider", "cpu")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1] == "OK"
    kinds = [line.split()[0] for line in lines]
    assert kinds[:6] == ["system", "cpu", "nvidia", "packages", "wheels", "formats"]
    assert "provider    cpu: runs" in lines
    assert any(line.startswith("graph       image.onnx") and "nodes on CPUExecutionProvider" in line for line in lines)


def test_json_and_nothing_heavy(bundle, photos):
    program = (
        "import sys; from clipline.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'transformers', 'timm', 'mlflow', 'dvc', 'onnx', 'datasets'} & set(sys.modules)))"
    )
    arguments = ["doctor", photos, "--model", bundle, "--provider", "cpu", "--threads", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60
    )
    text, _, heavy = done.stdout.rstrip().rpartition("\n")
    assert heavy == "[]"
    report = json.loads(text)
    assert report["ok"] is True
    assert report["problems"] == []
    rates = report["rates"]
    assert (rates["images"], rates["batch_size"], rates["running_on"]) == (40, 16, "CPU, 1 thread")
    assert list(rates["stages"]) == ["read", "decode", "model", "write"]
    assert min(rates["stages"].values()) > 0
    assert rates["limit"] == min(rates["stages"], key=rates["stages"].get)
    assert rates["together"] > 0
    assert rates["failures"] == ["bad.jpg: decode: not an image that Pillow can read"]
    assert "bad.jpg" in report["notes"][-1]


def test_rates_hang_together(bundle, photos):
    """Embedding cannot be faster than its slowest stage."""
    rates = throughput.rates(open_source(str(photos)), OnnxModel(bundle, provider="cpu", threads=1), 1, batch_size=8)
    assert rates.possible <= min(rates.stages["decode"], rates.stages["model"])
    assert rates.together < 3 * rates.possible, "more than noise"


def test_a_folder_with_no_good_image(bundle, tmp_path):
    (tmp_path / "bad.jpg").write_text("text")
    with pytest.raises(CliplineError, match=r"none of its first images can be used \(bad\.jpg: not an image"):
        throughput.rates(open_source(str(tmp_path)), OnnxModel(bundle, provider="cpu", threads=1), 1, batch_size=8)
    assert factories.run("doctor", tmp_path, "--model", bundle, "--provider", "cpu").code == 1


def test_a_damaged_model_is_exit_1(make_bundle, tmp_path, photos):
    folder = make_bundle(tmp_path / "onnx")
    (folder / "image.onnx").write_bytes(b"x" * (folder / "image.onnx").stat().st_size)
    done = factories.run("doctor", photos, "--model", folder, "--provider", "cpu")
    assert done.code == 1
    assert "problem:" in done.out
    assert "not the file that manifest.json describes" in done.out
    assert "measured" not in done.out, "no rates of a damaged model"
    assert done.out.splitlines()[-1] == "1 problem"


@pytest.mark.skipif(session.no_device() is None, reason="this machine has an NVIDIA device")
def test_cuda_that_was_asked_for_and_is_absent_is_exit_1(bundle):
    done = doctor("--model", bundle, "--provider", "cuda", "--json")
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem.startswith("CUDA does not run: ")
    assert "Fix: " in problem
    assert factories.run("doctor", "--provider", "auto").code == 0, "a machine without a GPU has no problem"


def test_no_onnxruntime_is_a_problem_not_a_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = examine(None, None)
    assert len(report.problems) == 1
    assert "clipline[cpu]" in report.problems[0]
    assert report.providers == []


def test_bad_usage_is_exit_2(tmp_path, photos):
    for arguments, expected in [
        ([photos], "--model"),
        (["--model", tmp_path], "manifest.json: no such file"),
        ([tmp_path / "none", "--model", tmp_path], "no such file or folder"),
    ]:
        done = factories.run("doctor", *arguments)
        assert done.code == 2
        assert expected in done.error
        assert done.out == ""
    with pytest.raises(UsageError, match="add --model"):
        examine(open_source(str(photos)), None)
