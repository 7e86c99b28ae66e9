"""CLIP: two towers, two heads and a temperature (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipline.config.recipe import Recipe
from clipline.config.recipe import Temperature as TemperatureConfig
from clipline.model.heads import build_head
from clipline.model.image_tower import ImageTower, build_image_tower
from clipline.model.text_tower import TextEncoder, build_text_tower


class Temperature(nn.Module):
    """The logit scale 1 / tau, learned or constant; the parameter is its logarithm."""

    def __init__(self, config: TemperatureConfig) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.init)), requires_grad=config.learned)
        self.max_log_scale = math.inf if config.max_scale is None else math.log(config.max_scale)

    def forward(self) -> Tensor:
        """The scale, a scalar."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp a learned scale to its maximum; call it after the step, since a clamp in the graph stops gradients."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=self.max_log_scale)


class CLIP(nn.Module):
    """Two towers, two heads and a temperature. Frozen towers stay in evaluation mode and get no gradient."""

    def __init__(self, recipe: Recipe, image: ImageTower, text: TextEncoder) -> None:
        super().__init__()
        self.recipe = recipe
        self.image_tower, self.text_tower = image, text
        self.image_head = build_head(recipe.head, image.width, image.projection)
        self.text_head = build_head(recipe.head, text.width, text.projection)
        # They belong to the heads now; with two owners they would be saved twice.
        image.projection = text.projection = None
        self.temperature = Temperature(recipe.temperature)
        self.register_parameter("logit_bias", _logit_bias(recipe))
        self.frozen = [tower for tower, config in ((image, recipe.image), (text, recipe.text)) if not config.trainable]
        for tower in self.frozen:
            tower.requires_grad_(False)
        self.train()  # modules start in training mode: switches frozen towers to evaluation

    def train(self, mode: bool = True) -> CLIP:
        """Like nn.Module.train, but frozen towers stay in evaluation mode."""
        super().train(mode)
        for tower in self.frozen:
            tower.eval()
        return self

    def encode_image(self, pixels_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, D], not normalised."""
        return self.image_head(self.image_tower(pixels_BHWC))

    def encode_text(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """int64 [B, L] twice -> float32 [B, D], not normalised."""
        return self.text_head(self.text_tower(input_ids_BL, attention_mask_BL))


def _logit_bias(recipe: Recipe) -> nn.Parameter | None:
    """The learned bias of the sigmoid loss; None for other losses.

    It starts at -log(B - 1): a pair with similarity 0 then has the probability 1 / B, the share of positive pairs in a
    batch of B. Source: arXiv 2303.15343, section 3.3.
    """
    if recipe.loss.kind != "siglip":
        return None
    return nn.Parameter(torch.tensor(-math.log(recipe.train.batch_size - 1)))


class ImageEmbedder(nn.Module):
    """What image.onnx computes: uint8 [B, H, W, 3] -> float32 [B, D], L2-normalised."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, D]."""
        return F.normalize(self.model.encode_image(pixels), dim=-1)


class TextEmbedder(nn.Module):
    """What text.onnx computes: int64 [B, L] twice -> float32 [B, D], L2-normalised."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, L] twice -> float32 [B, D]."""
        return F.normalize(self.model.encode_text(input_ids, attention_mask), dim=-1)


def build_model(recipe: Recipe, vocab_size: int, *, text_config: dict | None = None) -> CLIP:
    """The model of `recipe`, with the weights that the recipe names.

    vocab_size: number of tokens of the tokenizer. text_config: a checkpoint's; then no weights are loaded, because the
    checkpoint holds them.
    """
    image = build_image_tower(recipe, load=text_config is None)
    return CLIP(recipe, image, build_text_tower(recipe, vocab_size, saved_config=text_config))
