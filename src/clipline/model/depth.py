"""How deep in its tower each parameter lies: what layer-wise decay and freezing go by."""

from __future__ import annotations

import re

from timm.models import group_parameters
from torch import nn

from clipline.model.image_tower import ImageTower
from clipline.model.text_tower import TextEncoder

# transformers' names of a layer: BERT and DistilBERT, CLIP, GPT-2.
LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h)\.(\d+)\.")
EMBEDDING = re.compile(r"embed|wte|wpe")


def depths(tower: ImageTower | TextEncoder) -> dict[str, int]:
    """The layer of each parameter of `tower`, by its name: 0 is what sees the input, the highest is the last.

    timm's own grouping for images; transformers' layers for texts, with the embeddings below and a last norm with the
    last layer.
    """
    if isinstance(tower, ImageTower):
        found = group_parameters(tower.net, tower.net.group_matcher(coarse=False), reverse=True)
    else:
        found = _text_depths(tower.net)
    # Without gaps: timm numbers groups, and groups without parameters have numbers too.
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(found.values())))}
    return {f"net.{name}": ranks[depth] for name, depth in found.items()}


def _text_depths(net: nn.Module) -> dict[str, int]:
    names = [name for name, _ in net.named_parameters()]
    layers = {name: int(found[1]) + 1 for name in names if (found := LAYER.search(name))}
    last = max(layers.values(), default=0)
    return {name: layers.get(name, 0 if EMBEDDING.search(name) else last) for name in names}
