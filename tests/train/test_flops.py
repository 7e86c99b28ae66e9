"""Floating-point operations counted once, against what paper and pencil say, and what they come to."""

import numpy as np
import pytest
import torch
from torch import nn

from clipline.config.recipe import Recipe
from clipline.data.prepared import Prepared
from clipline.model.clip import build_model
from clipline.train.batches import Batches
from clipline.train.features import cached_features
from clipline.train.flops import Flops, count, peak, peaks

CPU = torch.device("cpu")
# conftest's tiny recipe: patches of 8 in 32 pixels and a class token; width 32, a layer, an MLP of 48 (image) or 32
# (text), an embedding of 16.
TOKENS, PATCHES, WIDTH, DIM = 17, 16, 32, 16
HEAD = 2 * WIDTH * DIM
PATCH = 2 * PATCHES * 8 * 8 * 3 * WIDTH


def layer(length, mlp):
    """Forward of a transformer's layer: query, key, value and output, two products of attention, two of the MLP."""
    return 2 * (4 * length * WIDTH**2 + 2 * length**2 * WIDTH + 2 * length * WIDTH * mlp)


def work(flops, epoch, images, captions):
    """FLOPs of one step."""
    flops.done[:] = 0
    flops.add(epoch, np.array(images, dtype=int), np.array(captions, dtype=int))
    return flops.done.copy()


@pytest.fixture
def make(make_recipe, prepared, tmp_path):
    """make(changes) -> the model, its batches and its recipe."""

    def build(changes: dict | None = None) -> tuple[nn.Module, Batches, Recipe]:
        recipe, data = make_recipe(changes), Prepared(prepared)
        torch.manual_seed(0)
        model = build_model(recipe, data.vocab_size)
        split = data.split("train")
        return model, Batches(split, cached_features(model, split, data, tmp_path, CPU), CPU), recipe

    return build


def test_a_vit_and_a_bert_cost_what_the_formula_says(make):
    model, data, _ = make()
    cost = count(model, data)
    # Forward, and twice as much backward; but nobody asks for the pixels' gradient.
    assert cost.image.tolist() == pytest.approx([3 * (layer(TOKENS, 48) + HEAD), 2 * PATCH])
    longest = int(data.split.lengths.max())
    assert len(cost.caption) == longest + 1 and longest > 8
    for length in range(2, longest + 1):
        assert cost.caption[length].tolist() == pytest.approx([3 * (layer(length, 32) + HEAD), 0])


def test_a_linear_model_of_cached_features_costs_its_heads(make):
    model, data, _ = make({"image.trainable": False, "text.trainable": False})
    cost = count(model, data)
    # Forward, and the weights' gradient: features are no parameters.
    assert cost.image.tolist() == [2 * HEAD, 0]
    assert cost.caption.tolist() == [[2 * HEAD, 0]] * (data.split.lengths.max() + 1)


def test_views_of_a_frozen_tower_cost_its_head(make):
    views = {"train.views": 2, "train.augment": {"crop": {"scale": [0.3, 0.6]}}}
    model, data, _ = make({"image.trainable": False, **views})
    assert data.features["image"].ndim == 3 and count(model, data).image.tolist() == [2 * HEAD, 0]


def test_a_cnn_with_depthwise_convolutions_costs_three_times_its_forward_pass(make):
    """torch's own count of a depthwise convolution's gradient is too high by its number of channels."""
    tower = {"tower": "timm", "name": "mobilenetv1_100", "weights": "random", "trainable": True}
    model, data, _ = make({"image": tower})
    seen, first = [], []

    def hook(module, inputs, output):
        here = 2 * output.numel() * module.weight[0].numel() / len(output)
        seen.append(here)
        first.extend([here] if inputs[0].shape[1] == 3 else [])

    for module in model.image_tower.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hook)
    groups = [module.groups for module in model.image_tower.modules() if isinstance(module, nn.Conv2d)]
    assert max(groups) == 1024
    with torch.no_grad():
        model.image_tower(data.images(np.arange(2)))
    expected = 3 * sum(seen) - sum(first)
    assert len(first) == 1
    assert count(model, data).image[1] == pytest.approx(expected)


def test_what_is_computed_twice_or_compiled_counts_once(make):
    one, other = (make({"train.grad_checkpointing": on, "train.compile": on, "train.chunk": 2}) for on in (False, True))
    one, other = (work(Flops(model, data, recipe.train), 1, range(4), range(4)) for model, data, recipe in (one, other))
    assert np.array_equal(one, other) and one.min() > 0


def test_layers_that_wait_cost_no_backward_until_they_learn(make):
    model, data, recipe = make({"train.epochs": 3, "train.freeze": {"text": [{"share": 0.99, "epochs": 2}]}})
    learns = [each.requires_grad for each in model.parameters()]
    flops = Flops(model, data, recipe.train)
    forward = sum(layer(length, 32) for length in data.split.lengths[:5])
    for epoch in (1, 2):
        assert work(flops, epoch, [], range(5))[0] == pytest.approx(forward + 5 * 2 * HEAD)
    assert work(flops, 3, [], range(5))[0] == pytest.approx(3 * (forward + 5 * HEAD))
    assert [each.requires_grad for each in model.parameters()] == learns


def test_a_tower_that_rests_costs_nothing_until_it_wakes(make):
    model, data, recipe = make({"train.epochs": 3, "train.freeze": {"text": [{"share": 1.0, "epochs": 2}]}})
    flops = Flops(model, data, recipe.train)
    forward = sum(layer(length, 32) for length in data.split.lengths[:5])
    assert work(flops, 2, [], range(5))[0] == pytest.approx(5 * 2 * HEAD)
    assert work(flops, 3, [], range(5))[0] == pytest.approx(3 * (forward + 5 * HEAD))


def test_a_step_costs_its_images_and_its_real_tokens(make):
    model, data, recipe = make()
    flops, cost = Flops(model, data, recipe.train), count(model, data)
    captions = [3, 0, 7, 7]
    expected = 2 * cost.image + sum(cost.caption[data.split.lengths[row]] for row in captions)
    for _ in range(3):
        flops.add(1, np.array([1, 2]), np.array(captions))
    assert flops.done.tolist() == pytest.approx((3 * expected).tolist())
    # The CPU's peak is not known.
    assert flops.row(0.5) == {"tflops": pytest.approx(3 * expected.sum() / 0.5e12)}
    assert flops.row(0.5) == {"tflops": 0}


@pytest.mark.parametrize("frozen", [False, True])
def test_counting_changes_nothing(make, frozen):
    image = {"tower": "timm", "name": "test_resnet", "weights": "random", "trainable": not frozen}
    views = {"train.views": 2, "train.augment": {"crop": {"scale": [0.3, 0.6]}}} if frozen else {}
    model, data, recipe = make({"image": image, "head.dropout": 0.5, **views})
    model.text_head.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None

    def everything():
        tensors = {name: each.clone() for name, each in model.state_dict().items()}
        grads = [each.grad if each.grad is None else each.grad.clone() for each in model.parameters()]
        modes = [(module.training, module.__dict__.keys()) for module in model.modules()]
        return tensors, grads, modes, torch.get_rng_state()

    before = everything()
    assert any("running_mean" in name for name in before[0]) and any("num_batches" in name for name in before[0])
    Flops(model, data, recipe.train)
    after = everything()
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert [each is None for each in before[1]] == [each is None for each in after[1]]
    assert all(one is None or torch.equal(one, other) for one, other in zip(before[1], after[1], strict=True))
    assert before[2] == after[2] and torch.equal(before[3], after[3])


# ---------------------------------------------------------------- peaks


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA H200 NVL", 835.5, 60.0),
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 NVL", 835.5, 60.0),
        ("NVIDIA H100 PCIe", 756.0, 51.2),
        ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("A100-SXM4-40GB", 312.0, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312.0, 19.5),
        ("NVIDIA A100 80GB PCIe", 312.0, 19.5),
        ("NVIDIA L40S", 362.0, 91.6),
        ("NVIDIA L4", 121.0, 30.3),
        ("NVIDIA A10G", 70.0, 35.0),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("Tesla V100-PCIE-32GB", None, 14.0),
        ("Tesla T4", None, 8.1),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 3090", 71.0, 35.6),
    ],
)
def test_peaks_of_known_devices(name, bf16, fp32):
    found = peak(name)
    assert (found.bf16, found.fp32) == (bf16, fp32)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA H20",
        "NVIDIA GH200 480GB",
        "NVIDIA L40",
        "NVIDIA A10",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "AMD Instinct MI300X",
        "",
    ],
)
def test_kin_and_parts_of_known_devices_have_no_known_peak(name):
    assert peak(name) is None


def test_the_peak_is_that_of_the_precision_in_use(monkeypatch):
    name = ["NVIDIA A100-SXM4-80GB"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name[0])
    cuda = torch.device("cuda")
    assert peaks(cuda, "auto").tolist() == peaks(cuda, "bf16").tolist() == [312, 312]
    # torch's defaults: matrix products as they are, convolutions in TF32.
    assert peaks(cuda, "fp32").tolist() == [19.5, 156]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peaks(cuda, "fp32").tolist() == [156, 156]
    name[0] = "Tesla T4"
    assert peaks(cuda, "auto") is None and peaks(cuda, "fp32").tolist() == [8.1, 8.1]
    name[0] = "Another GPU"
    assert peaks(cuda, "auto") is None and peaks(CPU, "auto") is None


def test_mfu_is_the_share_of_the_peak(make, monkeypatch):
    model, data, recipe = make()
    monkeypatch.setattr("clipline.train.flops.peaks", lambda device, precision: np.array([100.0, 50.0]))
    flops = Flops(model, data, recipe.train)
    # 20 TFLOP of products take 0.2 s at best, 30 of convolutions 0.6 s.
    flops.done += np.array([20e12, 30e12])
    assert flops.row(2.0) == {"tflops": pytest.approx(25), "mfu": pytest.approx(0.4)}


@pytest.mark.parametrize(("frozen", "precision"), [((), "auto"), (("text",), "auto"), (("image", "text"), "fp32")])
def test_heads_alone_compute_in_float32(make, monkeypatch, frozen, precision):
    asked = []
    monkeypatch.setattr("clipline.train.flops.peaks", lambda device, precision: asked.append(precision))
    model, data, recipe = make({f"{tower}.trainable": False for tower in frozen})
    Flops(model, data, recipe.train)
    assert asked == [precision]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_counts_alike_and_stays_as_it_was(make):
    model, data, _ = make({"head.dropout": 0.5})
    expected = count(model, data)
    device = torch.device("cuda")
    model.to(device)
    there = Batches(data.split, {}, device)
    state = torch.cuda.get_rng_state()
    found = count(model, there)
    assert np.allclose(found.image, expected.image) and np.allclose(found.caption, expected.caption)
    assert torch.equal(state, torch.cuda.get_rng_state())
