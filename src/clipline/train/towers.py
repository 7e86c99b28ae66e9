"""Both towers and heads as training calls them: on inputs or on cached features, in the recipe's precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn

from clipline.config.training import Train
from clipline.errors import UsageError
from clipline.model.clip import CLIP
from clipline.train.batches import Inputs

# Captions that a CPU encodes at once. In a batch of all lengths half of the tokens would be padding.
PIECE = 128


class Towers:
    """Embeddings of a batch, float32 and not normalised. A tower whose features are cached is passed over.

    Raises UsageError for settings that do not go with the towers or the device.
    """

    def __init__(self, model: CLIP, config: Train, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        # A GPU, and a compiled graph, would rather have one large batch, and few shapes.
        self._pieces = device.type == "cpu" and not config.compile
        # As the pixels come: a convolution would else convert its weights in every step.
        model.image_tower.to(memory_format=torch.channels_last)
        if device.type == "cpu" and in_bf16(config, device):
            strided_in_float(model.image_tower)
        if config.grad_checkpointing:
            checkpoint_gradients(model)
        # Tower and head in one graph. Validation runs as it is: few batches do not pay for graphs of their own.
        self._train_image = compiled(self._image, config, device)
        self._train_text = compiled(self._text, config, device)

    def image(self, inputs: Tensor) -> Tensor:
        """Features [b, F] or pixels uint8 [b, S, S, 3] -> [b, D]."""
        return (self._train_image if self.model.training else self._image)(inputs)

    def text(self, inputs: Inputs) -> Tensor:
        """Features [t, F], or ids and mask int64 [t, L] -> [t, D]."""
        return (self._train_text if self.model.training else self._text)(inputs)

    def _image(self, inputs: Tensor) -> Tensor:
        return self.model.image_head(inputs if inputs.ndim == 2 else self._run(self.model.image_tower, inputs))

    def _text(self, inputs: Inputs) -> Tensor:
        if not isinstance(inputs, tuple):
            return self.model.text_head(inputs)
        run = self._by_length if self._pieces else partial(self._run, self.model.text_tower)
        return self.model.text_head(run(*inputs))

    def _by_length(self, ids_TL: Tensor, mask_TL: Tensor) -> Tensor:
        """The tower's features [t, F] of captions in pieces of like length: nothing is spent on padding."""
        order = mask_TL.sum(dim=1).argsort(stable=True)
        pieces = []
        for rows in order.split(PIECE):
            longest = int(mask_TL[rows[-1]].sum())
            pieces.append(self._run(self.model.text_tower, ids_TL[rows, :longest], mask_TL[rows, :longest]))
        return torch.cat(pieces)[order.argsort()]

    def _run(self, tower: nn.Module, *inputs: Tensor) -> Tensor:
        return in_precision(tower, self.config, self.device)(*inputs)


def in_bf16(config: Train, device: torch.device) -> bool:
    """Whether towers compute in bf16 there."""
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def in_precision(tower: nn.Module, config: Train, device: torch.device) -> Callable[..., Tensor]:
    """`tower` in the recipe's precision; what it returns is float32."""

    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16(config, device)):
            return tower(*inputs).float()

    return run


def strided_in_float(tower: nn.Module) -> None:
    """Let grouped convolutions with strides compute in float32 whatever the precision around them.

    Of these alone a CPU has no bf16 gradient but a plain loop: for depthwise ones up to 14 times as slow, a fifth of
    MobileNet's step (docs/log/speed.md), for a ResNeXt's groups slower still. Forward a depthwise one is as fast.
    """
    for module in tower.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.stride) > 1:
            # A bound method, which a copy of the model takes along as its own.
            module.forward = MethodType(_in_float, module)


def _in_float(self: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return type(self).forward(self, x.float())


def compiled(function: Callable[..., Tensor], config: Train, device: torch.device) -> Callable[..., Tensor]:
    """`function` compiled as the recipe has it, or as it is.

    Each kind of inputs gets a graph at its first call, and its second shape one for all shapes: from the second epoch
    on there is nothing left to compile, until layers wake. Raises UsageError for CUDA graphs on anything else.
    """
    if config.compile == "cuda_graphs":
        if device.type != "cuda":
            raise UsageError(f"train.compile: cuda_graphs needs CUDA, and this is the {device.type}. Fix: true")
        return torch.compile(function, mode="reduce-overhead")
    return torch.compile(function) if config.compile else function


def checkpoint_gradients(model: CLIP) -> None:
    """Let the trainable towers compute their inner activations again on the way back.

    Raises UsageError where a tower cannot.
    """
    for kind, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if tower in model.frozen:
            continue
        enable = getattr(tower.net, "set_grad_checkpointing" if kind == "image" else "activation_checkpointing_enable")
        try:
            enable()
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise UsageError(f"train.grad_checkpointing: the {kind} tower cannot do it ({error})") from None


def chunks(inputs: Inputs, size: int) -> Iterable[Inputs]:
    """Inputs in pieces of at most `size` rows."""
    if isinstance(inputs, tuple):
        return list(zip(*(each.split(size) for each in inputs), strict=True))
    return inputs.split(size)
