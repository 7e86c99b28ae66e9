"""The scaling of pixels in the first convolution's weights: the same embeddings, fewer nodes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from clipline.export.fold import fold_scaling
from clipline.export.graph import export_graph
from clipline.model.clip import ImageEmbedder, build_model

RESNET = {"tower": "timm", "name": "test_resnet", "weights": "random", "trainable": True}
SAME = {
    "tower": "timm",
    "name": "mobilenetv1_100",
    "weights": "random",
    "trainable": True,
    "args": {"pad_type": "same"},
}


def run(path, pixels):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"pixels": pixels})[0]


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.fixture
def exported(make_recipe, tmp_path):
    def export(image):
        torch.manual_seed(0)
        model = build_model(make_recipe({"image": image} if image else {}), 100).eval()
        path = tmp_path / "image.onnx"
        export_graph(
            ImageEmbedder(model), {"pixels": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, ["batch"], path, 20
        )
        return path

    return export


@pytest.mark.parametrize(
    ("image", "removed"),
    [
        (None, ["Div", "Sub", "Div"]),
        (RESNET, ["Div", "Div"]),
        (SAME, ["Div", "Div"]),
        ({**SAME, "mirror": True}, ["Div", "Div"]),
    ],
)
def test_the_same_embeddings_from_fewer_nodes(exported, image, removed):
    path = exported(image)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    # Corners in black and white: padding must still stand for the mean's colour.
    pixels[1], pixels[2] = 0, 255
    before, nodes = run(path, pixels), kinds(path)
    assert fold_scaling(path)
    after = kinds(path)
    assert sorted(nodes) == sorted(after + removed)
    assert np.abs(run(path, pixels) - before).max() < 2e-6


def test_weights_that_are_computed_stay_as_they_are(exported):
    """As the exporter leaves those of some standardised convolutions (timm's resnetv2 BiT)."""
    path = exported(RESNET)
    model = onnx.load(path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [conv.input[1]], ["computed"]))
    conv.input[1] = "computed"
    onnx.save(model, path)
    bytes_before = path.read_bytes()
    assert not fold_scaling(path)
    assert path.read_bytes() == bytes_before


def test_a_graph_that_begins_otherwise_stays_as_it_is(exported):
    path = exported(None)
    assert fold_scaling(path)
    bytes_before = path.read_bytes()
    assert not fold_scaling(path)
    assert path.read_bytes() == bytes_before
