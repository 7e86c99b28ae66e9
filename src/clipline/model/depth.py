"""The layer of each parameter, for layer-wise learning rate decay and for freezing."""

from __future__ import annotations

import re

from timm.models import group_parameters
from torch import nn

from clipline.model.image_tower import ImageTower
from clipline.model.text_tower import TextEncoder

# Names of layers in transformers: BERT and DistilBERT, CLIP, GPT-2.
LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h)\.(\d+)\.")
EMBEDDING = re.compile(r"embed|wte|wpe")


def depths(tower: ImageTower | TextEncoder) -> dict[str, int]:
    """The layer of each parameter of `tower` by its name: 0 is nearest to the input.

    Layers are timm's own groups for images, and transformers' layers for texts; embeddings are the layer below them,
    and a final norm belongs to the last layer.
    """
    if isinstance(tower, ImageTower):
        depth = group_parameters(tower.net, tower.net.group_matcher(coarse=False), reverse=True)
    else:
        depth = _text_depths(tower.net)
    # timm also numbers groups without parameters: close the gaps.
    layers = {group: layer for layer, group in enumerate(sorted(set(depth.values())))}
    return {f"net.{name}": layers[group] for name, group in depth.items()}


def _text_depths(net: nn.Module) -> dict[str, int]:
    names = [name for name, _ in net.named_parameters()]
    layers = {name: int(match[1]) + 1 for name in names if (match := LAYER.search(name))}
    last = max(layers.values(), default=0)
    return {name: layers.get(name, 0 if EMBEDDING.search(name) else last) for name in names}
