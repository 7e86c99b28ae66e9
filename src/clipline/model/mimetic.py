"""Mimetic initialisation: attention weights of a new vision transformer that resemble those of trained ones.

Source: Trockman and Kolter, arXiv 2305.09828. In trained transformers the product of a head's query and key weights has
a positive diagonal, so that a patch attends to similar and near patches, and the product of value and projection
weights has a negative diagonal. A network that starts this way needs fewer images.
"""

from __future__ import annotations

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

# Weights of noise and of the identity in both products, as in the paper.
QUERY_KEY = 0.7
VALUE_PROJECTION = 0.4


@torch.no_grad()
def mimetic(net: VisionTransformer) -> None:
    """Initialise attention and position embeddings of `net` in place; its other weights stay.

    Position embeddings are sines and cosines (arXiv 1706.03762, in two dimensions), which make near patches similar;
    they are trained like all weights. Uses torch's global generator. The width must be a multiple of 4.
    """
    width = net.embed_dim
    positions_PF = build_sincos2d_pos_embed(net.patch_embed.grid_size, width)
    net.pos_embed.zero_()  # a class token has no position
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
    """A and B, [rank, width]: A^T B is the best approximation of its rank to noise * Z + identity * I.

    Z [width, width] is normal with variance 1 / width.
    """
    product = noise * torch.randn(width, width) / width**0.5 + identity * torch.eye(width)
    u, s, vh = torch.linalg.svd(product)
    root = s[:rank].sqrt().unsqueeze(1)
    return root * u.T[:rank], root * vh[:rank]
