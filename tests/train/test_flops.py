"""Counted FLOPs against formulas worked out by hand, and the rates and shares of the peak that follow from them."""

import numpy as np
import pytest
import torch
from torch import nn

from clipline.config.recipe import Recipe
from clipline.data.prepared import Prepared
from clipline.model.clip import build_model
from clipline.train.batches import Batches
from clipline.train.features import cached_features
from clipline.train.flops import PEAKS, FlopCounter, _peak
from clipline.train.phases import PhaseTimer
from clipline.train.step import Step

CPU = torch.device("cpu")
# conftest's tiny recipe: patches of 8 in 32 pixels and a class token; width 32, a layer, an MLP of 48 (image) or 32
# (text), an embedding of 16.
TOKENS, PATCHES, WIDTH, DIM = 17, 16, 32, 16
HEAD = 2 * WIDTH * DIM
PATCH = 2 * PATCHES * 8 * 8 * 3 * WIDTH


def layer(length, mlp):
    """Forward of a transformer's layer: query, key, value and output, two products of attention, two of the MLP."""
    return 2 * (4 * length * WIDTH**2 + 2 * length**2 * WIDTH + 2 * length * WIDTH * mlp)


def flops(counter, epoch=1, images=(), captions=()):
    """FLOPs of one step with these rows."""
    counter.add(np.array(images, dtype=int), np.array(captions, dtype=int))
    return counter.row(epoch, seconds=1e-12)["tflops"]


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


@pytest.fixture
def make_counter(make):
    """make_counter(changes) -> FlopCounter, the model and its batches."""

    def build(changes: dict | None = None) -> tuple[FlopCounter, nn.Module, Batches]:
        model, data, _ = make(changes)
        return FlopCounter(model, data.split, CPU), model, data

    return build


def test_a_vit_and_a_bert_cost_what_the_formula_says(make_counter):
    counter, _, data = make_counter()
    # Forward, and twice as much backward, except for the pixels' gradient, which is not needed.
    assert flops(counter, images=[0]) == pytest.approx(3 * (layer(TOKENS, 48) + HEAD) + 2 * PATCH)
    assert len(set(data.split.lengths)) > 2
    for row, length in enumerate(data.split.lengths[:20]):
        assert flops(counter, captions=[row]) == pytest.approx(3 * (layer(length, 32) + HEAD))


def test_cached_features_cost_their_heads(make_counter):
    counter, _, _ = make_counter({"image.trainable": False, "text.trainable": False})
    # Forward, and the weights' gradient: features need none.
    assert flops(counter, images=[0]) == pytest.approx(2 * HEAD)
    assert flops(counter, captions=[0, 1, 2]) == pytest.approx(3 * 2 * HEAD)


def test_a_cnn_with_depthwise_convolutions_costs_three_times_its_forward_pass(make_counter):
    """torch's own count of a depthwise convolution's gradient is too high by its number of channels."""
    tower = {"tower": "timm", "name": "mobilenetv1_100", "weights": "random", "trainable": True}
    counter, model, data = make_counter({"image": tower})
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
    assert len(first) == 1
    head = 3 * 2 * model.image_tower.width * DIM
    assert flops(counter, images=[0]) == pytest.approx(3 * sum(seen) - sum(first) + head)


@pytest.mark.parametrize(
    "changes", [{"train.micro_batch_size": 2}, {"train.grad_checkpointing": True}, {"train.compile": True}]
)
def test_what_is_computed_twice_or_compiled_counts_once(make, changes):
    counted = []
    for more in ({}, changes):
        model, data, recipe = make(more)
        counter = FlopCounter(model, data.split, CPU)
        Step(model, recipe, data, 1, PhaseTimer(CPU), seed=0)
        counted.append(flops(counter, 1, range(4), range(4)))
    assert counted[0] == counted[1] > 0


def test_frozen_layers_cost_no_backward_pass(make_counter):
    changes = {"train.epochs": 3, "train.freeze": {"text": [{"share": 0.99, "epochs": 2}]}}
    counter, model, data = make_counter(changes)
    forward = sum(layer(length, 32) for length in data.split.lengths[:5])
    for epoch in (1, 2):
        assert flops(counter, epoch, captions=range(5)) == pytest.approx(forward + 5 * 2 * HEAD)
    assert flops(counter, 3, captions=range(5)) == pytest.approx(3 * (forward + 5 * HEAD))
    assert all(param.requires_grad for param in model.parameters())


def test_a_frozen_tower_costs_nothing_until_it_is_trained(make_counter):
    counter, _, data = make_counter({"train.epochs": 3, "train.freeze": {"text": [{"share": 1.0, "epochs": 2}]}})
    forward = sum(layer(length, 32) for length in data.split.lengths[:5])
    assert flops(counter, 2, captions=range(5)) == pytest.approx(5 * 2 * HEAD)
    assert flops(counter, 3, captions=range(5)) == pytest.approx(3 * (forward + 5 * HEAD))


def test_steps_add_up(make_counter):
    counter, _, _ = make_counter()
    image, texts = flops(counter, images=[0]), [flops(counter, captions=[row]) for row in (3, 0, 7, 7)]
    for _ in range(3):
        counter.add(np.array([1, 2]), np.array([3, 0, 7, 7]))
    # The CPU's peak is not known.
    assert counter.row(1, 0.5) == {"tflops": pytest.approx(3 * (2 * image + sum(texts)) / 0.5e12)}
    assert counter.row(1, 0.5) == {"tflops": 0}


@pytest.mark.parametrize("frozen", [False, True])
def test_counting_changes_nothing(make, frozen):
    image = {"tower": "timm", "name": "test_resnet", "weights": "random", "trainable": not frozen}
    views = {"train.views": 2, "train.augment": {"crop": {"scale": [0.3, 0.6]}}} if frozen else {}
    model, data, _ = make({"image": image, "head.dropout": 0.5, **views})
    model.text_head.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None

    def everything():
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        grads = [None if param.grad is None else param.grad.clone() for param in model.parameters()]
        modes = [(module.training, module.__dict__.keys()) for module in model.modules()]
        return tensors, grads, modes, torch.get_rng_state()

    before = everything()
    assert any("running_mean" in name for name in before[0]) and any("num_batches" in name for name in before[0])
    assert flops(FlopCounter(model, data.split, CPU), 1, range(4), range(4)) > 0
    after = everything()
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert [grad is None for grad in before[1]] == [grad is None for grad in after[1]]
    assert all(one is None or torch.equal(one, other) for one, other in zip(before[1], after[1], strict=True))
    assert before[2] == after[2] and torch.equal(before[3], after[3])


# ---------------------------------------------------------------- peaks


def test_the_peak_is_that_of_the_precision_in_use(monkeypatch):
    name = ["NVIDIA A100-SXM4-80GB"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name[0])
    cuda = torch.device("cuda")
    assert _peak(cuda, "auto").tolist() == _peak(cuda, "bf16").tolist() == [312, 312]
    # torch's defaults: matrix products as they are, convolutions in TF32.
    assert _peak(cuda, "fp32").tolist() == [19.5, 156]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert _peak(cuda, "fp32").tolist() == [156, 156]
    name[0] = "Tesla T4"
    assert _peak(cuda, "auto") is None and _peak(cuda, "fp32").tolist() == [8.1, 8.1]
    # A part of a GPU, a similar GPU with other figures, and no name.
    for name[0] in ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", ""):
        assert _peak(cuda, "auto") is None
    assert _peak(CPU, "auto") is None
    assert all(fp32 <= (tf32 or fp32) <= (bf16 or fp32) for bf16, tf32, fp32 in PEAKS.values())


def test_mfu_is_the_share_of_the_peak(make_counter, monkeypatch):
    counter, _, _ = make_counter()
    image = flops(counter, images=[0])
    monkeypatch.setattr("clipline.train.flops._peak", lambda device, precision: np.array([100.0, 50.0]))
    counter.add(np.array([0]), np.array([], dtype=int))
    # Convolutions are 2 * PATCH of it.
    at_peak = (image - 2 * PATCH) / 100e12 + 2 * PATCH / 50e12
    assert counter.row(1, 2.0) == {"tflops": pytest.approx(image / 2e12), "mfu": pytest.approx(at_peak / 2)}


@pytest.mark.parametrize(("frozen", "precision"), [((), "auto"), (("text",), "auto"), (("image", "text"), "fp32")])
def test_heads_alone_compute_in_float32(make_counter, monkeypatch, frozen, precision):
    asked = []
    monkeypatch.setattr("clipline.train.flops._peak", lambda device, precision: asked.append(precision))
    counter, _, _ = make_counter({f"{tower}.trainable": False for tower in frozen})
    counter.row(1, 1.0)
    assert asked == [precision]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_counting_on_a_gpu_gives_the_same_and_changes_nothing(make):
    model, data, _ = make({"head.dropout": 0.5})
    expected = flops(FlopCounter(model, data.split, CPU), 1, range(4), range(4))
    device = torch.device("cuda")
    model.to(device)
    state, memory = torch.cuda.get_rng_state(), torch.cuda.memory_allocated()
    assert flops(FlopCounter(model, data.split, device), 1, range(4), range(4)) == pytest.approx(expected)
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert torch.cuda.memory_allocated() == memory
