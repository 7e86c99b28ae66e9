"""An embedded folder of colours to search in."""

from pathlib import Path

import pytest
from PIL import Image

from clipline.embed.run import Options, embed
from clipline.embed.sources.folder import Folder
from clipline.runtime.model import OnnxModel

# From pure red to pure blue, by way of green: how red each one is falls with its number.
SHADES = {
    "deep/red.png": (250, 0, 0),
    "deep/rose.png": (250, 60, 70),
    "green.png": (0, 250, 0),
    "lime.png": (90, 250, 10),
    "blue.png": (0, 0, 250),
    "sky.png": (60, 120, 250),
}


@pytest.fixture
def shades(tmp_path) -> Path:
    """Six images in `photos`."""
    for name, colour in SHADES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(path)
    return tmp_path / "photos"


@pytest.fixture
def embedded(shades, make_bundle, tmp_path) -> Path:
    """Their embeddings in `index`, two rows to a part, beside a model of their own in `onnx`."""
    model = OnnxModel(make_bundle(tmp_path / "onnx"), provider="cpu", threads=1)
    embed(Folder(shades), model, tmp_path / "index", Options(part_rows=2))
    return tmp_path / "index"
