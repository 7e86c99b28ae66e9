"""Mimetic initialisation: the attention of a new vision transformer begins as that of trained ones ends up.

Source: Trockman and Kolter, arXiv 2305.09828: in trained transformers the product of a head's query and key weights
has a positive diagonal, so that a patch looks at what is like it and near it, and the product of value and projection
weights a negative one. A network that begins so needs fewer images to learn to see.
"""

from __future__ import annotations

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

# Shares of noise and of the identity, as in the paper: of query and key, and of value and projection.
QUERY_KEY = 0.7
VALUE_PROJECTION = 0.4


@torch.no_grad()
def mimetic(net: VisionTransformer) -> None:
    """Begin the attention and the positions of `net` so, in place; its other weights stay as they are.

    Positions are sines and cosines (arXiv 1706.03762, in two dimensions), without which near patches would not be
    alike; they learn as all else does. Draws from torch's global generator. The width must be a multiple of 4.
    """
    width = net.embed_dim
    positions_PF = build_sincos2d_pos_embed(net.patch_embed.grid_size, width)
    net.pos_embed.zero_()  # that of a class token, which stands nowhere
    net.pos_embed[0, net.num_prefix_tokens :] = positions_PF
    for block in net.blocks:
        heads = block.attn.num_heads
        query, key, value = block.attn.qkv.weight.view(3, heads, width // heads, width)
        for head in range(heads):
            query[head], key[head] = _factors(width, QUERY_KEY, QUERY_KEY, width // heads)
        values, projection = _factors(width, VALUE_PROJECTION, -VALUE_PROJECTION, width)
        value.copy_(values.view_as(value))
        block.attn.proj.weight.copy_(projection.T)


def _factors(width: int, noise: float, identity: float, rank: int) -> tuple[Tensor, Tensor]:
    """A, B [rank, width]: A^T B is the best of its rank to noise * Z + identity * I, Z normal of variance 1 / width."""
    product = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    u, s, vh = torch.linalg.svd(product)
    root = s[:rank].sqrt().unsqueeze(1)
    return root * u.T[:rank], root * vh[:rank]
