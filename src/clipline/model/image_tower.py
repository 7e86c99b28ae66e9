"""Image towers: uint8 pixels [B, H, W, 3] -> features [B, F]."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    resolve_model_data_config,
)
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clipline.config.recipe import Recipe
from clipline.config.towers import TimmTower, ViTTower
from clipline.errors import UsageError
from clipline.model.mimetic import mimetic
from clipline.model.weights import arguments, load_state, loading, local_weights

EPSILON = 1e-6


class ImageTower(nn.Module):
    """A timm network between the normalisation of pixels and the pooling of features.

    mean, std: per channel, for pixels in 0..1; they are buffers, so that they are saved with the weights.
    mirror: see `config.towers`; it applies in evaluation mode only.
    width: F, the number of features. projection: the tower's own last linear layer if the head uses it, else None.
    """

    def __init__(self, net: nn.Module, pool: str, mean: list[float], std: list[float], *, mirror: bool = False) -> None:
        super().__init__()
        self.net, self.pool, self.mirror = net, pool, mirror
        self.width: int = net.num_features * (2 if pool == "avg_std" else 1)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.projection: nn.Module | None = None

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, F]."""
        if self.mirror and not self.training:
            # As one batch: an exported graph then holds the network once.
            both = self._features(torch.cat([pixels_BHWC, pixels_BHWC.flip(2)]))
            return both.unflatten(0, (2, -1)).mean(dim=0)
        return self._features(pixels_BHWC)

    def scale(self, pixels_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], normalised by `mean` and `std`."""
        return ((pixels_BHWC.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    @contextmanager
    def one_side(self) -> Iterator[None]:
        """Inside the block features are of the image alone, in evaluation mode too."""
        mirror, self.mirror = self.mirror, False
        try:
            yield
        finally:
            self.mirror = mirror

    def _features(self, pixels_BHWC: Tensor) -> Tensor:
        x = self.net.forward_features(self.scale(pixels_BHWC))
        if self.pool == "tower":
            return self.net.forward_head(x, pre_logits=True)
        if self.pool in {"cls", "last"}:
            return x[:, 0] if self.pool == "cls" else x[:, -1]
        x_BPF = self._positions(x)
        average_BF = x_BPF.mean(dim=1)
        if self.pool == "avg":
            return average_BF
        variance_BF = (x_BPF - average_BF.unsqueeze(1)).square().mean(dim=1)
        # EPSILON: the square root has no finite slope at 0, and a ReLU's feature map is often 0 everywhere.
        return torch.cat([average_BF, (variance_BF + EPSILON).sqrt()], dim=1)

    def _positions(self, x: Tensor) -> Tensor:
        """The positions to pool, [B, P, F], of a map [B, F, h, w] or [B, h, w, F] (Swin), or of tokens [B, T, F]."""
        if x.ndim == 4:
            return x.flatten(1, 2) if getattr(self.net, "output_fmt", "NCHW") == "NHWC" else x.flatten(2).mT
        return x[:, getattr(self.net, "num_prefix_tokens", 0) :]


def build_image_tower(recipe: Recipe, *, load: bool) -> ImageTower:
    """The image tower of `recipe`. load: load its weights; False if a checkpoint will be loaded.

    Raises UsageError for a name that timm does not know or a pool that does not fit, and CliplineError if weights
    cannot be loaded.
    """
    config, size = recipe.image, recipe.inputs.image_size
    if isinstance(config, ViTTower):
        net = _vit(config, size)
        if load and config.init == "mimetic":
            mimetic(net)
        tower = ImageTower(net, config.pool, *_mean_std(config, net), mirror=config.mirror)
    else:
        tower = _timm(config, size, recipe.head.dim if recipe.head.kind == "tower" else 0, load)
    if recipe.head.kind == "tower":
        tower.projection = tower.net.get_classifier()
        tower.net.reset_classifier(0)
    return tower


def _vit(config: ViTTower, size: int) -> nn.Module:
    return VisionTransformer(
        img_size=size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp / config.width,
        proj_drop_rate=config.dropout,
        patch_drop_rate=config.patch_dropout,
        class_token=config.pool == "cls",
        global_pool="token" if config.pool == "cls" else "avg",
        fc_norm=False,
        num_classes=0,
    )


def _timm(config: TimmTower, size: int, projection: int, load: bool) -> ImageTower:
    if config.name.split(".")[0] not in timm.list_models():
        near = timm.list_models(f"*{config.name.split('.')[0]}*")[:5]
        raise UsageError(f"image.name: timm has no model {config.name!r}{f'; similar: {near}' if near else ''}")
    args = dict(config.args)
    if timm.get_pretrained_cfg(config.name).fixed_input_size:  # others take any size, and many have no img_size
        args.setdefault("img_size", size)
    path = local_weights(config.weights, "image.weights") if load else None
    from_hub = load and config.weights == "hub"
    with loading(config.name, "image.weights", online=from_hub), arguments("image.args", config.args):
        net = timm.create_model(config.name, pretrained=from_hub, num_classes=projection, **args)
    if path:
        load_state(net, path, "image.weights", ignore=() if projection else ("head.", "fc.", "classifier."))
    tower = ImageTower(net, config.pool, *_mean_std(config, net), mirror=config.mirror)
    _check_pool(tower, config, size)
    return tower


@torch.inference_mode()
def _check_pool(tower: ImageTower, config: TimmTower, size: int) -> None:
    """Raise UsageError if the pool does not fit the network, as one image shows."""
    if config.pool in {"cls", "last"} and not hasattr(tower.net, "num_prefix_tokens"):
        raise UsageError(
            f"image.pool: {config.pool} needs a transformer; {config.name} has no tokens. Fix: pool: avg or tower"
        )
    if config.pool == "cls" and getattr(tower.net, "cls_token", None) is None:
        raise UsageError(f"image.pool: {config.name} has no class token. Fix: pool: avg or tower")
    training = tower.training
    shape = tuple(tower.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape)
    tower.train(training)
    if shape != (1, tower.width):
        raise UsageError(
            f"image.pool: {config.pool} gives features of shape {shape} with {config.name}, not (1, {tower.width})"
        )


def _mean_std(config: TimmTower | ViTTower, net: nn.Module) -> tuple[list[float], list[float]]:
    choice = config.normalize
    if not isinstance(choice, str):
        return choice.mean, choice.std
    if choice == "clip":
        return list(OPENAI_CLIP_MEAN), list(OPENAI_CLIP_STD)
    if choice == "tower" and isinstance(config, TimmTower):
        data = resolve_model_data_config(net)
        return list(data["mean"]), list(data["std"])
    return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
