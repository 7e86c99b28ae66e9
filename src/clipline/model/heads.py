"""Heads (projections): tower features [B, F] -> embedding [B, D], not yet normalised."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from clipline.config.recipe import Head
from clipline.errors import UsageError


class MLPHead(nn.Module):
    """Linear-GELU-Linear-dropout with a residual from the first Linear, then LayerNorm if `norm`.

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


def build_head(config: Head, width: int, projection: nn.Module | None) -> nn.Module:
    """The head of `config` behind a tower of `width` features.

    projection: the tower's own linear layer, for kind `tower`. Raises UsageError where it is of another dim.
    """
    if config.kind == "tower":
        if projection is None or getattr(projection, "out_features", None) != config.dim:
            found = getattr(projection, "out_features", "none")
            raise UsageError(f"head.dim ({config.dim}) must be that of the tower's own projection ({found})")
        return nn.Sequential(nn.Dropout(config.input_dropout), projection)
    layers: dict[str, list[nn.Module]] = {
        "mlp": [MLPHead(width, config.dim, config.dropout)],
        "residual": [MLPHead(width, config.dim, config.dropout, norm=False)],
        "norm_linear": [
            nn.LayerNorm(width),
            nn.Dropout(config.dropout),
            nn.Linear(width, config.dim, bias=False),
        ],
        "linear_norm": [nn.Linear(width, config.dim), nn.Dropout(config.dropout), nn.LayerNorm(config.dim)],
        "linear": [nn.Dropout(config.dropout), nn.Linear(width, config.dim, bias=False)],
    }
    return nn.Sequential(nn.Dropout(config.input_dropout), *layers[config.kind])
