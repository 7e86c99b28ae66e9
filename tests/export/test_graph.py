"""Every architecture exports to the contract's names and computes the same in every batch and length."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from clipline.export.graph import export_graph
from clipline.export.parity import compare
from clipline.model.clip import ImageEmbedder, TextEmbedder, build_model

ARGS = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "clip_text_model": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "projection_dim": 16,
    },
}
TIMM = {"tower": "timm", "weights": "random", "trainable": True}
IMAGES = {
    "vit": {"tower": "vit", "patch": 8, "width": 32, "depth": 1, "heads": 2, "mlp": 48, "trainable": True},
    "resnet": {**TIMM, "name": "test_resnet", "pool": "avg"},
    "mobilenet": {**TIMM, "name": "mobilenetv1_100"},
    "clip": {**TIMM, "name": "test_vit"},
}


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("image", IMAGES)
def test_image_graph(make_recipe, tmp_path, image):
    recipe = make_recipe({"image": IMAGES[image]})
    module = ImageEmbedder(build_model(recipe, 100)).eval()
    path = tmp_path / "image.onnx"
    export_graph(module, {"pixels": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, ["batch"], path, 20)
    found = session(path)
    (given,), (out,) = found.get_inputs(), found.get_outputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(uint8)", ["batch", 32, 32, 3])
    assert (out.name, out.type, out.shape) == ("embedding", "tensor(float)", ["batch", 16])
    assert [file.name for file in tmp_path.iterdir()] == ["image.onnx"]  # no external data beside it
    assert b"image_tower.py" not in path.read_bytes()  # nor the exporter's stack traces, with this machine's folders
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    for batch in (1, 2, 9):
        with torch.no_grad():
            expected = module(torch.from_numpy(pixels[:batch])).numpy()
        parity = compare(expected, found.run(None, {"pixels": pixels[:batch]})[0])
        assert parity.min_cosine > 0.99999 and parity.max_abs < 1e-5


@pytest.mark.parametrize("architecture", ARGS)
@pytest.mark.parametrize("pool", ["mean", "eot"])
def test_text_graph(make_recipe, tmp_path, architecture, pool):
    changes = {"text.architecture": architecture, "text.args": ARGS[architecture], "text.pool": pool}
    if architecture == "clip_text_model":  # with its own projection, as CLIP is
        changes |= {"head.kind": "tower", "image": IMAGES["clip"]}
    module = TextEmbedder(build_model(make_recipe(changes), 100)).eval()
    path = tmp_path / "text.onnx"
    ids = torch.ones(2, 5, dtype=torch.int64)
    export_graph(module, {"input_ids": ids, "attention_mask": ids}, ["batch", "length"], path, 20)
    onnx.checker.check_model(path, full_check=True)
    found = session(path)
    assert [(i.name, i.type, i.shape) for i in found.get_inputs()] == [
        (name, "tensor(int64)", ["batch", "length"]) for name in ("input_ids", "attention_mask")
    ]
    assert [(o.name, o.shape) for o in found.get_outputs()] == [("embedding", ["batch", 16])]
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (1, 12), (3, 7), (8, 2)):
        ids = rng.integers(0, 100, (batch, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
        with torch.no_grad():
            expected = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        parity = compare(expected, found.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        assert parity.min_cosine > 0.99999 and parity.max_abs < 1e-5, (batch, length)
