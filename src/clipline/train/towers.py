"""Both towers and heads as training calls them: on inputs or on cached features, in the recipe's precision."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

import torch
from torch import Tensor, nn

from clipline.config.training import Train
from clipline.errors import UsageError
from clipline.model.clip import CLIP
from clipline.train.batches import Inputs

# Captions that a CPU encodes at a time, sorted by length: in a batch of all lengths half of the tokens would be
# padding.
TEXT_ROWS = 128


class Towers:
    """Embeddings of a batch, float32 and not normalised. A tower whose features are cached is skipped.

    Raises UsageError for settings that the towers or the device do not support.
    """

    def __init__(self, model: CLIP, config: Train, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        # GPUs and compiled graphs prefer one large batch and few shapes.
        self._sort_by_length = device.type == "cpu" and not config.compile
        # The pixels' memory format: convolutions would otherwise convert their weights in every step.
        model.image_tower.to(memory_format=torch.channels_last)
        if device.type == "cpu" and in_bf16(config, device):
            strided_in_float(model.image_tower)
        if config.grad_checkpointing:
            checkpoint_gradients(model)
        # Tower and head in one graph. Validation is not compiled: its few batches do not repay the compilation.
        self._train_image = compiled(self._image, config, device)
        self._train_text = compiled(self._text, config, device)

    def image(self, inputs: Tensor) -> Tensor:
        """Features [b, F] or pixels uint8 [b, S, S, 3] -> [b, D]."""
        return (self._train_image if self.model.training else self._image)(inputs)

    def text(self, inputs: Inputs) -> Tensor:
        """Features [t, F], or ids and mask, int64 [t, L] -> [t, D]."""
        return (self._train_text if self.model.training else self._text)(inputs)

    def _image(self, inputs: Tensor) -> Tensor:
        return self.model.image_head(inputs if inputs.ndim == 2 else self._run(self.model.image_tower, inputs))

    def _text(self, inputs: Inputs) -> Tensor:
        if not isinstance(inputs, tuple):
            return self.model.text_head(inputs)
        if self._sort_by_length:
            return self.model.text_head(self._by_length(*inputs))
        return self.model.text_head(self._run(self.model.text_tower, *inputs))

    def _by_length(self, ids_TL: Tensor, mask_TL: Tensor) -> Tensor:
        """The text tower's features [t, F], computed on captions of similar length together, with little padding."""
        order = mask_TL.sum(dim=1).argsort(stable=True)
        parts = []
        for rows in order.split(TEXT_ROWS):
            max_length = int(mask_TL[rows[-1]].sum())
            parts.append(self._run(self.model.text_tower, ids_TL[rows, :max_length], mask_TL[rows, :max_length]))
        return torch.cat(parts)[order.argsort()]

    def _run(self, tower: nn.Module, *inputs: Tensor) -> Tensor:
        return in_precision(tower, self.config, self.device)(*inputs)


def in_bf16(config: Train, device: torch.device) -> bool:
    """Whether towers compute in bf16 on `device`."""
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def in_precision(tower: nn.Module, config: Train, device: torch.device) -> Callable[..., Tensor]:
    """`tower` in the recipe's precision; it returns float32."""

    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(config, device)):
            return tower(*inputs).float()

    return run


def strided_in_float(tower: nn.Module) -> None:
    """Make grouped convolutions with strides compute in float32 even under autocast.

    On CPUs torch computes their bf16 gradient, and only theirs, in a plain loop: depthwise ones are up to 14 times
    slower (a fifth of MobileNet's step, see docs/benchmarks.md), those of a ResNeXt even more. Forward they are as
    fast.
    """
    for module in tower.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.stride) > 1:
            # A bound method: a deep copy of the model then has its own.
            module.forward = MethodType(_in_float, module)


def _in_float(self: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(self).forward(self, x.float())


def compiled(function: Callable[..., Tensor], config: Train, device: torch.device) -> Callable[..., Tensor]:
    """`function`, compiled if the recipe says so.

    Each kind of inputs is compiled at its first call, and at a second shape once more for all shapes: after the first
    epoch nothing is compiled, unless other layers become trainable. Raises UsageError for CUDA graphs without CUDA.
    """
    if config.compile == "cuda_graphs":
        if device.type != "cuda":
            raise UsageError(
                f"train.compile: cuda_graphs needs CUDA, and this training is on the {device.type}. Fix: true"
            )
        return torch.compile(function, mode="reduce-overhead")
    return torch.compile(function) if config.compile else function


def checkpoint_gradients(model: CLIP) -> None:
    """Let the trainable towers compute their inner activations again in the backward pass.

    Raises UsageError if a tower does not support it.
    """
    for kind, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if tower in model.frozen:
            continue
        enable = getattr(tower.net, "set_grad_checkpointing" if kind == "image" else "activation_checkpointing_enable")
        try:
            enable()
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise UsageError(f"train.grad_checkpointing: the {kind} tower does not support it ({error})") from None
