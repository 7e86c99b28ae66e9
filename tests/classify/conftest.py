"""Images of one colour, a model that knows colours, and the command line in this process."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from clipline.runtime.model import OnnxModel
from tests.command import run

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def save(path: Path, colour, size=(40, 30)) -> Path:
    """An image of one colour, by its name or its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS.get(colour, colour)).save(path)
    return path


@pytest.fixture
def tools():
    """The functions of this file, as tests cannot import a conftest by name."""
    return SimpleNamespace(save=save, run=run, COLOURS=COLOURS)


@pytest.fixture(scope="session")
def scaled(make_bundle, tmp_path_factory) -> Path:
    """The colour model with a logit scale of 2: probabilities that are not all 0 or 1."""
    folder = make_bundle(tmp_path_factory.mktemp("scaled") / "onnx")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"logit_scale": 2.0}))
    return folder


@pytest.fixture
def model(scaled) -> OnnxModel:
    """The same, opened."""
    return OnnxModel(scaled, provider="cpu", threads=1)
