"""Someone who only embeds and searches: base and `cpu` extra alone, in a virtual environment of their own.

Needs the package index, so `make test` leaves it out and `make test-install` runs it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.embeddings.test_readers import CALLS, read

ROOT = Path(__file__).parents[2]
TOO_MUCH = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "dvc",
    "mlflow",
    "onnx",
    "onnxruntime-gpu",
    "pandas",
    "s3fs",
    "ray",
}

pytestmark = pytest.mark.timeout(900)


def run(*command: object, **options) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=environment, **options
    )


def said(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The `bin` folder of a virtual environment with clipline[cpu], built from a copy of this checkout."""
    folder = tmp_path_factory.mktemp("install")
    # A build leaves folders behind: not in the checkout.
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "src", folder / "source" / "src", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    said(run(sys.executable, "-m", "venv", folder / "venv"))
    binaries = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    said(run(binaries / "python", "-m", "pip", "install", "--quiet", f"{folder / 'source'}[cpu]"))
    return binaries


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_bundle) -> Path:
    """A folder with a model and three photos."""
    folder = tmp_path_factory.mktemp("place")
    make_bundle(folder / "onnx")
    for name, colour in {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}.items():
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), colour).save(folder / "photos" / f"{name}.jpg")
    return folder


def test_what_is_installed(environment):
    listed = json.loads(said(run(environment / "python", "-m", "pip", "list", "--format", "json")))
    installed = {package["name"].lower() for package in listed}
    assert {"clipline", "onnxruntime", "pyarrow", "tokenizers"} <= installed
    assert installed & TOO_MUCH == set()
    assert "No broken requirements" in said(run(environment / "python", "-m", "pip", "check"))


def test_the_package_is_whole(environment, tmp_path):
    """Every module and data file of the checkout is installed."""
    program = "import clipline, os; print(os.path.dirname(clipline.__file__))"
    package = Path(said(run(environment / "python", "-c", program, cwd=tmp_path)).strip())
    assert not package.is_relative_to(ROOT)
    source = ROOT / "src" / "clipline"
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {path for path in wanted if "__pycache__" not in path.parts and not (package / path).is_file()} == set()


def test_embed_and_search(environment, place):
    clipline = environment / "clipline"
    assert "search" in said(run(clipline, "--help", cwd=place))
    out = said(run(clipline, "embed", "photos", "--model", "onnx", "--out", "index", cwd=place))
    assert "3 embeddings in 1 part, 0 errors" in out
    assert "on CPU" in out
    found = said(run(clipline, "search", "index", "a green picture", "-n", "1", "--gallery", "out.png", cwd=place))
    assert found.split("\t")[2] == str(Path("photos") / "green.jpg")
    assert (place / "out.png").stat().st_size > 1000


def test_five_readers(environment, place, monkeypatch):
    """Each reads from this environment what base and `cpu` wrote."""
    command = ("embed", "photos", "--model", "onnx", "--out", "embeddings", "--part-rows", "2")
    said(run(environment / "clipline", *command, cwd=place))
    monkeypatch.chdir(place)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "cache")
    for call in CALLS:
        assert read(call)[0] == ["blue.jpg", "green.jpg", "red.jpg"], call


def test_cuda_is_refused_by_the_cpu_wheel(environment, place):
    done = run(
        environment / "clipline", "embed", "photos", "--model", "onnx", "--out", "new", "--provider", "cuda", cwd=place
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: CUDA was asked for, but this onnxruntime has no CUDA provider. Fix: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_extra_is_one_line(environment, place):
    """The last test: it takes onnxruntime away."""
    said(run(environment / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "onnxruntime"))
    done = run(environment / "clipline", "embed", "photos", "--model", "onnx", "--out", "new", cwd=place)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "onnxruntime is not installed. Fix: pip install 'clipline[cpu]'" in done.stderr
