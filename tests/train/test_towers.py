"""How training calls the towers."""

import copy

import torch

from clipline.data.prepared import Prepared
from clipline.model.clip import build_model
from clipline.train import towers as module
from clipline.train.towers import Towers

CPU = torch.device("cpu")


def test_captions_of_similar_length_are_encoded_together(make_recipe, prepared, monkeypatch):
    data, recipe = Prepared(prepared), make_recipe({})
    model = build_model(recipe, data.vocab_size).eval()
    split = data.split("train")
    longest = int(split.lengths.max())
    ids = torch.from_numpy(split.tokens[:, :longest]).long()
    mask = (torch.arange(longest) < torch.from_numpy(split.lengths)[:, None]).long()
    with torch.no_grad():
        expected = model.text_head(model.text_tower(ids, mask))
        shapes = []
        model.text_tower.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
        monkeypatch.setattr(module, "TEXT_ROWS", 7)
        actual = Towers(model, recipe.train, CPU).text((ids, mask))
    torch.testing.assert_close(actual, expected)
    assert sum(rows for rows, _ in shapes) == len(ids)
    # Each part is as long as its longest caption, and parts come in the order of length.
    assert [length for _, length in shapes] == split_lengths(split.lengths, 7)
    assert shapes[0][1] < shapes[-1][1] == longest


def split_lengths(lengths, size):
    ordered = sorted(lengths.tolist())
    return [max(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def test_convolutions_have_the_memory_format_of_the_pixels(make_recipe, prepared):
    recipe = make_recipe({})
    model = build_model(recipe, Prepared(prepared).vocab_size)
    Towers(model, recipe.train, CPU)
    images = [param for param in model.image_tower.parameters() if param.ndim == 4]
    assert images and all(param.is_contiguous(memory_format=torch.channels_last) for param in images)


def test_only_strided_grouped_convolutions_compute_in_float32_under_autocast(make_recipe, prepared):
    """On a CPU, also in copies of the model; the output, the weights and their names stay."""
    image = {"tower": "timm", "name": "mobilenetv1_100", "weights": "random", "trainable": True, "pool": "avg"}
    recipe = make_recipe({"image": image, "train.precision": "bf16"})
    plain = build_model(recipe, Prepared(prepared).vocab_size).eval()
    changed = copy.deepcopy(plain)
    towers = Towers(changed, recipe.train, CPU)
    again = copy.deepcopy(changed)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        features = plain.image_tower(pixels)
    expected = plain.image_head(features.float())
    for model in (changed, again):
        kinds = kinds_of_convolutions(model.image_tower)
        towers.model = model
        actual = towers.image(pixels)
        actual.sum().backward()
        torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.02)
        layers = dict(model.image_tower.named_modules())
        in_float = {name for name, kind in kinds.items() if kind == torch.float32}
        assert in_float == {name for name in kinds if layers[name].groups > 1 and layers[name].stride[0] > 1}
        assert len(in_float) == 4 and len(kinds) == 27
        assert all(parameter.grad is not None for parameter in model.image_tower.parameters())
        assert list(model.state_dict()) == list(plain.state_dict())


def kinds_of_convolutions(tower):
    """The dtype of each convolution's output by name, filled in as the tower runs."""
    kinds = {}
    for name, layer in tower.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, out, name=name: kinds.update({name: out.dtype}))
    return kinds
