"""The gradient of a batch that does not fit in memory, for one more forward pass (GradCache, arXiv 2101.06983).

A contrastive loss needs all embeddings at once, but not all activations. So embed the micro-batches without a graph,
get the loss's gradient at the embeddings, then embed each micro-batch again with a graph, and propagate its part of
that gradient back. Each micro-batch drops the same units both times: the gradient is that of the same micro-batches in
one graph.

Batch norm in training mode normalises each micro-batch by its own mean and variance, so that embeddings, loss and
gradient are those of micro-batches and not of one large batch. Its running statistics would be updated twice;
`backward` keeps them constant in the first pass. With `train.batch_norm: frozen` all is as in the large batch, for
micro-batches of any size. `synchronised` is refused with micro-batches: it waits for the other processes in each, and
they may have different numbers of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from clipline.train.state import random_state, set_random_state

Images = TypeVar("Images")
Texts = TypeVar("Texts")
Inputs = TypeVar("Inputs")


def backward(
    image_batches: Sequence[Images],
    text_batches: Sequence[Texts],
    encode_image: Callable[[Images], Tensor],
    encode_text: Callable[[Texts], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    model: nn.Module | None = None,
) -> Tensor:
    """Add the gradient of `loss` over all micro-batches to the parameters' gradients; returns the loss, detached.

    encode_image, encode_text: a micro-batch -> [n, D]. loss: images [B, D] and texts [T, D], in the order of the
    micro-batches, -> scalar; it runs once, and its own parameters, such as the scale, get their gradient too.
    model: its buffers (batch norm's running statistics) stay constant in the first pass. Needed if a module updates
    statistics in training.

    The random state afterwards is that after one forward pass and the loss. Under autocast only the encoders run in the
    lower precision: loss and gradients are computed without it.
    """
    with ExitStack() as stack:
        if model is not None:
            stack.enter_context(frozen_statistics(model))
        images, image_states = _embed(encode_image, image_batches)
        texts, text_states = _embed(encode_text, text_batches)
    image_BD, text_TD = torch.cat(images).requires_grad_(), torch.cat(texts).requires_grad_()
    with _no_autocast():
        value = loss(image_BD, text_TD)
        value.backward()
    after = random_state()
    _propagate(encode_image, image_batches, image_states, _gradients(image_BD, images))
    _propagate(encode_text, text_batches, text_states, _gradients(text_TD, texts))
    set_random_state(after)
    return value.detach()


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """After the block, the buffers of `module` are what they were before it.

    Batch norm still normalises by the batch in training mode; only its running mean, variance and count stay.
    """
    # By name, since a module may replace a buffer by another tensor.
    kept = [
        (owner, name, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for owner, name, buffer in kept:
            # `data`: a graph made in the block stays valid, since in training it does not read the running statistics.
            getattr(owner, name).data.copy_(buffer)


@torch.no_grad()
def _embed(
    encode: Callable[[Inputs], Tensor], batches: Sequence[Inputs]
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The embeddings of each micro-batch, without a graph, and the random state before each."""
    embeddings, states = [], []
    for batch in batches:
        states.append(random_state())
        embeddings.append(encode(batch))
    return embeddings, states


def _gradients(joined: Tensor, parts: list[Tensor]) -> Sequence[Tensor | None]:
    """The gradient at each micro-batch's embeddings; None if the loss does not depend on them."""
    if joined.grad is None:
        return [None] * len(parts)
    return joined.grad.split([len(part) for part in parts])


def _propagate(
    encode: Callable[[Inputs], Tensor],
    batches: Sequence[Inputs],
    states: list[dict[str, Tensor]],
    gradients: Sequence[Tensor | None],
) -> None:
    for batch, state, gradient in zip(batches, states, gradients, strict=True):
        set_random_state(state)
        # Also if no gradient is needed: batch norm's statistics follow this pass.
        embedding = encode(batch)
        if gradient is not None and embedding.requires_grad:
            with _no_autocast():
                embedding.backward(gradient)


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Disable autocast: it would also cast the products of a backward pass, and the loss needs float32."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
