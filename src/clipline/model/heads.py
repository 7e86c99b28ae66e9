"""Heads (projections): tower features [B, F] -> embedding [B, D], not yet normalised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipline.config.recipe import Head
from clipline.errors import UsageError


class MLPHead(nn.Module):
    """Linear-GELU-Linear-dropout with a residual connection from the first Linear, then LayerNorm if `norm`.

    Source: the Keras example `nl_image_search` and moein-shariatnia/OpenAI-CLIP.
    """

    def __init__(self, width: int, dim: int, dropout: float, *, norm: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        self.mix = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] -> [B, D]."""
        x_BD = self.project(x_BF)
        return self.norm(x_BD + self.dropout(self.mix(F.gelu(x_BD))))


class ParallelHeads(nn.Module):
    """Heads side by side. Each one's part of the embedding has length 1, so that all have the same weight."""

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x_BF: Tensor) -> Tensor:
        """[B, F] -> [B, D]."""
        return torch.cat([F.normalize(head(x_BF), dim=-1) for head in self.heads], dim=1)


def build_head(config: Head, width: int, projection: nn.Module | None) -> nn.Module:
    """The head of `config` for a tower of `width` features.

    projection: the tower's own linear layer, for kind `tower`. Raises UsageError if its dimension is not head.dim.
    """
    if config.kind == "tower":
        dim = getattr(projection, "out_features", "none")
        if dim != config.dim:
            raise UsageError(f"head.dim ({config.dim}) must be that of the tower's own projection ({dim})")
        return nn.Sequential(nn.Dropout(config.input_dropout), projection)
    heads = [_head(config, width, config.dim // config.num_heads) for _ in range(config.num_heads)]
    return heads[0] if len(heads) == 1 else ParallelHeads(heads)


def _head(config: Head, width: int, dim: int) -> nn.Module:
    layers: dict[str, list[nn.Module]] = {
        "mlp": [MLPHead(width, dim, config.dropout)],
        "residual": [MLPHead(width, dim, config.dropout, norm=False)],
        "norm_linear": [nn.LayerNorm(width), nn.Dropout(config.dropout), nn.Linear(width, dim, bias=False)],
        "linear_norm": [nn.Linear(width, dim), nn.Dropout(config.dropout), nn.LayerNorm(dim)],
        "linear": [nn.Dropout(config.dropout), nn.Linear(width, dim, bias=False)],
    }
    return nn.Sequential(nn.Dropout(config.input_dropout), *layers[config.kind])
