"""Folding the scaling of pixels into the first convolution: the same embeddings, fewer nodes."""

import onnx
import pytest
import torch
from timm.layers import StdConv2d

from clipline.export.fold import fold_scaling
from tests.recipes import small_model, small_recipe

from .conftest import IMAGES


@pytest.fixture
def pixels(pixels):
    values = torch.from_numpy(pixels[:3].copy())
    # Corners in black and white: padding must still stand for the mean's colour.
    values[1], values[2] = 0, 255
    return values


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [
        ("vit", ["Transpose", "Cast"]),
        ("resnet", ["Cast", "Sub", "Transpose"]),
        ("mobilenet", ["Cast", "Sub", "Transpose"]),
        ("mirror", ["Cast", "Sub", "Transpose"]),
    ],
)
@torch.inference_mode()
def test_the_same_features_and_little_left_before_the_first_convolution(exported, pixels, kind, scaling):
    tower = small_model(small_recipe(IMAGES[kind])).image_tower
    weights, expected = {name: value.clone() for name, value in tower.state_dict().items()}, tower(pixels)
    folded = fold_scaling(tower, pixels)
    assert folded is not tower
    assert torch.allclose(folded(pixels), expected, atol=2e-6, rtol=1e-5)
    assert all(torch.equal(value, weights[name]) for name, value in tower.state_dict().items()), "a copy was folded"
    kinds = [node.op_type for node in onnx.load(exported("image", IMAGES[kind])).graph.node]
    before = kinds[: kinds.index("Conv")]
    assert [name for name in before if name in ("Cast", "Div", "Sub", "Mul", "Transpose", "Pad")] == scaling


def standardised(net):
    """Its weights are computed from other weights at each call."""
    net.conv1 = StdConv2d(3, 16, 3, padding=1)


def reads_pixels_twice(net):
    """The pixels are also read elsewhere than in the first convolution."""
    features = net.forward_features
    net.forward_features = lambda x: features(x) + x.mean()


@pytest.mark.parametrize("change", [standardised, reads_pixels_twice])
def test_another_network_stays_as_it_is(pixels, change):
    tower = small_model(small_recipe(IMAGES["resnet"])).image_tower
    change(tower.net)
    assert fold_scaling(tower, pixels) is tower
