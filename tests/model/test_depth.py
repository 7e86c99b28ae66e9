"""Every parameter has a layer: 0 nearest to the input, then one for each block."""

import pytest

from clipline.model.clip import build_model
from clipline.model.depth import depths
from clipline.model.image_tower import build_image_tower


def layers_of(layers, part):
    return {depth for name, depth in layers.items() if part in name}


def test_a_vision_transformer(make_recipe):
    tower = build_image_tower(make_recipe({"image.depth": 3}), load=False)
    layers = depths(tower)
    assert set(layers) == {name for name, _ in tower.named_parameters()}
    assert layers_of(layers, "patch_embed") == layers_of(layers, "pos_embed") == {0}
    assert [layers_of(layers, f"blocks.{index}.") for index in range(3)] == [{1}, {2}, {3}]


@pytest.mark.parametrize(
    ("architecture", "args", "first", "layer"),
    [
        ("bert", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}, "word_embeddings", "layer.{}."),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2}, "wte", "h.{}."),
        ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, "word_embeddings", "layer.{}."),
    ],
)
def test_text_towers(make_recipe, architecture, args, first, layer):
    recipe = make_recipe({"text.architecture": architecture, "text.args": args})
    tower = build_model(recipe, 100).text_tower
    layers = depths(tower)
    assert set(layers) == {name for name, _ in tower.named_parameters()}
    assert layers_of(layers, first) == {0}
    assert [layers_of(layers, layer.format(index)) for index in range(2)] == [{1}, {2}]
    assert max(layers.values()) == 2
