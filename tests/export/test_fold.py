"""The scaling of pixels in the first convolution's weights: the same embeddings, fewer nodes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from timm.layers import StdConv2d

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
def make_model(make_recipe):
    def make(image=None):
        torch.manual_seed(0)
        return build_model(make_recipe({"image": image} if image else {}), 100).eval()

    return make


@pytest.fixture
def pixels():
    values = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    # Corners in black and white: padding must still stand for the mean's colour.
    values[1], values[2] = 0, 255
    return values


@pytest.mark.parametrize(
    ("image", "removed"),
    [
        (None, ["Div", "Sub", "Div"]),
        (RESNET, ["Div", "Div"]),
        (SAME, ["Div", "Div"]),
        ({**SAME, "mirror": True}, ["Div", "Div"]),
    ],
)
def test_the_same_embeddings_from_fewer_nodes(make_model, pixels, tmp_path, image, removed):
    model, plain, folded = make_model(image), tmp_path / "plain.onnx", tmp_path / "folded.onnx"
    export_graph(ImageEmbedder(model), {"pixels": pixels}, ["batch"], plain, 20)
    tower, weights = model.image_tower, {name: value.clone() for name, value in model.state_dict().items()}
    model.image_tower = fold_scaling(tower, pixels)
    assert model.image_tower is not tower
    export_graph(ImageEmbedder(model), {"pixels": pixels}, ["batch"], folded, 20)
    assert sorted(kinds(plain)) == sorted(kinds(folded) + removed)
    assert np.abs(run(folded, pixels.numpy()) - run(plain, pixels.numpy())).max() < 2e-6
    model.image_tower = tower
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items()), "a copy was folded"


def standardised(net):
    """Its weights are computed from others at each call."""
    net.conv1 = StdConv2d(3, 16, 3, padding=1)


def reads_pixels_twice(net):
    """The first convolution is not all that sees the pixels."""
    features = net.forward_features
    net.forward_features = lambda x: features(x) + x.mean()


@pytest.mark.parametrize("change", [standardised, reads_pixels_twice])
def test_another_network_stays_as_it_is(make_model, pixels, change):
    tower = make_model(RESNET).image_tower
    change(tower.net)
    assert fold_scaling(tower, pixels) is tower
