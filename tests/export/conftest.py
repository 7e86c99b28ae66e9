"""Graphs of the recipes' towers, cut small, with random weights. Each is exported once, for all files and processes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clipline.export.fold import fold_scaling
from clipline.export.graph import export_graph
from clipline.model.clip import CLIP, ImageEmbedder, TextEmbedder
from tests.recipes import small_model, small_recipe

# Recipes with an image tower of each kind.
IMAGES = {
    "vit": "vit_distilbert",
    "resnet": "scenes_tiny",
    "mobilenet": "mobilenet_minilm",
    "mirror": "mobilenet_minilm_tuned",
    "clip": "clip_finetune",
}


@pytest.fixture(scope="session")
def exported(made_once) -> Callable[..., Path]:
    """exported("image", recipe) -> image.onnx of it, as the export stage makes it; folded=False: with pixels scaled."""

    def export(side: str, name: str, *, folded: bool = True) -> Path:
        def make(folder: Path) -> None:
            model = small_model(small_recipe(name))
            if side == "text":
                export_text(model, folder / "text.onnx")
            else:
                export_image(model, folder / "image.onnx", folded=folded)

        return made_once(f"{side}-{name}{'' if folded else '-plain'}", make) / f"{side}.onnx"

    return export


def export_image(model: CLIP, path: Path, *, folded: bool) -> None:
    pixels = images(2, model.recipe.inputs.image_size)
    tower = model.image_tower
    if folded:
        model.image_tower = fold_scaling(tower, torch.from_numpy(pixels))
        assert model.image_tower is not tower
    export_module(ImageEmbedder(model), path, pixels)
    model.image_tower = tower


def export_module(module: nn.Module, path: Path, pixels: np.ndarray) -> None:
    """The module as an image graph, for images of the size of `pixels`."""
    export_graph(module.eval(), {"pixels": torch.from_numpy(pixels[:2])}, ["batch"], path, 20)


def export_text(model: CLIP, path: Path) -> None:
    ids = torch.ones(2, 5, dtype=torch.int64)
    export_graph(TextEmbedder(model), {"input_ids": ids, "attention_mask": ids}, ["batch", "length"], path, 20)


def images(count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: noise on flat colours."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 216, (count, 1, 1, 3)) + rng.integers(0, 40, (count, size, size, 3))).astype(np.uint8)


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """24 images of the small recipes' size: uint8 [24, 64, 64, 3]."""
    return images(24, 64)
