"""Image graphs of every kind, exported with random weights."""

import numpy as np
import pytest
import torch

from clipline.export.graph import export_graph
from clipline.model.clip import ImageEmbedder, build_model

TIMM = {"tower": "timm", "weights": "random", "trainable": True}
IMAGES = {
    "vit": {"tower": "vit", "patch": 8, "width": 64, "depth": 2, "heads": 2, "mlp": 96, "trainable": True},
    "resnet": {**TIMM, "name": "test_resnet", "pool": "avg"},
    "mobilenet": {**TIMM, "name": "mobilenetv1_100", "pool": "avg_std"},
    "clip": {**TIMM, "name": "test_vit"},
}


@pytest.fixture
def export_image(make_recipe, tmp_path):
    """export_image("vit") -> image.onnx of that kind, for 32 px images."""

    def export(kind: str):
        torch.manual_seed(0)
        model = build_model(make_recipe({"image": IMAGES[kind]}), 50).eval()
        return export_module(ImageEmbedder(model), tmp_path / "image.onnx")

    return export


def export_module(module, path):
    """The module as image.onnx, for 32 px images."""
    export_graph(module.eval(), {"pixels": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, ["batch"], path, 20)
    return path


@pytest.fixture
def pixels():
    """24 images, uint8 [24, 32, 32, 3]: noise on flat colours."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 216, (24, 1, 1, 3)) + rng.integers(0, 40, (24, 32, 32, 3))).astype(np.uint8)
