"""image.fp16.onnx: half the bytes, similar embeddings, and float32 where range or precision need it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from clipline.export.fp16 import IN_FLOAT32, PRODUCTS, to_fp16

from .conftest import IMAGES, export_module


def embed(path, pixels):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]


def float_types(path):
    """Node -> the set of float types among its inputs and outputs."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return [
        (node, {types[name] for name in (*node.input, *node.output) if types[name] in floats}) for node in graph.node
    ]


KINDS = [pytest.param(kind, True, id=kind) for kind in ("vit", "resnet", "mobilenet", "clip")]
# As of networks whose first convolution does not take the scaling of pixels.
PLAIN = pytest.param("resnet", False, id="plain resnet")


@pytest.mark.parametrize(("kind", "folded"), [*KINDS, PLAIN])
def test_agrees_with_float32(exported, pixels, tmp_path, kind, folded):
    source, half = exported("image", IMAGES[kind], folded=folded), tmp_path / "half.onnx"
    to_fp16(source, half)
    expected, actual = embed(source, pixels), embed(half, pixels)
    assert actual.dtype == np.float32 and (expected * actual).sum(axis=1).min() > 0.999
    assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() < 1e-5
    weights = [tensor for tensor in onnx.load(half).graph.initializer if len(tensor.dims) > 1]
    assert sum(t.data_type == TensorProto.FLOAT16 for t in weights) > 4
    assert half.stat().st_size < 0.7 * source.stat().st_size


@pytest.mark.parametrize(("kind", "folded"), [*KINDS, PLAIN])
def test_which_nodes_compute_in_float32(exported, tmp_path, kind, folded):
    to_fp16(exported("image", IMAGES[kind], folded=folded), tmp_path / "half.onnx")
    nodes = float_types(tmp_path / "half.onnx")
    kinds = {node.op_type for node, _ in nodes}
    assert {"ReduceL2"} < kinds and ({"LayerNormalization", "Softmax"} <= kinds) == (kind in ("vit", "clip"))
    for node, types in nodes:
        if node.op_type in IN_FLOAT32:
            assert types == {TensorProto.FLOAT}, node.name
    # The first product takes float32 pixels, and may have their scaling in its weights.
    first, *products = [types for node, types in nodes if node.op_type in PRODUCTS]
    assert first == {TensorProto.FLOAT}
    assert all(types == {TensorProto.FLOAT16} for types in products)
    scaling = [types for node, types in nodes if node.op_type in ("Sub", "Div")][:3]
    assert folded or scaling == [{TensorProto.FLOAT}] * 3
    between = [node for node, types in nodes if node.op_type in ("Add", "Unsqueeze") and types == {TensorProto.FLOAT}]
    # The epsilon and the mean of a deviation written out, and the sum at the end of each of four heads.
    assert len(between) == (2 + 4 if kind == "mobilenet" else 0)


class Deviation(nn.Module):
    """Embeds an image as the deviations of ten filters, whose squares overflow float16."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Conv2d(3, 10, 4, 4)

    def forward(self, pixels):
        values = 400 * self.filters(pixels.permute(0, 3, 1, 2).float() / 255 - 0.5).flatten(2)
        deviation = (values - values.mean(2, keepdim=True)).pow(2).mean(2).add(1e-5).sqrt()
        return nn.functional.normalize(deviation, dim=-1)


def test_squares_that_float16_cannot_hold(pixels, tmp_path):
    torch.manual_seed(0)
    source, half = tmp_path / "image.onnx", tmp_path / "half.onnx"
    export_module(Deviation(), source, pixels)
    to_fp16(source, half)
    noise = np.random.default_rng(0).integers(0, 256, (8, *pixels.shape[1:]), dtype=np.uint8)
    noise[:, :, ::2] = 255 * (noise[:, :, ::2] > 127)
    actual, expected = embed(half, noise), embed(source, noise)
    assert np.isfinite(actual).all() and (expected * actual).sum(axis=1).min() > 0.9999
