"""A model that knows colours, and is not sure of them."""

import json
from pathlib import Path

import pytest

from clipline.runtime.model import OnnxModel


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
