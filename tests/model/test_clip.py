"""The model: heads, temperature, frozen towers, normalised embeddings."""

import pytest
import torch

from clipline.errors import UsageError
from clipline.model.clip import ImageEmbedder, Temperature, TextEmbedder, build_model
from clipline.model.heads import MLPHead, build_head

PIXELS = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IDS, MASK = torch.arange(1, 13).view(2, 6), torch.ones(2, 6, dtype=torch.int64)


@pytest.mark.parametrize("kind", ["mlp", "residual", "norm_linear", "linear_norm", "linear"])
def test_heads_give_the_dimension(make_recipe, kind):
    head = build_head(make_recipe({"head.kind": kind}).head, 24, None)
    assert head(torch.randn(5, 24)).shape == (5, 16)


def test_mlp_head_computes_what_its_source_does(make_recipe):
    torch.manual_seed(0)
    head, x = MLPHead(8, 4, dropout=0.0), torch.randn(3, 8)
    projected = x @ head.project.weight.T + head.project.bias
    mixed = torch.nn.functional.gelu(projected) @ head.mix.weight.T + head.mix.bias + projected
    expected = (mixed - mixed.mean(1, keepdim=True)) / (mixed.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(head(x), expected, atol=1e-5)


def test_dropout_is_where_the_recipe_says(make_recipe):
    x = torch.randn(64, 8)
    for kind in ("mlp", "residual", "norm_linear", "linear_norm", "linear"):
        head = build_head(make_recipe({"head.kind": kind, "head.dropout": 0.5}).head, 8, None)
        assert not torch.equal(head.train()(x), head.eval()(x)), kind


@pytest.mark.parametrize("learned", [True, False])
def test_temperature(make_recipe, learned):
    temperature = Temperature(make_recipe({"temperature": {"init": 0.07, "learned": learned}}).temperature)
    assert temperature().item() == pytest.approx(1 / 0.07)
    assert temperature.log_scale.requires_grad is learned
    with torch.no_grad():
        temperature.log_scale.fill_(10.0)
    temperature.clamp_()
    assert temperature().item() == pytest.approx(100 if learned else 22026.47, rel=1e-4)
    if learned:  # at the clamp the gradient is not zero
        temperature().backward()
        assert temperature.log_scale.grad.item() != 0


def test_a_frozen_tower_gets_no_gradient_and_stays_in_evaluation_mode(make_recipe):
    model = build_model(make_recipe({"image.trainable": False}), 100).train()
    assert not model.image_tower.training and model.text_tower.training
    model.encode_image(PIXELS).sum().backward()
    assert all(p.grad is None for p in model.image_tower.parameters())
    assert all(p.grad is not None for p in model.image_head.parameters())


def test_embedders_normalise(make_recipe):
    model = build_model(make_recipe(), 100).eval()
    for out in (ImageEmbedder(model)(PIXELS), TextEmbedder(model)(IDS, MASK)):
        assert torch.allclose(out.norm(dim=1), torch.ones(len(out)), atol=1e-6)


CLIP_TOWERS = {
    "image": {"tower": "timm", "name": "test_vit", "weights": "random", "trainable": True},
    "text.architecture": "clip_text_model",
    "head.kind": "tower",
}


def test_head_of_kind_tower_is_the_towers_own_projection(make_recipe):
    args = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = build_model(make_recipe({**CLIP_TOWERS, "text.args": {**args, "projection_dim": 16}}), 100)
    assert model.encode_image(PIXELS).shape == (3, 16) and model.encode_text(IDS, MASK).shape == (2, 16)
    assert model.text_head[-1].in_features == 32 and len({id(p) for p in model.parameters()}) == len(
        list(model.parameters())
    )
    with pytest.raises(UsageError, match=r"head.dim \(16\) must be that of the tower's own projection \(24\)"):
        build_model(make_recipe({**CLIP_TOWERS, "text.args": {**args, "projection_dim": 24}}), 100)


@pytest.mark.parametrize("kind", ["mlp", "residual", "linear"])
def test_input_dropout_drops_features_in_training_only(make_recipe, kind):
    head, x = build_head(make_recipe({"head.kind": kind, "head.input_dropout": 0.5}).head, 8, None), torch.randn(64, 8)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
