"""Mimetic initialisation: what attention attends to before training."""

import pytest
import torch

from clipline.model.image_tower import build_image_tower

WIDTH, HEADS, SIDE = 128, 4, 4
VIT = {"tower": "vit", "patch": 8, "width": WIDTH, "depth": 2, "heads": HEADS, "mlp": 256, "trainable": True}


def net(make_recipe, init="mimetic", pool="avg", *, load=True):
    torch.manual_seed(0)
    recipe = make_recipe({"inputs.image_size": 8 * SIDE, "image": {**VIT, "pool": pool, "init": init}})
    return build_image_tower(recipe, load=load).eval().net


def products(block):
    """The products of attention's weights: query^T key of each head [h, F, F], and value^T projection^T [F, F]."""
    query, key, value = block.attn.qkv.weight.detach().view(3, WIDTH, WIDTH)
    by_head = [part.view(HEADS, -1, WIDTH) for part in (query, key)]
    return by_head[0].mT @ by_head[1], value.mT @ block.attn.proj.weight.detach().mT


def test_products_are_the_best_approximations_of_noise_plus_identity(make_recipe):
    for block in net(make_recipe).blocks:
        query_key, value_projection = products(block)
        noise = value_projection + 0.4 * torch.eye(WIDTH)
        assert noise.mean().abs() < 0.01 and noise.std() == pytest.approx(0.4 / WIDTH**0.5, rel=0.05)
        assert torch.linalg.matrix_rank(value_projection) == WIDTH
        for product in query_key:
            assert torch.linalg.matrix_rank(product) == WIDTH // HEADS
            # The squared singular values of 0.7 (Z + I) have a mean of 0.7^2 * 2; the largest ones are above it.
            kept = torch.linalg.svdvals(product)[: WIDTH // HEADS]
            assert kept.min() ** 2 > 0.7**2 * 2
            assert product.diagonal().mean() > 0.1
        assert not torch.allclose(query_key[0], query_key[1], atol=0.01)  # heads have different noise


@pytest.mark.parametrize(("init", "low", "high"), [("mimetic", 0.5, 1.0), ("random", 0.0, 0.1)])
def test_a_patch_attends_to_itself_before_training(make_recipe, init, low, high):
    vit = net(make_recipe, init)
    pixels = torch.randn(8, 3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(1))
    tokens = vit._pos_embed(vit.patch_embed(pixels))
    attention = vit.blocks[0].attn
    query, key, _ = attention.qkv(vit.blocks[0].norm1(tokens)).view(8, SIDE**2, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT * attention.scale).softmax(dim=-1)
    assert low < weights.diagonal(dim1=-2, dim2=-1).mean() < high


def test_near_positions_are_similar(make_recipe):
    positions = net(make_recipe).pos_embed.detach()[0].view(SIDE, SIDE, WIDTH)
    corner = torch.cosine_similarity(positions[0, 0], positions, dim=-1)
    assert corner[0, 0] > corner[0, 1] > corner[0, 2] > corner[0, 3]
    assert torch.allclose(corner, corner.T, atol=1e-6)  # rows and columns are equivalent


def test_a_class_token_has_no_position(make_recipe):
    positions = net(make_recipe, pool="cls").pos_embed.detach()[0]
    assert len(positions) == SIDE**2 + 1 and not positions[0].any() and positions[1:].any(dim=1).all()


def test_other_weights_are_initialised_at_random(make_recipe):
    mimetic, random = (dict(net(make_recipe, init).named_parameters()) for init in ("mimetic", "random"))
    changed = {name for name, weight in mimetic.items() if not torch.equal(weight, random[name])}
    assert changed == {"pos_embed"} | {f"blocks.{b}.attn.{part}.weight" for b in (0, 1) for part in ("qkv", "proj")}
    assert torch.equal(net(make_recipe, load=False).pos_embed, random["pos_embed"])  # a checkpoint will fill it
