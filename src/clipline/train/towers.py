"""Both towers and heads as training calls them: on inputs or on cached features, in the recipe's precision."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from clipline.config.training import Train
from clipline.errors import UsageError
from clipline.model.clip import CLIP
from clipline.train.batches import Inputs

# Captions that a CPU encodes at once. In a batch of all lengths half of the tokens would be padding.
PIECE = 128


class Towers:
    """Embeddings of a batch, float32 and not normalised. A tower whose features are cached is passed over."""

    def __init__(self, model: CLIP, config: Train, device: torch.device) -> None:
        self.model, self.device = model, device
        bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        self._cast = torch.bfloat16 if bf16 else None
        self._image: nn.Module = model.image_tower
        self._text: nn.Module = model.text_tower
        # As the pixels come: a convolution would else convert its weights in every step.
        model.image_tower.to(memory_format=torch.channels_last)
        if config.grad_checkpointing:
            checkpoint_gradients(model)
        if config.compile:
            # Captions differ in length from batch to batch; images do not.
            self._image = torch.compile(self._image, dynamic=False)
            self._text = torch.compile(self._text, dynamic=True)

    def image(self, inputs: Tensor) -> Tensor:
        """Features [b, F] or pixels uint8 [b, S, S, 3] -> [b, D]."""
        return self.model.image_head(inputs if inputs.ndim == 2 else self._run(self._image, inputs))

    def text(self, inputs: Inputs) -> Tensor:
        """Features [t, F], or ids and mask int64 [t, L] -> [t, D]."""
        if not isinstance(inputs, tuple):
            return self.model.text_head(inputs)
        # A GPU would rather have one large batch, and few shapes.
        run = self._by_length if self.device.type == "cpu" else partial(self._run, self._text)
        return self.model.text_head(run(*inputs))

    def _by_length(self, ids_TL: Tensor, mask_TL: Tensor) -> Tensor:
        """The tower's features [t, F] of captions in pieces of like length: nothing is spent on padding."""
        order = mask_TL.sum(dim=1).argsort(stable=True)
        pieces = []
        for rows in order.split(PIECE):
            longest = int(mask_TL[rows[-1]].sum())
            pieces.append(self._run(self._text, ids_TL[rows, :longest], mask_TL[rows, :longest]))
        return torch.cat(pieces)[order.argsort()]

    def _run(self, tower: nn.Module, *inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self._cast, enabled=self._cast is not None):
            return tower(*inputs).float()


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
