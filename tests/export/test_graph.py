"""Every recipe's towers export to the contract's names and compute the same in every batch and length."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from clipline.export.parity import compare
from clipline.model.clip import ImageEmbedder, TextEmbedder
from tests.recipes import PATHS, small_model, small_recipe

from .conftest import images

# What leaves no trace in a graph, or other values alone.
NOT_IN_THE_GRAPH = {"trainable", "weights", "init", "normalize", "dropout", "input_dropout", "patch_dropout"}


def structure(name: str, side: str) -> str:
    """Recipes with the same one have the same graph, but for values. The heads of both sides are of one kind."""
    recipe = small_recipe(name)
    parts = [recipe.image, recipe.head] if side == "image" else [recipe.text]
    values = [{key: value for key, value in part.model_dump().items() if key not in NOT_IN_THE_GRAPH} for part in parts]
    values[0]["name"] = (values[0].get("name") or "").split(".")[0] if side == "image" else None
    return json.dumps([*values, recipe.inputs.image_size if side == "image" else None])


def distinct(side: str) -> list[str]:
    """Recipes of which each has another graph of that side."""
    return sorted({structure(name, side): name for name in reversed(PATHS)}.values())


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", distinct("image"))
def test_image_graph(exported, name):
    module, path = ImageEmbedder(small_model(small_recipe(name))), exported("image", name)
    graph, size = session(path), module.model.recipe.inputs.image_size
    (given,), (out,) = graph.get_inputs(), graph.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(uint8)", ["batch", size, size, 3])
    assert (out.name, out.type, out.shape) == ("embedding", "tensor(float)", ["batch", 64])
    assert [file.name for file in path.parent.iterdir()] == ["image.onnx"]  # no external data beside it
    assert b"image_tower.py" not in path.read_bytes()  # nor the exporter's stack traces, with this machine's folders
    pixels = images(9, size)
    pixels[7], pixels[8] = 0, 255  # what padding stands for still shows beside black and white
    with torch.inference_mode():
        expected = module(torch.from_numpy(pixels)).numpy()
    for batch in (1, 2, 9):
        parity = compare(expected[:batch], graph.run(None, {"pixels": pixels[:batch]})[0])
        assert parity.min_cosine > 0.99999 and parity.max_abs < 1e-5


@pytest.mark.parametrize("name", distinct("text"))
def test_text_graph(exported, name):
    module, path = TextEmbedder(small_model(small_recipe(name))), exported("text", name)
    onnx.checker.check_model(path, full_check=True)
    graph = session(path)
    assert [(i.name, i.type, i.shape) for i in graph.get_inputs()] == [
        (name, "tensor(int64)", ["batch", "length"]) for name in ("input_ids", "attention_mask")
    ]
    assert [(o.name, o.shape) for o in graph.get_outputs()] == [("embedding", ["batch", 64])]
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (1, 12), (3, 7), (8, 2)):
        ids = rng.integers(0, 100, (batch, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
        with torch.inference_mode():
            expected = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        parity = compare(expected, graph.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        assert parity.min_cosine > 0.99999 and parity.max_abs < 1e-5, (batch, length)


def test_the_recipes_have_every_kind_of_text_tower():
    texts = [small_recipe(name).text for name in distinct("text")]
    assert {text.architecture for text in texts} == {"bert", "distilbert", "gpt2", "clip_text_model"}
    assert {text.pool for text in texts} == {"mean", "eot", "cls", "mean_cls"}
